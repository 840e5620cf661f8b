"""Shards of regions in every mode: reading, loading, updating, accumulating, releasing, gathering."""

import pytest

from contract.kit import plain
from distsim.interface import ALL, SGD, AdamW, Batch, Budget, Region, StrategyError

FIRST, BOTH = Region((0,)), Region((0, 1))
ODD = Region((0, 1), 3)
"""[1, ..., 8] in three pieces of three, the last padded by one zero: the second lies in both blocks."""


async def reads(worker, note):
    for shard in BOTH.cut(3):
        note("piece", worker.read(shard))
    note("joined", worker.read(ODD))


def test_a_region_is_cut_into_equal_pieces_the_last_padded(mode):
    ran = mode.run(reads)
    for notes in ran.notes:
        assert notes["piece"] == [mode.payload(x) for x in ([1.0, 2.0, 3.0], [4.0, 5.0, 6.0], [7.0, 8.0, 0.0])]
        assert notes["joined"] == [mode.payload([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 0.0])]


async def gathers(worker, note):
    """Each rank changes its shard, and all gather the whole."""
    mine = BOTH.cut(2)[worker.rank]
    worker.release(mine)
    worker.load(worker.read(mine) * 10.0, mine)
    worker.load(await worker.all_gather(worker.read(mine)), mine.joined)
    note("whole", worker.read())


def test_gathered_shards_are_the_model(mode):
    ran = mode.run(gathers)
    assert ran.all("whole") == [[mode.payload([10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0])]] * 2


async def gathers_unevenly(worker, note):
    mine = Region((0, 1), 3).cut(3)[worker.rank]
    worker.release(mine)
    worker.load(await worker.all_gather(worker.read(mine)), mine.joined)
    note("whole", worker.read())


def test_padding_is_not_loaded(mode):
    ran = mode.run(gathers_unevenly, ranks=3)
    assert ran.all("whole") == [[mode.payload([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])]] * 3


async def updates_its_shard(worker, note):
    """ZeRO in small: reduce-scatter, update of a shard, all-gather."""
    mine = BOTH.cut(2)[worker.rank]
    for _ in worker.steps():
        total = worker.read() * 0.0 + 1.0 + worker.rank
        g = await worker.reduce_scatter(total, "sum")
        await worker.apply(g, mine)
        worker.load(await worker.all_gather(worker.read(mine)), mine.joined)
    note("whole", worker.read())
    note("version", worker.version)


@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_shards_are_updated_apart_and_make_the_whole(mode, momentum):
    # The gradient is 3 everywhere, the rate 1: less 3 and 3, with momentum 3 and 4.5.
    ran = mode.run(updates_its_shard, budget=Budget(updates=2), optimizer=SGD(1.0, momentum))
    less = 7.5 if momentum else 6.0
    assert ran.all("whole") == [[mode.payload([value - less for value in range(1, 9)])]] * 2
    assert ran.all("version") == [[2]] * 2


async def accumulates(worker, note):
    mine = BOTH.cut(2)[worker.rank]
    ones = worker.read() * 0.0 + 1.0
    worker.accumulate(ones * 2.0)
    note("of its shard", worker.accumulated(mine))
    worker.accumulate(worker.cut(ones, 2)[0], mine)
    worker.accumulate(worker.cut(ones, 2)[0], mine)
    note("of its shard", worker.accumulated(mine))
    worker.accumulate(ones)
    note("of blocks", worker.accumulated())
    worker.zero(BOTH)
    note("of blocks", worker.accumulated())
    note("of its shard", worker.accumulated(mine) * 2.0)
    worker.zero()
    note("of its shard", worker.accumulated(mine))


def test_what_shards_accumulate_is_kept_apart(mode):
    ran = mode.run(accumulates)
    for notes in ran.notes:
        assert notes["of its shard"] == [mode.payload([x] * 4) for x in (2.0, 2.0, 4.0, 0.0)]
        assert notes["of blocks"] == [mode.payload([x] * 8) for x in (3.0, 0.0)]


