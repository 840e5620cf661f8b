"""A run that is interrupted and restarted ends with the weights of one that is not: nothing is left out, nothing twice."""

from __future__ import annotations

from dataclasses import replace

import pytest

from distsim.interface import SGD, AdamW, Checkpoint, Failure, Optimizer, Strategy
from distsim.results.conservation import check_conservation
from distsim.strategies.all_reduce import AllReduce
from distsim.strategies.diloco import DiLoCo, SlowMo
from distsim.strategies.gossip import Gossip
from distsim.strategies.local_sgd import LocalSGD
from distsim.strategies.parameter_server import SyncPS
from distsim.strategies.pipeline import GPipe, OneFOneB
from distsim.strategies.tensor_parallel import TensorParallel
from distsim.strategies.zero import HSDP, Zero

from .jobs import done
from .replicas import job

MOMENTUM, ADAMW = SGD(0.05, momentum=0.9), AdamW(1e-3)
WORKERS, UPDATES = 4, 10
RUNS: dict[str, tuple[Strategy, Optimizer]] = {
    "all_reduce": (AllReduce(bucket_bytes=3000.0), MOMENTUM),
    "all_reduce adamw": (AllReduce(), ADAMW),
    "sync_ps": (SyncPS(), MOMENTUM),
    "sync_ps 2 servers": (SyncPS(servers=2), ADAMW),
    "zero stage 1": (Zero(1), MOMENTUM),
    "zero stage 3": (Zero(3), ADAMW),
    "hsdp": (HSDP(2), MOMENTUM),
    "gpipe": (GPipe(microbatches=4), MOMENTUM),
    "one_f_one_b": (OneFOneB(microbatches=4), ADAMW),
    "tensor_parallel": (TensorParallel(), MOMENTUM),
    "local_sgd": (LocalSGD(every=4), MOMENTUM),
    "slowmo": (SlowMo(every=2), MOMENTUM),
    "diloco": (DiLoCo(every=4), MOMENTUM),
    "gossip": (Gossip(), MOMENTUM),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_restarted_run_ends_with_the_same_weights(name: str) -> None:
    """The second loss comes after a checkpoint of the second incarnation: what it restored is saved again."""
    strategy, optimizer = RUNS[name]
    a_run = job(strategy, WORKERS, UPDATES, optimizer)
    undisturbed = done(a_run)
    a_step = undisturbed.seconds / UPDATES
    failure = Failure(
        ranks={1: (4.5 * a_step,), 3: (9.0 * a_step,)},
        restart=a_step,
        checkpoint=Checkpoint(updates=2, cost=0.1 * a_step),
    )
    outcome = done(replace(a_run, failure=failure))
    assert outcome.losses is not None
    assert (outcome.losses.failures, outcome.losses.restarts) == (2, 2)
    assert sum(interruption.updates for interruption in outcome.traces[-1].interruptions) > 0
    assert outcome.losses.checkpoints >= 2
    assert [u.number for u in outcome.traces[-1].updates] == list(range(1, UPDATES + 1))
    check_conservation(outcome.traces)
    for expected, found in zip(undisturbed.weights, outcome.weights, strict=True):
        assert expected.keys() == found.keys()
        assert all(bool((expected[block] == found[block]).all()) for block in expected)


@pytest.mark.parametrize("name", ["all_reduce", "zero stage 3", "diloco", "sync_ps 2 servers"])
def test_a_modeled_restart_takes_the_time_and_memory_of_a_cosimulated_one(name: str) -> None:
    strategy, optimizer = RUNS[name]
    failure = Failure(ranks={1: (0.06, 0.2)}, restart=0.01, checkpoint=Checkpoint(updates=2, cost=1e-3))
    outcomes = [
        done(replace(job(strategy, WORKERS, UPDATES, optimizer, is_modeled), failure=failure))
        for is_modeled in (True, False)
    ]
    modeled, cosimulated = outcomes
    assert modeled.losses == cosimulated.losses
    for ours, theirs in zip(modeled.traces, cosimulated.traces, strict=True):
        assert (ours.compute, ours.transfers, ours.updates, ours.peak) == (
            theirs.compute,
            theirs.transfers,
            theirs.updates,
            theirs.peak,
        )
