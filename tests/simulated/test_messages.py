"""Messages: which send meets which receive, and that one channel carries one message at a time."""

import pytest

from distsim.backends.simulated.engine import Engine
from distsim.backends.simulated.hosts import RoutedHosts
from distsim.backends.simulated.messages import Messages
from distsim.interface import Envelope, Switch, Transport
from distsim.interface.transport import NO_CORRECTIONS


def carry(calls, nbytes=10.0, latency=0.0, transport=NO_CORRECTIONS):
    """What each receive got, as (payload, source, when), and when each send ended.

    A call is (when, "send", source, to, tag, payload) or (when, "receive", rank, source, tag); all are to be met.
    """
    engine = Engine()
    hosts = RoutedHosts(engine, Switch(bandwidth=10.0, latency=latency), range(4), transport)
    messages, received, sent = Messages(engine, hosts, transport), [], []

    def call(kind, *arguments):
        if kind == "send":
            source, to, tag, payload = arguments
            sent.append(messages.send(source, to, tag, Envelope(0, "", payload), nbytes, str))
        else:
            received.append(messages.receive(*arguments))

    for when, *arguments in calls:
        engine.after(when, lambda arguments=arguments: call(*arguments))
    engine.env.run()
    assert messages.under_way == 0
    assert messages.started == len(sent)
    return [(o.value.content, o.value.source, o.ended) for o in received], [operation.ended for operation in sent]


@pytest.mark.parametrize(
    ("calls", "received", "sent"),
    [
        pytest.param(
            [(0.0, "send", 0, 2, "t", "a"), (3.0, "receive", 2, 0, "t")], [("a", 0, 4.0)], [4.0], id="the receive is late"
        ),
        pytest.param(
            [(0.0, "receive", 2, 0, "t"), (3.0, "send", 0, 2, "t", "a")], [("a", 0, 4.0)], [4.0], id="the send is late"
        ),
        pytest.param(
            [
                (0.0, "send", 0, 2, "t", "a"),
                (0.1, "send", 1, 2, "t", "b"),
                (1.0, "receive", 2, 1, "t"),
                (2.5, "receive", 2, None, "t"),
            ],
            [("b", 1, 2.0), ("a", 0, 3.5)],
            [3.5, 2.0],
            id="a receive from one source leaves the others' sends",
        ),
        pytest.param(
            [
                (0.0, "receive", 2, 1, "t"),
                (0.0, "receive", 2, None, "t"),
                (1.0, "send", 0, 2, "t", "a"),
                (3.0, "send", 1, 2, "t", "b"),
            ],
            [("b", 1, 4.0), ("a", 0, 2.0)],
            [2.0, 4.0],
            id="a receive that waits for one source does not block the next",
        ),
        pytest.param(
            [
                (0.0, "send", 1, 2, "t", "b"),
                (0.5, "send", 0, 2, "t", "a"),
                (1.0, "receive", 2, None, "t"),
                (3.0, "receive", 2, None, "t"),
            ],
            [("b", 1, 2.0), ("a", 0, 4.0)],
            [2.0, 4.0],
            id="from any source the oldest send first",
        ),
        pytest.param(
            [
                (0.0, "receive", 2, 0, "u"),
                (0.0, "receive", 2, 0, "t"),
                (0.0, "send", 0, 2, "t", "a"),
                (5.0, "send", 0, 2, "u", "b"),
            ],
            [("b", 0, 6.0), ("a", 0, 1.0)],
            [1.0, 6.0],
            id="tags are apart",
        ),
        pytest.param(
            [(0.0, kind, *rest) for i in "ab" for kind, *rest in [("send", 0, 2, "t", i), ("receive", 2, 0, "t")]],
            [("a", 0, 1.0), ("b", 0, 2.0)],
            [1.0, 2.0],
            id="one channel carries one message at a time",
        ),
        pytest.param(
            [(0.0, kind, *rest) for i in "tu" for kind, *rest in [("send", 0, 2, i, i), ("receive", 2, 0, i)]],
            [("t", 0, 2.0), ("u", 0, 2.0)],
            [2.0, 2.0],
            id="two channels share the link",
        ),
    ],
)
def test_what_meets_what_and_when(calls, received, sent):
    assert carry(calls) == (received, sent)


