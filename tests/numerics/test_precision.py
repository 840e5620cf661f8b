"""bf16 and fp16 against loops of torch's own modules, torch.autocast, torch.amp.GradScaler and torch.optim, bit for bit."""

from __future__ import annotations

import pytest
import torch
from oracles.jobs import Times

from distsim.backends.real import RealOptions, launch
from distsim.backends.simulated import simulate
from distsim.composition import compose
from distsim.configuration import resolve
from distsim.interface import ALL, SGD, Batch, Budget, Cluster, Job, Precision, Region, StrategyError, Switch
from distsim.numerics.sizes import SizesFactory
from distsim.numerics.tensors import TensorsFactory
from distsim.strategies.all_reduce import AllReduce
from distsim.strategies.local_sgd import LocalSGD
from distsim.strategies.parameter_server import SyncPS
from distsim.strategies.pipeline import GPipe
from distsim.strategies.zero import Zero
from distsim.workloads.digits_mlp import DigitsMLP
from distsim.workloads.parameters import ordered

WORKLOAD = DigitsMLP(batch=8, depth=4, width=16)
OPTIMIZER = SGD(0.05, momentum=0.5)
SEED, STEPS = 3, 14
BF16 = Precision("bf16")
FP16 = Precision("fp16", first_scale=2.0**24, growth_updates=3)
"""Overflows at first, and again and again as it grows."""
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Loop:
    """One replica, trained as torch's users write it; float32 from block to block."""

    def __init__(self, precision: Precision, workers: int) -> None:
        self.task, self.workers, self.low = WORKLOAD.task(SEED), workers, TYPES[precision.name]
        self.parameters = [p for block in self.task.blocks for p in ordered(block).values()]
        self.optimizer = torch.optim.SGD(self.parameters, OPTIMIZER.learning_rate, OPTIMIZER.momentum, foreach=False)
        self.scaler = torch.amp.GradScaler(
            "cpu", precision.first_scale, growth_interval=precision.growth_updates, enabled=precision.is_scaled
        )

    def backward(self, batch: Batch) -> None:
        self.optimizer.zero_grad()
        x = self.task.input(batch, self.workers)
        for block in self.task.blocks:
            with torch.autocast("cpu", self.low):
                x = block(x)
            x = x.float()
        with torch.autocast("cpu", self.low):
            loss = self.task.loss(x, self.task.target(batch, self.workers))
        self.scaler.scale(loss).backward()

    def step(self) -> None:
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def block(self, index: int) -> torch.Tensor:
        return torch.cat([p.detach().reshape(-1) for p in ordered(self.task.blocks[index]).values()])


def average(loops: list[Loop]) -> None:
    """Every replica's gradient is the mean of all, as DistributedDataParallel makes it."""
    for same in zip(*(loop.parameters for loop in loops), strict=True):
        mean = torch.stack([p.grad for p in same]).sum(0) / len(same)
        for p in same:
            p.grad = mean.clone()


def job(strategy, precision, workers=2, is_modeled=False):
    model = WORKLOAD.model()
    numerics = TensorsFactory(WORKLOAD, workers, OPTIMIZER, SEED, precision=precision)
    if is_modeled:
        numerics = SizesFactory(model, workers, OPTIMIZER, precision)
    cluster = Cluster(workers, strategy.server_count(workers), Times(1e-3, 2e-3, 1e-4, 1e-8), Switch(1e7, 1e-3))
    return Job(strategy, model, cluster, Budget(updates=STEPS), numerics, seed=SEED)


def assert_equal(weights, loop: Loop) -> None:
    assert sorted(weights) == [0, 1, 2, 3]
    assert all(torch.equal(weights[block], loop.block(block)) for block in weights)


@pytest.mark.parametrize("precision", [BF16, FP16], ids=lambda precision: precision.name)
def test_one_rank_trains_as_a_loop_of_torch(precision):
    loop = Loop(precision, 1)
    numerics = TensorsFactory(WORKLOAD, 1, OPTIMIZER, SEED, precision=precision)(0)
    skipped = grown = 0
    for step in range(STEPS):
        batch, before = Batch(step), loop.scaler.get_scale()
        loop.backward(batch)
        loop.step()
        skipped += loop.scaler.get_scale() < before
        grown += loop.scaler.get_scale() > before
        numerics.zero(None)
        x = numerics.input(batch)
        for block in range(4):
            x = numerics.forward((block,), x, batch)
        g, _ = numerics.loss(x, batch)
        for block in reversed(range(4)):
            g = numerics.backward((block,), g, batch, "both")
        for region in (Region((2, 3)), Region((0, 1))):  # in buckets, as they come
            numerics.update(region, numerics.accumulated(region), None, 1.0)
        assert_equal({block: numerics.read(Region((block,))) for block in range(4)}, loop)
    if precision.is_scaled:
        assert skipped >= 2
        assert grown >= 1


def test_replicas_skip_together_as_with_one_scaler():
    loops = [Loop(FP16, 2) for _ in range(2)]
    for step in range(STEPS):
        for rank, loop in enumerate(loops):
            loop.backward(Batch(step, rank, 2))
        average(loops)
        for loop in loops:
            loop.step()
    assert loops[0].scaler.get_scale() < FP16.first_scale
    outcome = simulate(job(AllReduce(bucket_bytes=0.0), FP16))
    assert outcome.status == "done"
    for weights in outcome.weights:
        assert_equal(weights, loops[0])


