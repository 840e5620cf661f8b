"""Ranks that march: their records are those of the run that simulates every rank by itself, to the last bit."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest

from distsim.backends.simulated import SimulatedOptions, simulate
from distsim.backends.simulated.folding import SetApart, may_march
from distsim.backends.simulated.marching import march
from distsim.backends.simulated.moments import Moments
from distsim.interface import (
    Batch,
    Block,
    Budget,
    Cluster,
    Episodes,
    Failure,
    Job,
    Model,
    Outcome,
    Roofline,
    Straggler,
    Strategy,
    Switch,
    T,
    Topology,
    Worker,
)
from distsim.numerics.sizes import SizesFactory
from distsim.results.conservation import check_conservation
from distsim.results.records import trace_hash
from distsim.strategies.all_reduce import AllReduce
from distsim.strategies.diloco import DiLoCo
from distsim.strategies.gossip import Gossip
from distsim.strategies.local_sgd import LocalSGD
from distsim.strategies.zero import Zero
from distsim.topologies import TwoLevel

NONE, FROM_TWO = SimulatedOptions(fold_ranks=0), SimulatedOptions(fold_ranks=2)
JITTER = Straggler("lognormal", sigma=0.5)
SWITCH = Switch(1.25e9 / 7, 5e-6)
ROOFLINE = Roofline(1e10, 1e10, 1e-6)


def job(
    strategy: Strategy,
    straggler: Straggler = JITTER,
    workers: int = 6,
    network: Topology = SWITCH,
    parameters: int = 240_000,
    device: Roofline = ROOFLINE,
    **more: Any,
) -> Job:
    blocks = [
        Block(index=i, kind="b", parameters=parameters, activation=8, saved=3, flops=1e8, input_flops=7e7, weight_flops=1e8)
        for i in range(3)
    ]
    model = Model(tuple(blocks), batch=2, input=8)
    cluster = Cluster(workers, 0, device, network)
    return Job(strategy, model, cluster, Budget(updates=4), SizesFactory(model, workers), straggler, seed=3, **more)


def check_same(one: Outcome, other: Outcome) -> None:
    assert (one.status, one.message, one.seconds, one.notes) == (other.status, other.message, other.seconds, other.notes)
    assert one.weights == other.weights
    assert trace_hash(one.traces) == trace_hash(other.traces)


@pytest.mark.parametrize(
    "strategy",
    [AllReduce(bucket_bytes=0.0), AllReduce(microbatches=2), Zero(stage=2), LocalSGD(every=2), DiLoCo(every=2)],
)
@pytest.mark.parametrize("network", [SWITCH, TwoLevel(2, 1e10, 1e-7, 2, 1e8, 1e-6)], ids=["switch", "two level"])
def test_they_have_the_records_of_ranks_simulated_one_by_one(strategy: Strategy, network: Topology) -> None:
    given = job(strategy, network=network)
    marched = march(given, FROM_TWO)
    check_same(marched, simulate(given, NONE))
    check_conservation(marched.traces)


@pytest.mark.parametrize(
    "straggler",
    [
        Straggler("exponential", slow={1: 3.0}),
        Straggler("pareto"),
        Straggler("exponential", scales_with_work=False, work_seconds=0.01),  # a delay besides, once a step
        Straggler(slow={4: 2.0}),
        Straggler(),
    ],
)
def test_whatever_the_straggler(straggler: Straggler) -> None:
    given = job(AllReduce(bucket_bytes=0.0), straggler)
    check_same(march(given, FROM_TWO), simulate(given, NONE))


def test_a_step_by_hand() -> None:
    """3 blocks of (1e8 + 1.7e8) FLOPs a sample, 2 samples, at 1e10 FLOP/s, and rank 1 takes twice as long."""
    given = job(AllReduce(), Straggler(slow={1: 2.0}), workers=2, network=Switch(1e9, 1e-3), device=Roofline(1e10, 1e18))
    traces = march(given, FROM_TWO).traces
    seconds = 3 * 2 * 2.7e8 / 1e10
    reduction = 2 * (2e-3 + 1.44e6 / 1e9)  # two rounds of half the gradient, over two cables
    assert [trace.compute[0].ended for trace in traces] == pytest.approx([seconds, 2.0 * seconds])
    for trace, posted in zip(traces, (seconds, 2.0 * seconds), strict=True):
        assert (trace.transfers[0].posted, trace.transfers[0].awaited) == pytest.approx((posted, posted))
        assert trace.transfers[0].ended == pytest.approx(2.0 * seconds + reduction)
        assert trace.compute[0].part == trace.rank


@dataclass(frozen=True)
class Liar(AllReduce):
    """Says that all do alike, though the last computes twice."""

    async def run(self, worker: Worker[T]) -> None:
        for step in worker.steps():
            for _ in range(1 + (worker.rank == worker.world_size - 1)):
                gradient = await worker.gradient(Batch(step, worker.rank, worker.world_size))
            await worker.apply(await worker.all_reduce(gradient))

    def alike_every(self, workers: int) -> int:
        return 1


@dataclass(frozen=True)
class Ahead(Liar):
    """Queues a computation behind another."""

    async def run(self, worker: Worker[T]) -> None:
        for step in worker.steps():
            batch = Batch(step, worker.rank, worker.world_size)
            first, second = worker.gradient(batch), worker.gradient(batch)
            await worker.apply(await worker.all_reduce(await first))
            await second

    def alike_every(self, workers: int) -> int:
        return 1


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (job(Liar()), "the last worker"),
        (job(Ahead()), "what is queued"),
        (job(Gossip()), "messages"),
        (job(Zero(stage=3), parameters=200_000), "the last worker"),  # 600,000 scalars do cut into 6, a block does not
        (job(AllReduce(), Straggler(episodes=Episodes(0.5))), "a straggler that goes by the clock"),
    ],
)
def test_what_sets_them_apart(given: Job, why: str) -> None:
    with pytest.raises(SetApart, match=why):
        march(given, FROM_TWO)
    check_same(simulate(given, FROM_TWO), simulate(given, NONE))


@dataclass(frozen=True)
class Raising(AllReduce):
    """Raises at a step, or when its clock says so."""

    by_clock: bool = False

    async def run(self, worker: Worker[T]) -> None:
        for step in worker.steps():
            gradient = await worker.gradient(Batch(step, worker.rank, worker.world_size))
            if self.by_clock and worker.now > 0.99:  # seconds, but when marching the number of a moment
                raise ValueError("late")
            if not self.by_clock and step == 2:
                raise ValueError("never again")
            await worker.apply(await worker.all_reduce(gradient))

    def alike_every(self, workers: int) -> int:
        return 1


def test_an_error_of_the_program_is_told_of_the_rank_on_which_it_happens() -> None:
    outcome = simulate(job(Raising()), FROM_TWO)
    assert outcome.status == "failed"
    assert re.fullmatch(r"ValueError: never again \(rank \d, test_marching.py:\d+\)", outcome.message)
    assert simulate(job(Raising(by_clock=True), device=Roofline(1e12, 1e12, 1e-6)), FROM_TWO).status == "done"


def test_a_mistake_of_marching_is_no_run_that_takes_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    for broken in ("wait", "note"):
        with monkeypatch.context() as patch:
            patch.setattr(Moments, broken, partial(np.add, np.zeros(5)))  # of six ranks' times
            outcome = simulate(job(AllReduce()), FROM_TWO)
        assert outcome.status == "failed"
        assert outcome.message == (
            "ranks that march: ValueError: operands could not be broadcast together with shapes (5,) (6,) : "
            "a bug of distsim, please report it"
        )


def test_who_marches() -> None:
    assert may_march(job(AllReduce()), 6)
    assert not may_march(job(AllReduce()), 7)
    assert not may_march(job(AllReduce()), 0)
    assert not may_march(job(AllReduce(), failure=Failure({1: (0.01,)})), 6)
    assert not may_march(job(AllReduce(), samples_between_snapshots=1), 6)


def test_records_are_read_like_lists() -> None:
    given = job(AllReduce(bucket_bytes=0.0))
    marched, whole = march(given, FROM_TWO).traces[5], simulate(given, NONE).traces[5]
    assert len(marched.compute) == len(whole.compute) == 4 * 3 * 2
    assert list(marched.compute) == whole.compute
    assert marched.compute == whole.compute
    assert marched.compute != whole.compute[1:]
    assert marched.compute[2:5] == whole.compute[2:5]
    assert marched.updates[-1] == whole.updates[-1]
    assert marched.losses[0] == whole.losses[0]
