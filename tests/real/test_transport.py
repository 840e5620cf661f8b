"""What gloo would do wrong by itself: see the rules of distsim/backends/real/transport/messages.py and collectives.py."""

from __future__ import annotations

import os
from functools import partial
from math import prod
from pathlib import Path

import pytest
import torch
from contract.kit import REAL, Bench, constant

from distsim.backends.real.transport import gloo


@pytest.fixture
def bench(tmp_path):
    return Bench(REAL, tmp_path)


SMALL, LARGE = 4, 20_000  # scalars of payloads that travel in a frame, and by themselves


def filled(worker, value, scalars):
    """That many times the value."""
    return constant(worker, value)[:1].repeat(scalars)


async def both_send_first(scalars, worker, note):
    other = 1 - worker.rank
    for i in range(4):
        news = worker.receive(other, "x")
        await worker.send(
            filled(worker, worker.rank + i, scalars), other, "x"
        )  # the other has posted, though it awaits nothing
        note("got", (await news).payload[0])


@pytest.mark.parametrize("scalars", [SMALL, LARGE])
def test_a_send_needs_the_receiver_to_post_and_not_to_await(bench, scalars):
    assert bench.run(partial(both_send_first, scalars)).all("got") == [[1.0, 2.0, 3.0, 4.0], [0.0, 1.0, 2.0, 3.0]]


async def awaited_backwards(scalars, worker, note):
    if worker.rank == 0:
        for i in range(12):
            await worker.send(filled(worker, i, scalars) if i % 3 else None, 1, version=i)
        await worker.send(None, 1, "end")
    else:
        for _ in range(2):
            works = [worker.receive(0) for _ in range(6)]
            for work in reversed(works):
                message = await work
                note("got", (message.version, None if message.is_signal else float(message.payload[3])))
        await worker.receive(0, "end")


@pytest.mark.parametrize("scalars", [SMALL, LARGE])
def test_receives_awaited_backwards_still_match_in_call_order(bench, scalars):
    expected = [[i, float(i) if i % 3 else None] for i in [*range(5, -1, -1), *range(11, 5, -1)]]
    assert bench.run(partial(awaited_backwards, scalars)).notes[1]["got"] == expected


SIZES = [2 * LARGE, LARGE, 2 * LARGE, 2 * LARGE, SMALL, LARGE, 2 * LARGE, LARGE, LARGE]


async def all_posted_then_another_tag(warm, worker, note):
    if worker.rank == 0:
        for i, size in enumerate([*SIZES[:warm], *SIZES]):
            await worker.send(filled(worker, i, size), 1, "many")
        await worker.send(None, 1, "other")
    else:
        for _ in range(warm):
            note("warm", len((await worker.receive(0, "many")).payload))
        works = [worker.receive(0, "many") for _ in SIZES]
        await worker.receive(0, "other")  # needs all sends before it to be over
        note("got", [[len(m.payload), float(m.payload[-1])] for m in [await work for work in works]])


@pytest.mark.parametrize("warm", [0, 2])
def test_sends_of_any_size_end_before_the_first_receive_is_awaited(bench, warm):
    expected = [[size, float(i + warm)] for i, size in enumerate(SIZES)]
    assert bench.run(partial(all_posted_then_another_tag, warm)).notes[1]["got"] == [expected]


async def of_all_kinds(worker, note):
    for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool):
        for shape in ((), (0,), (2, 3), (300, 400)):
            x = torch.arange(prod(shape)).reshape(shape).to(dtype)
            if worker.rank == 0:
                await worker.send(x, 1)
            else:
                got = (await worker.receive(0)).payload
                note("is equal", got.dtype == dtype and got.shape == shape and torch.equal(got, x))


def test_payloads_keep_their_shape_and_type(bench):
    assert bench.run(of_all_kinds).notes[1]["is equal"] == [True] * 20


async def two_flows_on_one_channel(worker, note):
    if worker.rank == 0:
        for i in range(40):
            await worker.send(constant(worker, i), 1, "x")
    else:

        async def half():
            for _ in range(20):
                note("got", float((await worker.receive(0, "x")).payload[0]))

        other = worker.task(half())
        await half()
        await other


def test_two_flows_may_receive_on_one_channel(bench):
    assert sorted(bench.run(two_flows_on_one_channel).notes[1]["got"]) == [float(i) for i in range(40)]


