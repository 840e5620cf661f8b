"""Several servers, each with a shard of the parameters: their traffic, their agreement, their memory."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import product

import pytest
import torch

from distsim.backends.simulated import SimulatedOptions, simulate
from distsim.backends.simulated.streams import Preemption
from distsim.interface import SGD, Budget, Cluster, Job, Outcome, Region, Straggler, Switch, T, Worker
from distsim.numerics.tensors import TensorsFactory
from distsim.results.conservation import check_conservation
from distsim.results.summary import metrics, summarize
from distsim.strategies.parameter_server import (
    DCASGD,
    SSP,
    AsyncPS,
    BackupWorkers,
    KAsync,
    KBatchAsync,
    KBatchSync,
    KSync,
    SyncPS,
)
from distsim.strategies.parameter_server_program import Desk, ParameterServer
from distsim.topologies import Scaled
from distsim.workloads.digits_mlp import DigitsMLP

from .jobs import IDEAL, Times, chain, done, job
from .test_replay import InOrder, answers, decisions, replayed
from .test_staleness import EXPONENTIAL, NETWORKS, STRAGGLERS

STILL = Times()
FAMILY: list[ParameterServer] = [
    SyncPS(),
    BackupWorkers(2),
    BackupWorkers(2, late="drop"),
    KSync(3),
    KSync(3, late="drop"),
    KBatchSync(3),
    KBatchSync(3, late="drop"),
    KAsync(3),
    KBatchAsync(3),
    AsyncPS("inverse"),
    SSP(1),
    DCASGD(adaptive=True),
]


# ---- time


@pytest.mark.parametrize("servers", [1, 2, 3, 8])
@pytest.mark.parametrize(("workers", "latency"), [(8, 0.0), (3, 0.25)])
def test_incast_is_shared_by_the_servers(servers: int, workers: int, latency: float) -> None:
    nbytes, bandwidth = 4 * 240, 1e3  # 240 scalars divide by all these numbers of servers
    run = done(job(SyncPS(servers=servers), workers, 3, STILL, Switch(bandwidth, latency), chain(parameters=240)))
    # P M / (S B) at the servers; a worker's own link carries M / B.
    way = max(workers / servers, 1.0) * nbytes / bandwidth + 2 * latency
    assert run.seconds == pytest.approx(3 * 2 * way, rel=1e-12)
    ends = {round(t.ended / way, 9) for trace in run.traces for t in trace.transfers if t.nbytes}
    assert ends == {1, 2, 3, 4, 5, 6}  # models, gradients, models, ...: each direction takes as long


def test_shards_are_padded_to_equal_bytes() -> None:
    run = done(job(SyncPS(servers=4), 6, 1, STILL, Switch(1e3, 0.0), chain(parameters=241)))  # 61 scalars a server
    assert run.seconds == pytest.approx(2 * 6 * 4 * 61 / 1e3, rel=1e-12)


@pytest.mark.parametrize(("workers", "latency"), [(2, 0.0), (5, 0.0), (8, 0.125)])
def test_a_server_beside_each_worker_moves_as_much_as_a_ring(workers: int, latency: float) -> None:
    # A host sends and receives (P-1)/P of the gradient, then of the model; its own share stays where it is.
    nbytes, bandwidth = 4 * 40 * workers, 1e3
    strategy = SyncPS(servers=workers, beside=True)
    run = done(job(strategy, workers, 3, STILL, Switch(bandwidth, latency), chain(parameters=40 * workers)))
    way = (workers - 1) / workers * nbytes / bandwidth + 2 * latency
    assert run.seconds == pytest.approx(3 * 2 * way, rel=1e-12)


def test_a_server_beside_a_worker_shares_its_link() -> None:
    # Gradients of workers 1 and 2 enter host 0, whose worker's stays inside; then their models leave it.
    run = done(job(SyncPS(beside=True), 3, 1, STILL, Switch(1e3, 0.0), chain(parameters=250)))
    assert run.seconds == pytest.approx(2 * 2 * 1.0, rel=1e-12)
    assert done(job(SyncPS(), 3, 1, STILL, Switch(1e3, 0.0), chain(parameters=250))).seconds == pytest.approx(2 * 3 * 1.0)
    alone = done(job(SyncPS(beside=True), 1, 4, Times(forward=1.0), Switch(1e3, 0.5), chain(parameters=250)))
    assert alone.seconds == 4 * 1.0  # nothing crosses the network


@pytest.mark.parametrize("servers", [2, 4, 5])
def test_servers_share_the_work_of_updates(servers: int) -> None:
    def times(servers: int, apply: float) -> list[float]:
        device = Times(forward=1.0, apply=apply)
        run = done(job(AsyncPS(servers=servers), 6, 60, device, straggler=EXPONENTIAL))
        return [update.time for update in run.traces[-1].updates]

    assert times(servers, 0.3) == pytest.approx(times(1, 0.3 / servers), rel=1e-12)


@pytest.mark.parametrize("beside", [False, True])
def test_averaging_takes_time(beside: bool) -> None:
    # A second for 1,000 bytes read: three gradients of 1,000 or, at each of two servers, of 500; of one nothing is read.
    device = Times(forward=1.0, byte=1e-3)
    for strategy, step in ((SyncPS(), 1.0 + 3.0), (SyncPS(servers=2), 1.0 + 1.5), (KSync(2), 1.0 + 2.0), (KSync(1), 1.0)):
        assert done(job(replace(strategy, beside=beside), 3, 4, device)).seconds == pytest.approx(4 * step, rel=1e-12)


# ---- they end, conserve, and agree


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("strategy", FAMILY)
def test_several_servers_end_and_conserve(strategy: ParameterServer, network: Switch) -> None:
    workers, updates = 5, 9
    settings = product((2, 3, 5), (False, True), STRAGGLERS[1::2])
    for servers, beside, straggler in settings:
        made = replace(strategy, servers=servers, beside=beside)
        base = job(made, workers, updates, Times(1.0, 0.3, 0.1, 1e-4), network, chain(2), straggler)
        for preemption in ("instant", "block"):
            run = done(base, SimulatedOptions(preemption=preemption))  # type: ignore[arg-type]
            check_conservation(run.traces)
            found = [trace.arrivals for trace in run.traces[workers:]]
            decisions = [[(a.source, a.version, a.staleness, a.applied) for a in each] for each in found]
            if made.takes_one_order(workers):
                assert decisions == [decisions[0]] * servers
            for trace, arrivals in zip(run.traces[workers:], found, strict=True):
                assert len(trace.updates) == updates
                assert sum(a.applied for a in arrivals) == updates * made.collect(workers)


@pytest.mark.parametrize("preemption", ["instant", "block"])
def test_gradients_that_take_no_time(preemption: Preemption) -> None:
    assert done(job(KSync(2), 3, 4, STILL), SimulatedOptions(preemption)).seconds == 0.0


@pytest.mark.parametrize("strategy", [AsyncPS(servers=2), SSP(10, servers=2), KBatchAsync(2, servers=2)])
def test_a_server_goes_on_when_another_has_made_all_its_updates(strategy: ParameterServer) -> None:
    for share in (0.5, 0.1, 0.01):  # the link of the second server is so much slower
        network = Scaled(Switch(1e4, 0.01), (("host5", share),))
        run = done(job(strategy, 4, 12, Times(forward=1.0), network, straggler=EXPONENTIAL))  # type: ignore[arg-type]
        assert [len(trace.updates) for trace in run.traces[4:]] == [12, 12]
        assert run.traces[5].updates[-1].time > run.traces[4].updates[-1].time
        check_conservation(run.traces)


def test_who_has_left_a_server_that_still_waits_for_others_is_let_go() -> None:
    """As in a real run, where each server can hear headers in an order of its own. With worker 0's gradient the first
    makes its last update and stops it; the second has given it another model by then, and still lacks worker 1's."""
    taken = {2: [1, 0, 1], 3: [0, 0, 1]}
    run = done(job(replayed(AsyncPS(servers=2), taken), 2, 2, Times(forward=1.0)))
    assert [answers(trace) for trace in run.traces[2:]] == list(taken.values())
    assert [decisions(trace, all_of_them=True) for trace in run.traces[2:]] == [
        [(1, 0, 0, True), (0, 0, 1, True)],
        [(0, 0, 0, True), (1, 0, 1, True)],
    ]
    check_conservation(run.traces)


