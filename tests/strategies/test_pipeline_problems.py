"""What pipelines with chunks, and pipelines that never drain, say of workers and models that they cannot run on."""

from __future__ import annotations

import pytest

from distsim.interface import Block, Model, Strategy
from distsim.strategies.pipedream import PipeDream, PipeDream2BW
from distsim.strategies.pipeline import GPipe, Interleaved, ModelParallel, OneFOneB, ZeroBubble

EIGHT_BLOCKS = Model(tuple(Block(i, "block", 10, 4, 4, 1.0, 1.0, 1.0) for i in range(8)), batch=6, input=4)
"""Four workers take 24 samples a step."""

ROUNDS = "must divide the 24 samples of a step and be a multiple of the 4 ranks of the pipeline"
AT_MOST = "and this model has 8; take at most {} workers or a deeper model"
TO_COME = "or a step would need weights that are still to come"


def said(strategy: Strategy, workers: int = 4) -> list[str]:
    return [str(problem) for problem in strategy.problems(workers, EIGHT_BLOCKS)]


@pytest.mark.parametrize(
    "strategy",
    [
        GPipe(6),
        GPipe(1),
        Interleaved(8, 2),
        Interleaved(12, 2),
        Interleaved(24, 1),
        ZeroBubble(1),
        ZeroBubble(3, "h2"),
        ZeroBubble(3, "v"),
        PipeDream(),
        PipeDream2BW(4),
        PipeDream2BW(24),
    ],
)
def test_possible_settings_have_no_problem(strategy: Strategy) -> None:
    assert said(strategy) == []


@pytest.mark.parametrize(
    ("strategy", "workers", "problem"),
    [
        (Interleaved(6, 2), 4, f"strategy.microbatches=6: {ROUNDS}; nearest: 4 or 8"),
        (Interleaved(17, 2), 4, f"strategy.microbatches=17: {ROUNDS}; nearest: 12 or 24"),
        (Interleaved(8, 0), 4, "strategy.chunks=0: must be at least 1; 1 is one_f_one_b"),
        (Interleaved(8, -3), 4, "strategy.chunks=-3: must be at least 1; 1 is one_f_one_b"),
        (
            Interleaved(8, 3),
            4,
            "strategy.chunks=3: 4 ranks of 3 chunks need 12 blocks, and this model has 8; take at most 2 or a deeper model",
        ),
        (Interleaved(9, 3), 9, f"cluster.workers=9: a pipeline needs a block a rank, {AT_MOST.format(8)}"),
        (ZeroBubble(10, "v"), 5, f"cluster.workers=5: a pipeline needs 2 blocks a rank, {AT_MOST.format(4)}"),
        (ZeroBubble(7), 4, "strategy.microbatches=7: must divide the 24 samples of a step; nearest: 6 or 8"),
        (PipeDream(), 9, f"cluster.workers=9: a pipeline needs a block a stage, {AT_MOST.format(8)}"),
        (PipeDream2BW(5), 4, "strategy.microbatches=5: must divide the 24 samples of a step; nearest: 4 or 6"),
        (PipeDream2BW(3), 4, f"strategy.microbatches=3: must be at least the 4 stages, {TO_COME}; nearest: 4"),
        (PipeDream2BW(3), 7, f"strategy.microbatches=3: must be at least the 7 stages, {TO_COME}; nearest: 7"),
    ],
)
def test_an_impossible_setting_gets_one_line_with_what_is_nearest(strategy: Strategy, workers: int, problem: str) -> None:
    assert said(strategy, workers) == [problem]


def test_few_micro_batches_are_warned_of() -> None:
    def warned(strategy: Strategy) -> list[str]:
        return list(strategy.warnings(4, EIGHT_BLOCKS))

    for pipeline in (GPipe(3), OneFOneB(3)):
        assert warned(pipeline) == ["3 micro-batches are fewer than 4 stages: 50% of all time is bubble"]
    assert warned(OneFOneB(1)) == ["1 micro-batches are fewer than 4 stages: 75% of all time is bubble"]
    assert warned(ModelParallel()) == warned(OneFOneB(4)) == warned(Interleaved(4, 2)) == []
    assert len(warned(ZeroBubble(6, "h2"))) == len(warned(ZeroBubble(6, "v"))) == len(warned(ZeroBubble(3))) == 1
    assert warned(ZeroBubble(7, "h2")) == warned(ZeroBubble(8, "v")) == warned(ZeroBubble(4)) == []
