"""Parameter servers on real ranks: the weights of one process, several servers, cancelling a slow worker."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from contract.tiny import Tiny
from oracles.jobs import Times
from oracles.test_equal_weights import OPTIMIZERS, SEED, STEPS, TOLERANCE, one_process, workload

from distsim.backends.real import RealOptions, launch
from distsim.interface import SGD, Budget, Cluster, Job, Straggler, Switch
from distsim.numerics.tensors import TensorsFactory
from distsim.results.conservation import check_conservation
from distsim.strategies.easgd import EASGD
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

NETWORK = Switch(1e9, 1e-5)
SLOW = Straggler(slow={2: 31.0})


def ran(strategy, workers, updates, folder, task, optimizer, straggler=None, device=Times(1e-4, 2e-4)):  # noqa: B008
    """A real run that ends well and conserves everything."""
    cluster = Cluster(workers, strategy.server_count(workers), device, NETWORK)
    numerics = TensorsFactory(task, workers, optimizer, SEED)
    job = Job(strategy, task.model(), cluster, Budget(updates=updates), numerics, straggler or Straggler(), SEED)
    outcome = launch(replace(job, samples_between_snapshots=10**9), RealOptions(device="cpu"), folder)
    assert (outcome.status, outcome.message) == ("done", "")
    check_conservation(outcome.traces)
    return outcome


@pytest.mark.parametrize(
    ("strategy", "workers"),
    [
        (KSync(4), 4),
        (BackupWorkers(0), 2),
        (SSP(0), 4),
        (SyncPS(servers=2), 4),
        (KSync(2, late="drop", servers=3), 2),
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in [(KSync(2), 2), (BackupWorkers(0), 4), (SSP(0), 2), (SyncPS(servers=2), 2)]
        ),
    ],
)
def test_weights_are_those_of_one_process(strategy, workers, tmp_path):
    updates = STEPS * workers if isinstance(strategy, SSP) else STEPS
    optimizer = OPTIMIZERS[0]
    outcome = ran(strategy, workers, updates, tmp_path, workload(workers, "float64"), optimizer)
    before, after = (torch.cat(list(blocks)) for blocks in one_process("float64", optimizer))
    ours = torch.cat([snapshot.pieces[0].values for snapshot in outcome.snapshots])[: len(after)]
    assert (ours - after).abs().max() <= TOLERANCE["float64"] * (after - before).abs().max()


@pytest.mark.parametrize(
    "strategy",
    [
        AsyncPS("inverse", servers=2),
        KAsync(3, servers=3),
        KBatchAsync(3, servers=2),
        KBatchSync(3, servers=2),
        SSP(1, servers=2, beside=True),
        DCASGD(adaptive=True, servers=2),
        EASGD(period=2),
    ],
)
def test_servers_end_agree_and_conserve(strategy, tmp_path):
    workers, updates = 4, 30
    straggler = Straggler("lognormal", slow={1: 2.0})
    outcome = ran(strategy, workers, updates, tmp_path, workload(workers, "float64"), SGD(0.02), straggler)
    servers = outcome.traces[workers:]
    assert [len(trace.updates) for trace in servers] == [updates] * len(servers)
    applied = [[(a.source, a.version) for a in trace.arrivals if a.applied] for trace in servers]
    if isinstance(strategy, KAsync | KBatchSync):
        assert applied == [applied[0]] * len(servers)  # they take one order
    if isinstance(strategy, SSP):
        for trace in servers:
            clock = Counter(dict.fromkeys(range(workers), 0))
            for arrival in trace.arrivals:
                clock[arrival.source] += 1
                assert max(clock.values()) - min(clock.values()) <= strategy.bound + 1


@pytest.mark.parametrize("strategy", [KSync(2), KBatchSync(3), BackupWorkers(1, servers=2)])
def test_a_slow_worker_is_cancelled_between_blocks(strategy, tmp_path):
    # Worker 2 waits .3 s after the forward pass of each of ten blocks and .6 s after the backward pass: 9 s a gradient.
    outcome = ran(strategy, 3, 25, tmp_path, Tiny(depth=10, sleep=2e-3), SGD(1e-60), SLOW, Times(0.01, 0.02))
    slow, servers = outcome.traces[2], outcome.traces[3:]
    computed = [span for span in slow.compute if span.name == "gradient"]
    sent = slow.gradients // len(servers)
    assert len(computed) > sent  # those that were cancelled
    for server in servers:
        models = Counter(t.channel.split(">")[1] for t in server.transfers if t.kind == "send" and t.nbytes)
        answers = Counter(t.channel.split(">")[0][8:] for t in server.transfers if t.channel.endswith("gradient"))
        assert {w: models[f"{w} model"] for w in "012"} == {w: answers[w] for w in "012"}  # each answered exactly once
        assert all(a.staleness == 0 for a in server.arrivals if a.applied)
