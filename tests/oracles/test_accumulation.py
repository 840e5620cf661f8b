"""Gradient accumulation: the weights of the whole batch, with the activations of a micro-batch."""

from __future__ import annotations

import pytest

from distsim.interface import SGD, Block, Budget, Cluster, Job, Model, Outcome, Region, Switch
from distsim.numerics.sizes import SizesFactory
from distsim.numerics.tensors import TensorsFactory
from distsim.strategies.all_reduce import AllReduce
from distsim.workloads.digits_mlp import DigitsMLP

from .jobs import Times, chain, done, job

STEPS, BATCH = 12, 24
WORKLOAD = DigitsMLP(batch=BATCH, depth=5, width=20, dtype="float64")


def run(strategy: AllReduce, is_modeled: bool = False) -> Outcome:
    model = WORKLOAD.model()
    numerics = SizesFactory(model, 2) if is_modeled else TensorsFactory(WORKLOAD, 2, SGD(0.05, momentum=0.9), seed=2)
    cluster = Cluster(2, 0, Times(1e-3, 2e-3, 1e-4, 1e-9), Switch(1e8, 1e-5))
    return done(Job(strategy, model, cluster, Budget(updates=STEPS), numerics, seed=2))


@pytest.mark.parametrize("bucket_bytes", [0.0, 25e6])
@pytest.mark.parametrize("microbatches", [2, 3, 24])
def test_weights_are_those_without(microbatches: int, bucket_bytes: float) -> None:
    whole, pieces = run(AllReduce()), run(AllReduce(bucket_bytes, microbatches=microbatches))
    start = TensorsFactory(WORKLOAD, 2, seed=2)(0)
    for expected, found in zip(whole.weights, pieces.weights, strict=True):
        for block, value in expected.items():
            moved = (value - start.read(Region((block,)))).abs().max()
            assert (found[block] - value).abs().max() <= 1e-12 * moved


@pytest.mark.parametrize("is_modeled", [True, False])
@pytest.mark.parametrize("bucket_bytes", [0.0, 25e6])
def test_the_memory_of_activations_is_that_of_a_micro_batch(is_modeled: bool, bucket_bytes: float) -> None:
    model, whole = WORKLOAD.model(), run(AllReduce(bucket_bytes), is_modeled).traces[0]
    assert whole.peak_activations == sum(b.saved * model.itemsize * BATCH for b in model.blocks)
    for m in (2, 3, 24):
        trace = run(AllReduce(bucket_bytes, microbatches=m), is_modeled).traces[0]
        assert trace.peak_activations == whole.peak_activations / m
        assert len(trace.losses) == STEPS * m


def test_only_the_last_micro_batch_overlaps_its_reductions() -> None:
    """Two blocks of 1,000 bytes, forward 1 s and backward 2 s whatever the samples; two ranks reduce a block in 5 s.

    Two micro-batches: the first takes 6 s, the second's forward 2, its block 1 is there at 10 and reduced at 15, block 0
    at 12 and reduced, after the other, at 20.
    """
    device, network = Times(1.0, 2.0), Switch(200.0, 0.0)
    assert done(job(AllReduce(0.0), 2, 1, device, network, chain(2))).seconds == pytest.approx(14.0)
    assert done(job(AllReduce(0.0, microbatches=2), 2, 1, device, network, chain(2, batch=2))).seconds == pytest.approx(
        20.0
    )


@pytest.mark.parametrize(("microbatches", "nearest"), [(5, "4 or 6"), (0, "1 or 2"), (24, "6 or 12"), (48, "6 or 12")])
def test_micro_batches_must_divide_a_workers_batch(microbatches: int, nearest: str) -> None:
    model = Model((Block(0, "block", 10, 4, 4, 1.0, 1.0, 1.0),), batch=12, input=4)
    (problem,) = AllReduce(microbatches=microbatches).problems(4, model)
    assert (problem.key, problem.value) == ("strategy.microbatches", microbatches)
    assert "12 samples of a worker's batch" in problem.allowed
    assert nearest in problem.suggestion
    assert not list(AllReduce(microbatches=12).problems(4, model))