async def uses_two_optimizers(worker, note):
    zero = worker.read() * 0.0
    outer = SGD(0.5, momentum=0.5)
    for _ in range(2):
        await worker.apply(zero + 1.0)
        await worker.apply(zero + 1.0, optimizer=outer)
        await worker.apply(zero + 1.0, optimizer=outer, scale=2.0)
    note("whole", worker.read())


def test_each_optimizer_has_its_own_state(mode):
    # The run's own: less 1 and 1. The outer: velocities 1, 1.5, 1.75, 1.875, at rates .5 and 1 in turn.
    less = 2.0 + 0.5 * 1.0 + 1.5 + 0.5 * 1.75 + 1.875
    ran = mode.run(uses_two_optimizers, ranks=1)
    assert ran.notes[0]["whole"] == [mode.payload([value - less for value in range(1, 9)])]


async def cuts(worker, note):
    for pieces in (1, 2, 3, 8, 9):
        note("pieces", [plain(piece) for piece in worker.cut(worker.read(), pieces)])


def test_a_payload_is_cut_into_equal_pieces(mode):
    ran = mode.run(cuts, ranks=1)
    for pieces, found in zip((1, 2, 3, 8, 9), ran.notes[0]["pieces"], strict=True):
        size = -(-8 // pieces)
        padded = [*map(float, range(1, 9)), *[0.0] * (size * pieces - 8)]
        assert found == [mode.payload(padded[size * i : size * (i + 1)]) for i in range(pieces)]


async def runs_what_it_released(worker, note):
    worker.release(FIRST.cut(2)[worker.rank])
    await worker.gradient(Batch(0, worker.rank, 2))


async def reads_what_it_released(worker, note):
    worker.release(BOTH.cut(2)[worker.rank])
    worker.read(BOTH.cut(2)[1 - worker.rank])


async def releases_everything(worker, note):
    worker.release(ALL)


async def loads_another_size(worker, note):
    worker.load(worker.read(FIRST), ODD)


@pytest.mark.parametrize(
    ("program", "says"),
    [
        (runs_what_it_released, "block 0 is released and cannot run until the next load"),
        (reads_what_it_released, "is released, only shard"),
        (releases_everything, "must name the shard that stays"),
        (loads_another_size, "load of shards of 3 of blocks [0, 1] takes 72 bytes, it was given 32"),
    ],
)
def test_misuse_is_refused_in_every_mode(mode, program, says):
    assert says in mode.run(program, status="failed").outcome.message


async def weighs(worker, note):
    mine = BOTH.cut(4)[worker.rank]
    await worker.apply(worker.read(mine), mine)
    worker.release(mine)
    worker.accumulate(worker.read(mine), mine)


def test_the_peak_of_memory_is_noted(mode):
    """8 scalars of 8 bytes, and of a quarter of them two moments; the gradient comes when little is left."""
    ran = mode.run(weighs, optimizer=AdamW())
    for trace in ran.outcome.traces:
        assert trace.peak == (64, 0, 32, 0, 0)


async def publishes_shards(worker, note):
    for _ in worker.steps():
        worker.publish(BOTH.cut(2)[worker.rank])


def test_a_shard_may_be_published(mode):
    ran = mode.run(publishes_shards, budget=Budget(updates=1), samples_between_snapshots=8)
    pieces = sorted((p.region.shard, plain(p.values)) for s in ran.outcome.snapshots for p in s.pieces)
    assert pieces == [(0, mode.payload([1.0, 2.0, 3.0, 4.0])), (1, mode.payload([5.0, 6.0, 7.0, 8.0]))]


def test_a_shard_that_does_not_exist_cannot_be_named():
    with pytest.raises(StrategyError, match="no shard 3 of 3"):
        Region((0,), 3, 3)
