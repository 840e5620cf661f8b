"""Collectives: what comes out, on which rank, and that it is that rank's own."""

import pytest

from contract.kit import block, constant
from distsim.interface import Batch


async def every_kind(worker, note):
    x = block(worker, worker.rank + 1.0)  # [1, 2, 3, 4] and [2, 4, 6, 8]
    note("mean", await worker.all_reduce(x))
    note("sum", await worker.all_reduce(x, "sum"))
    note("part of mean", await worker.reduce_scatter(x))
    note("part of sum", await worker.reduce_scatter(x, "sum"))
    note("all", await worker.all_gather(x))
    note("from 1", await worker.broadcast(x, 1))
    note("from 0", await worker.broadcast(x, 0))
    note("mean to 1", await worker.reduce(x, 1))
    note("sum to 0", await worker.reduce(x, 0, "sum"))
    note("exchanged", await worker.all_to_all(x))
    note("barrier", await worker.barrier())
    note("given", x)


def test_results_of_all_kinds(mode):
    ran = mode.run(every_kind)
    for rank, (part_of_mean, part_of_sum) in enumerate([([1.5, 3.0], [3.0, 6.0]), ([4.5, 6.0], [9.0, 12.0])]):
        assert ran.notes[rank] == {
            "mean": [mode.payload([1.5, 3.0, 4.5, 6.0])],
            "sum": [mode.payload([3.0, 6.0, 9.0, 12.0])],
            "part of mean": [mode.payload(part_of_mean)],
            "part of sum": [mode.payload(part_of_sum)],
            "all": [mode.payload([1.0, 2.0, 3.0, 4.0, 2.0, 4.0, 6.0, 8.0])],
            "from 1": [mode.payload([2.0, 4.0, 6.0, 8.0])],
            "from 0": [mode.payload([1.0, 2.0, 3.0, 4.0])],
            "mean to 1": [mode.payload([1.5, 3.0, 4.5, 6.0] if rank == 1 else [])],
            "sum to 0": [mode.payload([3.0, 6.0, 9.0, 12.0] if rank == 0 else [])],
            "exchanged": [mode.payload([3.0, 4.0, 6.0, 8.0] if rank else [1.0, 2.0, 2.0, 4.0])],
            "barrier": [None],
            "given": [mode.payload([r * (rank + 1.0) for r in (1.0, 2.0, 3.0, 4.0)])],
        }


async def overwrites(worker, note):
    x = block(worker, worker.rank + 1.0)
    mean = worker.all_reduce(x, in_place=True)
    note("one memory", (await mean) is x)
    note("mean", x)
    note("sum", await worker.all_reduce(block(worker, worker.rank + 1.0), "sum", in_place=True))


def test_an_all_reduce_in_place_gives_every_rank_its_own_payload_back(mode):
    for notes in mode.run(overwrites).notes:
        assert notes["mean"] == [mode.payload([1.5, 3.0, 4.5, 6.0])]
        assert notes["sum"] == [mode.payload([3.0, 6.0, 9.0, 12.0])]
        assert notes["one memory"] == [True]


async def overwrites_what_the_backward_needs(worker, note):
    batch = Batch(0)
    y = await worker.forward(0, worker.input(batch), batch)
    z = await worker.forward(1, y, batch)  # torch keeps y
    await worker.all_reduce(y, "sum", in_place=True)
    await worker.backward(1, await worker.loss(z, batch), batch)


def test_what_a_backward_needs_is_not_to_be_overwritten(mode):
    """gloo and NCCL write where torch does not see it: the gradient would be another, without a word."""
    ran = mode.run(overwrites_what_the_backward_needs, status="failed" if mode.mode.has_values else "done")
    assert not mode.mode.has_values or "modified by an inplace operation" in ran.outcome.message


async def of_other_shapes(worker, note):
    x = block(worker, worker.rank + 1.0)  # sums are [3, 6, 9, 12]
    note("rows", await worker.reduce_scatter(x.reshape(2, 2), "sum"))
    note("a row", await worker.reduce_scatter(x.reshape(1, 4), "sum"))
    note("odd", await worker.reduce_scatter(x[[0, 1, 2, 3, 0, 1]].reshape(3, 2), "sum"))
    note("exchanged", await worker.all_to_all(x.reshape(2, 2)))
    note("numbers", await worker.all_gather(x[0]))


def test_parts_of_payloads_of_rows_are_equal(mode):
    """They are rows, if these divide, else scalars; a byte count has no rows."""
    if not mode.mode.has_values:
        return
    zero, one = mode.run(of_other_shapes).notes
    assert zero == {
        "rows": [[[3.0, 6.0]]],
        "a row": [[3.0, 6.0]],
        "odd": [[3.0, 6.0, 9.0]],
        "exchanged": [[1.0, 2.0, 2.0, 4.0]],
        "numbers": [[1.0, 2.0]],
    }
    assert one == {
        "rows": [[[9.0, 12.0]]],
        "a row": [[9.0, 12.0]],
        "odd": [[12.0, 3.0, 6.0]],
        "exchanged": [[3.0, 4.0, 6.0, 8.0]],
        "numbers": [[1.0, 2.0]],
    }


