"""Pipelines on real ranks: every schedule gives the weights of one process, PipeDream those of its rule, after 20 steps."""

from __future__ import annotations

from pathlib import Path

import pytest
from contract.tiny import DEVICE
from oracles.test_equal_weights import OPTIMIZERS, SEED, STEPS, TOLERANCE, one_process, workload
from oracles.test_pipedream import assert_weights

from distsim.backends.real import RealOptions, launch
from distsim.interface import Budget, Cluster, Job, Outcome, Strategy, Switch
from distsim.numerics.tensors import TensorsFactory
from distsim.strategies.pipedream import PipeDream, PipeDream2BW
from distsim.strategies.pipeline import GPipe, Interleaved, Pipeline, ZeroBubble

OPTIMIZER = OPTIMIZERS[1]
DEPTH = 8


def run(strategy: Strategy, ranks: int, depth: int, folder: Path) -> Outcome:
    task = workload(ranks, "float64", depth)
    numerics = TensorsFactory(task, ranks, OPTIMIZER, SEED)
    cluster = Cluster(ranks, 0, DEVICE, Switch(1e9, 1e-5))
    job = Job(strategy, task.model(), cluster, Budget(updates=STEPS), numerics, seed=SEED)
    outcome = launch(job, RealOptions(device="cpu"), folder)
    assert (outcome.status, outcome.message) == ("done", "")
    return outcome


@pytest.mark.parametrize(
    ("strategy", "ranks"),
    [
        (GPipe(8), 2),
        (GPipe(4), 4),
        (Interleaved(8, 2), 4),
        (Interleaved(4, 4), 2),
        (ZeroBubble(6), 4),
        (ZeroBubble(4), 2),
        (ZeroBubble(4, "h2"), 2),
        (ZeroBubble(8, "h2"), 4),
        (ZeroBubble(8, "v"), 4),
        (ZeroBubble(1, "v"), 2),
    ],
    ids=str,
)
def test_weights_are_those_of_one_process(strategy: Pipeline, ranks: int, tmp_path: Path) -> None:
    outcome = run(strategy, ranks, DEPTH, tmp_path)
    before, after = one_process("float64", OPTIMIZER, DEPTH)
    seen = list[int]()
    for weights in outcome.weights:
        for block, value in weights.items():
            moved = (after[block] - before[block]).abs().max()
            assert (value - after[block]).abs().max() <= TOLERANCE["float64"] * moved
            seen.append(block)
    assert sorted(seen) == list(range(DEPTH))


@pytest.mark.parametrize(
    ("strategy", "ranks"), [(PipeDream(), 2), (PipeDream(), 4), (PipeDream2BW(6), 2), (PipeDream2BW(8), 4)], ids=str
)
def test_weights_are_those_of_the_published_rule(strategy: Strategy, ranks: int, tmp_path: Path) -> None:
    assert_weights(strategy, run(strategy, ranks, 6, tmp_path), OPTIMIZER)
