"""What may not be compared by time, and why: rules that a lead has to pass before it makes a winner.

1.  Same budget and same interval between evaluations, in samples, for all that are ranked.
2.  Who is first got there at least as reliably as the others. A rival that got there less often, but sooner when it did,
    is not slower: then reliability is what sets them apart, and that is said.
3.  The lead is at least the interval between two evaluations, within which nobody looked. Two runs that follow one path
    (equal losses at equal samples: strategies that average the same gradients) cross the target at the same sample wherever
    that is, so between them the interval does not count.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isclose
from statistics import median
from typing import Any, NamedTuple, Protocol

from distsim.results.cases import Contender, Run
from distsim.results.statistics import Reached
from distsim.results.wording import duration, number

SAME = 1e-3
"""Losses of one path differ by no more than this fraction: sums in another order are rounded otherwise."""


class Racer(Protocol):
    """A contender with when each of its repeats got to the target."""

    @property
    def contender(self) -> Contender: ...
    @property
    def repeats(self) -> Mapping[tuple[int, int], Reached]: ...


class Limits(NamedTuple):
    """What ends a run (None: nothing of this kind), and how often it is evaluated."""

    samples: float | None
    seconds: float | None
    evaluation: float | None

    def __str__(self) -> str:
        samples = None if self.samples is None else f"{number(self.samples)} samples"
        seconds = None if self.seconds is None else duration(self.seconds)
        return " or ".join(filter(None, (samples, seconds))) or "no limit"


def limits(run: Run) -> Limits:
    """The budget of a run in samples, whichever way it was given, and its interval between evaluations."""
    budget, evaluation = run.config.get("budget") or {}, run.config.get("evaluation") or {}
    given = [budget["samples"]] if budget.get("samples") is not None else []
    if budget.get("updates") is not None and run.summary.get("updates"):
        given.append(budget["updates"] * run.summary["samples"] / run.summary["updates"])
    return Limits(min(given, default=None), budget.get("seconds"), evaluation.get("samples"))


def inequality(racers: Sequence[Racer]) -> str:
    """What the runs of the ranked were not given alike; empty if nothing."""
    found: dict[Limits, str] = {}
    for racer in racers:
        for run in racer.contender.done:
            found.setdefault(limits(run), racer.contender.label)
    if len({(each.samples, each.seconds) for each in found}) > 1:
        told = {str(each): label for each, label in found.items()}
        return "the budgets differ: " + ", ".join(f"{label} {budget}" for budget, label in told.items())
    if len({each.evaluation for each in found}) > 1:
        told = {number(each.evaluation or 0): label for each, label in found.items()}
        every = ", ".join(f"{label} every {samples}" for samples, label in told.items())
        return f"the intervals between evaluations differ: {every} samples"
    return ""


def unreliability(first: Racer, others: Iterable[Racer]) -> str:
    """Why reliability forbids a winner by time; empty if it does not."""
    for rival in others:
        mine, its = _share(first), _share(rival)
        a, b = _count(first), _count(rival)
        if its > mine:
            return f"{first.contender.label} got to the target {a} only, {rival.contender.label} {b}"
        if 0.0 < its < mine and _sooner(rival, first):
            label = first.contender.label
            return (
                f"{label} got to the target {a}, {rival.contender.label} {b} only, but sooner when it did: "
                f"reliability speaks for {label}, time does not"
            )
    return ""


def too_close(first: Racer, second: Racer) -> str:
    """Why the lead may be no more than where the evaluations fell; empty if it is more."""
    pairs = [
        (late.seconds - early.seconds, 0.0 if _one_path(first, second, pair) else max(late.interval, early.interval))
        for pair, early in first.repeats.items()
        if (late := second.repeats.get(pair)) and late.seconds is not None and early.seconds is not None
    ]
    if not pairs or median(lead - interval for lead, interval in pairs) >= 0.0:
        return ""
    lead, interval = (median(side) for side in zip(*pairs, strict=True))
    return (
        f"the lead of {first.contender.label} over {second.contender.label}, {duration(max(lead, 0.0))}, is within the "
        f"evaluation's resolution, {duration(interval)}"
    )


def in_words(repeats: Mapping[Any, Reached]) -> str:
    """In how many repeats the target was reached."""
    n, times = len(repeats), sum(reached.seconds is not None for reached in repeats.values())
    return f"in all {n} repeats" if times == n else f"in {times} of {n}"


def _count(racer: Racer) -> str:
    return in_words(racer.repeats)


def _share(racer: Racer) -> float:
    return sum(reached.seconds is not None for reached in racer.repeats.values()) / len(racer.repeats)


def _sooner(rival: Racer, first: Racer) -> bool:
    """Whether the rival was the sooner one of the pairs in which both got there; without any, by the medians."""
    its, mine = _times(rival), _times(first)
    pairs = [(its[pair], mine[pair]) for pair in its if pair in mine]
    if pairs:
        return median(a / b if b else 1.0 for a, b in pairs) < 1.0
    return median(its.values()) < median(mine.values())


def _times(racer: Racer) -> dict[tuple[int, int], float]:
    return {pair: reached.seconds for pair, reached in racer.repeats.items() if reached.seconds is not None}


def _one_path(first: Racer, second: Racer, pair: tuple[int, int]) -> bool:
    """Whether both runs of a pair have the same losses at the same samples."""
    a, b = ({p["samples"]: p["loss"] for p in racer.contender.runs[pair].summary["curve"]} for racer in (first, second))
    return a.keys() == b.keys() and all(
        x is not None and y is not None and isclose(x, y, rel_tol=SAME)
        for x, y in ((a[samples], b[samples]) for samples in a)
    )
