"""The order in which gradients reached a real server, replayed under the simulated clock, gives the same weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from distsim.backends.real import RealOptions, launch
from distsim.interface import SGD, Budget, Cluster, Job, Region, Straggler, Strategy, Switch, T, Worker
from distsim.numerics.tensors import TensorsFactory
from distsim.strategies.parameter_server import AsyncPS
from distsim.workloads.digits_mlp import DigitsMLP

from .jobs import Times, done


@dataclass(frozen=True)
class Replayed(AsyncPS):
    """Asynchronous, and the server takes gradients from these workers in this order."""

    order: tuple[int, ...] = ()

    async def serve(self, server: Worker[T]) -> None:
        idle = list(range(server.workers))
        for step in server.steps():
            for w in idle:
                server.post(server.read(), w, "model", server.version)
            message = await server.receive(self.order[step], "gradient")
            await server.apply(await self.mean(server, [message]), of=[message])
            idle = [message.source]
        for w in set(range(server.workers)) - set(idle):
            server.discard(await server.receive(w, "gradient"))
        for w in range(server.workers):
            server.post(None, w, "model", label="stop")


@pytest.mark.parametrize(("workers", "weight", "optimizer"), [(2, "constant", SGD(0.05)), (4, "inverse", SGD(0.05, 0.5))])
def test_recorded_order_of_a_real_run_gives_its_weights(
    tmp_path: Path, workers: int, weight: Literal["constant", "inverse"], optimizer: SGD
) -> None:
    workload = DigitsMLP(batch=16, depth=4, width=32, dtype="float64")

    def job(strategy: Strategy) -> Job:
        cluster = Cluster(workers, 1, Times(1e-3, 2e-3), Switch(1e9, 1e-5))
        numerics = TensorsFactory(workload, workers, optimizer, seed=3)
        straggler = Straggler("exponential", slow={0: 2.0})
        return Job(strategy, workload.model(), cluster, Budget(updates=80), numerics, straggler, seed=3)

    real = launch(job(AsyncPS(weight)), RealOptions(device="cpu"), tmp_path)
    assert (real.status, real.message) == ("done", "")
    arrivals = [a for a in real.traces[workers].arrivals if a.applied]
    assert sum(a.staleness for a in real.traces[workers].arrivals) == 80 * (workers - 1)  # applied and in flight
    order = tuple(a.source for a in arrivals)
    assert len(order) == 80
    assert len(set(order)) > 1

    replay = done(job(Replayed(weight, order)))
    replayed = [a for a in replay.traces[workers].arrivals if a.applied]
    assert [(a.source, a.version, a.staleness) for a in replayed] == [(a.source, a.version, a.staleness) for a in arrivals]
    start = TensorsFactory(workload, workers, optimizer, seed=3)(0)
    for block, value in real.weights[workers].items():
        moved = (value - start.read(Region((block,)))).abs().max()
        assert moved > 1e-3
        assert (replay.weights[workers][block] - value).abs().max() <= 1e-12 * moved
