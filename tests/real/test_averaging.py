"""Averaging strategies on real ranks end with the weights of the cosimulated run, or of a replay of their order."""

from __future__ import annotations

from dataclasses import replace

import pytest
from oracles.asynchronous_gossip import Noted, NotingFactory, replay
from oracles.replicas import SEED, Replica, assert_equal, assert_equal_runs, job, run, workload
from oracles.test_easgd import assert_rule, exchanges

from distsim.backends.real import RealOptions, launch
from distsim.interface import SGD, AdamW
from distsim.strategies.diloco import DiLoCo, SlowMo, StreamingDiLoCo
from distsim.strategies.easgd import EASGD
from distsim.strategies.gossip import Gossip
from distsim.strategies.local_sgd import LocalSGD

OPTIMIZER = SGD(0.05, momentum=0.5)


def launched(job, folder):
    outcome = launch(job, RealOptions(device="cpu"), folder)
    assert (outcome.status, outcome.message) == ("done", "")
    return outcome


def assert_learned(outcome):
    """The mean of the ranks' weights is better than the start: the start's loss is log 10 and a bit."""
    task = workload().task(SEED)
    ends = [sum(each[b] for each in outcome.weights) / len(outcome.weights) for b in range(5)]
    assert task.evaluate(dict(enumerate(ends)))[0] < task.evaluate(Replica(0, 1, SGD()).blocks())[0] - 0.2


CASES = [
    (LocalSGD(3, after=2), OPTIMIZER, 2),
    (SlowMo(4), OPTIMIZER, 4),
    (DiLoCo(4), AdamW(0.003), 2),
    (StreamingDiLoCo(every=4, fragments=3, delay=2), OPTIMIZER, 4),
    (Gossip(), OPTIMIZER, 4),
]


@pytest.mark.parametrize(
    ("strategy", "optimizer", "workers"),
    [*CASES, *(pytest.param(*case, 6 - workers, marks=pytest.mark.slow) for *case, workers in CASES)],
    ids=lambda value: type(value).__name__,
)
def test_real_weights_are_cosimulated_weights(strategy, optimizer, workers, tmp_path):
    outcome = launched(job(strategy, workers, 26, optimizer), tmp_path)
    assert_equal_runs(outcome, run(strategy, workers, 26, optimizer))
    assert_learned(outcome)


@pytest.mark.parametrize(("topology", "workers"), [("ring", 2), ("complete", 4)])
def test_replayed_order_of_asynchronous_gossip_gives_its_weights(topology, workers, tmp_path):
    (events := tmp_path / "events").mkdir()
    base = job(Noted(topology, str(events)), workers, 30 * workers, OPTIMIZER)
    numerics = NotingFactory(workload(), workers, OPTIMIZER, SEED, folder=str(events))
    outcome = launched(replace(base, numerics=numerics), tmp_path)
    assert_equal(outcome, replay(events, outcome, workers, OPTIMIZER))
    assert_learned(outcome)
    assert sum(len(trace.updates) for trace in outcome.traces) == 30 * workers


@pytest.mark.parametrize("workers", [2, 4])
def test_replayed_order_of_elastic_averaging_gives_its_weights(workers, tmp_path):
    strategy = EASGD(0.2, period=3)
    outcome = launched(job(strategy, workers, 8 * workers, OPTIMIZER), tmp_path)
    assert len(exchanges(outcome, workers)) == 8 * workers
    assert_rule(outcome, strategy, workers, OPTIMIZER)
