"""Runs that go on without a lost rank, and with it again when it is back: times and weights by hand."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from math import inf

import pytest
import torch

from distsim.backends.simulated import simulate
from distsim.interface import SGD, Budget, Checkpoint, Failure, Straggler, Strategy, Switch
from distsim.results.conservation import check_conservation
from distsim.results.records import trace_hash
from distsim.strategies.all_reduce import AllReduce
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
from distsim.topologies import Scaled

from . import replicas
from .jobs import IDEAL, Times, done, job

# ---- all ranks hold copies of the model


def test_a_smaller_group_by_hand() -> None:
    """Updates of 3 s. Rank 1 is lost at 7 s, in the third update: the others make it anew, from 7 s to 10 s. At 12 s rank 1
    is back, and with the fifth update, at 13 s, it takes part. Undone is 1 s, and a third of the ranks is away for 6 s."""
    a_run = job(AllReduce(), 3, 6, Times(1.0, 2.0))
    outcome = done(replace(a_run, failure=Failure(ranks={1: (7.0,)}, restart=5.0, on_loss="continue")))
    mine, its = outcome.traces[0], outcome.traces[1]
    assert [update.time for update in mine.updates] == [3.0, 6.0, 10.0, 13.0, 16.0, 19.0]
    assert [update.samples for update in mine.updates] == [3, 6, 8, 10, 13, 16]
    assert [update.number for update in its.updates] == [1, 2, 5, 6]
    assert mine.interruptions == [(7.0, 1, 7.0, 0, 0)]
    assert its.interruptions == [(7.0, 1, 13.0, 0, 0)]
    assert outcome.losses == (1, 0, 0, 1.0 + 6.0 / 3.0)
    check_conservation(outcome.traces)


def test_a_budget_of_samples_counts_those_of_fewer_workers() -> None:
    a_run = replace(job(AllReduce(), 3, 1, Times(1.0, 2.0)), budget=Budget(samples=16))
    failure = Failure(ranks={1: (7.0,)}, restart=5.0, on_loss="continue")
    assert done(replace(a_run, failure=failure)).traces[0].updates[-1] == (6, 16, 19.0)
    assert done(replace(a_run, failure=replace(failure, restart=50.0))).traces[0].updates[-1] == (7, 16, 22.0)


def test_when_nobody_is_left_all_restart() -> None:
    """Rank 0 is lost at 4 s. Rank 1 alone makes the second update until 7 s, saves, and is lost at 8 s: all restart from
    that checkpoint at 13 s, and make the third."""
    a_run = job(AllReduce(), 2, 3, Times(1.0, 2.0))
    failure = Failure(ranks={0: (4.0,), 1: (8.0,)}, restart=5.0, on_loss="continue", checkpoint=Checkpoint(updates=1))
    outcome = done(replace(a_run, failure=failure))
    assert outcome.traces[0].updates == [(1, 2, 3.0), (3, 5, 16.0)]
    assert outcome.traces[1].updates == [(1, 2, 3.0), (2, 3, 7.0), (3, 5, 16.0)]
    assert [interruption.resumed for interruption in outcome.traces[0].interruptions] == [13.0]
    assert outcome.losses == (2, 1, 2, 1.0 + 3.0 / 2.0 + 1.0 + 5.0)
    check_conservation(outcome.traces)


def test_a_lost_rank_that_never_comes_back() -> None:
    a_run = job(AllReduce(), 3, 4, Times(1.0, 2.0))
    outcome = done(replace(a_run, failure=Failure(ranks={2: (0.0,)}, restart=1e6, on_loss="continue")))
    assert outcome.seconds == 12.0
    assert outcome.traces[2].updates == []
    assert outcome.losses == (1, 0, 0, 12.0 / 3.0)
    check_conservation(outcome.traces)


def test_two_at_once() -> None:
    a_run = job(AllReduce(), 4, 4, Times(1.0, 2.0))
    outcome = done(replace(a_run, failure=Failure(ranks={1: (4.0,), 3: (4.0,)}, restart=2.0, on_loss="continue")))
    assert [update.samples for update in outcome.traces[0].updates] == [4, 6, 10, 14]
    assert [update.time for update in outcome.traces[0].updates] == [3.0, 7.0, 10.0, 13.0]
    check_conservation(outcome.traces)


def test_the_weights_are_those_of_groups_of_that_size() -> None:
    """Momentum goes on over all of it: steps with three workers, then with two, then with three again."""
    optimizer = SGD(0.05, momentum=0.9)
    a_run = replicas.job(AllReduce(bucket_bytes=3000.0), 3, 8, optimizer)
    undisturbed = done(a_run)
    times = [update.time for update in undisturbed.traces[0].updates]
    at = (times[2] + times[3]) / 2
    for restart in (0.1, 0.05):  # it is back after some updates
        failure = Failure(ranks={1: (at,)}, restart=restart * undisturbed.seconds, on_loss="continue")
        outcome = done(replace(a_run, failure=failure))
        samples = [0, *(update.samples for update in outcome.traces[0].updates)]
        workers = [(b - a) // replicas.BATCH for a, b in pairwise(samples)]
        assert workers[:4] == [3, 3, 3, 2]
        assert workers[-1] == 3
        expected = trained(workers, optimizer)
        start = replicas.Replica(0, 1, SGD()).blocks()
        for rank in (0, 2):
            for block, value in expected.items():
                moved = (value - start[block]).abs().max()
                assert (outcome.weights[rank][block] - value).abs().max() <= replicas.TOLERANCE * moved
        check_conservation(outcome.traces)


def trained(workers: list[int], optimizer: SGD) -> dict[int, torch.Tensor]:
    """The weights of one process whose step t averages the gradients of `workers[t]` shares of its samples."""
    replica = replicas.Replica(0, 1, optimizer)
    parameters = list(replica.network.parameters())
    for step, count in enumerate(workers):
        total = [torch.zeros_like(p) for p in parameters]
        for worker in range(count):
            replica.worker, replica.workers = worker, count
            replica.backward(step)
            for sum_, p in zip(total, parameters, strict=True):
                assert p.grad is not None
                sum_ += p.grad / count
        for sum_, p in zip(total, parameters, strict=True):
            p.grad = sum_
        replica.optimizer.step()
    return replica.blocks()


def test_no_loss_is_no_elasticity() -> None:
    a_run = job(AllReduce(), 3, 6, Times(1.0, 2.0))
    rare = replace(a_run, failure=Failure(mtbf=1e30, restart=1.0, on_loss="continue"))
    assert trace_hash(done(rare).traces) == trace_hash(done(a_run).traces)


# ---- servers work on without a worker


def test_asynchronous_updates_by_hand() -> None:
    """Worker 0 takes 1 s, worker 1 1.5 s. That is lost at 2.25 s, back at 4.45 s, and gets version 5 then."""
    a_run = job(AsyncPS(), 2, 8, Times(forward=1.0), straggler=Straggler(slow={1: 1.5}))
    outcome = done(replace(a_run, failure=Failure(ranks={1: (2.25,)}, restart=2.2)))
    server = outcome.traces[2]
    assert [(a.source, a.version, a.staleness, a.time) for a in server.arrivals if a.applied] == [
        (0, 0, 0, 1.0),
        (1, 0, 1, 1.5),
        (0, 1, 1, 2.0),
        (0, 3, 0, 3.0),
        (0, 4, 0, 4.0),
        (0, 5, 0, 5.0),
        (1, 5, 1, 5.95),
        (0, 6, 1, 6.0),
    ]
    assert outcome.losses == (1, 0, 0, 2.2 / 3.0)
    assert outcome.traces[1].interruptions == [(2.25, 1, 4.45, 0, 0)]
    assert outcome.traces[0].interruptions == outcome.traces[2].interruptions == []
    check_conservation(outcome.traces)


def test_t6_with_a_lost_worker() -> None:
    """Every update adds one to the staleness of each other worker's gradient under way. So of the run above: six updates
    while the other worker was there; less what was dropped, one update old; less what is under way at the end, another."""
    a_run = job(AsyncPS(), 2, 8, Times(forward=1.0), straggler=Straggler(slow={1: 1.5}))
    outcome = done(replace(a_run, failure=Failure(ranks={1: (2.25,)}, restart=2.2)))
    assert sum(a.staleness for a in outcome.traces[2].arrivals if a.applied) == 6 - 1 - 1


def test_what_a_lost_worker_sends_frees_its_share_of_the_link() -> None:
    """Models of 1000 bytes go to both workers at 500 a second; a second of computing; at 3.5 s, when 250 bytes of each
    gradient have arrived, worker 1 is lost: the other 750 bytes arrive at 1000 a second."""
    a_run = job(AsyncPS(), 2, 1, Times(forward=1.0), Switch(1000.0, 0.0))
    outcome = done(replace(a_run, failure=Failure(ranks={1: (3.5,)}, restart=100.0)))
    assert outcome.seconds == 4.25
    assert outcome.traces[1].interruptions == [(3.5, 1, inf, 0, 1)]
    check_conservation(outcome.traces)


def test_nobody_waits_for_a_lost_worker() -> None:
    """Not even where a worker may be no gradient ahead of the slowest: there are no others."""
    a_run = job(SSP(0), 2, 4, Times(forward=1.0), straggler=Straggler(slow={1: 3.0}))
    outcome = done(replace(a_run, failure=Failure(ranks={1: (0.5,)}, restart=100.0)))
    assert [update.time for update in outcome.traces[2].updates] == [1.0, 2.0, 3.0, 4.0]


def test_the_slowest_of_those_who_are_there_holds_the_others() -> None:
    """Workers of 1, 3 and 1 s, which may be one gradient ahead; worker 2 is lost at 0.5 s. Worker 0 has given two at 2 s
    and waits for the first of worker 1 at 3 s; it has given three at 4 s, and waits for the second at 6 s."""
    a_run = job(SSP(1), 3, 6, Times(forward=1.0), straggler=Straggler(slow={1: 3.0}))
    outcome = done(replace(a_run, failure=Failure(ranks={2: (0.5,)}, restart=100.0)))
    assert [update.time for update in outcome.traces[3].updates] == [1.0, 2.0, 3.0, 4.0, 6.0, 7.0]


def test_who_is_lost_while_it_waits_gets_no_model() -> None:
    """Workers of 1 and 3 s; worker 0 has given two at 2 s and waits for the first of worker 1 when it is lost at 2.5 s.
    Worker 1 makes the other updates alone, and the server does not wait for an answer of worker 0 at the end."""
    a_run = job(SSP(1), 2, 5, Times(forward=1.0), straggler=Straggler(slow={1: 3.0}))
    outcome = done(replace(a_run, failure=Failure(ranks={0: (2.5,)}, restart=100.0)))
    assert [update.time for update in outcome.traces[2].updates] == [1.0, 2.0, 3.0, 6.0, 9.0]


def test_who_joins_again_has_given_as_many_as_the_slowest() -> None:
    """The same, and worker 2 is back at 3.75 s: as if it had given one, like worker 1. Its second and third, at 4.75 and
    5.75 s, may go before worker 1's second, at 6 s; its fourth, like worker 0's, comes at 7 s, and all wait for 9 s."""
    a_run = job(SSP(1), 3, 10, Times(forward=1.0), straggler=Straggler(slow={1: 3.0}))
    outcome = done(replace(a_run, failure=Failure(ranks={2: (0.5,)}, restart=3.25)))
    assert [update.time for update in outcome.traces[3].updates] == [1.0, 2.0, 3.0, 4.0, 4.75, 5.75, 6.0, 7.0, 7.0, 9.0]


def test_who_joins_again_has_given_what_it_gave() -> None:
    """Workers of 1 and 3 s; worker 0 has given one when it is lost at 1.5 s; it is back at 2 s, gives its second at 3 s
    and its third at 4 s. Then it waits for the second of worker 1, at 6 s."""
    a_run = job(SSP(1), 2, 6, Times(forward=1.0), straggler=Straggler(slow={1: 3.0}))
    outcome = done(replace(a_run, failure=Failure(ranks={0: (1.5,)}, restart=0.5)))
    assert [update.time for update in outcome.traces[2].updates] == [1.0, 3.0, 3.0, 4.0, 6.0, 7.0]


def test_a_server_waits_when_all_workers_are_lost() -> None:
    """Both at 1.5 s, after an update of each; back at 3.5 s, they take another second."""
    a_run = job(AsyncPS(), 2, 4, Times(forward=1.0))
    outcome = done(replace(a_run, failure=Failure(ranks={0: (1.5,), 1: (1.5,)}, restart=2.0)))
    assert [update.time for update in outcome.traces[2].updates] == [1.0, 1.0, 4.5, 4.5]
    check_conservation(outcome.traces)


@pytest.mark.parametrize(
    ("strategy", "slow", "times"), [(AsyncPS(), 1.5, [6.0, 11.0]), (KSync(1), 100.0, [6.0, 12.0, 18.0])]
)
def test_what_is_meant_for_a_former_life_is_not_taken(strategy: Strategy, slow: float, times: list[float]) -> None:
    """An update takes the server 5 s, in which it hears nobody. Meanwhile worker 1 is lost and back twice, at 2, 3, 4 and
    5 s: the notice, the model and the stops that it is sent before the server has heard of all that are not for it."""
    a_run = job(strategy, 2, len(times), Times(1.0, apply=5.0), straggler=Straggler(slow={1: slow}))
    outcome = done(replace(a_run, failure=Failure(ranks={1: (2.0, 4.0)}, restart=1.0, on_loss="continue")))
    assert [update.time for update in outcome.traces[2].updates] == times
    check_conservation(outcome.traces)


def test_a_notice_of_a_former_life_leaves_the_next_one_its_own() -> None:
    """Every way takes 1 s. The first update, at 3 s, cancels worker 1, which is lost before it hears of that, is back at
    4.5 s, and has a model at 5.5 s: the second update, at 6 s, cancels it at 7 s."""
    a_run = job(KSync(1), 2, 2, Times(1.0), Switch(inf, 0.5), straggler=Straggler(slow={1: 100.0}))
    outcome = done(replace(a_run, failure=Failure(ranks={1: (3.5,)}, restart=1.0, on_loss="continue")))
    assert [update.time for update in outcome.traces[2].updates] == [3.0, 6.0]
    assert [(span.begun, span.ended) for span in outcome.traces[1].compute] == [(5.5, 7.0)]
    check_conservation(outcome.traces)


def test_a_lost_server_restarts_all() -> None:
    a_run = job(AsyncPS(), 2, 4, Times(forward=1.0))
    failure = Failure(ranks={2: (1.5,)}, restart=2.0, checkpoint=Checkpoint(updates=2))
    outcome = done(replace(a_run, failure=failure))
    assert [update.time for update in outcome.traces[2].updates] == [1.0, 1.0, 4.5, 4.5]
    assert outcome.losses == (1, 1, 1, 2.5)


def test_sync_ps_cannot_go_on_without_a_worker() -> None:
    assert SyncPS().on_loss(4) == ("restart",)
    assert KSync(4).on_loss(4) == ("restart",)
    assert KSync(3).on_loss(4) == ("continue", "restart")


@pytest.mark.parametrize("strategy", [AsyncPS(servers=2), SSP(1, servers=2), KBatchAsync(2, servers=2)])
def test_several_servers_cannot_go_on_without_a_worker(strategy: Strategy) -> None:
    """The second server's link is ten times as slow as the others. At 15 s the first has a gradient of worker 1 that the
    second never gets, with which the first would make its last update, and the second wait for an answer from nobody."""
    assert strategy.on_loss(2) == KSync(1, servers=2).on_loss(2) == ("restart",)
    network = Scaled(Switch(1000.0, 0.0), (("host3", 0.1),))
    a_run = job(strategy, 2, 3, Times(1.0), network, straggler=Straggler(slow={1: 1.5}))
    outcome = done(replace(a_run, failure=Failure(ranks={1: (15.0,)}, restart=2.0)))
    assert [trace.updates[-1].number for trace in outcome.traces[2:]] == [3, 3]
    assert outcome.losses is not None
    assert outcome.losses.restarts == 1
    check_conservation(outcome.traces)


SERVERS: dict[str, Strategy] = {
    "async_ps": AsyncPS(),
    "async_ps fp16": AsyncPS(compression="fp16"),
    "k_async": KAsync(2),
    "k_batch_async": KBatchAsync(2),
    "ssp": SSP(1),
    "k_sync": KSync(2),
    "k_sync drop": KSync(2, late="drop"),
    "backup_workers": BackupWorkers(1),
    "k_batch_sync": KBatchSync(2),
    "dc_asgd": DCASGD(adaptive=True),
}
FAILURES = {
    "given": Failure(ranks={1: (2.0, 5.0, 9.0), 2: (3.3, 3.4, 7.7), 0: (7.7,), 3: (7.7,)}, restart=2.2),
    "a server, too": Failure(ranks={1: (2.0, 5.0), 4: (9.5,)}, restart=0.01, checkpoint=Checkpoint(updates=3)),
    "by rate": Failure(mtbf=20.0, restart=1.0, checkpoint=Checkpoint(updates=3)),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("name", SERVERS)
def test_whoever_is_lost_when_all_updates_are_made_and_nothing_is_counted_twice(name: str, failure: str) -> None:
    for network in (IDEAL, Switch(1000.0, 0.1)):  # where losses are heard at once, and long after
        for seed in range(2):
            times = Times(forward=1.0, backward=0.5, apply=0.01, byte=1e-4)
            a_run = job(SERVERS[name], 4, 20, times, network, straggler=Straggler("lognormal"), seed=seed)
            outcome = done(replace(a_run, failure=replace(FAILURES[failure], on_loss="continue")))
            assert [update.number for update in outcome.traces[4].updates] == list(range(1, 21))
            check_conservation(outcome.traces)


@pytest.mark.parametrize("strategy", [AsyncPS(), AllReduce()])
def test_a_run_that_cannot_get_on_ends(strategy: Strategy) -> None:
    failure = Failure(mtbf=0.3, restart=0.01, on_loss="continue")
    outcome = simulate(replace(job(strategy, 2, 3, Times(forward=100.0)), failure=failure))
    assert outcome.status == "failed"
    assert "loss in a row" in outcome.message
