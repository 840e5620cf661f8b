"""Messages: what meets what, and what a message carries."""

from functools import partial

from contract.kit import FIRST, block, constant
from contract.tiny import BLOCK_BYTES
from distsim.interface import StrategyError, Switch


async def two_tags(worker, note):
    if worker.rank == 0:
        a = worker.send(block(worker, 1.0), 1, "a")
        b = worker.send(block(worker, 2.0), 1, "b")
        await a
        await b
    else:
        note("b", (await worker.receive(0, "b")).payload)
        note("a", (await worker.receive(0, "a")).payload)


def test_messages_are_matched_by_tag(mode):
    ran = mode.run(two_tags)
    assert ran.notes[1] == {"a": [mode.payload([1.0, 2.0, 3.0, 4.0])], "b": [mode.payload([2.0, 4.0, 6.0, 8.0])]}


async def what_a_message_carries(worker, note):
    if worker.rank == 0:
        await worker.send(block(worker), 1, "tag", version=7, label="model")
        await worker.send(None, 1, "tag", version=8, label="stop")
    else:
        for message in [await worker.receive(0, "tag"), await worker.receive(0, "tag")]:
            note("message", [message.source, message.version, message.label, message.is_signal])
            try:
                note("payload", message.payload)
            except StrategyError as error:
                note("error", str(error))


def test_a_message_carries_its_source_version_label_and_payload_and_a_signal_has_none(mode):
    ran = mode.run(what_a_message_carries)
    assert ran.notes[1] == {
        "message": [[0, 7, "model", False], [0, 8, "stop", True]],
        "payload": [mode.payload([1.0, 2.0, 3.0, 4.0])],
        "error": ["the message 'stop' from rank 0 is a signal: it has no payload"],
    }


async def from_anyone(worker, note):
    if worker.rank == 2:
        receives = [worker.receive_any("tag") for _ in range(4)]
        messages = [await receive for receive in receives]
        note("sources", [message.source for message in messages])
        for source in (0, 1):
            note(f"from {source}", [message.version for message in messages if message.source == source])
        note("first", messages[0].payload)
    else:
        if worker.rank == 0:
            await worker.compute("late", lambda x: x, worker.read())
        for version in (1, 2):
            await worker.send(constant(worker, worker.rank), 2, "tag", version)


def test_receive_any_takes_from_all_and_keeps_the_order_of_each(mode):
    ran = mode.run(from_anyone, ranks=3)
    assert sorted(ran.notes[2]["sources"][0]) == [0, 0, 1, 1]
    assert ran.notes[2]["from 0"] == ran.notes[2]["from 1"] == [[1, 2]]
    assert ran.notes[2]["first"] == [mode.payload([float(ran.notes[2]["sources"][0][0])] * 4)]


def test_receive_any_takes_the_oldest_send_first(exact):
    ran = exact.run(from_anyone, ranks=3)  # rank 1 sends at 0 and 1 s, rank 0 from 2 s on
    assert ran.notes[2]["sources"] == [[1, 1, 0, 0]]


async def sent_before_posted(worker, note):
    if worker.rank < 2:
        await worker.send(None, 2, "tag", version=worker.rank)
        return
    for _ in range(2):  # both have probably been sent by now: nobody may be forgotten
        note("source", (await worker.receive_any("tag")).source)


def test_receive_any_finds_what_was_sent_before(mode):
    assert sorted(mode.run(sent_before_posted, ranks=3).notes[2]["source"]) == [0, 1]


async def posted(worker, note):
    if worker.rank == 0:
        x = block(worker)
        worker.post(x, 1, "tag")
        x += 1.0  # the post has its own copy
        note("changed", x)
        note("now", worker.now)
    else:
        await worker.compute("late", lambda x: x, block(worker))
        note("posted", (await worker.receive(0, "tag")).payload)
        note("now", worker.now)


def test_a_post_is_copied_and_the_end_of_the_run_awaits_it(mode):
    ran = mode.run(posted)
    assert ran.notes[0]["changed"] == [mode.payload([2.0, 3.0, 4.0, 5.0])]
    assert ran.notes[1]["posted"] == [mode.payload([1.0, 2.0, 3.0, 4.0])]
    sent = ran.outcome.traces[0].transfers
    assert [(t.kind, t.channel, t.sequence, t.nbytes) for t in sent] == [("send", "message 0>1 tag", 0, 32.0)]


