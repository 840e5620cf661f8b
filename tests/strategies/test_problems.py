"""What a strategy says of workers and models that it cannot run on."""

import pytest

from distsim.interface import Block, Model, Strategy
from distsim.strategies.all_reduce import AllReduce
from distsim.strategies.parameter_server import AsyncPS, SyncPS
from distsim.strategies.pipeline import ModelParallel, OneFOneB

FOUR_BLOCKS = Model(tuple(Block(i, "block", 10, 4, 4, 1.0, 1.0, 1.0) for i in range(4)), batch=6, input=4)


@pytest.mark.parametrize("strategy", [AllReduce(), AllReduce(0.0), SyncPS(), AsyncPS(), AsyncPS("inverse")])
@pytest.mark.parametrize("workers", [1, 4, 64])
def test_data_parallelism_runs_on_any_number_of_workers(strategy: Strategy, workers: int) -> None:
    assert list(strategy.problems(workers, FOUR_BLOCKS)) == []


@pytest.mark.parametrize("strategy", [ModelParallel(), OneFOneB(1), OneFOneB(2), OneFOneB(6), OneFOneB(24)])
def test_a_pipeline_runs_where_its_micro_batches_divide_the_samples_of_a_step(strategy: Strategy) -> None:
    assert list(strategy.problems(4, FOUR_BLOCKS)) == []  # 24 samples


@pytest.mark.parametrize("strategy", [ModelParallel(), OneFOneB(6)])
def test_a_pipeline_needs_a_block_a_stage(strategy: Strategy) -> None:
    (problem,) = strategy.problems(5, FOUR_BLOCKS)
    assert (problem.key, problem.value) == ("cluster.workers", 5)
    assert "this model has 4" in problem.allowed
    assert "at most 4 workers" in problem.suggestion


@pytest.mark.parametrize(
    ("microbatches", "nearest"), [(5, "4 or 6"), (7, "6 or 8"), (11, "8 or 12"), (25, "12 or 24"), (0, "1 or 2")]
)
def test_micro_batches_that_do_not_divide_get_the_nearest_that_do(microbatches: int, nearest: str) -> None:
    (problem,) = OneFOneB(microbatches).problems(4, FOUR_BLOCKS)
    assert (problem.key, problem.value) == ("strategy.microbatches", microbatches)
    assert "24 samples" in problem.allowed
    assert nearest in problem.suggestion


def test_all_problems_are_said_at_once() -> None:
    assert [p.key for p in OneFOneB(7).problems(5, FOUR_BLOCKS)] == ["cluster.workers", "strategy.microbatches"]


@pytest.mark.parametrize(
    ("strategy", "servers", "gradients_an_update"),
    [(AllReduce(), 0, 4), (SyncPS(), 1, 4), (AsyncPS(), 1, 1), (ModelParallel(), 0, 4), (OneFOneB(), 0, 4)],
)
def test_what_an_update_consumes(strategy: Strategy, servers: int, gradients_an_update: int) -> None:
    assert (strategy.server_count(4), strategy.gradients_an_update(4)) == (servers, gradients_an_update)
