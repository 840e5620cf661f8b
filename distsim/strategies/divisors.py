"""The check that every strategy with micro-batches makes: they must cut its samples evenly."""

from __future__ import annotations

from collections.abc import Iterator
from math import isqrt

from distsim.interface import Problem


def uneven(microbatches: int, samples: int, whose: str) -> Iterator[Problem]:
    """The problem with so many micro-batches of `samples` samples, if there is one, and the nearest numbers without.

    `whose` says what the samples are, as in `of a step`.
    """
    if microbatches < 1 or samples % microbatches:
        small = [m for m in range(1, isqrt(samples) + 1) if samples % m == 0]
        divisors = sorted({*small, *(samples // m for m in small)})
        near = sorted(divisors, key=lambda m: abs(m - microbatches))[:2]
        yield Problem(
            "strategy.microbatches",
            microbatches,
            f"must divide the {samples} samples {whose}",
            f"nearest: {' or '.join(map(str, sorted(near)))}",
        )
