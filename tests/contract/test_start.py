"""`start`: several operations in a row as one Work. The first is under way at once, the rest runs when it is awaited."""

import asyncio
import linecache

import pytest

from contract.kit import block, constant
from distsim.interface import Batch, StrategyError


def line_of(text: str) -> str:
    """`test_start.py:N` of the line of this file that ends with the comment `# text`."""
    lines = linecache.getlines(__file__)
    (number,) = [n for n, line in enumerate(lines, 1) if line.rstrip().endswith(f"  # {text}")]
    return f"test_start.py:{number}"


def double(x):
    return x * 2.0


async def two_legs(worker, factor=1.0):
    """A second of network, then a second of computing."""
    mean = await worker.all_reduce(block(worker, (worker.rank + 1.0) * factor))
    return await worker.compute("double", double, mean)


async def overlapping(worker, note):
    work = worker.start(two_legs(worker))
    note("now", worker.now)
    await worker.gradient(Batch(0, worker.rank, 2))
    note("now", worker.now)
    note("result", await work)
    note("now", worker.now)
    note("result", await work)
    note("now", worker.now)


def test_it_gives_its_result_any_number_of_times(mode):
    ran = mode.run(overlapping)
    assert ran.all("result") == [[mode.payload([3.0, 6.0, 9.0, 12.0])] * 2] * 2
    for rank in range(2):
        assert [name for name, *_ in ran.computed(rank)] == ["double", "gradient"]
        assert [transfer.kind for transfer in ran.outcome.traces[rank].transfers] == ["all_reduce"]


def test_the_first_operation_overlaps_and_the_rest_runs_when_awaited(exact):
    ran = exact.run(overlapping)
    assert ran.all("now") == [[0.0, 6.0, 7.0, 7.0]] * 2
    for rank in range(2):
        assert ran.computed(rank) == [("double", 6.0, 7.0), ("gradient", 0.0, 6.0)]
        (transfer,) = ran.outcome.traces[rank].transfers
        assert (transfer.posted, transfer.awaited, transfer.ended) == (0.0, 1.0, 1.0)  # nobody waited for it


async def several(worker, note):
    works = [worker.start(two_legs(worker, float(i))) for i in range(3)]
    for work in works:
        note("result", await work)
        note("now", worker.now)


def test_several_at_once(mode):
    ran = mode.run(several)
    assert ran.all("result") == [[mode.payload([3.0 * i * x for x in (1.0, 2.0, 3.0, 4.0)]) for i in range(3)]] * 2


def test_only_first_operations_overlap_each_other(exact):
    # All-reduces end at 1, 2 and 3 s; the doublings take 1 s each, from when they are awaited.
    assert exact.run(several).all("now") == [[2.0, 3.0, 4.0]] * 2


async def computes(worker, name):
    x = await worker.compute(name, double, block(worker))
    return await worker.all_reduce(x)


async def outer(worker, note):
    inner = worker.start(two_legs(worker))
    first = await worker.compute("first", double, block(worker))
    note("between", worker.now)
    return first + await inner


async def outer_that_waits_for_its_inner_first(worker):
    return double(await worker.start(computes(worker, "inner")))


async def nested(worker, note):
    work = worker.start(outer(worker, note))
    waiting = worker.start(outer_that_waits_for_its_inner_first(worker))
    note("now", worker.now)
    note("result", await work)
    note("now", worker.now)
    note("result", await waiting)
    note("now", worker.now)


def test_a_start_within_a_start(mode):
    ran = mode.run(nested)
    assert ran.all("result") == [[mode.payload([5.0, 10.0, 15.0, 20.0]), mode.payload([4.0, 8.0, 12.0, 16.0])]] * 2


def test_first_operations_of_nested_starts_overlap(exact):
    # `first` and `inner` are computed at 0 and 1 s, `double` at 2; the second all-reduce is called once awaited, at 3.
    ran = exact.run(nested)
    assert ran.all("now") == [[0.0, 3.0, 4.0]] * 2
    assert ran.all("between") == [[1.0]] * 2
    assert ran.computed(0) == [("double", 2.0, 3.0), ("first", 0.0, 1.0), ("inner", 1.0, 2.0)]


async def goes_past(finished, worker):
    x = await finished
    return await worker.compute("past", double, x)


async def begins_with_finished_work(worker, note):
    finished = worker.compute("finished", double, block(worker))
    await finished
    work = worker.start(goes_past(finished, worker))
    await worker.all_reduce(block(worker))
    note("now", worker.now)
    note("result", await work)
    note("now", worker.now)


def test_a_wait_for_finished_work_is_none(mode):
    ran = mode.run(begins_with_finished_work)
    assert ran.all("result") == [[mode.payload([4.0, 8.0, 12.0, 16.0])]] * 2
    if mode.is_exact:  # `past` was under way during the all-reduce
        assert ran.all("now") == [[2.0, 2.0]] * 2


async def waits_for_nothing(worker):
    return block(worker, 3.0)


