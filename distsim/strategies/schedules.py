"""Pipeline schedules as data: the order of one stage's actions in a step, and the cut of a model into stages.

A schedule can be printed, drawn and tested without running; `distsim.strategies.pipeline.walk` executes one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Literal

Action = tuple[Literal["F", "B"], int]
"""Forward or backward of a micro-batch."""
Schedule = Callable[[int, int, int], Iterator[Action]]
"""(stage, stages, micro-batches) -> the stage's actions in order."""


def one_f_one_b(stage: int, stages: int, microbatches: int) -> Iterator[Action]:
    """Warm up with as many forwards as stages follow, then alternate: at most min(m, p - stage) are held.

    Narayanan et al., "Efficient Large-Scale Language Model Training", SC 2021, section 2.2.
    """
    warmup = min(stages - stage - 1, microbatches)
    for i in range(warmup):
        yield "F", i
    for i in range(microbatches - warmup):
        yield "F", warmup + i
        yield "B", i
    for i in range(microbatches - warmup, microbatches):
        yield "B", i


def cut(costs: Sequence[float], stages: int) -> list[range]:
    """Cut a chain of blocks into `stages` non-empty contiguous ranges so that the most expensive one is cheapest.

    Among equally good cuts the earlier stages get fewer blocks. Needs at least as many blocks as stages.
    """
    return list(_cut(tuple(costs), stages))


@cache
def _cut(costs: tuple[float, ...], stages: int) -> tuple[range, ...]:
    """By dynamic programming over (stages, end of the last one); every rank of a run asks for the same."""
    n = len(costs)
    total = [0.0]
    for cost in costs:
        total.append(total[-1] + cost)
    worst = [[float("inf")] * (n + 1) for _ in range(stages + 1)]
    start = [[0] * (n + 1) for _ in range(stages + 1)]
    worst[0][0] = 0.0
    for s in range(1, stages + 1):
        for end in range(s, n + 1):
            for begin in range(s - 1, end):
                candidate = max(worst[s - 1][begin], total[end] - total[begin])
                if candidate < worst[s][end]:
                    worst[s][end], start[s][end] = candidate, begin
    ranges, end = list[range](), n
    for s in range(stages, 0, -1):
        ranges.append(range(start[s][end], end))
        end = start[s][end]
    return tuple(ranges[::-1])
