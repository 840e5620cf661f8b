"""The check that every strategy with micro-batches makes: they must cut its samples evenly."""

from __future__ import annotations

from collections.abc import Iterator
from math import isqrt

from distsim.interface import Problem


def uneven(microbatches: int, samples: int, whose: str, ranks: int = 1) -> Iterator[Problem]:
    """The problem with so many micro-batches of `samples` samples, if there is one, and the nearest numbers without.

    `whose` says what the samples are, as in `of a step`. They may have to be a multiple of the `ranks` of a pipeline.
    """
    if microbatches < 1 or samples % microbatches or microbatches % ranks:
        small = [m for m in range(1, isqrt(samples) + 1) if samples % m == 0]
        divisors = sorted(m for m in {*small, *(samples // m for m in small)} if m % ranks == 0)
        near = sorted(divisors, key=lambda m: abs(m - microbatches))[:2]
        allowed = f"must divide the {samples} samples {whose}"
        allowed += f" and be a multiple of the {ranks} ranks of the pipeline" if ranks > 1 else ""
        suggestion = f"nearest: {' or '.join(map(str, sorted(near)))}" if near else "none is: take other samples a step"
        yield Problem("strategy.microbatches", microbatches, allowed, suggestion)
