"""What sharding costs and saves, against the tables of the papers: memory, bytes that travel, communication left exposed.

Memory is that of the rank when it held most, without activations. Beyond the table's shards a rank holds what is under way:
gradients of two blocks from when they are computed until they are scattered (stages 2 and 3), and the parameters of the
block that runs (stage 3). The formulas below say so exactly; with many blocks it vanishes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pytest

from distsim.backends.simulated import SimulatedOptions
from distsim.interface import SGD, AdamW, Block, Budget, Cluster, Job, Model, Optimizer, Outcome, Strategy, Switch, Trace
from distsim.numerics.sizes import SizesFactory
from distsim.numerics.tensors import TensorsFactory
from distsim.strategies.all_reduce import AllReduce
from distsim.strategies.hybrid import Hybrid
from distsim.strategies.tensor_parallel import TensorParallel
from distsim.strategies.zero import HSDP, Zero
from distsim.workloads.digits_mlp import DigitsMLP

from .jobs import IDEAL, Times, chain, done

EACH = 0.0  # a bucket a block
UNDER_WAY = {0: 0, 1: 0, 2: 2, 3: 3}
"""Stage -> blocks of which something is whole that will be a shard."""


def strategy_of(stage: int) -> Strategy:
    return Zero(stage, EACH) if stage else AllReduce(EACH)


def run(
    strategy: Strategy,
    workers: int,
    model: Model,
    updates: int = 1,
    network: Switch = IDEAL,
    device: Any = Times(),  # noqa: B008 - a frozen value
    optimizer: Optimizer = SGD(),  # noqa: B008
) -> Outcome:
    numerics = SizesFactory(model, workers, optimizer)
    return done(Job(strategy, model, Cluster(workers, 0, device, network), Budget(updates=updates), numerics))


# ---- memory


@pytest.mark.parametrize(
    ("workers", "gigabytes"),
    [(4, (120.0, 52.5, 41.25, 30.0)), (16, (120.0, 35.6, 21.6, 7.5)), (64, (120.0, 31.4, 16.6, 1.9))],
)
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_memory_of_7_5_billion_parameters(stage: int, workers: int, gigabytes: tuple[float, ...]) -> None:
    # Rajbhandari et al., SC 2020, table 1: half-precision parameters and gradients, 12 bytes of AdamW's state.
    blocks, parameters = 15, 500_000_000
    model = Model(tuple(Block(i, "b", parameters, 1, 0, 1.0, 1.0, 1.0) for i in range(blocks)), 1, 1, itemsize=2)
    outcome = run(strategy_of(stage), workers, model, 2, optimizer=AdamW())
    n = workers
    a_parameter = {0: 16.0, 1: 4 + 12 / n, 2: 2 + 14 / n, 3: 16 / n}[stage]
    under_way = UNDER_WAY[stage] * 2 * parameters * (1 - 1 / n)
    for trace in outcome.traces:
        assert trace.peak.total == a_parameter * blocks * parameters + under_way
    assert a_parameter * blocks * parameters / 1e9 == pytest.approx(gigabytes[stage], abs=0.05)


def test_with_many_blocks_the_measured_peak_is_the_table_s() -> None:
    blocks = 250
    model = Model(tuple(Block(i, "b", 30_000_000, 1, 0, 1.0, 1.0, 1.0) for i in range(blocks)), 1, 1, itemsize=2)
    for stage, gigabytes in ((1, 52.5), (2, 41.25), (3, 30.0)):
        peak = run(strategy_of(stage), 4, model, 2, optimizer=AdamW()).traces[0].peak
        assert peak.total / 1e9 == pytest.approx(gigabytes, abs=0.15)


@pytest.mark.parametrize("microbatches", [1, 3])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_micro_batches_need_no_whole_gradient(stage: int, microbatches: int) -> None:
    model = chain(blocks=6, batch=microbatches, parameters=400)
    peak = run(Zero(stage, EACH, microbatches), 4, model, 2, optimizer=AdamW()).traces[0].peak
    a_parameter = {1: 8 + 8 / 4, 2: 4 + 12 / 4, 3: 16 / 4}[stage]  # in single precision, two moments
    under_way = UNDER_WAY[stage] * 4 * 400 * (1 - 1 / 4)
    if microbatches > 1 and stage > 1:
        under_way += 2 * 4 * 400 / 4  # the shards of the gradients under way are held already, from the micro-batch before
    assert peak.total - peak.activations == a_parameter * 6 * 400 + under_way


def test_hybrid_sharding_cuts_by_the_group() -> None:
    model = chain(blocks=6, parameters=400)
    peak = run(HSDP(4), 16, model, 2, optimizer=AdamW()).traces[0].peak
    assert peak.optimizer == 8 / 4 * 6 * 400
    assert peak.parameters == 4 / 4 * 6 * 400 + 4 * 400 * (1 - 1 / 4)
    assert peak.gradients == 2 * 4 * 400 + 4 / 4 * 3 * 400  # the third last block's shards are on their way across


def test_sharded_replicas_of_one_stage_take_the_memory_of_zero() -> None:
    """Stages are placed before they are cut; that a rank had a whole one then, before the run, does not count."""
    model = chain(blocks=8, batch=4, parameters=1000, activation=1)
    one, zero = (run(s, 4, model, 2, optimizer=AdamW()) for s in (Hybrid(1, 1, 1, sharded=True), Zero(3)))
    assert [trace.peak for trace in one.traces] == [trace.peak for trace in zero.traces]
    many = run(Hybrid(1, 1, 2, sharded=True), 4, model, 2, optimizer=AdamW()).traces[0].peak
    assert many.gradients == 8 * 1000 * 4  # until the last micro-batch they accumulate whole
    assert many.parameters == zero.traces[0].peak.parameters


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
@pytest.mark.parametrize("workers", [2, 4])
def test_tensors_take_the_memory_of_the_formula(stage: int, workers: int) -> None:
    task = DigitsMLP(batch=1, depth=6, width=32)
    sizes = [65 * 32, *[33 * 32] * 4, 33 * 10]
    assert [block.parameters for block in task.model().blocks] == sizes
    numerics = TensorsFactory(task, workers, AdamW())
    job = Job(strategy_of(stage), task.model(), Cluster(workers, 0, Times(), IDEAL), Budget(updates=3), numerics)
    peak = done(job).traces[0].peak
    whole, shard = sum(sizes), sum(math.ceil(size / workers) for size in sizes)  # the first rank's are the largest
    assert peak.activations == 0  # it is held most after the last backward pass
    assert peak.optimizer == pytest.approx(4 * 2 * (shard if stage else whole), abs=4 * 6)  # and the counts of steps
    assert peak.parameters == 4 * (whole if stage < 3 else shard + _more(sizes[:1], workers))
    assert peak.gradients == 4 * (whole if stage < 2 else shard + _more(sizes[:2], workers))


def _more(sizes: Iterable[int], workers: int) -> int:
    """Scalars that a rank holds of whole blocks beyond its shards."""
    return sum(size - math.ceil(size / workers) for size in sizes)


# ---- bytes that travel


def volume(trace: Trace, group: int, members: str = "") -> float:
    """Payload bytes of a rank's collectives: an all-reduce is a reduce-scatter and an all-gather."""
    times = {"all_reduce": 2, "reduce_scatter": 1, "all_gather": group}
    return sum(times[t.kind] * t.nbytes for t in trace.transfers if t.channel.endswith(members))


