"""With `backend.deterministic` ranks take only algorithms that give the same bits in every run."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from oracles.jobs import Times

from distsim.backends.real import RealOptions, launch
from distsim.interface import Budget, Cluster, Job, Strategy, Switch
from distsim.numerics.tensors import TensorsFactory
from distsim.strategies.all_reduce import AllReduce
from distsim.strategies.pipeline import GPipe
from distsim.workloads.digits_mlp import DigitsMLP

WORKLOAD = DigitsMLP(batch=8, depth=4, width=16)


def launched(strategy: Strategy, folder, updates=5, deterministic=True):
    job = Job(
        strategy,
        WORKLOAD.model(),
        Cluster(2, 0, Times(1e-3, 2e-3, 1e-4, 1e-8), Switch(1e7, 1e-3)),
        Budget(updates=updates),
        TensorsFactory(WORKLOAD, 2, seed=3),
        seed=3,
    )
    return launch(job, RealOptions(device="cpu", deterministic=deterministic), folder)


@dataclass(frozen=True)
class NoDeterministicForm(Strategy):
    """Does what torch documents to raise where only deterministic algorithms are allowed: put_ without accumulate."""

    async def run(self, worker):
        x = worker.read()
        x.put_(torch.tensor([0]), x.new_ones(1))
        for _ in worker.steps():
            pass


def test_what_has_no_deterministic_form_raises(tmp_path):
    refused = launched(NoDeterministicForm(), tmp_path, 1)
    assert refused.status == "failed"
    assert "does not have a deterministic implementation" in refused.message
    assert launched(NoDeterministicForm(), tmp_path, 1, deterministic=False).status == "done"


@pytest.mark.parametrize(
    "strategy",
    [AllReduce(), pytest.param(GPipe(microbatches=4), marks=pytest.mark.slow)],
    ids=lambda strategy: type(strategy).__name__,
)
def test_synchronous_runs_are_equal_bit_for_bit(strategy, tmp_path):
    one, other = (launched(strategy, tmp_path / name) for name in ("one", "other"))
    assert (one.status, one.message) == (other.status, other.message) == ("done", "")
    for mine, theirs in zip(one.weights, other.weights, strict=True):
        assert mine.keys() == theirs.keys()
        assert all(torch.equal(mine[block], theirs[block]) for block in mine)
    losses = [[(loss.step, loss.part, loss.value) for t in run.traces for loss in t.losses] for run in (one, other)]
    assert losses[0] == losses[1]
