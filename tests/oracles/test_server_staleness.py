"""Staleness of the members of the parameter-server family: identities that hold for any delays, to the last gradient.

Staleness is counted from when the model was read. If a worker reads at its own contribution, it is the number of updates
that others made in between; summed over all gradients, those in flight at the end included, what is left is exact.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from distsim.interface import Arrival, Straggler, Strategy, Switch
from distsim.strategies.parameter_server import DCASGD, SSP, AsyncPS, BackupWorkers, KAsync, KBatchAsync, KBatchSync, KSync

from .jobs import Times, done, job
from .test_staleness import EXPONENTIAL, NETWORKS, STRAGGLERS


def arrivals(strategy: Strategy, workers: int, updates: int, network: Switch, straggler: Straggler) -> list[Arrival]:
    device = Times(forward=1.0, apply=0.1, byte=1e-5)
    return done(job(strategy, workers, updates, device, network, straggler=straggler)).traces[workers].arrivals


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(
    ("strategy", "workers", "total"),
    [
        (KAsync(4), 8, 4),  # (P-K)/K a gradient, K gradients an update
        (KAsync(3), 5, 2),
        (KAsync(5), 5, 0),
        (KBatchAsync(4), 8, 7),  # (P-1)/K
        (KBatchAsync(2), 3, 2),
        (KBatchAsync(5), 5, 4),
        (KAsync(1), 6, 5),
        (AsyncPS("polynomial"), 6, 5),
        (SSP(10**6), 6, 5),
        (DCASGD(), 6, 5),
    ],
)
def test_applied_and_in_flight_staleness_is_exact(strategy: Strategy, workers: int, total: int, network: Switch) -> None:
    """`total` an update. K-async: a worker's contributions u_1 < u_2 < ... have staleness u_i - 1 - u_{i-1}, which add up
    to T - n with what it has in flight; over all workers T P - T K. K-batch-async: contribution number a of all is applied
    to version a // K and followed by a read of version (a + 1) // K; their differences add up to T (P - 1)."""
    updates, k = 20, strategy.gradients_an_update(workers)
    for straggler in STRAGGLERS:
        found = arrivals(strategy, workers, updates, network, straggler)
        assert sum(a.applied for a in found) == updates * k
        assert [a.applied for a in found] == sorted((a.applied for a in found), reverse=True)
        assert sum(a.staleness for a in found) == updates * total


@pytest.mark.parametrize("late", ["cancel", "drop"])
@pytest.mark.parametrize("strategy", [BackupWorkers(2), KSync(3), KBatchSync(3)])
def test_what_a_synchronous_rule_applies_is_never_stale(strategy: Strategy, late: str) -> None:
    strategy = replace(strategy, late=late)  # type: ignore[call-arg]
    for straggler, network in product(STRAGGLERS, NETWORKS):
        found = arrivals(strategy, 5, 10, network, straggler)
        applied = [a for a in found if a.applied]
        assert [a.staleness for a in applied] == [0] * 30
        assert all(a.staleness > 0 for a in found if not a.applied)
        if isinstance(strategy, KBatchSync):
            continue
        for update in range(10):  # distinct workers
            assert len({a.source for a in applied if a.version == update}) == 3


def test_a_fast_worker_gives_several_gradients_to_one_update_only_where_it_may() -> None:
    straggler = Straggler(slow={0: 0.1})
    sources = [a.source for a in arrivals(KBatchSync(4), 4, 5, NETWORKS[0], straggler) if a.applied]
    assert sources == [0] * 20  # ten gradients a second, the others one
    for slow in ({0: 0.1}, {0: 3.0, 2: 2.0}):  # in the order of ranks, whoever was first: sums are the same
        sources = [a.source for a in arrivals(KSync(4), 4, 5, NETWORKS[0], Straggler(slow=slow)) if a.applied]
        assert sources == [0, 1, 2, 3] * 5


def test_cancelled_gradients_do_not_travel_and_dropped_ones_do() -> None:
    def discarded(strategy: Strategy) -> int:
        run = done(job(strategy, 6, 30, Times(forward=1.0), straggler=EXPONENTIAL))
        return sum(not a.applied for a in run.traces[6].arrivals)

    assert discarded(KSync(2)) == 0  # over an ideal network, from a server that takes no time, a notice is there at once
    assert discarded(KSync(2, late="drop")) > 30


def test_staleness_of_steady_workers() -> None:
    steady = Straggler()
    assert [a.staleness for a in arrivals(KAsync(2), 4, 8, NETWORKS[0], steady) if a.applied][4:] == [1] * 12
    # In rounds of four, gradient number a follows its worker's number a - 4: a // 2 - (a - 3) // 2 is 2, 1, 2, 1, ...
    assert [a.staleness for a in arrivals(KBatchAsync(2), 4, 8, NETWORKS[0], steady) if a.applied][4:] == [2, 1] * 6