ORDERS = ((2, 3, 4, 0, 1, 2), (0, 1, 4, 2, 3, 0), (1, 2, 3, 4, 0, 1))
"""Of five first answers: each server updates with three, then two workers wait at it, and it for one of those three."""


@dataclass(frozen=True)
class Disagreeing(KAsync):
    """K-async whose servers each take answers in an order of their own."""

    def desk(self, server: Worker[T]) -> Desk[T]:
        desk = super().desk(server)
        order = iter(ORDERS[server.rank - server.workers])
        desk.__class__ = type("OfItsOwn", (InOrder,), {"order": order, "expected": {}})
        return desk


def test_servers_that_each_wait_for_others_would_stop() -> None:
    run = simulate(job(Disagreeing(3, servers=3), 5, 3, Times(forward=1.0)))
    assert run.status == "deadlocked"
    assert [len(trace.updates) for trace in run.traces[5:]] == [1, 1, 1]
    # In one order: five answers at 1 s, of which two wait for one of three at 2 s, and the other two for one at 3 s.
    assert done(job(KAsync(3, servers=3), 5, 3, Times(forward=1.0))).seconds == 3.0


@pytest.mark.parametrize("servers", [2, 3])
@pytest.mark.parametrize("strategy", FAMILY)
def test_servers_do_together_what_one_does_alone(strategy: ParameterServer, servers: int) -> None:
    """Over an ideal network, from servers that take no time, all pieces arrive at once: the same model, to the last bit."""
    workload = DigitsMLP(batch=8, depth=4, width=20, dtype="float64")

    def run(servers: int) -> Outcome:
        made = replace(strategy, servers=servers)
        cluster = Cluster(5, servers, Times(1e-3, 2e-3), IDEAL)
        numerics = TensorsFactory(workload, 5, SGD(0.02, 0.5), 3)
        job = Job(made, workload.model(), cluster, Budget(updates=12), numerics, EXPONENTIAL, 3)
        return done(replace(job, samples_between_snapshots=10**9))

    alone, together = run(1), run(servers)
    decided = [[(a.source, a.version, a.staleness) for a in trace.arrivals if a.applied] for trace in together.traces[5:]]
    assert decided == [[(a.source, a.version, a.staleness) for a in alone.traces[5].arrivals if a.applied]] * servers
    assert [u.time for u in together.traces[5].updates] == [u.time for u in alone.traces[5].updates]
    (whole,) = alone.snapshots
    assert [s.number for s in (whole, *together.snapshots)] == [12] * (1 + servers)
    shards = torch.cat([snapshot.pieces[0].values for snapshot in together.snapshots])
    model = whole.pieces[0].values
    assert torch.equal(shards[: len(model)], model)
    assert not shards[len(model) :].any()  # the padding


