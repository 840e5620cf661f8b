"""The order in which gradients reached a real server, replayed under the simulated clock, gives the same weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from distsim.backends.real import RealOptions, launch
from distsim.interface import SGD, Budget, Cluster, Job, Message, Region, Straggler, Switch, Trace, Work, Worker
from distsim.numerics.tensors import TensorsFactory
from distsim.strategies.parameter_server import DCASGD, SSP, AsyncPS, BackupWorkers, KAsync, KBatchAsync, KBatchSync, KSync
from distsim.strategies.parameter_server_program import Desk, ParameterServer
from distsim.workloads.digits_mlp import DigitsMLP

from .jobs import Times, done

UPDATES = 40
WORKLOAD = DigitsMLP(batch=16, depth=4, width=32, dtype="float64")


class InOrder(Desk[Any]):
    """Takes answers from these workers in this order."""

    order: Iterator[int]
    expected: dict[int, Work[Message[Any]]]

    def expect(self, worker: int) -> None:
        self.expected[worker] = self.server.receive(worker, "gradient")

    async def take(self) -> Message[Any]:
        return await self.expected.pop(next(self.order))


def replayed(strategy: ParameterServer, order: list[int]) -> ParameterServer:
    """The same strategy, whose server takes answers in `order`."""

    def desk(self: ParameterServer, server: Worker[Any]) -> Desk[Any]:
        made = type(strategy).desk(self, server)
        kind = type("Replaying", (InOrder, type(made)), {"order": iter(order), "expected": {}})
        made.__class__ = kind
        return made

    replaying: ParameterServer = type("Replayed", (type(strategy),), {"desk": desk})(**asdict(strategy))
    return replaying


def answers(server: Trace) -> list[int]:
    """Whose answers the server took, in order."""
    channels = [t.channel.split() for t in server.transfers if t.kind == "receive"]
    return [int(ranks.partition(">")[0]) for _, ranks, tag in channels if tag == "gradient"]


@pytest.mark.parametrize(
    ("workers", "strategy", "optimizer"),
    [
        (2, AsyncPS(), SGD(0.05)),
        (4, AsyncPS("inverse"), SGD(0.05, 0.5)),
        (4, AsyncPS("polynomial", 0.7), SGD(0.05)),
        (4, KAsync(2), SGD(0.05, 0.5)),
        (2, KBatchAsync(2), SGD(0.05, 0.5)),
        (4, KBatchAsync(3), SGD(0.05)),
        (2, SSP(1), SGD(0.05)),
        (4, SSP(2), SGD(0.05, 0.5)),
        (4, DCASGD(2.0, adaptive=True), SGD(0.02)),
        (4, KSync(2, late="drop"), SGD(0.05)),
        (4, KBatchSync(3, late="drop"), SGD(0.05, 0.5)),
        (2, BackupWorkers(1, late="drop"), SGD(0.05)),
    ],
)
def test_recorded_order_of_a_real_run_gives_its_weights(
    tmp_path: Path, workers: int, strategy: ParameterServer, optimizer: SGD
) -> None:
    def job(strategy: ParameterServer) -> Job:
        cluster = Cluster(workers, 1, Times(1e-3, 2e-3), Switch(1e9, 1e-5))
        numerics = TensorsFactory(WORKLOAD, workers, optimizer, seed=3)
        straggler = Straggler("exponential", slow={0: 2.0})
        return Job(strategy, WORKLOAD.model(), cluster, Budget(updates=UPDATES), numerics, straggler, seed=3)

    real = launch(job(strategy), RealOptions(device="cpu"), tmp_path)
    assert (real.status, real.message) == ("done", "")
    order, arrivals = answers(real.traces[workers]), real.traces[workers].arrivals
    assert len(order) == len(arrivals)
    assert len(set(order)) > 1
    applied = [a for a in arrivals if a.applied]
    assert len(applied) == UPDATES * strategy.gradients_an_update(workers)

    replay = done(job(replayed(strategy, order)))
    found = [(a.source, a.version, a.staleness, a.applied) for a in replay.traces[workers].arrivals]
    assert found == [(a.source, a.version, a.staleness, a.applied) for a in arrivals]
    start = TensorsFactory(WORKLOAD, workers, optimizer, seed=3)(0)
    for block, value in real.weights[workers].items():
        moved = (value - start.read(Region((block,)))).abs().max()
        assert moved > 1e-3
        assert (replay.weights[workers][block] - value).abs().max() <= 1e-12 * moved