def test_nobody_waits_for_a_post(exact):
    ran = exact.run(posted)
    assert ran.all("now") == [[0.0], [2.0]]
    assert [trace.ended for trace in ran.outcome.traces] == [0.0, 2.0]  # when their programs returned


async def there_and_back(worker, note):
    other = 1 - worker.rank
    for version in range(50):
        news = worker.receive(other, "news")
        sent = worker.send(block(worker, version), other, "news", version)
        message = await news
        await sent
        note("version", message.version)
    note("last", message.payload)


def test_many_messages_both_ways(mode):
    ran = mode.run(there_and_back)
    assert ran.all("version") == [list(range(50))] * 2
    assert ran.all("last") == [[mode.payload([49.0, 98.0, 147.0, 196.0])]] * 2


async def sizes_vary(worker, note):
    if worker.rank == 0:
        for x in (worker.read(FIRST), worker.read(), None, worker.read(FIRST)):
            await worker.send(x, 1)
    else:
        for _ in range(4):
            note("content", (await worker.receive(0)).content)


def test_messages_of_one_tag_may_differ_in_size(mode):
    one, both = mode.payload([1.0, 2.0, 3.0, 4.0]), mode.payload([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])
    assert mode.run(sizes_vary).notes[1]["content"] == [one, both, None, one]


async def all_to_the_last(worker, note):
    last = worker.world_size - 1
    if worker.rank < last:
        await worker.send(block(worker), last)
    else:
        receives = [worker.receive(source) for source in range(last)]
        for receive in receives:
            await receive
    note("now", worker.now)


def test_messages_into_one_host_share_its_link(exact):
    assert exact.run(all_to_the_last, ranks=4).all("now") == [[3.0]] * 4


async def both_ways(worker, note):
    other = 1 - worker.rank
    receive, send = worker.receive(other), worker.send(block(worker), other)
    await receive
    await send
    note("now", worker.now)


def test_links_are_full_duplex_and_a_path_has_two_latencies(exact):
    assert exact.run(both_ways, network=Switch(BLOCK_BYTES, latency=0.25)).all("now") == [[1.5], [1.5]]


async def wrong_peers(worker, note):
    group = worker.within([1, 2]) if worker.rank else worker
    for peer in (group.rank, -1, group.world_size):
        for call in (partial(group.send, None), group.receive, partial(group.post, None)):
            try:
                call(peer)
            except StrategyError as error:
                note("error", str(error))


def test_peers_are_the_other_ranks_of_the_view(mode):
    ran = mode.run(wrong_peers, ranks=3)
    for rank, (own, size) in enumerate([(0, 3), (0, 2), (1, 2)]):
        assert ran.notes[rank]["error"] == [
            f"rank {own} cannot {what} rank {peer}: its peers are the other {size - 1} ranks of its group"
            for peer in (own, -1, size)
            for what in ("send to", "receive from", "send to")
        ]


async def long_label(worker, note):
    if worker.rank == 0:
        await worker.send(None, 1, label="é" * 64)
        await worker.send(None, 1, label="é" * 65)
    else:
        note("label", (await worker.receive(0)).label)
        await worker.receive(0)


def test_a_label_has_at_most_128_bytes(mode):
    ran = mode.run(long_label, status="failed")
    assert f"a label has at most 128 bytes, this one 130: '{'é' * 40}'..." in ran.outcome.message
    assert "test_messages.py" in ran.outcome.message
    if mode.is_exact:  # a real rank that waits is ended before it leaves its notes
        assert ran.notes[1]["label"] == ["é" * 64]


async def many_posts(worker, note):
    for i in range(500):
        if worker.rank == 0:
            worker.post(worker.read(), 1, "tag", version=i)
            await worker.receive(1, "answer")
            note("open", len(worker._state.open_work))
        else:
            await worker.receive(0, "tag")
            await worker.send(None, 0, "answer")


def test_what_was_posted_and_is_over_is_let_go(mode):
    ran = mode.run(many_posts)
    assert max(ran.notes[0]["open"]) <= 5
    sends = [t for t in ran.outcome.traces[0].transfers if t.kind == "send"]
    assert [t.sequence for t in sends] == list(range(500))
    assert all(t.posted <= t.ended == t.awaited for t in sends[:-1])  # nobody waited
    answers = [t.ended for t in ran.outcome.traces[0].transfers if t.kind == "receive"]
    assert all(send.ended <= answer + (0.0 if mode.is_exact else 0.5) for send, answer in zip(sends, answers, strict=True))
