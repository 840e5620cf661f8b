"""Says a verdict in words: the sentence for the terminal, why, how far the model was, and when the answer changes.

Every statement carries the badges of the numbers in it. Texts are plain; whoever shows them escapes them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from distsim.results.agreement import Agreement
from distsim.results.breakdown import KINDS, in_words
from distsim.results.cases import BADGES, Case
from distsim.results.verdict import Standing, Verdict


@dataclass(frozen=True)
class Statement:
    """A sentence and what its numbers are: measured, modeled, cosimulated."""

    text: str
    badges: tuple[str, ...]


def number(x: float, digits: int = 3) -> str:
    """`x` with about three digits and no exponent where a reader needs none: 0.0123, 1.83, 12.3, 12,300."""
    if not math.isfinite(x):
        return "infinite" if x > 0 else "-"
    if x != 0.0 and (abs(x) < 1e-3 or abs(x) >= 1e9):
        return f"{x:.{digits}g}"
    decimals = 0 if x == 0.0 else max(0, digits - 1 - math.floor(math.log10(abs(x))))
    text = f"{x:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def duration(seconds: float) -> str:
    """Seconds in the unit that suits: 850 us, 12.3 ms, 1.31 s, 4.2 min."""
    for limit, factor, unit in ((1e-3, 1e6, "us"), (1.0, 1e3, "ms"), (300.0, 1.0, "s")):
        if seconds < limit:
            return f"{number(seconds * factor)} {unit}"
    return f"{number(seconds / 60.0)} min" if math.isfinite(seconds) else "never"


def sentence(verdict: Verdict | None) -> str:
    """The verdict in one sentence, for the terminal."""
    if verdict is None:
        return "No winner: there are no runs."
    where = f"{verdict.case.badge} on {verdict.case}"
    if verdict.winner is None:
        return f"No winner: {verdict.reason}{_undecided(verdict)}; {where}."
    return f"Take {verdict.winner.label}: {advantage(verdict)}; {where}."


def advantage(verdict: Verdict) -> str:
    """By how much the winner is ahead of the runner-up, with the interval."""
    winner, second, ratio = verdict.winner, verdict.second, verdict.ratio
    if winner is None or second is None:
        return ""
    goal = f"validation loss {number(verdict.target or 0.0)} in {duration(winner.seconds.value)}"
    if ratio is None or not math.isfinite(second.seconds.value):
        return f"it alone got to {goal}, in all {len(winner.repeats)} repeats"
    interval = f"95 % interval {number(ratio.low)} to {number(ratio.high)}, {ratio.n} pairs"
    return f"{goal}, {number(ratio.value)} times as fast as {second.label} ({interval})"


def _undecided(verdict: Verdict) -> str:
    if verdict.ratio is not None and verdict.ratio.n > 1:
        r = verdict.ratio
        return f": ratio {number(r.value)}, 95 % interval {number(r.low)} to {number(r.high)}, {r.n} pairs"
    leader = throughput_leader(verdict.case)
    if leader and not any(standing.has_losses for standing in verdict.standings):
        return f"; highest: {leader[0]}, {number(leader[1])} samples/s"
    return ""


def throughput_leader(case: Case) -> tuple[str, float] | None:
    """The contender with the most samples a second, and how many; None where nothing ran to its end."""
    rates = [(rate, c.label) for c in case.contenders if (rate := c.typical("samples_per_second")) is not None]
    rate, label = max(rates, default=(0.0, ""))
    return (label, rate) if label else None


def why(verdict: Verdict) -> list[Statement]:
    """What makes the first of the ranking differ from the second: time a sample, samples needed, the dominating cost."""
    first, second = verdict.first, verdict.second
    badges = (verdict.case.badge,)
    if first is None or second is None:
        return []
    a, b = _per_sample(first), _per_sample(second)
    said = []
    if a and b:
        slow, fast, x, y = (second, first, b, a) if b >= a else (first, second, a, b)
        pace = (
            f"{slow.label} takes {number(x / y)} times as long for a sample"
            if x / y >= 1.02
            else "A sample takes both as long"
        )
        said.append(Statement(f"{pace}{_cost(slow, fast, x, y)}.", badges))
    if math.isfinite(second.samples) and first.samples > 0.0:
        ratio = second.samples / first.samples
        if ratio > 1.02 or ratio < 0.98:
            many, few = (second, first) if ratio > 1.0 else (first, second)
            text = f"{many.label} needs {number(max(ratio, 1.0 / ratio))} times the samples of {few.label} to get there."
            said.append(Statement(text, badges))
        else:
            said.append(Statement("Both need the same number of samples.", badges))
    return said


def _per_sample(standing: Standing) -> float | None:
    rate = standing.contender.typical("samples_per_second")
    return 1.0 / rate if rate else None


def _cost(slow: Standing, fast: Standing, x: float, y: float) -> str:
    """The kind of time that grows most, in seconds a sample, from the fast to the slow one."""
    a, b = slow.contender.breakdown(), fast.contender.breakdown()
    if a is None or b is None:
        return ""
    kind = max(KINDS, key=lambda k: a[k] * x - b[k] * y)
    return f": it spends {_percent(a[kind])} of its workers' time {_gerund(kind)}, {fast.label} {_percent(b[kind])}"


def _gerund(kind: str) -> str:
    return f"on {in_words(kind)}" if kind == "communication" else in_words(kind)


def model_distance(found: Agreement) -> list[Statement]:
    """How far predictions were from real runs, beside the noise floor; nothing if none can be compared."""
    said = []
    for mode in ("modeled", "cosimulated"):
        typical, worst = found.typical(mode), found.worst(mode)
        if typical is not None and worst is not None:
            count = sum(comparison.predicted_in.mode == mode for comparison in found.comparisons)
            text = f"The {mode} step time was {_percent(typical)} off (median of {count})"
            where = f"{worst.label}, {worst.measured_in.straggler or 'no straggler'}"
            text += f", at worst {_percent(abs(worst.error))} ({where})."
            said.append(Statement(text, ("measured", BADGES[mode])))
    if said:
        floor = "There is no noise floor: nothing was measured twice."
        if found.floor is not None:
            floor = (
                f"Two real runs of one strategy differ by {_percent(found.floor)} (median of {found.floor_pairs} pairs)."
            )
        said.append(Statement(floor, ("measured",)))
    return said


def _percent(x: float) -> str:
    return f"{number(100.0 * x, 2)} %"


def changes(verdicts: Sequence[Verdict]) -> list[Statement]:
    """When the answer is another: every other case, and who leads in throughput on clusters with more workers."""
    if not verdicts:
        return []
    head, others = verdicts[0], verdicts[1:]
    judged = [v for v in others if any(s.has_losses for s in v.standings)]
    return [*(_change(head, v) for v in judged), *_scaling([v.case for v in others if v not in judged])]


def _change(head: Verdict, other: Verdict) -> Statement:
    badges = (other.case.badge,)
    where = f"{str(other.case)[:1].upper()}{str(other.case)[1:]}"
    if other.case.setting == head.case.setting:
        where = "The same setting"
    elif other.case.setting[:2] == head.case.setting[:2]:
        where = f"With {other.case.straggler or 'no straggler'}"
    if other.winner is None:
        return Statement(f"{where}: no winner ({other.reason}).", badges)
    same = head.winner is not None and head.winner.label == other.winner.label
    return Statement(f"{where}: {'still ' if same else ''}{other.winner.label}, {advantage(other)}.", badges)


def _scaling(cases: Iterable[Case]) -> Iterator[Statement]:
    """Where only throughput is known: the leader by number of workers, one statement a cluster and straggler."""
    groups: dict[tuple[str, str, str], dict[int, str]] = {}
    for case in cases:
        leader = throughput_leader(case)
        if leader and len(case.contenders) > 1:
            groups.setdefault((case.badge, case.cluster, case.straggler), {})[case.workers] = leader[0]
    for (badge, cluster, straggler), leaders in groups.items():
        runs: list[tuple[str, list[int]]] = []
        for workers in sorted(leaders):
            if runs and runs[-1][0] == leaders[workers]:
                runs[-1][1].append(workers)
            else:
                runs.append((leaders[workers], [workers]))
        said = ", ".join(f"{label} at {_span(workers)}" for label, workers in runs)
        text = f"Highest throughput on {cluster}, {straggler or 'no straggler'}: {said} workers (which makes no winner)."
        yield Statement(text, (badge,))


def _span(workers: Sequence[int]) -> str:
    return f"{workers[0]} to {workers[-1]}" if len(workers) > 1 else f"{workers[0]}"


def spread(values: Sequence[float]) -> str:
    """A median with the range of its values, for a table: `1.31 (1.2 to 1.4)`."""
    typical = number(median(values))
    return typical if len(values) == 1 else f"{typical} ({number(min(values))} to {number(max(values))})"
