"""Synchronous strategies give the weights of one process with the whole batch.

The one process is written out here: torch's own modules, optimizer and loss on the digits, and the rule by which samples
are drawn. Differences are relative to how far 20 steps moved the weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from random import Random

import pytest
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from distsim.interface import SGD, AdamW, Budget, Cluster, Job, Optimizer, Outcome, Straggler, Strategy, Switch
from distsim.numerics.sizes import SizesFactory
from distsim.numerics.tensors import TensorsFactory
from distsim.strategies.all_reduce import AllReduce
from distsim.strategies.parameter_server import SyncPS
from distsim.strategies.pipeline import GPipe, Interleaved, ModelParallel, OneFOneB, ZeroBubble
from distsim.workloads.digits_mlp import DigitsMLP
from distsim.workloads.task import Task

from .jobs import Times, done
from .replicas import torch_optimizer

STEPS, BATCH, SEED = 20, 96, 5  # 1,920 samples: more than one epoch
OPTIMIZERS = [SGD(0.1), SGD(0.05, momentum=0.9)]
OTHERS: list[Optimizer] = [AdamW(0.003, weight_decay=0.1), SGD(0.05, 0.5, nesterov=True, weight_decay=0.1)]
STRATEGIES = [AllReduce(), AllReduce(0.0), SyncPS(), OneFOneB(8), OneFOneB(3), ModelParallel()]
TOLERANCE = {"float64": 1e-12, "float32": 1e-5}


def workload(workers: int, dtype: str, depth: int = 6) -> DigitsMLP:
    return DigitsMLP(batch=BATCH // workers, depth=depth, width=32, dtype=dtype)


def batches(task: Task) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and targets of the whole batch of each of 20 steps, by the rule of drawing."""
    order: list[int] = []
    for epoch in range(2):
        places = list(range(len(task.data.inputs)))
        Random(repr((SEED, "epoch", epoch))).shuffle(places)
        order += places
    for step in range(STEPS):
        places = order[step * BATCH : (step + 1) * BATCH]
        yield task.data.inputs[places], task.data.targets[places]


@lru_cache
def one_process(dtype: str, optimizer: Optimizer, depth: int = 6) -> tuple[list[Tensor], list[Tensor]]:
    """The flat weights of every block before and after 20 steps on the whole batch."""
    task = workload(1, dtype, depth).task(SEED)
    model = nn.Sequential(*task.blocks)
    before = [parameters_to_vector(block.parameters()).detach().clone() for block in model]
    steps = torch_optimizer(model.parameters(), optimizer)
    for inputs, targets in batches(task):
        steps.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        steps.step()
    return before, [parameters_to_vector(block.parameters()).detach() for block in model]


def run(
    strategy: Strategy, workers: int, dtype: str, optimizer: Optimizer, is_modeled: bool = False, depth: int = 6
) -> Outcome:
    task = workload(workers, dtype, depth)
    numerics = SizesFactory(task.model(), workers) if is_modeled else TensorsFactory(task, workers, optimizer, SEED)
    cluster = Cluster(
        workers, strategy.server_count(workers), Times(1e-3, 2e-3, 1e-4, halves=(1e-3, 1e-3)), Switch(1e8, 1e-5)
    )
    straggler = Straggler("lognormal", slow={workers - 1: 3.0})
    return done(Job(strategy, task.model(), cluster, Budget(updates=STEPS), numerics, straggler, SEED))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("workers", [2, 4])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_weights_are_those_of_one_process(strategy: Strategy, workers: int, dtype: str, optimizer: SGD) -> None:
    check(strategy, workers, dtype, optimizer)


@pytest.mark.parametrize("optimizer", OTHERS)  # in float64 only: AdamW amplifies the rounding of gradients that are zero
@pytest.mark.parametrize("strategy", [*STRATEGIES, GPipe(8), ZeroBubble(6), Interleaved(8, 1)])
def test_so_they_are_with_other_optimizers(strategy: Strategy, optimizer: Optimizer) -> None:
    check(strategy, 4, "float64", optimizer)


def check(strategy: Strategy, workers: int, dtype: str, optimizer: Optimizer) -> None:
    """Every block that is whole at the end."""
    outcome = run(strategy, workers, dtype, optimizer)
    before, after = one_process(dtype, optimizer)
    ranks = outcome.weights[workers:] or outcome.weights  # workers of a server hold the model before its last update
    seen = set()
    for weights in ranks:
        for block, value in weights.items():
            moved = (after[block] - before[block]).abs().max()
            assert (value - after[block]).abs().max() <= TOLERANCE[dtype] * moved
            seen.add(block)
    assert seen == set(range(6))


def test_the_one_process_learns() -> None:
    for optimizer in OPTIMIZERS:
        before, after = one_process("float64", optimizer)
        task = workload(1, "float64").task(SEED)
        assert task.evaluate(dict(enumerate(before)))[0] == pytest.approx(2.3, abs=0.3)  # log 10, and a bit
        assert task.evaluate(dict(enumerate(after)))[0] < 2.0


@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_modeled_time_is_cosimulated_time_to_the_last_bit(strategy: Strategy, workers: int) -> None:
    modeled, cosimulated = (run(strategy, workers, "float32", OPTIMIZERS[0], is_modeled) for is_modeled in (True, False))
    assert modeled.seconds == cosimulated.seconds
    for a, b in zip(modeled.traces, cosimulated.traces, strict=True):
        assert (a.compute, a.transfers, a.updates, a.peak_activations) == (
            b.compute,
            b.transfers,
            b.updates,
            b.peak_activations,
        )
