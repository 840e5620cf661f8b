"""Encoding, decoding and cutting payloads: what comes out, how many bytes travel, how long it takes, what is refused."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import pytest

from contract.kit import FIRST, block
from contract.tiny import Tiny
from distsim.interface import Batch, Block, Half, Model, PowerSGD, Region, StrategyError, TopK

if TYPE_CHECKING:
    from distsim.workloads.task import Task

ONE_TO_EIGHT = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]


@dataclass(frozen=True)
class Product(Tiny):
    """One block x -> W x + b of 4 x 4 weights and 4 biases. Samples are ones and the loss is the sum of (i + 1) y_i, so the
    gradient of W has the rows [1, 1, 1, 1], [2, 2, 2, 2], ... and that of b is [1, 2, 3, 4]."""

    def model(self) -> Model:
        return Model((Block(0, "scale", 20, 4, 4, 4.0, 0.0, 4.0, shapes=((4, 4), (4,))),), self.batch, 4, itemsize=8)

    def task(self, seed: int) -> "Task":
        import torch
        from torch import nn

        from distsim.workloads.task import Data, Task

        linear = nn.Linear(4, 4, dtype=torch.float64)
        nn.init.zeros_(linear.weight)
        nn.init.zeros_(linear.bias)
        weights = torch.arange(1.0, 5.0, dtype=torch.float64)
        data = Data(torch.ones(64, 4, dtype=torch.float64), torch.zeros(64))
        return Task([linear], data, lambda y, target: (y * weights).sum(dim=1).mean(), seed, self.batch)


def sent(ran, rank=0):
    """Kind and bytes of what a rank sent, in order."""
    return [(t.kind, t.nbytes) for t in ran.outcome.traces[rank].transfers if t.kind != "receive"]


async def top_k(density, worker, note):
    other, codec = 1 - worker.rank, TopK(density)
    x = worker.read() * (-1.0) ** worker.rank * (worker.rank + 1.0)  # [1 ... 8] and [-2 ... -16]
    code = await worker.encode(codec, x)
    codes = await worker.all_gather(code)
    arriving, sending = worker.receive(other, "code"), worker.send(code, other, "code")
    note("own", await worker.decode(codec, [code]))
    note("other", await worker.decode(codec, [(await arriving).payload]))
    note("mean", await worker.decode(codec, [codes], codes=2))
    await sending
    note("given", x)


@pytest.mark.parametrize(("density", "kept"), [(0.01, 1), (0.25, 2), (0.26, 3), (1.0, 8)])
def test_top_k_sends_the_largest_scalars_and_their_places(mode, density, kept):
    ran = mode.run(partial(top_k, density))
    largest = [0.0] * (8 - kept) + ONE_TO_EIGHT[8 - kept :]
    of_1 = [-2.0 * x for x in largest]
    for rank, (own, other, factor) in enumerate([(largest, of_1, 1.0), (of_1, largest, -2.0)]):
        assert ran.notes[rank] == {
            "own": [mode.payload(own)],
            "other": [mode.payload(other)],
            "mean": [mode.payload([-x / 2 for x in largest])],
            "given": [mode.payload([factor * x for x in ONE_TO_EIGHT])],
        }
        assert sent(ran, rank) == [("all_gather", 2 * kept * 8), ("send", 2 * kept * 8)]


async def places_of_a_region(worker, note):
    second = Region((1,))
    code = await worker.encode(TopK(0.5), worker.read(second), second)
    note("decoded", await worker.decode(TopK(0.5), [code], second))
    shard = Region(None, 3, 2)  # [7, 8] and a zero
    code = await worker.encode(TopK(0.1), worker.read(shard), shard)
    note("shard", await worker.decode(TopK(0.1), [code], shard))


def test_top_k_of_a_block_and_of_a_shard(mode):
    notes = mode.run(places_of_a_region, ranks=1).notes[0]
    assert notes == {"decoded": [mode.payload([0.0, 0.0, 7.0, 8.0])], "shard": [mode.payload([0.0, 8.0, 0.0])]}


async def half_sums(worker, note):
    x = worker.read() * 0.0 + (0.1 if worker.rank else 1024.25)
    code = await worker.encode(Half(), x)
    note("own", await worker.decode(Half(), [code]))
    note("sum", await worker.decode(Half(), [await worker.all_reduce(code, "sum")]))
    note("mean", await worker.decode(Half(), [await worker.all_reduce(code)]))


def test_half_precision_rounds_and_adds_as_ieee_754_says(mode):
    # Its steps are 2^-14 from 1/16 to 1/8, and 1 from 1,024 to 2,048: the tenth is lost in the sum.
    total, tenth = 1024.0, round(0.1 * 2.0**14) / 2.0**14
    ran = mode.run(half_sums)
    for rank, own in enumerate((1024.0, tenth)):
        assert ran.notes[rank] == {
            "own": [mode.payload([own] * 8)],
            "sum": [mode.payload([total] * 8)],
            "mean": [mode.payload([total / 2] * 8)],
        }
        assert sent(ran, rank) == [("all_reduce", 16.0)] * 2


async def half_both_ways(worker, note):
    arriving = worker.receive(1 - worker.rank)
    sending = worker.send(await worker.encode(Half(), worker.read() + 0.1), 1 - worker.rank)
    note("other", await worker.decode(Half(), [(await arriving).payload]))
    await sending
    codes = await worker.all_gather(await worker.encode(Half(), worker.read() * (worker.rank + 1.0)))
    note("mean", await worker.decode(Half(), [codes], codes=2))


def test_half_precision_through_messages_and_gathers(mode):
    ran = mode.run(half_both_ways)
    # Steps of half precision: 2^-10 from 1 to 2, 2^-9 to 4, 2^-8 to 8, 2^-7 to 16.
    steps = [2.0**-10, 2.0**-9, 2.0**-9, *[2.0**-8] * 4, 2.0**-7]
    rounded = [round((x + 0.1) / step) * step for x, step in zip(ONE_TO_EIGHT, steps, strict=True)]
    assert ran.all("other") == [[mode.payload(rounded)]] * 2
    assert ran.all("mean") == [[mode.payload([1.5 * x for x in ONE_TO_EIGHT])]] * 2
    assert sent(ran) == [("send", 16.0), ("all_gather", 16.0)]


async def power_sgd(rank, worker, note):
    codec = PowerSGD(rank)
    for step in range(2):
        g = await worker.gradient(Batch(step, worker.rank, 2)) * (worker.rank + 1.0)
        first = await worker.all_reduce(await worker.encode(codec, g))
        second = await worker.all_reduce(await worker.encode(codec, g, received=[first]))
        decoded = await worker.decode(codec, [first, second])
        note("error", decoded - g * (1.5 / (worker.rank + 1.0)))
    note("decoded", decoded)


@pytest.mark.parametrize("rank", [1, 2])
def test_power_sgd_is_exact_for_a_gradient_of_its_rank(mode, rank):
    # (4 + 4) 1 scalars in place of 16; (4 + 4) 2 are not fewer, and then all 20 travel in the first round.
    ran = mode.run(partial(power_sgd, rank), workload=Product())
    sizes = [8.0 * (4 + 4), 8.0 * 4] if rank == 1 else [8.0 * 20, 0.0]
    for notes in ran.notes:
        if mode.mode.has_values:
            assert max(abs(x) for error in notes["error"] for x in error) < 1e-13
        else:
            assert notes == {"error": [160, 160], "decoded": [160]}
    assert sent(ran) == [("all_reduce", size) for size in sizes * 2]
    assert ran.notes[0]["decoded"] == ran.notes[1]["decoded"]


async def power_sgd_of_zeros(worker, note):
    g = await worker.gradient(Batch(0)) * 0.0
    for _ in range(2):
        first = await worker.encode(PowerSGD(1), g)
        note("zeros", await worker.decode(PowerSGD(1), [first, await worker.encode(PowerSGD(1), g, received=[first])]))
    g = await worker.gradient(Batch(0))
    for _ in range(2):  # the first Q after zeros need not have its direction
        first = await worker.encode(PowerSGD(1), g)
        decoded = await worker.decode(PowerSGD(1), [first, await worker.encode(PowerSGD(1), g, received=[first])])
    note("error", decoded - g)


def test_power_sgd_recovers_from_a_gradient_of_zeros(mode):
    (notes,) = mode.run(power_sgd_of_zeros, ranks=1, workload=Product()).notes
    assert notes["zeros"] == [mode.payload([0.0] * 20)] * 2
    if mode.mode.has_values:
        assert max(abs(x) for x in notes["error"][0]) < 1e-13


async def cuts(worker, note):
    x = worker.read()
    for pieces in (1, 2, 3, 5):
        for piece in worker.cut(x, pieces):
            note(f"of {pieces}", piece)
    note("now", worker.now)


def test_a_cut_gives_equal_pieces_padded_with_zeros(mode):
    (notes,) = mode.run(cuts, ranks=1).notes
    padded = [*ONE_TO_EIGHT, 0.0, 0.0]
    for pieces, size in ((1, 8), (2, 4), (3, 3), (5, 2)):
        expected = [padded[i * size : (i + 1) * size] for i in range(pieces)]
        assert notes[f"of {pieces}"] == [mode.payload(piece) for piece in expected]


def test_a_cut_takes_no_time(exact):
    assert exact.run(cuts, ranks=1).notes[0]["now"] == [0.0]


async def timed(worker, note):
    for codec in (TopK(0.25), Half(), PowerSGD(1)):
        received = []
        for _ in codec.rounds:
            received.append(await worker.encode(codec, worker.read(), received=received))
            note("now", worker.now)
        await worker.decode(codec, received)
        note("now", worker.now)


def test_codecs_cost_the_bytes_of_what_they_are_given(exact):
    # A block's 32 bytes take 1 s. 64 bytes are encoded in 2 s; codes have 32, 16, and 64 and 0 bytes (no matrices here).
    ran = exact.run(timed, ranks=1)
    assert ran.notes[0]["now"] == [2.0, 3.0, 5.0, 5.5, 7.5, 11.5, 13.5]
    assert [c.name for c in ran.outcome.traces[0].compute] == ["encode", "decode"] * 2 + ["encode", "encode", "decode"]


async def misused(worker, note):
    x = worker.read()
    code = await worker.encode(TopK(0.25), x)
    for begin in (
        lambda: worker.encode(TopK(0.25), x, FIRST),
        lambda: worker.encode(TopK(0.25), x, received=[code]),
        lambda: worker.decode(TopK(0.25), []),
        lambda: worker.decode(TopK(0.25), [x]),
        lambda: worker.decode(TopK(0.25), [code], codes=2),
        lambda: worker.decode(Half(), [code]),
        lambda: worker.encode(PowerSGD(1), x, received=[code]),
        lambda: worker.decode(PowerSGD(1), [x, x]),
        lambda: worker.decode(PowerSGD(1), [x, block(worker)], codes=2),
    ):
        try:
            await begin()
        except StrategyError as error:
            note("error", str(error))


def test_the_same_misuse_is_refused_in_the_same_words(mode):
    (notes,) = mode.run(misused, ranks=1).notes
    assert notes["error"] == [
        "encode of blocks [0] takes 32 bytes, it was given 64",
        "encode: TopK has 1 rounds, and 1 of them have results",
        "decode: TopK has 1 rounds, and 0 of them have results",
        "decode: the results of TopK have [32] bytes, these [64]",
        "decode: the results of TopK have [64] bytes, these [32]",
        "decode: the results of Half have [16] bytes, these [32]",
        "encode: the results of PowerSGD have [64] bytes, these [32]",
        "decode: the results of PowerSGD have [64, 0] bytes, these [64, 64]",
        "decode: PowerSGD cannot decode 2 codes at once",
    ]
