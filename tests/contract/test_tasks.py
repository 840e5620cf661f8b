"""Tasks: a second flow of control on a rank."""

from contextlib import suppress
from functools import partial
from itertools import pairwise
from threading import Barrier, BrokenBarrierError, Thread

import pytest

from contract.kit import FIRST, block, constant
from contract.tiny import Tiny
from distsim.interface import ALL, SGD, Batch, Budget, Cluster, Envelope, Job, Message, Switch, drive
from distsim.numerics.sizes import Size, SizesFactory
from distsim.strategies.ad_psgd import ADPSGD


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


class Contended:
    """In place of a rank's lock: as soon as it is let go another flow has it, and doubles the weights."""

    def __init__(self, numerics):
        self.numerics = numerics

    def __enter__(self):
        pass

    def __exit__(self, *error):
        numerics, self.numerics = self.numerics, None
        if numerics is not None:
            numerics.load(ALL, numerics.read(ALL) * 2.0)


async def doubled_while_computing(worker, note):
    await worker.task(nothing())
    state, start = worker._state, worker.read()
    before = state.lock
    for name in ("gradient", "gradients"):
        worker.load(start)
        state.lock = Contended(state.numerics)
        if name == "gradient":
            computed = worker.gradient(Batch(0), microbatches=2)
        else:
            ((_, computed),) = worker.gradients(Batch(0), 1e9, microbatches=2)
        gradient = await computed
        state.lock = before
        note(name, gradient)
        note("after", worker.read())


def test_all_microbatches_of_a_gradient_use_the_parameters_of_one_instant(mode):
    notes = mode.run(doubled_while_computing, ranks=1).notes[0]
    gradient = mode.payload([5.0, 6.0, 7.0, 8.0, 1.0, 2.0, 3.0, 4.0])
    assert (notes["gradient"], notes["gradients"]) == ([gradient], [gradient])
    assert notes["after"] == [mode.payload([2.0, 4.0, 6.0, 8.0, 10.0, 12.0, 14.0, 16.0])] * 2


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


class Meeting:
    """A handle. With a barrier it is over once two flows ask at once, or after a moment if they do not."""

    begun = ended = 0.0
    barrier = None

    def over(self):
        if self.barrier is None:
            return False
        with suppress(BrokenBarrierError):
            self.barrier.wait(0.2)
        return True

    def detach(self):
        pass

    def __await__(self):
        return Message(1, 0, "", None)
        yield


class Handles:
    """A fabric of nothing but these handles."""

    rank = 0

    def __init__(self):
        self.made = []

    def now(self):
        return 0.0

    def send(self, to, tag, envelope):
        self.made.append(Meeting())
        return self.made[-1]

    def receive(self, source, tag):
        return Meeting()


def rank_on(fabric):
    model = Tiny().model()
    cluster = Cluster(2, 0, None, Switch(1.0, 0.0))
    return Job(ADPSGD(), model, cluster, Budget(updates=1), SizesFactory(model, 2, SGD())).rank(0, fabric)


def by_two(call):
    flows = [Thread(target=call) for _ in range(2)]
    for flow in flows:
        flow.start()
    for flow in flows:
        flow.join()


def test_what_two_flows_post_to_one_rank_is_awaited_at_the_end():
    fabric = Handles()
    rank = rank_on(fabric)

    def post():
        rank.post(1, "", Envelope(0, "", Size(8.0)))

    post()
    post()
    fabric.made[0].barrier = Barrier(2)  # both flows see that the first is over, and let go of it alone
    by_two(post)
    drive(rank.settle())
    assert len(rank.trace.transfers) == 4


def test_what_two_flows_await_is_recorded_once():
    rank, meeting = rank_on(Handles()), Meeting()
    rank.has_tasks, meeting.barrier = True, Barrier(2)

    def arrived(message):
        meeting.over()
        return message

    work = rank.start_receive(None, "", arrived)

    async def wait():
        assert (await work).source == 1

    by_two(lambda: drive(wait()))
    assert len(rank.trace.transfers) == 1
