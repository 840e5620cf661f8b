"""Compressed gradients on real ranks: as in cosimulation, as torch's own hooks, and no bit of a code changed on the way."""

from __future__ import annotations

from functools import partial
from itertools import product

import pytest
import torch
from contract.kit import REAL, Bench
from contract.tiny import DEVICE

from distsim.backends.real import RealOptions, launch
from distsim.backends.simulated import simulate
from distsim.interface import SGD, Budget, Cluster, Job, Region, Switch
from distsim.numerics.tensors import TensorsFactory
from distsim.strategies.all_reduce import AllReduce
from distsim.strategies.parameter_server import SyncPS
from distsim.workloads.user_module import UserModule

from . import ddp

CONV, CONV_SINGLE = (UserModule(f"oracles.small_conv:{name}", batch=12) for name in ("build", "build_single"))
RATE, STEPS, SEED = 0.2, 10, 3
CODECS = [
    {"compression": "top_k", "density": 0.03},
    {"compression": "fp16"},
    {"compression": "powersgd", "compression_rank": 2},
    {"compression": "powersgd", "compression_rank": 4, "error_feedback": False},
]


def job(strategy, workload=CONV, workers=2):
    numerics = TensorsFactory(workload, workers, SGD(RATE), SEED)
    cluster = Cluster(workers, strategy.server_count(workers), DEVICE, Switch(1e9, 1e-5))
    return Job(strategy, workload.model(), cluster, Budget(updates=STEPS), numerics, seed=SEED)


def weights(outcome):
    """The flat weights of all ranks, which must be equal."""
    assert (outcome.status, outcome.message) == ("done", "")
    first, *others = (torch.cat([found[b] for b in sorted(found)]) for found in outcome.weights)
    assert others
    assert all(torch.equal(first, other) for other in others)
    return first


def start(workload):
    numerics = TensorsFactory(workload, 2, SGD(RATE), SEED)(0)
    return numerics.read(Region())


# Halves are summed as halves, by four ranks in an order of the collective's own: there only a server's sum is compared.
OF_FOUR = [codec for codec in CODECS if codec["compression"] != "fp16"]


@pytest.mark.parametrize(
    ("codec", "workers", "bucket_bytes"),
    [*product(CODECS, (2,), (3000.0, 25e6)), *product(OF_FOUR, (4,), (3000.0,))],
    ids=lambda value: value["compression"] if isinstance(value, dict) else str(value),
)
def test_real_weights_are_cosimulated_weights(codec, workers, bucket_bytes, tmp_path):
    strategy = AllReduce(bucket_bytes, **codec)
    expected = weights(simulate(job(strategy, workers=workers)))
    moved = (expected - start(CONV)).abs().max()
    assert moved > 0.01
    found = weights(launch(job(strategy, workers=workers), RealOptions(device="cpu"), tmp_path))
    assert (found - expected).abs().max() <= 1e-12 * moved


@pytest.mark.parametrize("workers", [2, 4])
@pytest.mark.parametrize("codec", CODECS[:2], ids=lambda codec: codec["compression"])
def test_a_real_server_decodes_as_a_cosimulated_one(codec, workers, tmp_path):
    jobs = [job(SyncPS(**codec), workers=workers) for _ in range(2)]
    expected, found = simulate(jobs[0]), launch(jobs[1], RealOptions(device="cpu"), tmp_path)
    assert (found.status, found.message) == ("done", "")
    a, b = (torch.cat([outcome.weights[workers][block] for block in range(3)]) for outcome in (expected, found))
    assert (a - b).abs().max() <= 1e-12 * (a - start(CONV)).abs().max()


TOLERANCE = {CONV: 1e-10, CONV_SINGLE: 1e-5}
"""Relative to the update: the products of matrices are taken in another order, and one or two columns are made orthogonal
by another algorithm."""


WORKLOADS = pytest.mark.parametrize("workload", [CONV, CONV_SINGLE], ids=["float64", "float32"])


@pytest.fixture(scope="module")
def torchs(tmp_path_factory):
    """The weights that torch's hooks lead to."""
    cases = [
        ddp.Case(workload, rank, has_feedback)
        for workload in (CONV, CONV_SINGLE)
        for rank, has_feedback in [(0, False), *product((1, 2, 4), (True, False))]
    ]
    return ddp.train(tmp_path_factory.mktemp("ddp"), cases, RATE, STEPS)


