"""Says a verdict in words: the sentence for the terminal, why, how far the model was, and when the answer changes.

Every statement carries the badges of the numbers in it. Texts are plain; whoever shows them escapes them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from distsim.results.agreement import Agreement
from distsim.results.breakdown import KINDS, in_words
from distsim.results.cases import BADGES, MODES, Case
from distsim.results.verdict import Standing, Verdict
from distsim.results.wording import duration, factor, number

NOTABLE = 1.02
"""Ratios nearer to 1 than this are called equal."""


@dataclass(frozen=True)
class Statement:
    """A sentence and what its numbers are: measured, modeled, cosimulated."""

    text: str
    badges: tuple[str, ...]


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
        rivals = _partly(verdict)
        return f"{goal}, {winner.partly}; {rivals}" if rivals else f"it alone got to {goal}, {winner.partly}"
    interval = f"95 % interval {factor(ratio.low)} to {factor(ratio.high)}, {ratio.n} pairs"
    return f"{goal}, {factor(ratio.value)} times as fast as {second.label} ({interval})"


def _partly(verdict: Verdict) -> str:
    """Who else got to the target, and in how many repeats; empty if nobody did."""
    return ", ".join(f"{rival.label} {rival.partly}" for rival in verdict.ranked[1:] if rival.times)


def _undecided(verdict: Verdict) -> str:
    if verdict.ratio is not None and verdict.ratio.n > 1:
        r = verdict.ratio
        return f": ratio {factor(r.value)}, 95 % interval {factor(r.low)} to {factor(r.high)}, {r.n} pairs"
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
    """What makes the first of the ranking faster than the second, and what speaks against it.

    Without a loss the ranking is that of throughput.

    The time to the target is the samples needed times the time a sample takes, so there are two reasons; the one that
    weighs most comes first.
    """
    first, second = verdict.first, verdict.second
    if first is None or second is None:
        return []
    reasons: list[tuple[float, str]] = []
    a, b = _per_sample(first), _per_sample(second)
    if a and b:
        slow, fast, x, y = (second, first, b, a) if b >= a else (first, second, a, b)
        text = f"a sample takes {slow.label} {factor(x / y)} times as long{_cost(slow, fast, x, y)}"
        reasons.append((math.log(b / a), text if x / y >= NOTABLE else "a sample takes both as long"))
    if math.isfinite(second.samples) and first.samples > 0.0:
        ratio = second.samples / first.samples
        few, many = (first, second) if ratio >= 1.0 else (second, first)
        text = f"{many.label} needs {factor(max(ratio, 1.0 / ratio))} times the samples of {few.label}"
        reasons.append(
            (math.log(ratio), text if abs(math.log(ratio)) >= math.log(NOTABLE) else "both need equally many samples")
        )
    reasons.sort(key=lambda reason: -reason[0])
    said = [f"But {text}" if weight < -math.log(NOTABLE) else _capital(text) for weight, text in reasons]
    return [Statement(f"{text}.", (verdict.case.badge,)) for text in said]


def _capital(text: str) -> str:
    """A label keeps its spelling at the head of a sentence; our own words do not."""
    return text[:1].upper() + text[1:] if text.startswith(("a sample", "both ")) else text


def _per_sample(standing: Standing) -> float | None:
    rate = standing.contender.typical("samples_per_second")
    return 1.0 / rate if rate else None


def _cost(slow: Standing, fast: Standing, x: float, y: float) -> str:
    """The kind of time that grows most, in seconds a sample, from the fast to the slow one, if its share does too."""
    a, b = slow.contender.breakdown(), fast.contender.breakdown()
    if a is None or b is None:
        return ""
    kind = max(KINDS, key=lambda k: a[k] * x - b[k] * y)
    if a[kind] - b[kind] < 0.02:
        return ""
    shares = f"{_percent(a[kind])} of its workers' time, {_percent(b[kind])} of {fast.label}'s"
    return f", because of {in_words(kind)} ({shares})"


def model_distance(found: Agreement) -> list[Statement]:
    """How far predictions were from real runs, beside the noise floor, and what disturbed the calibration they rest on;
    nothing if none can be compared."""
    errors: dict[str, list[str]] = {}
    for mode in ("modeled", "cosimulated"):
        typical, worst = found.typical(mode), found.worst(mode)
        if typical is not None and worst is not None:
            count = sum(comparison.predicted_in.mode == mode for comparison in found.comparisons)
            where = f"{worst.label}, {worst.measured_in.slowness}"
            text = f"{_percent(typical)} off (median of {count}), at worst {_percent(abs(worst.error))} ({where})."
            errors.setdefault(text, []).append(mode)
    said = [
        Statement(f"The {' or '.join(modes)} step time was {text}", ("measured", *(BADGES[mode] for mode in modes)))
        for text, modes in errors.items()
    ]
    if said:
        floor = "There is no noise floor: nothing was measured twice."
        if found.floor is not None:
            floor = (
                f"Two real runs of one strategy differ by {_percent(found.floor)} (median of {found.floor_pairs} pairs)."
            )
        said.append(Statement(floor, ("measured",)))
    predicted = tuple(dict.fromkeys(BADGES[mode] for modes in errors.values() for mode in modes))
    said += [
        Statement(
            f"The calibration that this rests on was disturbed: {words}. The model may be nearer than it seems here: "
            "calibrate again on a quiet machine (distsim calibrate), and predict again.",
            predicted,
        )
        for words in found.disturbed
    ]
    return said


def _percent(x: float) -> str:
    return f"{number(100.0 * x, 2)} %"


def changes(verdicts: Sequence[Verdict]) -> list[Statement]:
    """When the answer is another: other settings, other kinds of evidence, and who leads in throughput elsewhere."""
    if not verdicts:
        return []
    head = verdicts[0]
    judged = [v for v in verdicts if any(s.has_losses for s in v.standings)]
    strongest: dict[tuple[object, ...], Verdict] = {}
    for verdict in sorted(judged, key=lambda v: MODES.index(v.case.mode)):
        strongest.setdefault(verdict.case.setting, verdict)
    again = [(best, v) for v in judged if (best := strongest[v.case.setting]).case.mode != v.case.mode]
    own = [_setting(head, v) for v in judged if v is not head and strongest[v.case.setting].case.mode == v.case.mode]
    unjudged = [v.case for v in verdicts if v not in judged and v is not head and v.case.setting not in strongest]
    return [*own, *_again(again), *_scaling(unjudged)]


def _setting(head: Verdict, other: Verdict) -> Statement:
    """The answer in another setting."""
    near = other.case.setting[:2] == head.case.setting[:2] and other.case.options == head.case.options
    where = f"With {other.case.slowness}" if near else f"On {other.case}"
    return Statement(f"{where}: {_answer(other)}.", (other.case.badge,))


def _answer(verdict: Verdict) -> str:
    if verdict.winner is None:
        return f"no winner ({verdict.reason})"
    r = verdict.ratio
    if r is None or verdict.second is None or not math.isfinite(verdict.second.seconds.value):
        rivals = _partly(verdict)
        return f"take {verdict.winner.label}, " + (
            f"{verdict.winner.partly}; {rivals}" if rivals else "it alone gets there"
        )
    lead = f"{factor(r.value)} times as fast as {verdict.second.label}"
    return f"take {verdict.winner.label}, {lead} ({factor(r.low)} to {factor(r.high)})"


def _again(pairs: Sequence[tuple[Verdict, Verdict]]) -> Iterator[Statement]:
    """Whether weaker evidence on the same settings says the same."""
    for mode in dict.fromkeys(weak.case.mode for _, weak in pairs):
        found = [(strong, weak) for strong, weak in pairs if weak.case.mode == mode]
        differing = [weak for strong, weak in found if _name(strong) != _name(weak)]
        for weak in differing:
            text = f"{BADGES[mode].capitalize()} instead, {weak.case.slowness}: {_answer(weak)}."
            yield Statement(text, (BADGES[mode],))
        if not differing:
            settings = {1: "this setting", 2: "both settings"}.get(len(found), f"all {len(found)} settings")
            yield Statement(f"{BADGES[mode].capitalize()} runs give the same answer in {settings}.", (BADGES[mode],))


def _name(verdict: Verdict) -> str:
    return "" if verdict.winner is None else verdict.winner.label


def _scaling(cases: Iterable[Case]) -> Iterator[Statement]:
    """Where only throughput is known: the leader by number of workers, one statement a cluster and straggler."""
    groups: dict[tuple[str, str], dict[int, str]] = {}
    for case in cases:
        leader = throughput_leader(case)
        if leader and len(case.contenders) > 1:
            groups.setdefault((case.badge, f"{case.where}, {case.slowness}"), {})[case.workers] = leader[0]
    for (badge, where), leaders in groups.items():
        runs: list[tuple[str, list[int]]] = []
        for workers in sorted(leaders):
            if runs and runs[-1][0] == leaders[workers]:
                runs[-1][1].append(workers)
            else:
                runs.append((leaders[workers], [workers]))
        said = ", ".join(f"{label} at {_span(workers)}" for label, workers in runs)
        yield Statement(f"Throughput alone, on {where}: highest for {said} workers.", (badge,))


def _span(workers: Sequence[int]) -> str:
    return f"{workers[0]} to {workers[-1]}" if len(workers) > 1 else f"{workers[0]}"