def test_sharded_updates_are_those_of_one_server() -> None:
    """Every worker's model after the run's last answer, loaded from shards, is the one loaded whole."""
    workload = DigitsMLP(batch=8, depth=4, width=20, dtype="float64")  # its scalars do not divide by three

    def weights(strategy: ParameterServer) -> dict[int, torch.Tensor]:
        cluster = Cluster(4, strategy.servers, Times(1e-3, 2e-3), Switch(1e6, 1e-4))
        numerics = TensorsFactory(workload, 4, SGD(0.05, 0.9), 3)
        run = done(Job(strategy, workload.model(), cluster, Budget(updates=15), numerics, Straggler(slow={1: 2.0}), 3))
        return run.weights[0]

    start = TensorsFactory(workload, 4, SGD(0.05, 0.9), 3)(0)
    one = weights(SyncPS())
    for servers in (2, 3, 7):
        for block, value in weights(SyncPS(servers=servers)).items():
            assert torch.equal(value, one[block])
            assert (value - start.read(Region((block,)))).abs().max() > 1e-3


# ---- what a run says


def test_staleness_of_steady_workers_in_a_row() -> None:
    made = job(AsyncPS(), 3, 9, Times(forward=1.0))
    staleness = summarize(made, done(made), [])["staleness"]
    assert staleness == {"mean": (0 + 1 + 7 * 2) / 9, "max": 2, "histogram": {"0": 1, "1": 1, "2": 7}}


@pytest.mark.parametrize("servers", [1, 3])
def test_updates_are_counted_once(servers: int) -> None:
    for strategy in (AsyncPS(servers=servers), KBatchAsync(2, servers=servers), KSync(2, servers=servers)):
        made = job(strategy, 4, 25, Times(1.0, 0.5, 0.1), Switch(2e3, 0.05), straggler=EXPONENTIAL)
        run = done(made)
        row = summarize(made, run, [])
        assert (row["updates"], row["workers"], row["servers"]) == (25, 4, servers)
        assert row["samples"] == 25 * strategy.gradients_an_update(4) * made.model.batch
        times = [max(trace.updates[i].time for trace in run.traces[4:]) for i in range(25)]
        assert [time for _, _, time in metrics(run, [])["updates"]] == times  # complete when the last server's is
        assert row["seconds"] == times[-1]
        if not isinstance(strategy, KSync):
            assert row["staleness"]["mean"] <= 3 / strategy.gradients_an_update(4)


@pytest.mark.parametrize("servers", [1, 2, 4])
def test_a_server_keeps_its_shard_only(servers: int) -> None:
    model = chain(blocks=3, parameters=100)  # 1,200 bytes
    run = done(job(SyncPS(servers=servers), 4, 3, Times(1.0), model=model))
    assert [trace.peak.parameters for trace in run.traces] == [1200.0] * 4 + [1200.0 / servers] * servers


def test_staleness_counts_each_servers_own_versions() -> None:
    # Two servers that need not agree: all that a worker has in flight has been read after its own last update there.
    run = done(job(AsyncPS(servers=2), 4, 60, Times(1.0, apply=0.2), Switch(2e3, 0.1), straggler=EXPONENTIAL))
    for trace in run.traces[4:]:
        last = dict.fromkeys(range(4), 0)
        for i, arrival in enumerate(a for a in trace.arrivals if a.applied):
            assert arrival.staleness == i - arrival.version
            assert arrival.version == last[arrival.source]  # read at once after its own update
            last[arrival.source] = i + 1
    assert math.isfinite(run.seconds)
