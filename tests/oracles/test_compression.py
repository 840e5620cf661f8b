"""Compressed gradients: error feedback conserves the sum, references written out here, and bytes and times by formula."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

import pytest
import torch
from torch import Tensor

from distsim.interface import ALL, SGD, Batch, Budget, Cluster, Job, Outcome, Region, Strategy, Switch, Work, Worker
from distsim.numerics.sizes import SizesFactory
from distsim.numerics.tensors import TensorsFactory
from distsim.numerics.tensors_assemble import assemble
from distsim.strategies import all_reduce, parameter_server_program
from distsim.strategies.all_reduce import AllReduce
from distsim.strategies.exchange import Compressed, Exchange, Feedback, Outbox
from distsim.strategies.hybrid import Hybrid
from distsim.strategies.parameter_server import AsyncPS, SyncPS
from distsim.workloads.digits_mlp import DigitsMLP
from distsim.workloads.user_module import UserModule

from .jobs import ITEMSIZE, Times, chain, done, job

CONV = UserModule("oracles.small_conv:build", batch=6)
MLP = DigitsMLP(batch=8, depth=4, width=20, dtype="float64")
RATE = 0.2
CODECS: list[dict[str, Any]] = [
    {"compression": "top_k", "density": 0.03},
    {"compression": "fp16"},
    {"compression": "powersgd", "compression_rank": 2},
    {"compression": "none"},
]
CONSERVED = 5e-15
"""Of the sum of all gradients' sizes, float64."""


def rounded_by_sums(codec: dict[str, Any], workers: int, steps: int, sizes: Tensor) -> Tensor | float:
    """At most what P means of codes can have rounded away: nothing, but for those that are summed in half precision.

    A rounding is of at most 2^-11 of what is rounded, or 2^-25 where that is denormal. Each c/P of the P codes of a step is
    rounded, unless P is a power of two, and so is each of P-1 partial sums, none larger than sum |c|/P; then P means count.
    A code is as large as its gradient, within a percent that leaves room for all that is of second order.
    """
    if codec["compression"] != "fp16":
        return 0.0
    roundings = workers - 1 + (workers & (workers - 1) > 0)
    return 1.01 * roundings * 2.0**-11 * sizes + (workers > 1) * steps * workers**2 * 2.0**-25


def run(strategy: Strategy, workload: Any, workers: int, updates: int = 12, is_modeled: bool = False) -> Outcome:
    """A run of plain SGD."""
    model, optimizer = workload.model(), SGD(RATE)
    numerics = SizesFactory(model, workers) if is_modeled else TensorsFactory(workload, workers, optimizer, seed=3)
    cluster = Cluster(workers, strategy.server_count(workers), Times(1e-3, 2e-3, 1e-4, 1e-9), Switch(1e8, 1e-5))
    job = Job(strategy, model, cluster, Budget(updates=updates), numerics, seed=3, samples_between_snapshots=10**9)
    return done(job)


def start(workload: Any) -> dict[int, Tensor]:
    """The flat weights of every block before the first step."""
    numerics = TensorsFactory(workload, 1, SGD(RATE), seed=3)(0)
    return {b: numerics.read(Region((b,))) for b in range(len(workload.model().blocks))}


def flat(weights: dict[int, Tensor]) -> Tensor:
    return torch.cat([weights[b] for b in sorted(weights)])


# ---- error feedback


