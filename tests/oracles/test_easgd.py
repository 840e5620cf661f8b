"""Elastic averaging against its rule, written out over torch's own modules, and its time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from distsim.interface import SGD, Outcome, Straggler, Switch
from distsim.strategies.easgd import EASGD

from . import replicas
from .jobs import Times, chain, done, job
from .replicas import TOLERANCE, Replica, assert_equal

WORKERS = 3


def exchanges(outcome: Outcome, workers: int) -> list[int]:
    """Which worker the center met, in order; a worker's last push says that it leaves."""
    pushes = [
        t for t in outcome.traces[workers].transfers if t.kind == "receive" and t.channel.endswith("push") and t.nbytes
    ]
    return [int(t.channel.split()[1].partition(">")[0]) for t in pushes]


def assert_rule(run: Outcome, strategy: EASGD, workers: int, optimizer: SGD) -> None:
    """The center and the workers ended as the rule says, exchange by exchange in the order of the run."""
    copies, steps = replicas.replicas(workers, optimizer), [0] * workers
    center = Replica(0, 1, optimizer)
    for worker in exchanges(run, workers):
        for _ in range(strategy.period):
            copies[worker].train(steps[worker])
            steps[worker] += 1
        move = strategy.alpha * (copies[worker].weights - center.weights)
        copies[worker].weights = copies[worker].weights - move
        center.weights = center.weights + move
    start = Replica(0, 1, optimizer).blocks()
    *weights, met = run.weights
    for block, expected in center.blocks().items():
        moved = (expected - start[block]).abs().max()
        assert moved > 1e-3 or strategy.alpha == 0.0
        assert (met[block] - expected).abs().max() <= TOLERANCE * moved
    assert_equal(replace(run, weights=weights), copies)


@pytest.mark.parametrize("optimizer", [SGD(0.1), SGD(0.05, 0.9, nesterov=True)])
@pytest.mark.parametrize(("alpha", "period"), [(0.3, 4), (0.9, 1), (0.0, 5)])
def test_the_center_and_the_workers_are_those_of_the_rule(alpha: float, period: int, optimizer: SGD) -> None:
    run = replicas.run(EASGD(alpha, period), WORKERS, 10, optimizer)
    order = exchanges(run, WORKERS)
    assert len(order) == 10
    assert len(set(order)) == WORKERS
    assert_rule(run, EASGD(alpha, period), WORKERS, optimizer)
    if alpha == 0.0:  # independent workers
        alone = replicas.replicas(WORKERS, optimizer)
        for worker, copy in enumerate(alone):
            for step in range(period * order.count(worker)):
                copy.train(step)
        assert_equal(replace(run, weights=run.weights[:WORKERS]), alone)


def test_updates_are_exchanges_and_nobody_works_for_nothing() -> None:
    run = done(job(EASGD(0.2, 4), 5, 20, Times(forward=1.0, apply=0.5), straggler=Straggler(slow={0: 3.0})))
    assert sum(len(trace.updates) for trace in run.traces[:5]) == len(run.traces[5].updates) == 20
    gradients = [sum(c.name == "gradient" for c in trace.compute) for trace in run.traces[:5]]
    assert gradients == [4 * len(trace.updates) for trace in run.traces[:5]]
    assert gradients[0] < min(gradients[1:])


@pytest.mark.parametrize(("workers", "period"), [(1, 3), (4, 2), (8, 5)])
def test_a_round_of_steady_workers(workers: int, period: int) -> None:
    # Without a network a round is tau gradients and updates; the center then meets them one after the other.
    rounds = 6
    run = done(job(EASGD(0.2, period), workers, rounds * workers, Times(forward=1.0, backward=2.0)))
    assert run.seconds == rounds * period * 3.0
    assert run.traces[workers].arrivals == []  # no gradient travels
    # A model of M bytes enters the center and a move of M bytes leaves it, P at a time.
    network, nbytes = Switch(500.0, 0.0), 1000
    run = done(job(EASGD(0.2, period), workers, workers, Times(forward=1.0), network, chain(parameters=nbytes // 4)))
    assert run.seconds == pytest.approx(period + 2 * workers * nbytes / 500.0, rel=1e-12)
    assert sum(t.nbytes for t in run.traces[workers].transfers) == 2 * workers * nbytes