async def server_and_three(scalars, worker, note):
    if worker.rank == 3:
        inbox = [worker.receive_any("g") for _ in range(30)]
        got = [await work for work in inbox]
        for source in range(3):
            note("got", [float(m.payload[0]) for m in got if m.source == source])
    else:
        for i in range(10):
            await worker.send(filled(worker, 10 * worker.rank + i, scalars), 3, "g")


@pytest.mark.parametrize("scalars", [SMALL, LARGE])
def test_receives_from_any_posted_ahead_keep_each_sources_order(bench, scalars):
    expected = [[float(10 * source + i) for i in range(10)] for source in range(3)]
    assert bench.run(partial(server_and_three, scalars), ranks=4).notes[3]["got"] == expected


async def groups_cross(worker, note):
    first, second = ((0, 1), (0, 2)) if worker.rank < 2 else ((1, 2), (0, 2))
    if worker.rank == 0:
        a = worker.within(first).all_reduce(constant(worker, 1.0), "sum")
        b = worker.within(second).all_reduce(constant(worker, 1.0), "sum")
        note("sums", [float((await a)[0]), float((await b)[0])])
    elif worker.rank == 1:
        await worker.receive(2)  # which waits for the group that rank 0 calls second
        note("sums", [float((await worker.within((0, 1)).all_reduce(constant(worker, 2.0), "sum"))[0])])
    else:
        note("sums", [float((await worker.within((0, 2)).all_reduce(constant(worker, 4.0), "sum"))[0])])
        await worker.send(None, 1)


def test_making_a_group_holds_up_nothing_else(bench):
    assert bench.run(groups_cross, ranks=3).all("sums") == [[[3.0, 5.0]], [[3.0]], [[5.0]]]


async def many_buckets(worker, note):
    works = [worker.all_reduce(constant(worker, i), "sum") for i in range(300)]
    note("sums", [float((await work)[0]) for work in works])


def test_a_rank_may_be_far_ahead_in_collectives(bench):
    assert bench.run(many_buckets).all("sums") == [[[2.0 * i for i in range(300)]]] * 2


async def of_other_size(worker, note):
    await worker.all_reduce(constant(worker, 1.0))
    x = worker.read()
    await worker.all_reduce(x if worker.rank else x[:4])


async def of_other_kind(worker, note):
    x = constant(worker, 1.0)
    await (worker.all_reduce(x, "sum") if worker.rank else worker.broadcast(x, 1))


@pytest.mark.parametrize(
    ("program", "number", "words"),
    [
        (of_other_size, 1, ["all_reduce (mean) of 4 float64", "all_reduce (mean) of 8 float64"]),
        (of_other_kind, 0, ["broadcast from position 1 of 4 float64", "all_reduce (sum) of 4 float64"]),
    ],
    ids=["size", "kind"],
)
def test_collectives_that_differ_are_named(bench, program, number, words):
    message = bench.run(program, status="failed").outcome.message
    for text in (f"collective {number} of ranks 0,1 must be the same on all of them", *words):
        assert text in message


async def unequal_steps(worker, note):
    for _ in range(3 if worker.rank else 2):
        await worker.all_reduce(constant(worker, 1.0))


def test_a_rank_that_ended_early_is_named(bench):
    message = bench.run(unequal_steps, status="deadlocked", options={"hang_seconds": 1.0}).outcome.message
    assert "rank 0 has ended" in message
    assert "rank 1 waits for all_reduce of ranks 0,1 (test_transport.py:" in message
    assert "not joined by rank 0" in message


def _threads() -> set[int]:
    return {int(task.name) for task in Path("/proc/self/task").iterdir()}


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="a policy of Linux's")
def test_threads_of_a_group_displace_nobody():
    before = _threads()
    group = gloo.make_group(torch.distributed.HashStore(), 0, 1, nccl=False)
    made = _threads() - before
    assert made
    assert all(os.sched_getscheduler(thread) == os.SCHED_BATCH for thread in made)
    assert os.sched_getscheduler(0) == os.SCHED_OTHER  # who computes does
    del group


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="a policy of Linux's")
def test_a_group_is_made_where_policies_may_not_be_set(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "sched_setscheduler", refuse)
    x = torch.ones(2)
    gloo.all_reduce(gloo.make_group(torch.distributed.HashStore(), 0, 1, nccl=False), x).wait()
    assert x.tolist() == [1.0, 1.0]
