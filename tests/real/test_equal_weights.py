"""Synchronous strategies on real ranks give the weights of one process with the whole batch, after 20 steps."""

from __future__ import annotations

import pytest
from contract.tiny import DEVICE
from oracles.test_equal_weights import OPTIMIZERS, SEED, STEPS, TOLERANCE, one_process, workload

from distsim.backends.real import RealOptions, launch
from distsim.interface import Budget, Cluster, Job, Switch
from distsim.numerics.tensors import TensorsFactory
from distsim.strategies.all_reduce import AllReduce
from distsim.strategies.diloco import DiLoCo
from distsim.strategies.local_sgd import LocalSGD
from distsim.strategies.parameter_server import SyncPS
from distsim.strategies.pipeline import ModelParallel, OneFOneB

# Of L7: averaging at every step, with plain SGD.
AVERAGING = [LocalSGD(1), DiLoCo(1, 1.0, 0.0)]


QUICK = [(AllReduce(8e3), 4), (SyncPS(), 2), (OneFOneB(8), 4), (ModelParallel(), 2), (AVERAGING[0], 4), (AVERAGING[1], 2)]
OTHERS = [(strategy, 6 - workers) for strategy, workers in QUICK]


@pytest.mark.parametrize(
    ("strategy", "workers"),
    [*QUICK, *(pytest.param(*other, marks=pytest.mark.slow) for other in OTHERS)],
    ids=lambda value: value if isinstance(value, int) else type(value).__name__,
)
def test_weights_are_those_of_one_process(strategy, workers, tmp_path):
    task, optimizer = workload(workers, "float64"), OPTIMIZERS[strategy not in AVERAGING]
    numerics = TensorsFactory(task, workers, optimizer, SEED)
    cluster = Cluster(workers, strategy.server_count(workers), DEVICE, Switch(1e9, 1e-5))
    job = Job(strategy, task.model(), cluster, Budget(updates=STEPS), numerics, seed=SEED)
    outcome = launch(job, RealOptions(device="cpu"), tmp_path)
    assert (outcome.status, outcome.message) == ("done", "")
    before, after = one_process("float64", optimizer)
    seen = set()
    for weights in outcome.weights[workers:] or outcome.weights:  # workers of a server lack its last update
        for block, value in weights.items():
            moved = (after[block] - before[block]).abs().max()
            assert (value - after[block]).abs().max() <= TOLERANCE["float64"] * moved
            seen.add(block)
    assert seen == set(range(6))
