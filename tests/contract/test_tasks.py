"""Tasks: a second flow of control on a rank."""

from functools import partial
from itertools import pairwise

import pytest

from contract.kit import FIRST, block, constant
from contract.tiny import Tiny
from distsim.interface import Batch


async def answer(worker, note):
    message = await worker.receive(0, "ask")
    value = worker.change(lambda x: x + message.payload, FIRST)
    await worker.send(value, 0, "answer")
    return "answered"


async def asked_while_computing(worker, note):
    if worker.rank == 0:
        await worker.send(constant(worker, 10.0), 1, "ask")
        note("answer", (await worker.receive(1, "answer")).payload)
        note("now", worker.now)
        await worker.send(None, 1, "news")
    else:
        serving = worker.task(answer(worker, note))
        news = worker.receive(0, "news")
        note("gradient", await worker.gradient(Batch(0), unless=news))  # None: the answer came while it computed
        note("now", worker.now)
        await news
        note("task", await serving)
        note("after", worker.read(FIRST))


def test_a_task_answers_while_the_rank_computes(mode):
    workload = Tiny(depth=10, sleep=0.0 if mode.is_exact else 0.05)
    ran = mode.run(asked_while_computing, workload=workload)
    changed = mode.payload([11.0, 12.0, 13.0, 14.0])
    assert ran.notes[0]["answer"] == [changed]
    assert ran.notes[1]["gradient"] == [None]
    assert ran.notes[1]["task"] == ["answered"]
    assert ran.notes[1]["after"] == [changed]


def test_a_task_does_not_wait_for_the_compute_queue(exact):
    assert exact.run(asked_while_computing).all("now") == [[2.0], [2.0]]


async def change_often(worker):
    for _ in range(100):
        worker.change(lambda x: x + 1.0, FIRST)
        await worker.compute("between", lambda x: x, constant(worker, 0.0))
    return worker.now


async def changed_by_two(worker, note):
    changing = worker.task(change_often(worker))
    for _ in range(100):
        await worker.apply(constant(worker, -1.0), FIRST)
    await changing
    note("after", worker.read(FIRST))
    note("version", worker.version)


def test_changes_and_updates_of_two_flows_all_count(mode):
    ran = mode.run(changed_by_two, ranks=1)
    assert ran.notes[0] == {"after": [mode.payload([201.0, 202.0, 203.0, 204.0])], "version": [100]}


async def one_of_two(worker, name, note):
    for i in range(3):
        note("order", await worker.compute(name, lambda x, i=i: f"{name}{i}", block(worker)))


async def two_flows(worker, note):
    task = worker.task(one_of_two(worker, "task", note))
    await one_of_two(worker, "main", note)
    await task
    note("now", worker.now)


def test_two_flows_share_the_compute_queue(mode):
    ran = mode.run(two_flows, ranks=1)
    order = ran.notes[0]["order"]
    assert [name for name in order if name.startswith("task")] == ["task0", "task1", "task2"]
    assert [name for name in order if name.startswith("main")] == ["main0", "main1", "main2"]
    spans = sorted((begun, ended) for _, begun, ended in ran.computed(0))
    assert all(ended <= begun for (_, ended), (begun, _) in pairwise(spans))


def test_two_flows_take_turns_on_the_compute_queue(exact):
    ran = exact.run(two_flows, ranks=1)
    assert sorted(ran.notes[0]["order"][:2]) == ["main0", "task0"]
    assert ran.notes[0]["now"] == [6.0]


async def fail(worker):
    await worker.compute("first", lambda x: x, block(worker))
    raise ValueError("the task's own mistake")


async def failing_task(worker, note):
    await worker.task(fail(worker))


def test_what_a_task_raises_ends_the_run(mode):
    ran = mode.run(failing_task, ranks=1, status="failed")
    assert "ValueError" in ran.outcome.message
    assert "the task's own mistake" in ran.outcome.message


async def nothing():
    pass


async def forgotten_task(worker, note):
    worker.task(nothing())


def test_a_task_that_nobody_awaits_is_an_error(mode):
    ran = mode.run(forgotten_task, ranks=1, status="failed")
    assert "rank 0 never awaited: task (test_tasks.py:" in ran.outcome.message


def leave(x):
    raise SystemExit(0)


async def leaves_later():
    leave(None)


async def exits(where, worker, note):
    await worker.all_reduce(block(worker))
    if worker.rank == 1:
        if where == "run":
            leave(None)
        if where == "task":
            await worker.task(leaves_later())
        first = worker.compute("wait", lambda x: x, block(worker))
        await worker.compute("exit", leave, block(worker))  # queued: nobody is there to catch what it raises
        await first
    await worker.receive(1 - worker.rank)


@pytest.mark.parametrize("where", ["run", "task", "compute"])
def test_a_strategy_ends_its_run_and_not_the_process(mode, where):
    message = mode.run(partial(exits, where), status="failed").outcome.message
    assert "SystemExit: 0" in message
    assert "rank 1" in message
    assert "test_tasks.py" in message
