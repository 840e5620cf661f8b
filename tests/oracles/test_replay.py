"""The order in which gradients reached a real server, replayed under the simulated clock, gives the same weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from distsim.backends.real import RealOptions, launch
from distsim.interface import SGD, Budget, Cluster, Job, Message, Outcome, Region, Straggler, Switch, Trace, Work, Worker
from distsim.numerics.tensors import TensorsFactory
from distsim.numerics.tensors_assemble import assemble
from distsim.strategies.parameter_server import DCASGD, SSP, AsyncPS, BackupWorkers, KAsync, KBatchAsync, KBatchSync, KSync
from distsim.strategies.parameter_server_program import Desk, ParameterServer
from distsim.workloads.digits_mlp import DigitsMLP

from .jobs import Times, done

UPDATES, SEED = 40, 3
WORKLOAD = DigitsMLP(batch=16, depth=4, width=32, dtype="float64")


class InOrder(Desk[Any]):
    """Takes answers from these workers in this order, whoever leads the servers."""

    order: Iterator[int]
    expected: dict[int, Work[Message[Any]]]

    def expect(self, worker: int) -> None:
        self.expected[worker] = self.server.receive(worker, "gradient")

    async def take(self) -> Message[Any]:
        return await self.expected.pop(next(self.order))


def replayed(strategy: ParameterServer, orders: dict[int, list[int]]) -> ParameterServer:
    """The same strategy, whose servers take answers in `orders`, by rank."""

    def desk(self: ParameterServer, server: Worker[Any]) -> Desk[Any]:
        made = type(strategy).desk(self, server)
        kind = type("Replaying", (InOrder, type(made)), {"order": iter(orders[server.rank]), "expected": {}})
        made.__class__ = kind
        return made

    replaying: ParameterServer = type("Replayed", (type(strategy),), {"desk": desk})(**asdict(strategy))
    return replaying


def answers(server: Trace) -> list[int]:
    """Whose answers the server took, in order."""
    channels = [t.channel.split() for t in server.transfers if t.kind == "receive"]
    return [int(ranks.partition(">")[0]) for _, ranks, tag in channels if tag == "gradient"]


def decisions(server: Trace, all_of_them: bool) -> list[tuple[int, int, int, bool]]:
    """What became of each gradient that reached the server, or of those that it applied."""
    return [(a.source, a.version, a.staleness, a.applied) for a in server.arrivals if a.applied or all_of_them]


def final(outcome: Outcome) -> dict[int, Any]:
    """The model after the last update, by block."""
    pieces = [piece for snapshot in outcome.snapshots if snapshot.number == UPDATES for piece in snapshot.pieces]
    found = assemble(WORKLOAD.model(), WORKLOAD.task(SEED).blocks, pieces)
    assert found is not None
    return found


PLAIN, MOMENTUM = SGD(0.05), SGD(0.05, 0.5)


@pytest.mark.parametrize(
    ("workers", "strategy", "optimizer"),
    [
        *((workers, AsyncPS(), PLAIN) for workers in (2, 4)),
        *((workers, AsyncPS("inverse"), MOMENTUM) for workers in (2, 4)),
        *((workers, AsyncPS("polynomial", 0.7), PLAIN) for workers in (2, 4)),
        *((workers, AsyncPS("inverse", servers=2), PLAIN) for workers in (2, 4)),
        (2, KAsync(1), MOMENTUM),
        (4, KAsync(2), MOMENTUM),
        (4, KAsync(3, servers=2), PLAIN),
        (2, KBatchAsync(2), MOMENTUM),
        (4, KBatchAsync(3), PLAIN),
        (2, SSP(1), PLAIN),
        (4, SSP(2), MOMENTUM),
        *((workers, DCASGD(2.0, adaptive=True), SGD(0.02)) for workers in (2, 4)),
        *((workers, DCASGD(0.5), PLAIN) for workers in (2, 4)),
        *((workers, KSync(workers // 2, late="drop"), PLAIN) for workers in (2, 4)),
        *((workers, KSync(workers // 2, late="cancel"), MOMENTUM) for workers in (2, 4)),
        (4, KSync(3, late="cancel", servers=2), PLAIN),
        *((workers, KBatchSync(workers // 2 + 1, late="drop"), MOMENTUM) for workers in (2, 4)),
        *((workers, KBatchSync(workers // 2 + 1, late="cancel"), PLAIN) for workers in (2, 4)),
        *((workers, BackupWorkers(1, late="drop"), PLAIN) for workers in (2, 4)),
        *((workers, BackupWorkers(1, late="cancel"), MOMENTUM) for workers in (2, 4)),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else type(value).__name__,
)
def test_recorded_order_of_a_real_run_gives_its_weights(
    tmp_path: Path, workers: int, strategy: ParameterServer, optimizer: SGD
) -> None:
    """Also where the late are cancelled: an answer that was a signal in the real run may be a gradient that comes too late
    in the replay, or the other way round. Neither is applied, and both draw one batch."""

    def job(strategy: ParameterServer) -> Job:
        cluster = Cluster(workers, strategy.servers, Times(1e-3, 2e-3), Switch(1e9, 1e-5))
        numerics = TensorsFactory(WORKLOAD, workers, optimizer, SEED)
        straggler = Straggler("exponential", slow={0: 2.0})
        made = Job(strategy, WORKLOAD.model(), cluster, Budget(updates=UPDATES), numerics, straggler, SEED)
        return replace(made, samples_between_snapshots=10**9)  # the last update only

    real = launch(job(strategy), RealOptions(device="cpu"), tmp_path)
    assert (real.status, real.message) == ("done", "")
    servers = real.traces[workers:]
    orders = {trace.rank: answers(trace) for trace in servers}
    cancels, takes_all = strategy.on_late() == "cancel", strategy.on_late() == "apply"
    used = UPDATES * strategy.gradients_an_update(workers)
    for trace in servers:
        assert len(orders[trace.rank]) >= len(trace.arrivals)
        assert len(set(orders[trace.rank])) > 1
        assert len(decisions(trace, all_of_them=False)) == used
        assert takes_all or len(orders[trace.rank]) > used  # some came too late

    replay = done(job(replayed(strategy, orders)))
    for trace, found in zip(servers, replay.traces[workers:], strict=True):
        assert decisions(found, not cancels) == decisions(trace, not cancels)
    before, after, ours = TensorsFactory(WORKLOAD, workers, optimizer, SEED)(0), final(real), final(replay)
    for block, value in after.items():
        moved = (value - before.read(Region((block,)))).abs().max()
        assert moved > 1e-3
        assert (ours[block] - value).abs().max() <= 1e-12 * moved
