"""Which strategy to take, and why: rules that were fixed before any run was looked at.

1.  What counts is the seconds until one common validation target, at its first snapshot at or under it.
2.  The target is given, or else 1.25 times the lowest validation loss of the best contender of the headline case (median
    over its repeats), rounded up to two digits. All cases of one workload, all of its fields equal, share it.
3.  Contenders rank by the median over all their repeats; a repeat that never got there counts as infinitely late. A failed
    run is a repeat that never got there.
4.  Pairs are runs with equal (seed, repeat) that both got there. The winner is the first of the ranking if the second is
    paired with it at least 5 times and the 95 % interval of the paired difference of log seconds excludes 0; or if it got
    there in every one of at least 5 repeats while all others, with as many repeats, mostly did not. Either way the lead
    has to be fair, reliable and wider than the evaluation's resolution: see `distsim.results.fairness`.
5.  Otherwise there is no winner, and why is said. Throughput makes none.
6.  Case by case: measured and modeled numbers are never mixed in one ranking. The headline is the case with the strongest
    evidence (at least two contenders, losses, measured before cosimulated before modeled, no straggler, most runs).
7.  Controls are shown and not ranked: a strategy competes with the learning rate that its own tuning chose. What does not
    fit into the memory of its devices is shown and not ranked either: it has no time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from distsim.results import fairness
from distsim.results.cases import MODES, Case, Contender
from distsim.results.statistics import Estimate, Reached, median_interval, paired_ratio, reached

PAIRS = 5
"""Fewest paired repeats that can make a winner."""
SLACK = 1.25
"""The target's distance from the best loss, where none is given."""


@dataclass(frozen=True)
class Standing:
    """How one contender did: its repeats by (seed, repeat), and the median seconds and samples until the target."""

    contender: Contender
    repeats: Mapping[tuple[int, int], Reached]
    seconds: Estimate
    """Infinite if at least half of its repeats never got there."""
    samples: float

    @property
    def label(self) -> str:
        """The contender's."""
        return self.contender.label

    @property
    def times(self) -> int:
        """In how many repeats it got there."""
        return sum(r.seconds is not None for r in self.repeats.values())

    @property
    def partly(self) -> str:
        """In how many repeats it got there, in a few words."""
        return fairness.in_words(self.repeats)

    @property
    def has_losses(self) -> bool:
        """False for modeled runs: only byte counts travelled."""
        return any(r.best is not None for r in self.repeats.values())

    def __str__(self) -> str:
        """Whether it got there, in words."""
        n = len(self.repeats)
        if not self.has_losses:
            failed = [run for run in self.contender.runs.values() if run.summary["status"] != "done"]
            return "no losses" if len(failed) < n else str(failed[0].summary["status"])
        if self.times == n:
            return "reached" if n == 1 else f"reached in all {n} repeats"
        closest = min((r for r in self.repeats.values() if r.best is not None), key=lambda r: r.best or 0.0)
        return f"reached in {self.times} of {n} repeats" if self.times else str(closest)


@dataclass(frozen=True)
class Verdict:
    """The ranking of one case and what may be said about it."""

    case: Case
    target: float | None
    """None if no run of the workload has a validation loss."""
    standings: Sequence[Standing]
    """The best first."""
    winner: Standing | None
    ratio: Estimate | None
    """Second's seconds over first's, from their pairs; None without a pair, or if they were not given alike."""
    reason: str
    """Why there is no winner; empty if there is one."""

    @property
    def ranked(self) -> list[Standing]:
        """The standings that compete: all but controls and what does not fit."""
        return [standing for standing in self.standings if not standing.contender.is_control and standing.contender.fits]

    @property
    def unfit(self) -> list[Standing]:
        """The standings of what does not fit into memory."""
        return [standing for standing in self.standings if not standing.contender.fits]

    @property
    def first(self) -> Standing | None:
        """The head of the ranking, winner or not."""
        return next(iter(self.ranked), None)

    @property
    def second(self) -> Standing | None:
        """The runner-up."""
        return next(iter(self.ranked[1:]), None)


def verdicts(cases: Sequence[Case], target: float | None = None) -> list[Verdict]:
    """Judge every case. The first is the headline's; `target` replaces the rule's for all workloads."""
    head = headline(cases)
    ordered = sorted(cases, key=lambda case: case is not head)
    targets = {
        workload: target or common_target([case for case in cases if case.workload == workload])
        for workload in dict.fromkeys(case.workload for case in cases)
    }
    return [judge(case, targets[case.workload]) for case in ordered]


def headline(cases: Iterable[Case]) -> Case | None:
    """The case that the answer is taken from (rule 6)."""

    def evidence(case: Case) -> tuple[bool, bool, int, bool, int]:
        runs = sum(len(contender.runs) for contender in case.contenders)
        return len(case.contenders) > 1, _best(case) is not None, -MODES.index(case.mode), not case.straggler, runs

    return max(cases, key=evidence, default=None)