@dataclass(frozen=True)
class Feeds(Compressed):
    """Exchanges random gradients of two regions."""

    given: dict[Region, Any] = field(default_factory=lambda: defaultdict(float))
    sizes: dict[Region, Any] = field(default_factory=lambda: defaultdict(float))
    applied: dict[tuple[int, Region], Any] = field(default_factory=lambda: defaultdict(float))
    kept: dict[Region, Any] = field(default_factory=lambda: defaultdict(float))

    async def run(self, worker: Worker[Any]) -> None:
        exchanging = Exchange(worker, self)
        regions = [Region((1, 2)), Region((0,))]
        noise = torch.Generator().manual_seed(worker.rank)
        for _ in worker.steps():
            pending: list[tuple[Region, Work[Any]]] = []
            for region in regions:
                g = torch.randn(worker.read(region).shape, generator=noise, dtype=torch.float64)
                self.given[region] += g
                self.sizes[region] += g.abs()
                pending.append((region, await exchanging.start(g * exchanging.scale, region)))
            for region, mean in pending:
                self.applied[worker.rank, region] += await mean
        for region in regions:
            self.kept[region] += exchanging.feedback.add(worker.read(region) * 0.0, region)


@pytest.mark.parametrize("workers", [1, 3, 4])
@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec["compression"])
def test_what_was_applied_and_what_is_kept_add_up_to_all_gradients(codec: dict[str, Any], workers: int) -> None:
    feeds = Feeds(**codec)
    run(feeds, CONV, workers, updates=40)
    for region, given in feeds.given.items():
        first = feeds.applied[0, region]
        assert all(torch.equal(feeds.applied[rank, region], first) for rank in range(workers))
        allowed = CONSERVED * feeds.sizes[region].max() + rounded_by_sums(codec, workers, 40, feeds.sizes[region])
        assert ((workers * first + feeds.kept[region] - given).abs() <= allowed).all()
        if codec["compression"] != "none":
            assert feeds.kept[region].abs().max() > 1e-5  # something was left out


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("codec", CODECS[:2], ids=lambda codec: codec["compression"])
def test_a_rank_keeps_what_its_own_code_leaves_out(
    codec: dict[str, Any], workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit; so of half precision never more than one rounding, however long the run."""
    seen, keep = 0, Feedback.keep

    def checked(self: Feedback[Any], wanted: Tensor, sent: Tensor, region: Region) -> None:
        nonlocal seen
        keep(self, wanted, sent, region)
        kept = self.add(torch.zeros_like(wanted), region)
        assert torch.equal(sent + kept, wanted)
        if codec["compression"] == "fp16":
            assert torch.equal(sent, wanted.half().double())
            assert (kept.abs() <= (2.0**-11 * wanted.abs()).clamp(min=2.0**-25)).all()
        else:
            assert torch.equal(sent, torch.where(sent != 0.0, wanted, 0.0))
            assert (sent != 0.0).sum() == ceil(codec["density"] * len(wanted))
        seen += 1

    monkeypatch.setattr(Feedback, "keep", checked)
    run(Feeds(**codec), CONV, workers, updates=60)
    assert seen == 60 * 2 * workers


@pytest.mark.parametrize("codec", CODECS[:3], ids=lambda codec: codec["compression"])
def test_without_error_feedback_nothing_is_kept(codec: dict[str, Any]) -> None:
    feeds = Feeds(**codec, error_feedback=False)
    run(feeds, CONV, 2)
    assert all(not kept.any() for kept in feeds.kept.values())


@pytest.mark.parametrize("workload", [CONV, MLP])
@pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec["compression"])
def test_training_conserves_the_sum(codec: dict[str, Any], workload: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given, sizes, exchanges = dict[Region, Any](), dict[Region, Any](), list[Exchange[Any]]()

    class Recorded(Exchange[Any]):
        def __init__(self, group: Worker[Any], compressed: Compressed) -> None:
            super().__init__(group, compressed)
            exchanges.append(self)

        async def start(self, gradient: Any, region: Region = ALL) -> Work[Any]:
            given[region] = given.get(region, 0.0) + gradient
            sizes[region] = sizes.get(region, 0.0) + gradient.abs()
            return await super().start(gradient, region)

    monkeypatch.setattr(all_reduce, "Exchange", Recorded)
    workers, updates = 3, 15
    outcome = run(AllReduce(4000.0, **codec), workload, workers, updates)
    before, after = start(workload), outcome.weights[0]
    assert len(given) > 1
    for region, gradients in given.items():
        blocks = region.blocks or ()
        applied = torch.cat([before[b] - after[b] for b in blocks]) / RATE
        kept = sum(each.feedback.add(torch.zeros_like(gradients), region) for each in exchanges)
        # Subtracting small steps from weights of size 1 rounds each of them.
        rounding = updates * workers * 2.3e-16 * max(float(before[b].abs().max()) for b in blocks) / RATE
        allowed = CONSERVED * updates + rounding + rounded_by_sums(codec, workers, updates, sizes[region])
        assert ((workers * applied + kept - gradients).abs() <= allowed).all()


@pytest.mark.parametrize("servers", [1, 2])
@pytest.mark.parametrize("codec", CODECS[:2], ids=lambda codec: codec["compression"])
def test_a_server_conserves_the_sum(codec: dict[str, Any], servers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    given, outboxes = dict[Region, Any](), list[Outbox[Any]]()

    class Recorded(Outbox[Any]):
        def __init__(self, worker: Worker[Any], compressed: Compressed) -> None:
            super().__init__(worker, compressed)
            outboxes.append(self)

        async def encode(self, gradient: Any, region: Region) -> Any:
            given[region] = given.get(region, 0.0) + gradient
            return await super().encode(gradient, region)

    monkeypatch.setattr(parameter_server_program, "Outbox", Recorded)
    workers, updates = 3, 15
    outcome = run(SyncPS(servers=servers, **codec), CONV, workers, updates)
    before = flat(start(CONV))
    assert [region.shard for region in given] == ([0, 1] if servers == 2 else [None])
    pieces = [piece for snapshot in outcome.snapshots if snapshot.number == updates for piece in snapshot.pieces]
    after = torch.cat([piece.values for piece in sorted(pieces, key=lambda piece: piece.region.shard or 0)])
    applied = (before - after) / RATE
    gradients = torch.cat(list(given.values()))
    kept = sum(
        torch.cat([box.feedback.add(torch.zeros_like(g), region) for region, g in given.items()]) for box in outboxes
    )
    assert isinstance(kept, Tensor)
    assert kept.abs().max() > 1e-5
    rounding = updates * workers * 2.3e-16 * float(before.abs().max()) / RATE
    assert (workers * applied + kept - gradients).abs().max() <= CONSERVED * updates + rounding


# ---- references


def top_k_reference(workload: Any, workers: int, updates: int, density: float, has_feedback: bool) -> Tensor:
    """Top-k with error feedback on the whole gradient, one scalar at a time; the weights after it."""
    task = workload.task(3)
    parameters = [p for block in task.blocks for p in block.parameters()]
    model = torch.nn.Sequential(*task.blocks)
    size = sum(p.numel() for p in parameters)
    k = max(1, ceil(density * size))
    kept = [[0.0] * size for _ in range(workers)]
    for step in range(updates):
        mean = [0.0] * size
        for rank in range(workers):
            batch = Batch(step, rank, workers)
            loss = task.loss(model(task.input(batch, workers)), task.target(batch, workers))
            gradient = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, parameters)]).tolist()
            wanted = [g + e for g, e in zip(gradient, kept[rank], strict=True)]
            places = sorted(range(size), key=lambda i, wanted=wanted: -abs(wanted[i]))[:k]
            for i in places:
                mean[i] += wanted[i] / workers
                wanted[i] = 0.0
            if has_feedback:
                kept[rank] = wanted
        start = 0
        for p in parameters:
            p.data -= RATE * torch.tensor(mean[start : start + p.numel()], dtype=p.dtype).view(p.shape)
            start += p.numel()
    return torch.cat([p.detach().reshape(-1) for p in parameters])


@pytest.mark.parametrize("has_feedback", [True, False])
@pytest.mark.parametrize(("workers", "density"), [(2, 0.02), (3, 0.2)])
def test_top_k_is_the_reference(workers: int, density: float, has_feedback: bool) -> None:
    strategy = AllReduce(compression="top_k", density=density, error_feedback=has_feedback)
    outcome = run(strategy, CONV, workers)
    expected, before = top_k_reference(CONV, workers, 12, density, has_feedback), flat(start(CONV))
    for weights in outcome.weights:
        assert (flat(weights) - expected).abs().max() <= 1e-12 * (expected - before).abs().max()


@pytest.mark.parametrize("has_feedback", [True, False])
def test_top_k_at_a_server_is_the_reference(has_feedback: bool) -> None:
    server = SyncPS(compression="top_k", density=0.05, error_feedback=has_feedback)
    expected, before = top_k_reference(CONV, 3, 12, 0.05, has_feedback), flat(start(CONV))
    weights = run(server, CONV, 3).weights[3]
    assert (flat(weights) - expected).abs().max() <= 1e-12 * (expected - before).abs().max()


@pytest.mark.parametrize("servers", [1, 3])
def test_top_k_of_everything_at_a_server_is_no_compression(servers: int) -> None:
    plain, coded = SyncPS(servers=servers), SyncPS(servers=servers, compression="top_k", density=1.0)
    last = [run(strategy, CONV, 3).snapshots for strategy in (plain, coded)]
    for expected, found in zip(*last, strict=True):
        for a, b in zip(expected.pieces, found.pieces, strict=True):
            assert a.region == b.region
            assert torch.equal(a.values, b.values)


@dataclass(frozen=True)
class Means(Strategy):
    """Averages its gradients by the operation of that name."""

    async def run(self, worker: Worker[Any]) -> None:
        for step in worker.steps():
            for region, bucket in worker.gradients(Batch(step, worker.rank, worker.world_size)):
                await worker.apply(await worker.all_reduce(await bucket), region)


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
@pytest.mark.parametrize("workload", [CONV, MLP])
def test_gradients_that_are_divided_as_they_are_copied_have_the_mean_to_the_last_bit(workload: Any, workers: int) -> None:
    means = run(Means(), workload, workers).weights[0]
    for weights in run(AllReduce(bucket_bytes=0.0), workload, workers).weights:
        assert torch.equal(flat(weights), flat(means))


@pytest.mark.parametrize("workload", [CONV, MLP])
@pytest.mark.parametrize("bucket_bytes", [0.0, 25e6])
def test_top_k_of_everything_is_no_compression(workload: Any, bucket_bytes: float) -> None:
    plain = run(AllReduce(bucket_bytes), workload, 3).weights[0]
    for weights in run(AllReduce(bucket_bytes, compression="top_k", density=1.0), workload, 3).weights:
        assert torch.equal(flat(weights), flat(plain))


def test_power_sgd_of_full_rank_is_no_compression() -> None:
    plain, before = flat(run(AllReduce(), CONV, 3).weights[0]), flat(start(CONV))
    for weights in run(AllReduce(compression="powersgd", compression_rank=24), CONV, 3).weights:
        assert (flat(weights) - plain).abs().max() <= 1e-12 * (plain - before).abs().max()


def test_fp16_rounds_each_gradient_and_each_sum() -> None:
    """By hand, with torch's half precision: two workers, no feedback."""
    task, workers = CONV.task(3), 2
    model = torch.nn.Sequential(*task.blocks)
    parameters = list(model.parameters())
    for step in range(12):
        codes = []
        for rank in range(workers):
            batch = Batch(step, rank, workers)
            loss = task.loss(model(task.input(batch, workers)), task.target(batch, workers))
            codes.append([(g.half() / 2) for g in torch.autograd.grad(loss, parameters)])
        for p, a, b in zip(parameters, *codes, strict=True):
            p.data -= RATE * (a + b).double()
    expected, before = torch.cat([p.detach().reshape(-1) for p in parameters]), flat(start(CONV))
    for weights in run(AllReduce(compression="fp16", error_feedback=False), CONV, workers).weights:
        assert (flat(weights) - expected).abs().max() <= 1e-12 * (expected - before).abs().max()


def assembled(strategy: Strategy, workload: DigitsMLP, workers: int) -> Tensor:
    """The weights that a run publishes last."""
    snapshots = [snapshot for snapshot in run(strategy, workload, workers).snapshots if snapshot.number == 12]
    pieces = [piece for snapshot in snapshots for piece in snapshot.pieces]
    whole = assemble(workload.model(), workload.task(3).blocks, pieces)
    assert whole is not None
    return flat(whole)


GRIDS = [(codec, 1, stages) for codec in CODECS[:3] for stages in (1, 2, 4)]
GRIDS += [(CODECS[1], 2, stages) for stages in (1, 2)]  # the other codecs see a tensor shard as another gradient


@pytest.mark.parametrize(("codec", "tensor", "stages"), GRIDS)
def test_two_replicas_compress_as_two_workers(codec: dict[str, Any], tensor: int, stages: int) -> None:
    expected = assembled(AllReduce(0.0, **codec), MLP, 2)
    share = replace(MLP, batch=MLP.batch // (tensor * stages))  # of the same samples
    found = assembled(Hybrid(tensor=tensor, stages=stages, microbatches=4, **codec), share, 2 * tensor * stages)
    assert (found - expected).abs().max() <= 1e-12 * (expected - flat(start(MLP))).abs().max()


# ---- bytes and time


def collectives(outcome: Outcome, rank: int = 0) -> list[tuple[str, float]]:
    return [(t.kind, t.nbytes) for t in outcome.traces[rank].transfers]


@pytest.mark.parametrize("is_modeled", [True, False])
def test_bytes_are_those_of_the_formulas(is_modeled: bool) -> None:
    # Conv 12 x (1 x 3 x 3) and 12; linear 24 x 108 and 24; linear 10 x 24 and 10: 3,010 scalars of 8 bytes.
    scalars = 12 * 9 + 12 + 24 * 108 + 24 + 10 * 24 + 10
    whole = {"top_k": [2 * ceil(0.03 * scalars) * 8], "fp16": [2 * scalars], "none": [8 * scalars]}
    first = (12 + 24 + 10) * 2 + 12 + 24 + 10
    whole["powersgd"] = [8 * first, 8 * (9 + 108 + 24) * 2]
    for codec in CODECS:
        kind = "all_gather" if codec["compression"] == "top_k" else "all_reduce"
        outcome = run(AllReduce(**codec), CONV, 2, 2, is_modeled)
        assert collectives(outcome) == [(kind, size) for size in whole[codec["compression"]]] * 2


@pytest.mark.parametrize("workers", [2, 4, 32])
def test_a_gather_grows_with_the_workers_and_a_sum_does_not(workers: int) -> None:
    # 1,000 scalars of 4 bytes; a link of 1,000 bytes a second and no latency; computing takes no time.
    model, network = chain(parameters=1000), Switch(1000.0, 0.0)
    seconds = {
        codec["compression"]: done(job(AllReduce(**codec), workers, 1, Times(), network, model)).seconds for codec in CODECS
    }
    ring = 2 * (workers - 1) / workers
    assert seconds["none"] == pytest.approx(ring * 4.0, rel=1e-12)
    assert seconds["fp16"] == pytest.approx(ring * 2.0, rel=1e-12)
    assert seconds["top_k"] == pytest.approx((workers - 1) * 2 * 30 * ITEMSIZE / 1000.0, rel=1e-12)


def test_the_first_round_overlaps_the_backward_pass() -> None:
    """Two blocks of 1,000 bytes; forward 1 s, backward 2 s, and 1 s for every 1,000 bytes of payload arithmetic.

    The gradient of block 1 is there at 4, its code (25 values and places, 200 bytes) at 5. It is gathered from 5 to 6 while
    its own decoding (.2) and the backward pass of block 0 go on. That ends at 7.2, its code is there at 8.2, gathered
    at 9.2. Meanwhile, from 8.4, block 1 is decoded (400 bytes); block 0 from 9.2 to 9.6.
    """
    device, network = Times(1.0, 2.0, 0.0, 1e-3), Switch(200.0, 0.0)
    strategy = AllReduce(0.0, compression="top_k", density=0.1)
    outcome = done(job(strategy, 2, 1, device, network, chain(2)))
    spans = [(c.name, c.begun, c.ended) for c in outcome.traces[0].compute if c.name != "apply"]
    expected = [
        ("gradient[1:2]", 0.0, 4.0),
        ("encode", 4.0, 5.0),
        ("decode", 5.0, 5.2),
        ("gradient[0:1]", 5.2, 7.2),
        ("encode", 7.2, 8.2),
        ("decode", 8.2, 8.4),
        ("decode", 8.4, 8.8),
        ("decode", 9.2, 9.6),
    ]
    assert sorted(spans, key=lambda span: span[1]) == [
        (name, pytest.approx(begun), pytest.approx(ended)) for name, begun, ended in expected
    ]
    assert outcome.seconds == pytest.approx(9.6)


def test_a_second_round_begins_when_it_is_awaited() -> None:
    """One block, a matrix of 25 x 10 of rank 2: 50 + 20 scalars. Forward 1 s, backward 2 s, 1 s for 1,000 bytes.

    Encoded from 3 to 4; 200 bytes are all-reduced by two ranks in 1 s; 1,200 bytes are encoded until 6.2; 80 bytes are
    all-reduced in .4 s and 280 bytes decoded in .28 s.
    """
    plain = chain()
    model = replace(plain, blocks=(replace(plain.blocks[0], shapes=((25, 10),)),))
    strategy = AllReduce(compression="powersgd", compression_rank=2)
    outcome = done(job(strategy, 2, 1, Times(1.0, 2.0, 0.0, 1e-3), Switch(200.0, 0.0), model))
    assert collectives(outcome) == [("all_reduce", 200.0), ("all_reduce", 80.0)]
    assert outcome.seconds == pytest.approx(6.88)


def test_a_server_takes_the_bytes_of_the_codes() -> None:
    scalars = 12 * 9 + 12 + 24 * 108 + 24 + 10 * 24 + 10
    half = ceil(scalars / 2)
    for codec, whole, each in [
        ({}, 8 * scalars, 8 * half),
        (CODECS[0], 16 * ceil(0.03 * scalars), 16 * ceil(0.03 * half)),
        (CODECS[1], 2 * scalars, 2 * half),
    ]:
        for servers, size in [(1, whole), (2, each)]:
            trace = run(AsyncPS(servers=servers, **codec), CONV, 2, 4, is_modeled=True).traces[0]
            found = {t.nbytes for t in trace.transfers if t.kind == "send" and t.channel.endswith("gradient")}
            assert found <= {size, 0.0}  # a worker that leaves signals
            assert size in found


# ---- configuration


def test_problems() -> None:
    model = chain()
    assert [p.key for p in AllReduce(density=0.0).problems(2, model)] == ["strategy.density"]
    assert [p.key for p in AllReduce(density=1.1, compression_rank=0).problems(2, model)] == [
        "strategy.density",
        "strategy.compression_rank",
    ]
    (problem,) = SyncPS(compression="powersgd").problems(2, model)
    assert (problem.key, problem.value) == ("strategy.compression", "powersgd")
    keys = [p.key for p in Hybrid(tensor=2, stages=1, sharded=True, compression="top_k").problems(4, MLP.model())]
    assert keys[:2] == ["strategy.compression", "strategy.compression"]
    assert not list(Hybrid(tensor=2, stages=1, compression="powersgd").problems(4, MLP.model()))
    assert not list(SyncPS(compression="fp16").problems(2, model))
    assert not list(AllReduce(density=1.0, compression_rank=1, compression="powersgd").problems(2, model))
