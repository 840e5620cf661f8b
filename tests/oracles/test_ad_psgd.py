"""Asynchronous gossip: its recorded order, replayed in one process, gives its weights; averaging keeps the mean and reaches
consensus; nobody waits for a slow worker; all together make as many updates as the budget says.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from distsim.interface import SGD, AdamW, Budget, Cluster, Job, Optimizer, Outcome, Straggler, Switch
from distsim.interface.trace import Update
from distsim.strategies.ad_psgd import ADPSGD

from .asynchronous_gossip import Noted, NotingFactory, asked, replay
from .jobs import Times, chain, done, harmonic
from .jobs import job as modeled_job
from .quadratic import MODEL, Loss, Quadratic
from .replicas import SEED, assert_equal, job, run, workload

EXPONENTIAL = Straggler("exponential")


def noted(folder: Path, topology: str, workers: int, updates: int, optimizer: Optimizer) -> Job:
    base = job(Noted(topology, str(folder)), workers, updates, optimizer)
    return replace(base, numerics=NotingFactory(workload(), workers, optimizer, SEED, folder=str(folder)))


@pytest.mark.parametrize(
    ("topology", "workers", "optimizer"),
    [
        ("ring", 2, SGD(0.1)),
        ("ring", 3, SGD(0.05, momentum=0.9)),
        ("ring", 5, SGD(0.1)),
        ("complete", 4, AdamW(0.003)),
        ("complete", 6, SGD(0.1)),
    ],
)
def test_replayed_order_gives_the_weights(tmp_path: Path, topology: str, workers: int, optimizer: Optimizer) -> None:
    outcome = done(noted(tmp_path, topology, workers, 15 * workers, optimizer))
    assert_equal(outcome, replay(tmp_path, outcome, workers, optimizer))


def test_replayed_order_gives_the_weights_however_far_one_worker_runs_ahead(tmp_path: Path) -> None:
    crowded = Straggler(slow={0: 20.0, 1: 20.0, 2: 20.0})  # as on a machine whose cores others have
    outcome = done(replace(noted(tmp_path, "complete", 4, 90, SGD(0.05, momentum=0.5)), straggler=crowded))
    assert len(outcome.traces[3].updates) > 70  # of 96 samples each: more than four epochs of 1,437
    assert_equal(outcome, replay(tmp_path, outcome, 4, SGD(0.05, momentum=0.5)))


# ---- averaging


def positions(strategy: ADPSGD, starts: list[float], updates: int, straggler: Straggler) -> tuple[Outcome, list[float]]:
    """Where the ranks end that start at `starts` and have learning rate 0."""
    workers = len(starts)
    made = [Quadratic(Loss(rate=0.0, start=start)) for start in starts]
    cluster = Cluster(workers, 0, Times(forward=1.0), Switch(math.inf, 0.05))
    outcome = done(Job(strategy, MODEL, cluster, Budget(updates=updates), made.__getitem__, straggler))
    return outcome, [each.path[-1] for each in made]


@pytest.mark.parametrize("strategy", [ADPSGD(), ADPSGD("complete")])
@pytest.mark.parametrize("workers", [2, 3, 4, 7])
@pytest.mark.parametrize("straggler", [Straggler(), EXPONENTIAL, Straggler("lognormal", slow={1: 5.0})])
def test_averaging_keeps_the_mean_and_reaches_consensus(strategy: ADPSGD, workers: int, straggler: Straggler) -> None:
    starts = [float(rank * rank) for rank in range(workers)]
    _, ends = positions(strategy, starts, 300 * workers, straggler)
    mean = sum(starts) / workers
    assert sum(ends) / workers == pytest.approx(mean, rel=1e-12)
    assert ends == pytest.approx([mean] * workers, rel=1e-3)


@pytest.mark.parametrize(("topology", "allowed"), [("ring", {0: {1, 5}, 2: {1, 3}, 4: {3, 5}}), ("complete", {})])
def test_even_ranks_ask_odd_ones_at_random(topology: str, allowed: dict[int, set[int]]) -> None:
    outcome, _ = positions(ADPSGD(topology), [0.0] * 6, 600, Straggler())
    for rank in (0, 2, 4):
        peers = asked(outcome, rank)
        assert set(peers) == allowed.get(rank, {1, 3, 5})
        assert len(peers) == len(outcome.traces[rank].updates)
        kinds = len(set(peers))
        for peer in set(peers):  # within three standard errors
            assert abs(peers.count(peer) - len(peers) / kinds) < 3 * math.sqrt(len(peers) * (kinds - 1)) / kinds


def test_a_path_of_an_odd_number_of_workers_has_no_edge_between_its_ends() -> None:
    strategy = ADPSGD()
    assert [strategy.partners(rank, 5) for rank in range(5)] == [[1], [0, 2], [1, 3], [2, 4], [3]]
    assert [strategy.partners(rank, 2) for rank in range(2)] == [[1], [0]]


# ---- time


@pytest.mark.parametrize("topology", ["ring", "complete"])
@pytest.mark.parametrize("workers", [2, 3, 8])
def test_nobody_waits(topology: str, workers: int) -> None:
    updates = 200 * workers
    outcome = done(modeled_job(ADPSGD(topology), workers, updates, Times(forward=1.0), straggler=EXPONENTIAL))
    # All updates are begun when the (T-P)-th ends, an event of a Poisson process of rate P; then P exponentials run out.
    mean, variance = (updates - workers) / workers + harmonic(workers), updates / workers**2 + harmonic(workers, 2)
    assert abs(outcome.seconds - mean) <= 3 * math.sqrt(variance)
    for trace in outcome.traces:  # it computes from the first second to its last
        assert math.fsum(c.ended - c.begun for c in trace.compute) == pytest.approx(trace.updates[-1].time, rel=1e-9)


def test_a_slow_worker_makes_fewer_updates_and_holds_nobody_up() -> None:
    for slow in (0, 1):  # an active and a passive one
        outcome = done(modeled_job(ADPSGD(), 4, 310, Times(forward=1.0), straggler=Straggler(slow={slow: 10.0})))
        counts = [len(trace.updates) for trace in outcome.traces]
        assert counts == [10 if rank == slow else 100 for rank in range(4)]
        assert outcome.seconds == 100.0


@pytest.mark.parametrize(("latency", "step"), [(0.2, 1.0), (0.25, 1.0), (0.4, 1.6)])
def test_an_exchange_is_hidden_behind_a_gradient_if_it_is_shorter(latency: float, step: float) -> None:
    # There and back are two hops each way, 4 latencies; the passive worker answers at once.
    network = Switch(math.inf, latency)
    outcome = done(modeled_job(ADPSGD(), 2, 26, Times(forward=1.0), network))
    active, passive = ([update.time for update in trace.updates] for trace in outcome.traces)
    assert active == pytest.approx([step * k for k in range(1, len(active) + 1)], rel=1e-12)
    assert passive == pytest.approx([1.0 * k for k in range(1, len(passive) + 1)], rel=1e-12)
    assert len(active) + len(passive) == 26


def test_a_slow_link_holds_up_whoever_asks_and_no_passive_worker() -> None:
    blocks = chain(blocks=2, parameters=250)  # 2,000 bytes: 2 s each way
    outcome = done(modeled_job(ADPSGD(), 2, 20, Times(forward=0.5), Switch(1000.0, 0.0), blocks))
    active, passive = ([update.time for update in trace.updates] for trace in outcome.traces)
    assert active == [4.0, 8.0, 12.0, 16.0]
    assert passive == [float(t) for t in range(1, 17)]


def test_every_update_has_one_worker_and_numbers_follow_the_clock() -> None:
    outcome = done(modeled_job(ADPSGD(), 5, 400, Times(forward=1.0), straggler=EXPONENTIAL))
    updates = sorted(update for trace in outcome.traces for update in trace.updates)
    assert [update.number for update in updates] == list(range(1, 401))
    assert [update.time for update in updates] == sorted(update.time for update in updates)


@pytest.mark.parametrize("workers", [2, 5])
def test_modeled_time_is_cosimulated_time_to_the_last_bit(workers: int) -> None:
    a, b = (run(ADPSGD(), workers, 40, SGD(0.05, 0.5), is_modeled) for is_modeled in (True, False))
    assert a.seconds == b.seconds
    for one, other in zip(a.traces, b.traces, strict=True):
        assert (one.compute, one.transfers, one.updates, one.peak) == (
            other.compute,
            other.transfers,
            other.updates,
            other.peak,
        )


def in_order(update: Update) -> tuple[float, int]:
    """Of updates at the same time, which replies that arrive together make, the number tells which was first."""
    return update.time, update.number


@pytest.mark.parametrize("workers", [2, 3, 8])
@pytest.mark.parametrize("network", [Switch(math.inf, 0.0), Switch(math.inf, 0.7), Switch(1500.0, 0.1)])
@pytest.mark.parametrize("slow", [{}, {0: 5.0}, {1: 0.2}])
def test_updates_by_others_from_read_to_update_are_p_minus_1_on_average(
    workers: int, network: Switch, slow: dict[int, float]
) -> None:
    """Exactly T(P-1) - P(P-1)/2 after T updates: each finds P-1 others between a read and an update, but for the last P,
    which find P-1, ..., 1, 0. A read follows its worker's own update at once, whatever an exchange takes.
    """
    updates, straggler = 25 * workers, Straggler("exponential", slow=slow)
    outcome = done(modeled_job(ADPSGD(), workers, updates, Times(forward=1.0), network, straggler=straggler))
    total = 0
    for trace in outcome.traces:
        reads = sorted(c.begun for c in trace.compute if c.name == "gradient")
        others = [update for other in outcome.traces if other is not trace for update in other.updates]
        previous = 0
        for read, own in zip(reads, trace.updates, strict=True):
            after = Update(previous, 0, read)
            total += sum(in_order(after) < in_order(other) <= in_order(own) for other in others)
            previous = own.number
    assert total == updates * (workers - 1) - workers * (workers - 1) // 2


# ---- budgets and snapshots


def test_samples_are_counted_by_the_gradient() -> None:
    base = modeled_job(ADPSGD(), 3, 0, Times(forward=1.0), model=chain(batch=4))
    outcome = done(replace(base, budget=Budget(samples=46)))
    updates = sorted(update for trace in outcome.traces for update in trace.updates)
    assert [(u.number, u.samples) for u in updates] == [(k, 4 * k) for k in range(1, 12)]


def test_every_worker_stops_when_seconds_are_up() -> None:
    base = modeled_job(ADPSGD(), 4, 0, Times(forward=1.0), straggler=Straggler(slow={3: 4.0}))
    outcome = done(replace(base, budget=Budget(seconds=9.5)))
    assert [len(trace.updates) for trace in outcome.traces] == [10, 10, 10, 3]
    assert outcome.seconds == 12.0


def test_every_worker_shows_its_model_when_a_snapshot_is_due() -> None:
    base = job(ADPSGD(), 4, 60, SGD(0.1))
    outcome = done(replace(base, samples_between_snapshots=20 * base.model.batch, straggler=Straggler()))
    assert sorted(snapshot.number for snapshot in outcome.snapshots) == [20] * 4 + [40] * 4 + [60] * 4
    for snapshot in outcome.snapshots:
        assert snapshot.samples == snapshot.number * base.model.batch
        late = snapshot.time - 0.0155 * snapshot.number / 4  # 5 blocks a step, 3.1 ms each
        assert -1e-9 <= late <= 0.0155 + 1e-9  # its next update's end