def common_target(cases: Sequence[Case]) -> float | None:
    """The target by rule 2, for cases of one workload; None if no run has a validation loss."""
    case = headline(cases)
    best = None if case is None else _best(case)
    if best is None:
        return None
    digits = 1 - math.floor(math.log10(abs(best * SLACK))) if best > 0.0 else 2
    return math.ceil(best * SLACK * 10.0**digits - 1e-9) / 10.0**digits


def _best(case: Case) -> float | None:
    lowest = []
    for contender in (c for c in case.contenders if not c.is_control and c.fits):
        losses = [r.best for run in contender.runs.values() if (r := reached(run.summary["curve"], 0.0)).best is not None]
        lowest += [median(losses)] if losses else []
    return min(lowest, default=None)


def judge(case: Case, target: float | None) -> Verdict:
    """Rank the contenders of one case and name a winner if the rules allow one."""
    standings = sorted((_standing(c, target) for c in case.contenders), key=_order)
    verdict = Verdict(case, target, standings, None, None, "")
    first, second = verdict.first, verdict.second
    if first is None or second is None:
        return Verdict(case, target, standings, None, None, _alone(verdict))
    unequal = fairness.inequality(verdict.ranked)
    ratio = None if unequal else _ratio(first, second)
    reason = _reason(verdict.ranked, ratio, unequal)
    return Verdict(case, target, standings, None if reason else first, ratio, reason)


def _alone(verdict: Verdict) -> str:
    """Why nothing is compared."""
    if not verdict.unfit:
        return "one strategy alone has nothing to be compared with"
    others = ", ".join(standing.label for standing in verdict.unfit)
    fits = f"only {verdict.first.label} fits" if verdict.first else "nothing fits"
    return f"{fits} into the memory of its devices; {others} would not"


def _order(standing: Standing) -> tuple[bool, float, float, str]:
    """The ranking; those who never got there follow by throughput, for the eye only, and what does not fit comes last."""
    rate = standing.contender.typical("samples_per_second") or 0.0
    return not standing.contender.fits, standing.seconds.value, -rate, standing.label


def _standing(contender: Contender, target: float | None) -> Standing:
    goal = -math.inf if target is None else target
    repeats = {
        pair: reached(run.summary["curve"], goal)
        if run.summary["status"] == "done"
        else Reached(None, None, *_lowest(run.summary["curve"]))
        for pair, run in contender.runs.items()
    }
    seconds = [math.inf if r.seconds is None else r.seconds for r in repeats.values()]
    samples = [math.inf if r.samples is None else r.samples for r in repeats.values()]
    return Standing(contender, repeats, median_interval(seconds), median(samples))


def _lowest(curve: Sequence[Mapping[str, float]]) -> tuple[float | None, int]:
    lowest = reached(curve, -math.inf)
    return lowest.best, lowest.best_update


def _ratio(first: Standing, second: Standing) -> Estimate | None:
    pairs = [
        (late.seconds, early.seconds)
        for pair, early in first.repeats.items()
        if (late := second.repeats.get(pair)) and late.seconds and early.seconds
    ]
    return paired_ratio(*zip(*pairs, strict=True)) if pairs else None


def _reason(standings: Sequence[Standing], ratio: Estimate | None, unequal: str) -> str:
    """Why the first of the ranking is no winner; empty if it is one (rules 4 and 5)."""
    first, second = standings[0], standings[1]
    repeats = min(len(first.repeats), len(second.repeats))
    if not any(standing.has_losses for standing in standings):
        return "without validation losses there is only throughput, and that alone makes no winner"
    if not math.isfinite(first.seconds.value):
        return "none got to the target in most of its repeats"
    if unequal:
        return unequal
    if repeats < PAIRS:
        return f"{repeats} paired {'repeat' if repeats == 1 else 'repeats'}, and a winner needs at least {PAIRS}"
    if not math.isfinite(second.seconds.value):
        if first.times == len(first.repeats) and all(len(other.repeats) >= PAIRS for other in standings):
            return fairness.unreliability(first, standings[1:])
        return f"{first.label} got to the target in {first.times} of {len(first.repeats)} repeats only"
    if ratio is None or ratio.n < PAIRS:
        pairs = 0 if ratio is None else ratio.n
        return f"{first.label} and {second.label} both got to the target in {pairs} pairs only, and a winner needs {PAIRS}"
    if not ratio.excludes(1.0) or ratio.value < 1.0:
        return f"{first.label} and {second.label} cannot be told apart"
    return fairness.unreliability(first, standings[1:]) or fairness.too_close(first, second)