async def results_changed(worker, note):
    x = block(worker)
    for collective in (worker.all_reduce, worker.all_gather, lambda x: worker.broadcast(x, 0), worker.all_to_all):
        result = await collective(x)
        result += worker.rank + 1.0  # in place: nobody else may see it
        await worker.all_reduce(constant(worker, 0.0))  # now all have changed theirs
        note("changed", result)
    note("given", x)


def test_a_result_is_the_ranks_own(mode):
    ran = mode.run(results_changed)
    given = [1.0, 2.0, 3.0, 4.0]
    for rank, notes in enumerate(ran.notes):
        one = mode.payload([value + rank + 1.0 for value in given])
        exchanged = mode.payload([value + rank + 1.0 for value in given[2 * rank :][:2] * 2])
        assert notes["changed"] == [one, mode.payload([value + rank + 1.0 for value in given * 2]), one, exchanged]
        assert notes["given"] == [mode.payload(given)]


async def alone(worker, note):
    x = block(worker)
    for result in (worker.all_reduce(x), worker.reduce_scatter(x), worker.all_gather(x), worker.broadcast(x, 0)):
        note("result", await result)
    for result in (worker.reduce(x, 0), worker.all_to_all(x)):
        note("result", await result)
    await worker.barrier()
    note("now", worker.now)


def test_a_group_of_one_gets_what_it_gave(mode):
    ran = mode.run(alone, ranks=1)
    assert ran.notes[0]["result"] == [mode.payload([1.0, 2.0, 3.0, 4.0])] * 6


def test_a_group_of_one_takes_no_time(exact):
    assert exact.run(alone, ranks=1).notes[0]["now"] == [0.0]


async def of_four(worker, note):
    x = block(worker, 10.0**worker.rank)
    note("sum", await worker.all_reduce(x, "sum"))
    note("part", await worker.reduce_scatter(x, "sum"))
    note("now", worker.now)


def test_a_group_of_four(mode):
    ran = mode.run(of_four, ranks=4)
    assert ran.all("sum") == [[mode.payload([1111.0, 2222.0, 3333.0, 4444.0])]] * 4
    assert ran.all("part") == [[mode.payload([value])] for value in (1111.0, 2222.0, 3333.0, 4444.0)]


async def late(worker, note):
    if worker.rank == 1:
        await worker.gradient(Batch(0))  # 6 s
    await worker.barrier()
    note("now", worker.now)


def test_a_barrier_waits_for_all(exact):
    assert exact.run(late, ranks=3).all("now") == [[6.0]] * 3


async def past_the_barrier(worker, note):
    flag = worker.receive(1) if worker.rank == 0 else None
    if worker.rank == 1:
        worker.post(None, 0)
    await worker.barrier()
    if flag is not None:
        note("received", (await flag).source)


def test_what_was_posted_before_a_barrier_can_be_received_after_it(mode):
    assert mode.run(past_the_barrier).notes[0]["received"] == [1]


async def reduced_early(worker, note):
    if worker.rank == 2:
        await worker.gradient(Batch(0))
    x = block(worker, 10.0**worker.rank)
    result = await worker.reduce(x, 0, "sum")
    x *= 0.0  # ours again: the sum must not change
    note("sum", result)
    y = block(worker, 10.0**worker.rank)
    copy = await worker.broadcast(y, 0)
    y *= 0.0
    note("copy", copy)


@pytest.mark.parametrize("algorithm", ["auto", "tree"])
def test_who_is_over_early_may_change_what_it_gave(mode, algorithm):
    ran = mode.run(reduced_early, ranks=3, options={"algorithm": algorithm})
    assert ran.notes[0]["sum"] == [mode.payload([111.0, 222.0, 333.0, 444.0])]
    assert ran.all("copy") == [[mode.payload([1.0, 2.0, 3.0, 4.0])]] * 3


async def timed(worker, note):
    x = worker.read()  # 64 bytes: 2 s over a link
    for work in (worker.all_reduce(x), worker.reduce_scatter(x), worker.all_gather(x), worker.broadcast(x, 1)):
        before = worker.now
        await work
        note("took", worker.now - before)


@pytest.mark.parametrize("collectives", ["price", "flows"])
def test_rings_take_their_rounds(exact, collectives):
    # n = 4: an all-reduce and a broadcast take 6 rounds of a quarter, a reduce-scatter 3, an all-gather 3 of the whole.
    ran = exact.run(timed, ranks=4, options={"collectives": collectives})
    assert ran.all("took") == [[3.0, 1.5, 6.0, 3.0]] * 4


async def last_to_join(worker, note):
    if worker.rank == 0:
        await worker.compute("late", lambda x: x, block(worker, 1.0))
    await worker.all_reduce(block(worker))
    note("now", worker.now)


@pytest.mark.parametrize("collectives", ["price", "flows"])
def test_a_collective_takes_its_time_from_the_last_to_join(exact, collectives):
    assert exact.run(last_to_join, options={"collectives": collectives}).all("now") == [[2.0], [2.0]]