async def without_a_wait(worker, note):
    work = worker.start(waits_for_nothing(worker))
    note("mean", await worker.all_reduce(block(worker)))
    note("result", await work)
    note("result", await work)


def test_a_coroutine_that_never_waits(mode):
    ran = mode.run(without_a_wait)
    assert ran.all("result") == [[mode.payload([3.0, 6.0, 9.0, 12.0])] * 2] * 2
    assert ran.all("mean") == [[mode.payload([1.0, 2.0, 3.0, 4.0])]] * 2


async def task(worker, note):
    work = worker.start(computes(worker, "in a task"))
    await worker.compute("beside", double, block(worker))
    return await work


async def within_a_task(worker, note):
    serving = worker.task(task(worker, note))
    await worker.compute("main", double, block(worker))
    note("result", await serving)


def test_within_a_task(mode):
    ran = mode.run(within_a_task)
    assert ran.all("result") == [[mode.payload([2.0, 4.0, 6.0, 8.0])]] * 2


async def fails_at_once(worker):
    raise ValueError("at once")


async def fails_at_once_within(worker):
    worker.start(fails_at_once(worker))
    await worker.all_reduce(block(worker))


async def fails_later(worker):
    await worker.all_reduce(block(worker))
    raise ValueError("later")  # later


async def caught(worker, note):
    for coroutine in (fails_at_once(worker), fails_at_once_within(worker)):
        try:
            worker.start(coroutine)
        except ValueError as error:
            note("error", f"start: {error}")
    note("mean", await worker.all_reduce(block(worker)))
    work = worker.start(fails_later(worker))
    note("mean", await worker.all_reduce(constant(worker, 7.0)))
    for _ in range(2):
        try:
            await work
        except ValueError as error:
            note("error", f"await: {error}")


def test_what_the_first_part_raises_comes_out_of_start_and_the_rest_of_await(mode):
    ran = mode.run(caught)
    assert ran.all("error") == [["start: at once", "start: at once", "await: later", "await: later"]] * 2
    assert ran.all("mean") == [[mode.payload([1.0, 2.0, 3.0, 4.0]), mode.payload([7.0] * 4)]] * 2


async def uncaught(worker, note):
    await worker.start(fails_later(worker))


def test_an_exception_that_nobody_catches_ends_the_run(mode):
    message = mode.run(uncaught, status="failed").outcome.message
    assert "ValueError" in message
    assert line_of("later").partition(":")[2] in message


async def never_awaited(worker, note):
    worker.start(two_legs(worker))  # never awaited
    await worker.compute("work", double, block(worker))


async def never_awaited_and_over(worker, note):
    worker.start(waits_for_nothing(worker))  # over, never awaited


@pytest.mark.parametrize(
    ("program", "text"), [(never_awaited, "never awaited"), (never_awaited_and_over, "over, never awaited")]
)
def test_a_start_that_is_never_awaited(mode, program, text):
    message = mode.run(program, status="failed").outcome.message
    assert "never awaited: " in message
    assert f"start ({line_of(text)})" in message


async def receives(worker):
    await worker.compute("first", double, block(worker))
    await worker.receive(1 - worker.rank, "never")  # never sent


async def deadlocked(worker, note):
    await worker.start(receives(worker))


def test_a_deadlock_names_what_it_waits_for(mode):
    message = mode.run(deadlocked, status="deadlocked", options={"hang_seconds": 1.0}).outcome.message
    for rank in range(2):
        assert f"rank {rank} waits for " in message
        assert f"receive 'never' from rank {1 - rank} ({line_of('never sent')})" in message
    assert "cycle: 0 -> 1 -> 0" in message


async def sleeps():
    await asyncio.sleep(0)


async def foreign(worker, note):
    work = worker.start(sleeps())
    await work


async def sleeps_later(worker):
    await worker.compute("first", double, block(worker))
    await asyncio.sleep(0)


async def foreign_later(worker, note):
    await worker.start(sleeps_later(worker))


@pytest.mark.parametrize("program", [foreign, foreign_later])
def test_awaiting_a_foreign_object(mode, program):
    message = mode.run(program, ranks=1, status="failed").outcome.message
    assert "a strategy may only await its worker's Work" in message


async def awaits(work):
    return await work


async def awaited_by_two(worker, note):
    work = worker.start(computes(worker, "first"))
    try:
        if worker.rank == 0:
            second = worker.task(awaits(work))
            await worker.compute("pause", double, block(worker))
            await work
            await second
        else:
            await work
    except StrategyError as error:
        note("error", str(error))
        raise


def test_two_flows_of_control_cannot_await_one(exact):
    ran = exact.run(awaited_by_two, status="failed")
    assert "awaited by two flows of control" in ran.outcome.message


async def cancelled_by_a_start(worker, note):
    work = worker.start(two_legs(worker))
    await worker.gradient(Batch(0), unless=work)


def test_it_cannot_cancel_a_gradient(mode):
    message = mode.run(cancelled_by_a_start, status="failed").outcome.message
    assert "it goes on only while it is awaited" in message
