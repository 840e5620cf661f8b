"""Replicas of the digits' network in one process: torch's own modules, autograd, optimizers and loss.

Ours are only the rule by which samples are drawn and the order of a block's parameters. Strategies are written out over
replicas as their papers state them.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from random import Random

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from distsim.interface import SGD, AdamW, Budget, Cluster, Job, Model, Optimizer, Outcome, Straggler, Strategy, Switch
from distsim.numerics.sizes import SizesFactory
from distsim.numerics.tensors import TensorsFactory
from distsim.workloads.digits_mlp import DigitsMLP
from distsim.workloads.parameters import ordered

from .jobs import Times, done

SEED, BATCH = 5, 24
NETWORK = Switch(1e7, 1e-3)
UNEVEN = Straggler("lognormal", slow={1: 2.5})
TOLERANCE = 1e-12
"""Of float64, relative to how far the run moved the weights."""


def workload() -> DigitsMLP:
    return DigitsMLP(batch=BATCH, depth=5, width=16, dtype="float64")


def model() -> Model:
    return workload().model()


def job(strategy: Strategy, workers: int, updates: int, optimizer: Optimizer, is_modeled: bool = False) -> Job:
    """A run of `updates` updates by uneven workers."""
    numerics = (
        SizesFactory(model(), workers, optimizer) if is_modeled else TensorsFactory(workload(), workers, optimizer, SEED)
    )
    cluster = Cluster(workers, strategy.server_count(workers), Times(1e-3, 2e-3, 1e-4, 1e-8), NETWORK)
    return Job(strategy, model(), cluster, Budget(updates=updates), numerics, UNEVEN, SEED)


def run(strategy: Strategy, workers: int, updates: int, optimizer: Optimizer, is_modeled: bool = False) -> Outcome:
    """The same under the simulated clock; it must end well."""
    return done(job(strategy, workers, updates, optimizer, is_modeled))


class Replica:
    """One worker's copy of the network with its optimizer."""

    def __init__(self, worker: int, workers: int, optimizer: Optimizer) -> None:
        task = workload().task(SEED)
        self.data = task.data
        self.network = nn.Sequential(*task.blocks)
        self.optimizer = torch_optimizer(self.network.parameters(), optimizer)
        self.worker, self.workers = worker, workers

    @property
    def weights(self) -> Tensor:
        """All weights as one vector, a copy."""
        return parameters_to_vector(self.network.parameters()).detach().clone()

    @weights.setter
    def weights(self, value: Tensor) -> None:
        with torch.no_grad():
            vector_to_parameters(value.clone(), self.network.parameters())

    def backward(self, step: int) -> None:
        """The gradient of this worker's share of a step's samples, at the weights as they are."""
        first = (step * self.workers + self.worker) * BATCH
        places = [place(number, len(self.data.inputs)) for number in range(first, first + BATCH)]
        self.optimizer.zero_grad()
        nn.functional.cross_entropy(self.network(self.data.inputs[places]), self.data.targets[places]).backward()

    def train(self, step: int) -> None:
        """One local step."""
        self.backward(step)
        self.optimizer.step()

    def blocks(self) -> dict[int, Tensor]:
        """The flat weights by block."""
        return {
            b: torch.cat([p.detach().reshape(-1) for p in ordered(block).values()]) for b, block in enumerate(self.network)
        }


def torch_optimizer(parameters: Iterable[nn.Parameter], optimizer: Optimizer) -> torch.optim.Optimizer:
    """The optimizer of torch that ours describes."""
    if isinstance(optimizer, AdamW):
        betas = (optimizer.beta1, optimizer.beta2)
        return torch.optim.AdamW(parameters, optimizer.learning_rate, betas, optimizer.epsilon, optimizer.weight_decay)
    momentum, decay, nesterov = optimizer.momentum, optimizer.weight_decay, optimizer.nesterov
    return torch.optim.SGD(parameters, optimizer.learning_rate, momentum, weight_decay=decay, nesterov=nesterov)


def place(number: int, size: int) -> int:
    """Which of `size` training samples is drawn as the run's `number`-th; epochs follow each other without end."""
    epoch, at = divmod(number, size)
    return order(epoch, size)[at]


@lru_cache
def order(epoch: int, size: int) -> list[int]:
    """The training samples in the order of an epoch."""
    places = list(range(size))
    Random(repr((SEED, "epoch", epoch))).shuffle(places)
    return places


def replicas(workers: int, optimizer: Optimizer) -> list[Replica]:
    """Every worker's; they start alike."""
    return [Replica(worker, workers, optimizer) for worker in range(workers)]


def mean(copies: list[Replica]) -> Tensor:
    """Of their weights."""
    total: Tensor = sum((copy.weights for copy in copies[1:]), copies[0].weights)
    return total / len(copies)


def assert_equal(outcome: Outcome, copies: list[Replica]) -> None:
    """Each rank ended with the weights of its replica."""
    start = Replica(0, 1, SGD()).blocks()
    for weights, copy in zip(outcome.weights, copies, strict=True):
        for block, expected in copy.blocks().items():
            moved = (expected - start[block]).abs().max()
            assert moved > 1e-3
            assert (weights[block] - expected).abs().max() <= TOLERANCE * moved


def assert_equal_runs(a: Outcome, b: Outcome, tolerance: float = TOLERANCE) -> None:
    """Each rank ended with the same weights in both runs."""
    start = Replica(0, 1, SGD()).blocks()
    for ours, theirs in zip(a.weights, b.weights, strict=True):
        for block, value in ours.items():
            moved = (value - start[block]).abs().max()
            assert moved > 1e-3
            assert (theirs[block] - value).abs().max() <= tolerance * moved