@pytest.mark.parametrize(
    ("nbytes", "latency", "ended"),
    [
        (0.0, 1.0, [2.0, 2.5]),  # a path has two latencies; the second's has run for 1.5 s
        (10.0, 1.0, [3.0, 4.0]),  # 1 s of bytes each
        (10.0, 0.125, [1.25, 2.25]),
    ],
)
def test_latencies_of_one_channel_overlap_and_bytes_follow_each_other(nbytes, latency, ended):
    calls = [
        (0.0, "receive", 1, 0, "t"),
        (0.0, "receive", 1, 0, "t"),
        (0.0, "send", 0, 1, "t", "a"),
        (0.5, "send", 0, 1, "t", "b"),
    ]
    assert carry(calls, nbytes, latency)[1] == ended


@pytest.mark.parametrize(
    ("eager", "late", "received", "sent"),
    [
        (0.0, 5.0, 6.0, 6.0),
        (10.0, 5.0, 6.0, 6.0),  # fewer than so many bytes
        (11.0, 5.0, 5.0, 0.0),  # it lies there since 1 s
        (11.0, 0.5, 1.0, 0.0),  # still on its way
        (11.0, 0.0, 1.0, 0.0),
    ],
)
def test_an_eager_message_travels_before_its_receive_is_posted(eager, late, received, sent):
    calls = [(0.0, "send", 0, 1, "t", "a"), (late, "receive", 1, 0, "t")]
    assert carry(calls, transport=Transport(eager_bytes=eager)) == ([("a", 0, received)], [sent])


def test_eager_messages_keep_their_order_and_what_they_were():
    engine = Engine()
    transport = Transport(eager_bytes=11.0)
    messages = Messages(engine, RoutedHosts(engine, Switch(10.0, 0.0), range(2), transport), transport)
    payload = ["a"]
    for text in "bc":
        messages.send(0, 1, "t", Envelope(0, "", payload), 10.0, list)
        payload[0] = text  # the send is over: the buffer is the sender's again
    got = []
    engine.after(1.5, lambda: got.extend(messages.receive(1, None, "t") for _ in range(2)))
    engine.env.run()
    assert [(operation.value.content, operation.begun, operation.ended) for operation in got] == [
        (["a"], 1.5, 1.5),
        (["b"], 1.5, 2.0),
    ]


def test_a_large_message_does_not_hold_an_eager_one_up():
    engine = Engine()
    transport = Transport(eager_bytes=11.0)
    messages = Messages(engine, RoutedHosts(engine, Switch(10.0, 0.0), range(2), transport), transport)
    sends = [messages.send(0, 1, "t", Envelope(0, "", str(nbytes)), nbytes, str) for nbytes in (20.0, 10.0)]
    got = []
    engine.after(5.0, lambda: got.extend(messages.receive(1, 0, "t") for _ in range(2)))
    engine.env.run()
    assert [send.ended for send in sends] == [7.0, 0.0]
    assert [(operation.value.content, operation.ended) for operation in got] == [("20.0", 7.0), ("10.0", 5.0)]


@pytest.mark.parametrize(("one_at_a_time", "ended"), [(False, [2.0, 2.0, 1.0]), (True, [1.0, 2.0, 1.0])])
def test_one_connection_a_pair_carries_a_message_at_a_time(one_at_a_time, ended):
    """Two tags to rank 2 share its link or take turns; rank 3's message to rank 1 crosses neither."""
    calls = [(0.0, kind, *rest) for i in "tu" for kind, *rest in [("send", 0, 2, i, i), ("receive", 2, 0, i)]]
    calls += [(0.0, "send", 3, 1, "t", "b"), (0.0, "receive", 1, 3, "t")]
    assert carry(calls, transport=Transport(one_at_a_time=one_at_a_time))[1] == ended


def test_a_message_s_cost_is_not_hidden_behind_the_one_before():
    """1 s of bytes each: the latency of 2 s runs while the second waits, the cost of 0.5 s does not."""
    calls = [(0.0, kind, *rest) for i in "ab" for kind, *rest in [("send", 0, 2, "t", i), ("receive", 2, 0, "t")]]
    assert carry(calls, latency=1.0)[1] == [3.0, 4.0]
    assert carry(calls, latency=1.0, transport=Transport(message_seconds=0.5))[1] == [3.5, 5.0]
