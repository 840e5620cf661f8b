"""Operations start when they are called and queue: compute per rank, collectives per group, messages per (peer, tag)."""

from contract.kit import block
from distsim.interface import Batch


async def three_computations(worker, note):
    x = block(worker)
    works = [worker.compute(name, lambda x, factor=factor: x * factor, x) for factor, name in enumerate("abc", 1)]
    for work in reversed(works):
        note("result", await work)
    note("again", await works[0])
    note("again", await works[0])


def test_computations_run_one_by_one_in_the_order_of_the_calls(mode):
    ran = mode.run(three_computations, ranks=1)
    results = [mode.payload([factor, 2.0 * factor, 3.0 * factor, 4.0 * factor]) for factor in (3.0, 2.0, 1.0)]
    assert ran.notes[0]["result"] == results
    assert ran.notes[0]["again"] == [results[2], results[2]]
    (a, a_begun, a_ended), (b, b_begun, b_ended), (c, c_begun, c_ended) = ran.computed(0)
    assert (a, b, c) == ("a", "b", "c")
    assert a_begun <= a_ended <= b_begun <= b_ended <= c_begun <= c_ended
    assert len(ran.outcome.traces[0].compute) == 3  # awaited again, not computed again


def test_each_computation_has_the_queue_to_itself(exact):
    assert exact.run(three_computations, ranks=1).computed(0) == [("a", 0.0, 1.0), ("b", 1.0, 2.0), ("c", 2.0, 3.0)]


async def two_reductions(worker, note):
    first = worker.all_reduce(block(worker, 1.0), "sum")
    second = worker.all_reduce(block(worker, 10.0), "sum")
    note("second", await second)
    note("first", await first)
    note("now", worker.now)


def test_collectives_of_a_group_match_in_the_order_of_the_calls(mode):
    ran = mode.run(two_reductions)
    assert ran.all("first") == [[mode.payload([2.0, 4.0, 6.0, 8.0])]] * 2
    assert ran.all("second") == [[mode.payload([20.0, 40.0, 60.0, 80.0])]] * 2


def test_collectives_of_a_group_run_one_after_another(exact):
    assert exact.run(two_reductions).all("now") == [[2.0], [2.0]]


async def three_messages(worker, note):
    if worker.rank == 0:
        sends = [worker.send(block(worker, factor), 1, "tag") for factor in (1.0, 2.0, 3.0)]
        for send in reversed(sends):
            await send
    else:
        receives = [worker.receive(0, "tag") for _ in range(3)]
        for receive in reversed(receives):
            note("payload", (await receive).payload)
    note("now", worker.now)


def test_messages_of_one_peer_and_tag_arrive_in_the_order_of_the_calls(mode):
    ran = mode.run(three_messages)
    assert ran.notes[1]["payload"] == [mode.payload([f, 2.0 * f, 3.0 * f, 4.0 * f]) for f in (3.0, 2.0, 1.0)]


def test_messages_of_one_peer_and_tag_travel_one_after_another(exact):
    ran = exact.run(three_messages)
    assert ran.all("now") == [[3.0], [3.0]]
    assert [t.ended for t in ran.outcome.traces[1].transfers] == [3.0, 2.0, 1.0]  # in the order in which they were awaited


async def started_when_called(worker, note):
    other = 1 - worker.rank
    send = worker.send(block(worker, worker.rank + 1.0), other)  # nobody awaits it before both have received
    note("received", (await worker.receive(other)).payload)
    await send
    reduction = worker.all_reduce(block(worker), "sum")
    if worker.rank == 0:  # does not await its reduction before rank 1 has its result
        await worker.receive(1, "reduced")
    note("reduced", await reduction)
    if worker.rank == 1:
        await worker.send(None, 0, "reduced")


def test_operations_go_on_before_they_are_awaited(mode):
    ran = mode.run(started_when_called)
    assert ran.notes[0]["received"] == [mode.payload([2.0, 4.0, 6.0, 8.0])]
    assert ran.notes[1]["received"] == [mode.payload([1.0, 2.0, 3.0, 4.0])]
    assert ran.all("reduced") == [[mode.payload([2.0, 4.0, 6.0, 8.0])]] * 2


async def overlap(worker, note):
    other = 1 - worker.rank
    reduction = worker.all_reduce(worker.read())  # 64 bytes by a ring of 2: 2 s
    send, receive = worker.send(block(worker), other), worker.receive(other)
    await worker.gradient(Batch(worker.rank))
    note("now", worker.now)
    await reduction
    await send
    await receive
    note("now", worker.now)


def test_computing_and_transfers_overlap(exact):
    ran = exact.run(overlap, options={"collectives": "flows"})
    assert ran.all("now") == [[6.0, 6.0]] * 2
    for (
        trace
    ) in ran.outcome.traces:  # the messages share the links with the reduction's first half, its second has them alone
        assert {t.kind: t.ended for t in trace.transfers} == {"all_reduce": 3.0, "send": 2.0, "receive": 2.0}


async def late_receiver(worker, note):
    if worker.rank == 0:
        await worker.send(block(worker), 1)
    else:
        await worker.gradient(Batch(0))
        await worker.receive(0)
    note("now", worker.now)


def test_a_message_starts_when_both_sides_have_posted_it(exact):
    assert exact.run(late_receiver).all("now") == [[7.0], [7.0]]