@WORKLOADS
@pytest.mark.parametrize("has_feedback", [True, False])
@pytest.mark.parametrize("rank", [1, 2, 4])
def test_power_sgd_is_torchs(workload, rank, has_feedback, torchs):
    expected = torchs[ddp.Case(workload, rank, has_feedback)]
    strategy = AllReduce(compression="powersgd", compression_rank=rank, error_feedback=has_feedback)
    moved = (expected - start(workload)).abs().max()
    assert moved > 0.01
    assert (weights(simulate(job(strategy, workload))) - expected).abs().max() <= TOLERANCE[workload] * moved


@WORKLOADS
def test_half_precision_is_torchs(workload, torchs):
    expected = torchs[ddp.Case(workload)]
    strategy = AllReduce(compression="fp16", error_feedback=False)
    moved = (expected - start(workload)).abs().max()
    found = weights(simulate(job(strategy, workload)))
    assert (found - expected).abs().max() <= {CONV: 1e-12, CONV_SINGLE: 1e-5}[workload] * moved


PLACES = {
    torch.float32: (torch.int32, [0, 1, 7, 2**23 + 5, 0x7F800001, 0x7FC00000, -1, -(2**31)]),
    torch.float64: (torch.int64, [0, 1, 7, 2**52 + 5, 0x7FF0000000000001, 0x7FF8000000000000, -1, -(2**63)]),
}
"""Whole numbers that are denormal, signalling and other NaNs, minus zero where their bits are read as a float."""


async def bits(dtype, copies, worker, note):
    whole, values = PLACES[dtype]
    expected = torch.tensor(values, dtype=whole).repeat(copies)
    x, other = expected.view(dtype) if worker.rank == 0 else (expected * 1).flip(0).view(dtype), 1 - worker.rank
    mine = x.view(whole).clone()
    both = [mine, mine.flip(0)] if worker.rank == 0 else [mine.flip(0), mine]
    for _ in range(2):  # large payloads travel in another way the second time
        arriving, sending = worker.receive(other, "bits"), worker.send(x, other, "bits")
        note("message", torch.equal((await arriving).payload.view(whole), both[other]))
        await sending
        worker.post(x, other, "posted")
        note("posted", torch.equal((await worker.receive(other, "posted")).payload.view(whole), both[other]))
    note("gathered", torch.equal((await worker.all_gather(x)).view(whole), torch.cat(both)))
    note("broadcast", torch.equal((await worker.broadcast(x, 1)).view(whole), both[1]))
    note("given", torch.equal(x.view(whole), mine))
    note("nothing", (await worker.all_gather(x[:0])).numel() == 0)


@pytest.mark.parametrize("copies", [1, 20_000])
@pytest.mark.parametrize("dtype", PLACES, ids=str)
def test_places_travel_bit_by_bit(dtype, copies, tmp_path):
    ran = Bench(REAL, tmp_path).run(partial(bits, dtype, copies))
    for notes in ran.notes:
        assert set(notes) == {"message", "posted", "gathered", "broadcast", "given", "nothing"}
        assert all(all(found) for found in notes.values()), notes


async def of_types(worker, note):
    other = 1 - worker.rank
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        x = torch.tensor([1.5, -2.0, 3.0, 0.25], dtype=dtype) * (worker.rank + 1)
        results = [await worker.all_reduce(x, "sum"), await worker.all_reduce(x), await worker.reduce_scatter(x, "sum")]
        results += [await worker.all_gather(x), await worker.broadcast(x, 0)]
        arriving, sending = worker.receive(other, "x"), worker.send(x, other, "x")
        results.append((await arriving).payload)
        await sending
        note("types", all(result.dtype == dtype for result in results))
        for result in results:
            note(str(dtype), result.float())


def test_payloads_keep_their_type(tmp_path):
    ran = Bench(REAL, tmp_path).run(of_types)
    x = [1.5, -2.0, 3.0, 0.25]
    thrice = [3.0 * value for value in x]
    for rank, notes in enumerate(ran.notes):
        assert notes.pop("types") == [True] * 4
        part, other = thrice[2 * rank : 2 * rank + 2], [(2.0 - rank) * value for value in x]
        expected = [thrice, [value / 2 for value in thrice], part, x + [2.0 * value for value in x], x, other]
        assert all(found == expected for found in notes.values()), notes
