"""Medians, paired differences and their 95 % intervals. Standard library only.

Runs of two strategies with equal (seed, repeat) saw the same data and the same stragglers, so their difference is taken
pair by pair. Times are compared by the logarithm of their ratio: it treats "twice as fast" and "half as fast" alike and is
nearer to normal than a difference of seconds. Its interval is Student's:

    mean(d) -+ t(0.975, n - 1) * s / sqrt(n),    d_i = ln(a_i / b_i)

The interval of a median needs no distribution: it lies between two order statistics whose ranks follow the binomial
distribution with p = 1/2 (Conover, Practical Nonparametric Statistics, 1999, section 3.2).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev
from typing import Any

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A value and its 95 % interval; `low` and `high` are infinite where the number of runs `n` allows none."""

    value: float
    low: float
    high: float
    n: int

    def excludes(self, value: float) -> bool:
        """True if `value` lies outside the interval. A bound equal to it does not exclude it."""
        return value < self.low or value > self.high


def student_distribution(t: float, freedom: int) -> float:
    """P(|T| <= t) of Student's t with whole degrees of freedom; Abramowitz and Stegun, 26.7.3 and 26.7.4."""
    theta = math.atan(t / math.sqrt(freedom))
    sine, square = math.sin(theta), math.cos(theta) ** 2
    odd = freedom % 2
    term = math.cos(theta) if odd else 1.0
    total = term if freedom > 1 else 0.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= square * (k - 1) / k
        total += term
    return 2.0 / math.pi * (theta + sine * total) if odd else sine * total


def student_quantile(freedom: int, level: float = LEVEL) -> float:
    """The t with P(|T| <= t) = level, to 1e-12: 2.776 for 4 degrees of freedom and 95 %."""
    low, high = 0.0, 1.0
    while student_distribution(high, freedom) < level:
        high *= 2.0
    while high - low > 1e-12 * high:
        middle = (low + high) / 2.0
        low, high = (middle, high) if student_distribution(middle, freedom) < level else (low, middle)
    return high


def mean_interval(values: Sequence[float]) -> Estimate:
    """The mean with Student's 95 % interval; an infinite one for a single value. Raises ValueError for none."""
    if not values:
        raise ValueError("an estimate needs at least one value")
    mean, n = fmean(values), len(values)
    if n == 1:
        return Estimate(mean, -math.inf, math.inf, 1)
    half = student_quantile(n - 1) * stdev(values) / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, n)


def paired_ratio(a: Sequence[float], b: Sequence[float]) -> Estimate:
    """How many times larger `a` is than `b`, pair by pair: the geometric mean of the ratios with its 95 % interval.

    The interval of the paired difference of logarithms excludes 0 exactly if this one excludes 1. Raises ValueError unless
    both have the same number of positive values.
    """
    if len(a) != len(b) or not all(x > 0.0 for x in (*a, *b)):
        raise ValueError("paired ratios need equally many positive values on both sides")
    d = mean_interval([math.log(x / y) for x, y in zip(a, b, strict=True)])
    return Estimate(math.exp(d.value), math.exp(d.low), math.exp(d.high) if d.high < 700.0 else math.inf, d.n)


def median_interval(values: Sequence[float]) -> Estimate:
    """The median with an interval of at least 95 % coverage, which exists from 6 values on; before, it is infinite."""
    if not values:
        raise ValueError("an estimate needs at least one value")
    ordered, n = sorted(values), len(values)
    below, rank = 0.0, -1
    while below + math.comb(n, rank + 1) / 2**n <= (1.0 - LEVEL) / 2.0:
        rank += 1
        below += math.comb(n, rank) / 2**n
    if rank < 0:
        return Estimate(median(ordered), -math.inf, math.inf, n)
    return Estimate(median(ordered), ordered[rank], ordered[n - 1 - rank], n)


@dataclass(frozen=True)
class Reached:
    """When a run's validation loss was first at or under the target, by its snapshots; None if it never was."""

    seconds: float | None
    samples: float | None
    best: float | None
    """The lowest finite loss of any snapshot, and below where it was; None without a snapshot."""
    best_update: int
    interval: float = 0.0
    """Seconds between the snapshot at the target and the one before it: by as much the target may have been met sooner."""

    def __str__(self) -> str:
        if self.seconds is not None:
            return f"reached in {self.seconds:.3g} s"
        return "not reached" if self.best is None else f"not reached, best {self.best:.3g} at step {self.best_update}"


def reached(curve: Sequence[Mapping[str, Any]], target: float) -> Reached:
    """Find the first snapshot at or under `target`. Nothing is interpolated: between snapshots nobody looked."""
    known = [point for point in curve if _is_known(point)]
    if not known:
        return Reached(None, None, None, -1)
    best = min(known, key=lambda point: point["loss"])
    first = next((i for i, point in enumerate(curve) if _is_known(point) and point["loss"] <= target), None)
    if first is None:
        return Reached(None, None, best["loss"], best["update"])
    before = curve[first - 1]["seconds"] if first else 0.0
    seconds = curve[first]["seconds"]
    return Reached(seconds, curve[first]["samples"], best["loss"], best["update"], seconds - before)


def _is_known(point: Mapping[str, Any]) -> bool:
    return point["loss"] is not None and math.isfinite(point["loss"])
