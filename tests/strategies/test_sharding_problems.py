"""What sharded, tensor-parallel and hybrid strategies say of workers and models that they cannot run on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from distsim.interface import Block, Model, Strategy
from distsim.strategies.hybrid import Hybrid
from distsim.strategies.tensor_parallel import TensorParallel
from distsim.strategies.zero import HSDP, Zero

PLAIN = Model(tuple(Block(i, "linear", 10, 4, 4, 1.0, 1.0, 1.0) for i in range(4)), batch=6, input=4)
CUT = replace(PLAIN, blocks=tuple(replace(b, kind=f"mlp {b.index}", ways=(0, 12, 8, 12)[b.index]) for b in PLAIN.blocks))


def said(strategy: Strategy, workers: int, model: Model) -> list[tuple[str, object, str, str]]:
    return [(p.key, p.value, p.allowed, p.suggestion) for p in strategy.problems(workers, model)]


@pytest.mark.parametrize(
    ("strategy", "workers", "model"),
    [
        (Zero(1), 1, PLAIN),
        (Zero(2, 0.0, 6), 64, PLAIN),
        (Zero(3), 7, PLAIN),
        (HSDP(1), 7, PLAIN),
        (HSDP(7, 3), 7, PLAIN),
        (TensorParallel(), 1, PLAIN),
        (TensorParallel(), 4, CUT),
        (Hybrid(1, 4, 8), 4, PLAIN),
        (Hybrid(4, 2, 12), 16, CUT),
        (Hybrid(2, 2, 2, "interleaved"), 4, CUT),
        (Hybrid(2, 1, 1, sharded=True), 64, CUT),
    ],
)
def test_nothing_is_wrong(strategy: Strategy, workers: int, model: Model) -> None:
    assert said(strategy, workers, model) == []


@pytest.mark.parametrize("stage", [0, 4, -1])
def test_zero_has_three_stages(stage: int) -> None:
    assert said(Zero(stage), 4, PLAIN) == [("strategy.stage", stage, "must be 1, 2 or 3", "1 cuts least, 3 everything")]


@pytest.mark.parametrize("strategy", [Zero(1, microbatches=4), HSDP(2, 4)])
def test_micro_batches_must_divide_a_worker_s_share(strategy: Strategy) -> None:
    assert said(strategy, 4, PLAIN) == [
        ("strategy.microbatches", 4, "must divide the 6 samples of a worker's share", "nearest: 2 or 3")
    ]


def test_a_bucket_has_a_size() -> None:
    assert [p[0] for p in said(Zero(1, -1.0), 4, PLAIN)] == ["strategy.bucket_bytes"]
    assert [p[0] for p in said(Zero(1, float("nan")), 4, PLAIN)] == ["strategy.bucket_bytes"]


@pytest.mark.parametrize(("shards", "near"), [(5, "4 or 6"), (0, "1 or 2"), (24, "6 or 12")])
def test_groups_of_shards_must_divide_the_workers(shards: int, near: str) -> None:
    assert said(HSDP(shards), 12, PLAIN) == [("strategy.shards", shards, "must divide the 12 workers", f"nearest: {near}")]


def test_a_model_that_cannot_be_cut() -> None:
    allowed, suggestion = "no block of this model can be cut into tensor shards", "take a workload with such blocks"
    assert said(TensorParallel(), 2, PLAIN) == [("cluster.workers", 2, allowed, suggestion)]
    assert said(Hybrid(2, 1, 1), 2, PLAIN) == [("strategy.tensor", 2, allowed, suggestion)]


@pytest.mark.parametrize(
    ("size", "which", "near"),
    [
        (3, "the 8 ways of block 2 (mlp 2)", "2 or 4"),
        (8, "the 12 ways of block 1 (mlp 1) and of 1 other", "2 or 4"),
        (16, "the 12 ways of block 1 (mlp 1) and of 2 others", "2 or 4"),
    ],
)
def test_tensor_shards_must_divide_the_ways_of_every_block(size: int, which: str, near: str) -> None:
    expected = (size, f"tensor shards must divide {which}", f"nearest: {near}")
    assert said(TensorParallel(), size, CUT) == [("cluster.workers", *expected)]
    assert said(Hybrid(size, 1, 1), size, CUT) == [("strategy.tensor", *expected)]


def test_tensor_and_stages_are_at_least_1() -> None:
    assert [p[:2] for p in said(Hybrid(0, 0), 4, CUT)] == [("strategy.tensor", 0), ("strategy.stages", 0)]


@pytest.mark.parametrize(("workers", "near"), [(6, "4 or 8"), (3, "4"), (13, "12 or 16")])
def test_tensor_times_stages_must_divide_the_workers(workers: int, near: str) -> None:
    assert said(Hybrid(2, 2, 4), workers, CUT) == [
        ("cluster.workers", workers, "must be a multiple of tensor x stages = 4", f"nearest: {near}")
    ]


def test_more_stages_than_blocks() -> None:
    ((key, value, allowed, suggestion),) = said(Hybrid(1, 5, 5), 5, CUT)
    assert (key, value) == ("strategy.stages", 5)
    assert "this model has 4" in allowed
    assert suggestion == "take at most 4 stages or a deeper model"
    ((key, value, allowed, _),) = said(Hybrid(1, 3, 6, "interleaved"), 3, CUT)
    assert (key, value) == ("strategy.chunks", 2)
    assert "6 blocks" in allowed


def test_micro_batches_must_divide_a_replica_s_samples() -> None:
    ((key, value, allowed, suggestion),) = said(Hybrid(2, 2, 5), 8, CUT)  # two replicas of 24 samples
    assert (key, value) == ("strategy.microbatches", 5)
    assert "24 samples" in allowed
    assert suggestion == "nearest: 4 or 6"
    assert [p[:2] for p in said(Hybrid(1, 2, 3, "interleaved"), 2, CUT)] == [("strategy.microbatches", 3)]