def test_a_server_skips_what_it_was_sent_and_a_worker_scales_by_its_own():
    server, workers = Loop(FP16, 2), [Loop(FP16, 2) for _ in range(2)]
    for step in range(STEPS):
        for rank, loop in enumerate(workers):
            with torch.no_grad():
                for mine, newest in zip(loop.parameters, server.parameters, strict=True):
                    mine.copy_(newest)
            loop.backward(Batch(step, rank, 2))
            loop.scaler.unscale_(loop.optimizer)
        average(workers)
        for p, mean in zip(server.parameters, workers[0].parameters, strict=True):
            p.grad = mean.grad
        if all(p.grad.isfinite().all() for p in server.parameters):
            server.optimizer.step()
        for loop in workers:
            loop.scaler.update()
    outcome = simulate(job(SyncPS(), FP16))
    assert outcome.status == "done"
    assert_equal(outcome.weights[2], server)


def test_real_ranks_do_as_simulated_ones(tmp_path):
    real = launch(job(AllReduce(bucket_bytes=0.0), FP16), RealOptions(device="cpu"), tmp_path)
    assert (real.status, real.message) == ("done", "")
    for mine, theirs in zip(real.weights, simulate(job(AllReduce(bucket_bytes=0.0), FP16)).weights, strict=True):
        assert all(torch.equal(mine[block], theirs[block]) for block in mine)


@pytest.mark.parametrize(
    ("strategy", "precision"),
    [(AllReduce(bucket_bytes=0.0), FP16), (SyncPS(), FP16), (LocalSGD(3), FP16), (GPipe(microbatches=4), BF16)],
    ids=lambda value: getattr(value, "name", type(value).__name__),
)
def test_modeled_time_is_cosimulated_time(strategy, precision):
    modeled, cosimulated = (simulate(job(strategy, precision, is_modeled=is_modeled)) for is_modeled in (True, False))
    assert (modeled.status, modeled.message) == (cosimulated.status, cosimulated.message) == ("done", "")
    assert modeled.seconds == cosimulated.seconds
    for one, other in zip(modeled.traces, cosimulated.traces, strict=True):
        assert (one.compute, one.transfers, one.updates) == (other.compute, other.transfers, other.updates)


@pytest.mark.parametrize("is_modeled", [True, False])
@pytest.mark.parametrize("strategy", [GPipe(microbatches=4), Zero(3)], ids=lambda strategy: type(strategy).__name__)
def test_what_updates_in_parts_cannot_skip(strategy, is_modeled):
    outcome = simulate(job(strategy, FP16, is_modeled=is_modeled))
    assert outcome.status == "failed"
    assert "needs the whole gradient in one place" in outcome.message


def scaled(numerics):
    """The scaled gradient of the output of batch 0."""
    x = numerics.input(Batch(0))
    for block in range(4):
        x = numerics.forward((block,), x, Batch(0))
    return numerics.loss(x, Batch(0))[0]


def test_a_scale_goes_on_from_a_checkpoint():
    fresh, one, other = (TensorsFactory(WORKLOAD, 1, OPTIMIZER, SEED, precision=FP16)(0) for _ in range(3))
    one.update(Region(None), one.accumulated(Region(None)) + torch.inf, None, 1.0)
    other.restore(one.save())
    assert torch.equal(scaled(other), scaled(one))
    assert torch.equal(scaled(other) * 2.0, scaled(fresh))


def test_a_gradient_that_waits_for_those_of_other_blocks_must_stay_as_it_is():
    """Its memory used again, the update would be another one, without a word."""
    numerics = TensorsFactory(WORKLOAD, 1, SGD(0.5), SEED, precision=Precision("fp16"))(0)
    before, halves = numerics.read(ALL), (Region((0, 1)), Region((2, 3)))
    gradients = [torch.ones_like(numerics.read(half)) for half in halves]
    for half, gradient in zip(halves, gradients, strict=True):
        numerics.update(half, gradient, None, 1.0)
    gradients[0].zero_()  # it has been applied
    assert torch.equal(numerics.read(ALL), before - 0.5)
    numerics.update(halves[0], gradients[0], None, 1.0)
    gradients[0] += 1.0
    with pytest.raises(StrategyError, match="must not be changed until those of all blocks were given"):
        numerics.update(halves[1], gradients[1], None, 1.0)


def test_what_a_configuration_may_ask_for():
    def problems(**settings):
        return [str(p) for p in resolve(compose([*settings.items(), ("backend", "modeled")])[0])[1]]

    assert problems(precision="bf16", strategy="gpipe") == []
    assert problems(precision="fp16", strategy="async_ps") == []
    for strategy in ("gpipe", "zero", "hybrid", "tensor_parallel", "pipedream"):
        assert any("take precision=bf16" in text for text in problems(precision="fp16", strategy=strategy))
    settings = {"precision": "fp16", "workload.dtype": "float64", "strategy.compression": "top_k"}
    (dtype, codes) = problems(**settings)
    assert "take workload.dtype=float32" in dtype
    assert "take precision=bf16" in codes
