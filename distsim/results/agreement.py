"""How far the model was from real runs.

Runs of one contender in one setting with equal (seed, repeat) are compared by seconds an update: error = predicted /
measured. The noise floor is the same comparison between two real runs that differ in nothing but the repeat (A/A): below
it, an error cannot be told from noise. Cases with random compute times give no floor: their repeats differ on purpose.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import median

from distsim.results.cases import Case, Contender, Run


@dataclass(frozen=True)
class Comparison:
    """One contender in one setting: seconds an update, measured and predicted."""

    measured_in: Case
    predicted_in: Case
    label: str
    measured: float
    """Median seconds an update of the paired real runs."""
    predicted: float
    error: float
    """Median over the pairs of predicted / measured - 1."""
    spread: tuple[float, float]
    """Smallest and largest of them."""
    pairs: int


@dataclass(frozen=True)
class Agreement:
    """All comparisons of a set of cases with the noise floor, None where no contender has two real runs."""

    comparisons: Sequence[Comparison]
    floor: float | None
    """Median of |a / b - 1| over pairs of repeats of real runs, the larger over the smaller."""
    floor_pairs: int
    disturbed: Sequence[str] = ()
    """What disturbed the calibrations that the predictions rest on, in words."""

    def without_repetition(self) -> Agreement:
        """The same without cosimulated times where modeled ones say the same to three digits, as they should."""

        def key(c: Comparison) -> tuple[object, ...]:
            return id(c.measured_in), c.label, c.predicted_in.key.options, c.predicted_in.key.label

        modeled = {key(c): c.error for c in self.comparisons if c.predicted_in.mode == "modeled"}
        again = [c for c in self.comparisons if c.predicted_in.mode == "cosimulated"]
        if all(abs(modeled.get(key(c), math.inf) - c.error) < 5e-4 for c in again):
            return replace(self, comparisons=[c for c in self.comparisons if c not in again])
        return self

    def typical(self, mode: str) -> float | None:
        """The median of |error| over the comparisons with `mode`, each contender and setting counted once."""
        errors = [abs(c.error) for c in self.comparisons if c.predicted_in.mode == mode]
        return median(errors) if errors else None

    def worst(self, mode: str) -> Comparison | None:
        """The comparison with `mode` that is furthest off."""
        return max((c for c in self.comparisons if c.predicted_in.mode == mode), key=lambda c: abs(c.error), default=None)


def agreement(cases: Sequence[Case]) -> Agreement:
    """Compare every prediction with the measurement of the same setting, contender, seed and repeat."""
    measured = [case for case in cases if case.mode == "real"]
    found = [
        comparison
        for real in measured
        for case in cases
        if case.mode != "real" and case.setting == real.setting
        for contender in real.contenders
        for comparison in _compare(real, case, contender)
    ]
    differences = list(_repeats(measured))
    disturbed = dict.fromkeys(words for comparison in found for words in _disturbances(comparison))
    return Agreement(found, median(differences) if differences else None, len(differences), list(disturbed))


def _disturbances(comparison: Comparison) -> Iterable[str]:
    contender = comparison.predicted_in.contender(comparison.label)
    runs = contender.runs.values() if contender else ()
    return (words for run in runs if (words := run.summary.get("disturbed")))


def _compare(real: Case, case: Case, contender: Contender) -> Iterable[Comparison]:
    other = case.contender(contender.label)
    if other is None:
        return
    pairs = [
        (seconds, prediction)
        for pair, run in contender.runs.items()
        if pair in other.runs and (seconds := _step(run)) and (prediction := _step(other.runs[pair]))
    ]
    if pairs:
        errors = [prediction / seconds - 1.0 for seconds, prediction in pairs]
        typical_measured, typical_predicted = (median(side) for side in zip(*pairs, strict=True))
        spread = min(errors), max(errors)
        yield Comparison(
            real, case, contender.label, typical_measured, typical_predicted, median(errors), spread, len(pairs)
        )


def _repeats(measured: Iterable[Case]) -> Iterable[float]:
    for case in measured:
        for contender in case.contenders if not case.jitters else ():
            steps = [seconds for run in contender.runs.values() if (seconds := _step(run))]
            yield from (max(a, b) / min(a, b) - 1.0 for a, b in combinations(steps, 2))


def _step(run: Run) -> float | None:
    """Seconds an update of a run that ended as planned."""
    seconds = run.summary.get("seconds_per_update") if run.summary["status"] == "done" else None
    return float(seconds) if seconds and math.isfinite(seconds) else None