@pytest.mark.parametrize(
    ("strategy", "times"),
    [
        (AllReduce(), 2),
        (AllReduce(EACH), 2),
        (Zero(1), 2),
        (Zero(1, EACH), 2),
        (Zero(1, EACH, microbatches=3), 2),
        (Zero(2), 2),
        (Zero(2, 4000.0), 2),
        (Zero(2, microbatches=3), 4),  # the gradients of each micro-batch are scattered
        (Zero(3), 3),
        (Zero(3, microbatches=3), 9),
    ],
)
@pytest.mark.parametrize("workers", [2, 8])
def test_volume_in_parameters(strategy: Strategy, times: int, workers: int) -> None:
    # Rajbhandari et al., SC 2020, section 7.
    model = chain(blocks=5, batch=6, parameters=800)
    for trace in run(strategy, workers, model).traces:
        assert volume(trace, workers) == times * model.parameter_bytes


def test_volume_of_hybrid_sharding() -> None:
    model = chain(blocks=5, parameters=800)
    for trace in run(HSDP(4), 8, model).traces:
        group = ",".join(str(trace.rank // 4 * 4 + i) for i in range(4))
        across = ",".join(str(trace.rank % 4 + 4 * i) for i in range(2))
        assert volume(trace, 4, f" {group}") == 3 * model.parameter_bytes
        assert volume(trace, 2, f" {across}") == 2 / 4 * model.parameter_bytes


# ---- time

LATENCY, BANDWIDTH = 1e-3, 1e6
NETWORK = Switch(BANDWIDTH, LATENCY / 2)


def gather_seconds(nbytes: float, n: int) -> float:
    """An all-gather or a reduce-scatter of `nbytes` bytes by a ring."""
    return (n - 1) * (nbytes / n / BANDWIDTH + LATENCY)


@pytest.mark.parametrize("workers", [2, 4, 7])
@pytest.mark.parametrize(("stage", "legs"), [(1, 2), (2, 2), (3, 3)])
def test_communication_alone(stage: int, legs: int, workers: int) -> None:
    blocks, nbytes = 5, 4 * 840
    outcome = run(Zero(stage, EACH), workers, chain(blocks, parameters=840), 3, NETWORK)
    assert outcome.seconds == pytest.approx(3 * legs * blocks * gather_seconds(nbytes, workers), rel=1e-12)


@pytest.mark.parametrize("workers", [2, 4])
@pytest.mark.parametrize("blocks", [2, 3, 8])
def test_stage_3_exposes_its_first_gathers_and_its_last_scatter(blocks: int, workers: int) -> None:
    # Where a block's forward pass takes longer than a gather, and its backward pass longer than a gather and a scatter.
    c = gather_seconds(4 * 840, workers)
    forward, backward, apply = 1.5 * c, 2.5 * c, 0.25 * c
    device = Times(forward, backward, apply)
    outcome = run(Zero(3), workers, chain(blocks, parameters=840), 3, NETWORK, device)
    update = apply / workers  # of a shard
    assert outcome.seconds == pytest.approx(3 * (blocks * (forward + backward + update) + 3 * c), rel=1e-12)


@pytest.mark.parametrize(("stage", "bucket"), [(1, EACH), (1, math.inf), (2, EACH), (2, math.inf)])
def test_stages_1_and_2_expose_their_last_scatter_and_the_gathers(stage: int, bucket: float) -> None:
    workers, blocks = 4, 6
    one = gather_seconds(4 * 840, workers)
    last = one if bucket == EACH else gather_seconds(4 * 840 * blocks, workers)
    every = one * blocks if bucket == EACH else last
    device = Times(forward=one, backward=2 * one)  # a block's scatter is over before the next block's backward pass
    outcome = run(Zero(stage, bucket), workers, chain(blocks, parameters=840), 2, NETWORK, device)
    assert outcome.seconds == pytest.approx(2 * (3 * one * blocks + last + every), rel=1e-12)


def cut_chain(blocks: int, parameters: int = 240, activation: int = 12) -> Model:
    """Equal blocks that can be cut, on 8 samples of 4 bytes a scalar."""
    made = (
        Block(i, "b", parameters, activation, 4, 8.0, 8.0 if i else 0.0, 8.0, ways=12, replicated=0) for i in range(blocks)
    )
    return Model(tuple(made), 8, activation, 4)


@pytest.mark.parametrize("workers", [2, 3, 4])
def test_tensor_parallelism_reduces_activations_twice_a_block(workers: int) -> None:
    blocks, nbytes = 5, 4 * 12 * 8 * workers  # all see the samples of all
    reduce = 2 * gather_seconds(nbytes, workers)
    device = Times(forward=1.0, backward=2.0, apply=0.5)
    outcome = run(TensorParallel(), workers, cut_chain(blocks), 2, NETWORK, device)
    # The first block's input has no gradient.
    assert outcome.seconds == pytest.approx(2 * (3.5 * blocks + (2 * blocks - 1) * reduce), rel=1e-12)
    for trace in outcome.traces:
        assert trace.peak.parameters == 4 * 240 * blocks / workers


def test_a_block_that_cannot_be_cut_communicates_nothing() -> None:
    model = chain(blocks=3)
    (trace, *_) = run(Hybrid(2, 1, 1), 2, model).traces
    assert [t for t in trace.transfers if t.channel.endswith("0,1")] == []


@pytest.mark.parametrize("sharded", [False, True])
def test_a_hybrid_of_one_replica_and_no_tensor_group_is_its_pipeline(sharded: bool) -> None:
    p, m = 4, 8
    device = Times(forward=1.0, backward=2.0)
    model = chain(blocks=p, batch=m)
    outcome = run(Hybrid(1, p, m, sharded=sharded), p, model, 2, IDEAL, device)
    assert outcome.seconds == 2 * (m + p - 1) * 3.0  # Narayanan et al., SC 2021, section 2.2


@pytest.mark.parametrize("d", [2, 4])
def test_a_hybrid_exposes_the_reduction_of_the_last_gradients(d: int) -> None:
    p, m = 2, 4
    reduce = 2 * gather_seconds(4 * 840, d)
    device = Times(forward=1.0, backward=2.0)
    model = chain(blocks=p, batch=m, parameters=840, activation=0)
    outcome = run(Hybrid(1, p, m), d * p, model, 1, NETWORK, device)
    hops = 2 * (p - 1) * m // p + 2 * (p - 2)  # messages of 0 bytes pay their latency
    assert outcome.seconds == pytest.approx((m + p - 1) * 3.0 + hops * LATENCY + reduce, rel=1e-12)


# ---- no deadlock


@pytest.mark.parametrize("schedule", ["gpipe", "one_f_one_b", "interleaved", "zb_h1", "zb_h2", "zb_v"])
@pytest.mark.parametrize("sharded", [False, True])
def test_every_shape_ends(schedule: Any, sharded: bool) -> None:
    model = cut_chain(12, parameters=13)  # uneven shards
    for tensor in (1, 2, 3):
        for stages in (1, 2, 3):
            for replicas in (1, 2):
                strategy = Hybrid(tensor, stages, 6, schedule, sharded=sharded)
                workers = tensor * stages * replicas
                if list(strategy.problems(workers, model)):
                    continue
                outcome = run(strategy, workers, model, 2, NETWORK, Times(1e-3, 2e-3, 1e-4))
                assert len(outcome.traces[-1].updates) == 2


@pytest.mark.parametrize("mode", ["flows", "price"])
@pytest.mark.parametrize("workers", [1, 2, 5, 6])
def test_sharding_ends_on_any_number_of_workers(workers: int, mode: Any) -> None:
    model = chain(blocks=4, batch=2, parameters=251)
    for strategy in (Zero(1), Zero(2, 2000.0, 2), Zero(3), HSDP(workers), HSDP(1, 2)):
        numerics = SizesFactory(model, workers)
        job = Job(strategy, model, Cluster(workers, 0, Times(1.0, 2.0), NETWORK), Budget(updates=2), numerics)
        assert len(done(job, SimulatedOptions(collectives=mode)).traces[-1].updates) == 2
