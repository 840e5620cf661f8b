"""Sharded and tensor-parallel strategies, and what is composed of them, give the weights of one process.

The one process is torch's own, with the whole batch: modules, optimizer, loss. Differences are relative to how far 20 steps
moved the weights.
The model compared is the one that the ranks publish, put together from its pieces.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from distsim.backends.simulated import simulate
from distsim.interface import SGD, AdamW, Batch, Budget, Cluster, Job, Outcome, Straggler, Strategy, Switch
from distsim.numerics.sizes import SizesFactory
from distsim.numerics.tensors import TensorsFactory
from distsim.numerics.tensors_assemble import assemble
from distsim.strategies.hybrid import Hybrid
from distsim.strategies.tensor_parallel import TensorParallel
from distsim.strategies.zero import HSDP, Zero
from distsim.workloads.char_gpt import CharGPT
from distsim.workloads.digits_mlp import DigitsMLP
from distsim.workloads.parameters import ordered

from .feed_forward import FeedForward
from .jobs import Times

STEPS, BATCH, SEED = 20, 96, 5
TOLERANCE = {"float64": 1e-12, "float32": 1e-5}
MOMENTUM, ADAMW = SGD(0.05, momentum=0.9), AdamW(0.01)
RUNS: list[tuple[Strategy, int]] = [
    (Zero(1), 4),
    (Zero(1, 0.0, microbatches=2), 3),
    (Zero(2), 2),
    (Zero(2, 3e3, microbatches=3), 4),
    (Zero(3), 1),
    (Zero(3), 3),
    (Zero(3, microbatches=2), 4),
    (HSDP(2), 4),
    (HSDP(1, microbatches=2), 2),
    (HSDP(3), 3),
    (TensorParallel(), 1),
    (TensorParallel(), 2),
    (TensorParallel(), 4),
    (Hybrid(2, 2, 4), 8),
    (Hybrid(2, 1, 2), 4),
    (Hybrid(1, 3, 4), 6),
    (Hybrid(1, 2, 4, sharded=True), 4),
    (Hybrid(2, 2, 3, sharded=True), 8),
    (Hybrid(2, 1, 1, sharded=True), 4),
    (Hybrid(2, 2, 4, "gpipe"), 4),
    (Hybrid(2, 2, 4, "interleaved"), 4),
    (Hybrid(1, 2, 4, "interleaved", 3, sharded=True), 4),
    (Hybrid(2, 2, 4, "zb_h1", sharded=True), 8),
    (Hybrid(2, 2, 4, "zb_v"), 4),
]
COMPOSED = [(Zero(3), 2), (TensorParallel(), 2), (Hybrid(2, 2, 2), 4), (Hybrid(2, 1, 2, sharded=True), 4)]
CASES = [
    *((strategy, workers, "feed_forward", "float64", ADAMW) for strategy, workers in RUNS),
    *((strategy, workers, "feed_forward", "float64", MOMENTUM) for strategy, workers in RUNS),  # AdamW forgives scales
    *((strategy, workers, "digits", "float32", MOMENTUM) for strategy, workers in RUNS if workers <= 4),
    *((strategy, workers, "char_gpt", "float64", MOMENTUM) for strategy, workers in COMPOSED),
]


def workload(kind: str, workers: int, dtype: str) -> Any:
    if kind == "digits":
        return DigitsMLP(batch=BATCH // workers, depth=6, width=32, dtype=dtype)
    if kind == "char_gpt":
        return CharGPT(batch=16 // workers, layers=2, heads=2, width=8, context=8, dtype=dtype)
    return FeedForward(batch=BATCH // workers, depth=4, dtype=dtype)


@lru_cache
def one_process(kind: str, dtype: str, optimizer: SGD | AdamW) -> tuple[list[Tensor], list[Tensor]]:
    """The flat weights of every block before and after 20 steps on the whole batch."""
    task = workload(kind, 1, dtype).task(SEED)
    model = nn.Sequential(*task.blocks)
    before = [_flat(block) for block in model]
    if isinstance(optimizer, SGD):
        steps: Any = torch.optim.SGD(model.parameters(), optimizer.learning_rate, optimizer.momentum)
    else:
        steps = torch.optim.AdamW(model.parameters(), optimizer.learning_rate)
        assert (optimizer.beta1, optimizer.beta2, optimizer.epsilon, optimizer.weight_decay) == (0.9, 0.999, 1e-8, 0.01)
    for step in range(STEPS):
        batch = Batch(step)
        steps.zero_grad()
        task.loss(model(task.input(batch, 1)), task.target(batch, 1)).backward()
        steps.step()
    return before, [_flat(block) for block in model]


def _flat(block: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in ordered(block).values()])


def job(
    strategy: Strategy,
    workers: int,
    kind: str,
    dtype: str,
    optimizer: SGD | AdamW,
    is_modeled: bool = False,
    steps: int = STEPS,
) -> Job:
    task = workload(kind, workers, dtype)
    model = task.model()
    assert list(strategy.problems(workers, model)) == []
    numerics: Any = TensorsFactory(task, workers, optimizer, SEED)
    if is_modeled:
        numerics = SizesFactory(model, workers, optimizer)
    return Job(
        strategy,
        model,
        Cluster(workers, 0, Times(1e-3, 2e-3, 1e-4), Switch(1e8, 1e-5)),
        Budget(updates=steps),
        numerics,
        Straggler("lognormal", slow={workers - 1: 3.0}),
        SEED,
        samples_between_snapshots=10**9,  # the last update only
    )


def furthest(outcome: Outcome, workers: int, kind: str, dtype: str, optimizer: SGD | AdamW) -> float:
    """How far the published model is from that of one process, in updates."""
    assert (outcome.status, outcome.message) == ("done", "")
    task = workload(kind, workers, dtype)
    pieces = [piece for snapshot in outcome.snapshots for piece in snapshot.pieces]
    assert {snapshot.number for snapshot in outcome.snapshots} == {STEPS}
    found = assemble(task.model(), task.task(SEED).blocks, pieces)
    assert found is not None, "the published model lacks something"
    before, after = one_process(kind, dtype, optimizer)
    return max(float((found[b] - after[b]).abs().max() / (after[b] - before[b]).abs().max()) for b in range(len(after)))


@pytest.mark.parametrize(("strategy", "workers", "kind", "dtype", "optimizer"), CASES)
def test_weights_are_those_of_one_process(
    strategy: Strategy, workers: int, kind: str, dtype: str, optimizer: SGD | AdamW
) -> None:
    outcome = simulate(job(strategy, workers, kind, dtype, optimizer))
    assert furthest(outcome, workers, kind, dtype, optimizer) <= TOLERANCE[dtype]


@pytest.mark.parametrize(("strategy", "workers"), RUNS)
def test_modeled_time_is_cosimulated_time_to_the_last_bit(strategy: Strategy, workers: int) -> None:
    modeled, cosimulated = (
        simulate(job(strategy, workers, "feed_forward", "float32", ADAMW, is_modeled, 4)) for is_modeled in (True, False)
    )
    assert (modeled.status, modeled.seconds) == ("done", cosimulated.seconds)
    for a, b in zip(modeled.traces, cosimulated.traces, strict=True):
        assert (a.compute, a.transfers, a.updates) == (b.compute, b.transfers, b.updates)
        assert (a.peak, a.peak_activations) == (b.peak, b.peak_activations)


@pytest.mark.parametrize(("strategy", "workers"), RUNS)
def test_what_is_published_is_the_model_and_little_more(strategy: Strategy, workers: int) -> None:
    outcome = simulate(job(strategy, workers, "feed_forward", "float64", MOMENTUM, is_modeled=True, steps=1))
    published = sum(piece.values.nbytes for snapshot in outcome.snapshots for piece in snapshot.pieces)
    model = workload("feed_forward", workers, "float64").model()
    shards = {"TensorParallel": workers, "Hybrid": getattr(strategy, "tensor", 1)}.get(type(strategy).__name__, 1)
    twice = sum(block.replicated for block in model.blocks) * (shards - 1) * model.itemsize
    padding = workers * len(model.blocks) * shards * model.itemsize
    assert model.parameter_bytes + twice <= published <= model.parameter_bytes + twice + padding


def test_the_one_process_learns() -> None:
    for kind, optimizer in {(kind, optimizer) for _, _, kind, _, optimizer in CASES}:
        task = workload(kind, 1, "float64").task(SEED)
        before, after = one_process(kind, "float64", optimizer)
        losses = [task.evaluate(dict(enumerate(weights)))[0] for weights in (before, after)]
        assert losses[1] < 0.97 * losses[0]
