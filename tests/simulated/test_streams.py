"""The compute queue: straggler factors, cancelling, and what takes no time."""

from dataclasses import replace
from functools import partial

import pytest
from contract.kit import MODELED, Bench, block
from contract.tiny import DEVICE

from distsim.backends.simulated.engine import Engine
from distsim.backends.simulated.processors import Processors
from distsim.backends.simulated.streams import Stream
from distsim.interface import Batch, Curve, Loopback, Straggler


def ends(jobs, stops=()):
    """When each of the jobs (pieces, factor), a stream each on one core, ends; stops are (time, job)."""
    engine = Engine()
    core = Processors(engine, lambda jobs: 1.0)
    news = [engine.operation() for _ in jobs]
    operations = []
    for rank, (pieces, factor) in enumerate(jobs):
        stream = Stream(engine, rank, core.run)
        operations.append(stream.submit(pieces, factor, lambda stop: "result", news[rank]))
    for time, job in stops:
        engine.after(time, partial(news[job].finish, None))
    engine.env.run()
    return [(operation.ended, operation.value) for operation in operations]


@pytest.mark.parametrize(
    ("jobs", "stops", "expected"),
    [
        ([([2.0], 1.0)], [], [(2.0, "result")]),
        ([([2.0], 3.0)], [], [(6.0, "result")]),
        ([([2.0], 0.5)], [], [(1.0, "result")]),
        ([([1.0, 2.0], 3.0)], [], [(9.0, "result")]),
        # 1 s of work of each is done at 2 s; the slow one then idles for 1 s and uses no core.
        ([([1.0], 2.0), ([2.0], 1.0)], [], [(3.0, "result"), (3.0, "result")]),
        # A factor below 1 is less work: .5 s of each is done at 1 s, the rest alone.
        ([([1.0], 0.5), ([2.0], 1.0)], [], [(1.0, "result"), (2.5, "result")]),
        # Cancelled at work: the other has the core.
        ([([2.0], 1.0), ([2.0], 1.0)], [(1.0, 0)], [(1.0, None), (2.5, "result")]),
        # Cancelled while it idles.
        ([([1.0], 5.0)], [(2.0, 0)], [(2.0, None)]),
        # Between pieces: each ends its work and its idling first.
        ([([1.0, 1.0], 2.0)], [(0.5, 0)], [(2.0, None)]),
        ([([1.0, 1.0], 2.0)], [(2.5, 0)], [(4.0, "result")]),
    ],
)
def test_factors_and_cancelling(jobs, stops, expected):
    assert ends(jobs, stops) == expected


async def many_for_nothing(worker, note):
    x = block(worker)
    wait = worker.compute("wait", lambda x: x, x)
    works = [worker.compute("free", lambda: None) for _ in range(2000)]
    for work in [wait, *works]:
        await work
    note("now", worker.now)


def test_any_number_of_operations_may_take_no_time(tmp_path):
    assert Bench(MODELED, tmp_path).run(many_for_nothing, ranks=1).notes[0]["now"] == [1.0]


async def failing_action(worker, note):
    def fail(x):
        raise ValueError("in the action")

    try:
        worker.compute("at once", fail, block(worker))
    except ValueError:
        note("caught", True)
    await worker.compute("after", lambda x: x, block(worker))
    note("now", worker.now)
    wait = worker.compute("wait", lambda x: x, block(worker))
    await worker.compute("queued", fail, block(worker))
    await wait


def test_an_action_that_raises_leaves_the_queue_and_is_blamed_on_its_rank(tmp_path):
    ran = Bench(MODELED, tmp_path).run(failing_action, ranks=1, status="failed")
    assert ran.notes[0] == {"caught": [True], "now": [1.0]}
    assert ran.outcome.message.startswith("ValueError: in the action (rank 0, test_streams.py:")


async def uncancelled(worker, note):
    if worker.rank == 0:
        news = worker.receive(1)
        await worker.gradient(Batch(0), unless=news)
        note("now", worker.now)
        await worker.send(None, 1)
        await news
    else:
        await worker.receive(0)
        await worker.send(None, 0)


@pytest.mark.parametrize("preemption", ["instant", "block"])
def test_an_operation_pays_its_overhead_once(tmp_path, preemption):
    device = replace(DEVICE, overhead=0.5)
    ran = Bench(MODELED, tmp_path).run(uncancelled, device=device, options={"preemption": preemption})
    assert ran.notes[0]["now"] == [6.5]


async def two_slow(worker, note):
    await worker.compute("work", lambda x: x, block(worker))
    note("now", worker.now)


def test_a_slow_worker_leaves_the_cores_of_a_shared_host_to_the_others(tmp_path):
    host = Loopback(cores=Curve(((1.0, 1.0),)), message=Curve(((0.0, 0.0),)), all_reduce={})
    ran = Bench(MODELED, tmp_path).run(two_slow, network=host, straggler=Straggler(slow={0: 3.0}))
    assert ran.all("now") == [[4.0], [2.0]]  # both at half speed, then one idles for 2 s


def test_on_a_shared_host_nobody_computes_faster_than_he_does(tmp_path):
    host = Loopback(cores=Curve(((1.0, 1.0), (2.0, 2.0))), message=Curve(((0.0, 0.0),)), all_reduce={})
    ran = Bench(MODELED, tmp_path).run(two_slow, network=host, straggler=Straggler(slow={0: 0.5}))
    assert ran.all("now") == [[1.0], [1.0]]  # on a host of its own rank 0 would take 0.5 s
