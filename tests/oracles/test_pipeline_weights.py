"""Every pipeline schedule gives the weights of one process with the whole batch, whatever the order of its actions."""

from __future__ import annotations

import pytest

from distsim.strategies.pipeline import GPipe, Interleaved, Pipeline, ZeroBubble

from .test_equal_weights import OPTIMIZERS, TOLERANCE, one_process, run

DEPTH = 8  # two chunks on each of four ranks
PIPELINES = [GPipe(8), Interleaved(8, 2), Interleaved(4, 1), ZeroBubble(6), ZeroBubble(3, "h2"), ZeroBubble(8, "v")]
PIPELINES += [ZeroBubble(1, "v")]


@pytest.mark.parametrize(("dtype", "optimizer"), [("float64", 0), ("float64", 1), ("float32", 1)])
@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("strategy", PIPELINES)
def test_weights_are_those_of_one_process(strategy: Pipeline, ranks: int, dtype: str, optimizer: int) -> None:
    outcome = run(strategy, ranks, dtype, OPTIMIZERS[optimizer], depth=DEPTH)
    before, after = one_process(dtype, OPTIMIZERS[optimizer], DEPTH)
    seen = list[int]()
    for weights in outcome.weights:
        for block, value in weights.items():
            moved = (after[block] - before[block]).abs().max()
            assert (value - after[block]).abs().max() <= TOLERANCE[dtype] * moved
            seen.append(block)
    assert sorted(seen) == list(range(DEPTH))


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("strategy", PIPELINES)
def test_modeled_time_and_memory_are_cosimulated_to_the_last_bit(strategy: Pipeline, ranks: int) -> None:
    modeled, cosimulated = (
        run(strategy, ranks, "float32", OPTIMIZERS[0], is_modeled, DEPTH) for is_modeled in (True, False)
    )
    assert modeled.seconds == cosimulated.seconds
    for a, b in zip(modeled.traces, cosimulated.traces, strict=True):
        assert (a.compute, a.transfers, a.updates) == (b.compute, b.transfers, b.updates)
        assert (a.peak, a.peak_activations) == (b.peak, b.peak_activations)
