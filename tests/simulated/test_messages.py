"""Messages: which send meets which receive, and that one channel carries one message at a time."""

import pytest

from distsim.backends.simulated.engine import Engine
from distsim.backends.simulated.hosts import RoutedHosts
from distsim.backends.simulated.messages import Messages
from distsim.interface import Envelope, Switch


def carry(calls, nbytes=10.0, latency=0.0):
    """What each receive got, as (payload, source, when), and when each send ended.

    A call is (when, "send", source, to, tag, payload) or (when, "receive", rank, source, tag); all are to be met.
    """
    engine = Engine()
    hosts = RoutedHosts(engine, Switch(bandwidth=10.0, latency=latency), range(4))
    messages, received, sent = Messages(engine, hosts), [], []

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
