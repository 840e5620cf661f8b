"""All ranks on one machine: messages are CPU work, one at a time a rank, and wait for their turn on the cores."""

from distsim.backends.simulated.engine import Engine
from distsim.backends.simulated.hosts import SharedHost
from distsim.interface import Curve, Loopback

NETWORK = Loopback(
    cores=Curve(((1.0, 1.0), (2.0, 2.0), (3.0, 2.0), (9.0, 2.0))),  # two whole cores
    message=Curve(((0.0, 1.0), (8.0, 3.0))),  # 1 s and 0.25 s a byte
    all_reduce={},
    delay=10.0,
)


class Host:
    """A host that notes when things are over."""

    def __init__(self):
        self.engine = Engine()
        self.host = SharedHost(self.engine, NETWORK)
        self.ended = {}

    def note(self, name):
        return lambda: self.ended.setdefault(name, self.engine.now)

    def run(self):
        self.engine.env.run()
        return self.ended


def test_a_message_alone_takes_what_was_measured():
    on = Host()
    on.host.move(0, 1, 4.0, on.note("m"))
    assert on.run() == {"m": 2.0}


def test_messages_between_different_pairs_share_the_cores():
    on = Host()
    for pair in range(3):
        on.host.move(2 * pair, 2 * pair + 1, 4.0, on.note(pair))
    assert on.run() == {0: 3.0, 1: 3.0, 2: 3.0}  # 6 s of work on two cores


def test_a_ranks_transport_carries_one_message_at_a_time():
    on = Host()
    for worker in (0, 1, 2):
        on.host.move(3, worker, 4.0, on.note(worker))
    assert on.run() == {0: 2.0, 1: 4.0, 2: 6.0}


def test_a_message_that_has_to_wait_keeps_nobody_else_waiting():
    on = Host()
    on.host.move(0, 1, 8.0, on.note("first"))
    on.host.move(1, 2, 0.0, on.note("waits for rank 1"))
    on.host.move(3, 2, 0.0, on.note("others"))
    assert on.run() == {"others": 1.0, "first": 3.0, "waits for rank 1": 4.0}


def test_while_all_cores_compute_a_message_waits_for_its_turn():
    on = Host()
    for rank in (2, 3):
        on.host.work(rank, 20.0, on.note(rank))
    on.host.move(0, 1, 0.0, on.note("m"))
    # 10 s of waiting, then 1 s of work on two thirds of a core; the others have 9 s left at 11.5 s
    assert on.run() == {"m": 11.5, 2: 20.5, 3: 20.5}


def test_on_a_free_core_a_message_does_not_wait():
    on = Host()
    on.host.work(2, 20.0, on.note("computed"))
    on.host.move(0, 1, 0.0, on.note("m"))
    assert on.run() == {"m": 1.0, "computed": 20.0}


def test_a_message_has_its_turn_when_a_core_becomes_free():
    on = Host()
    on.host.work(2, 5.0, on.note("short"))
    on.host.work(3, 20.0, on.note("long"))
    on.host.move(0, 1, 0.0, on.note("first"))
    on.host.move(4, 5, 0.0, on.note("second"))
    on.engine.after(8.0, lambda: on.host.move(0, 1, 0.0, on.note("prompt")))
    # from 5 s on three jobs share two cores: 2 s of messages by two thirds each, until 6.5 s
    assert on.run() == {"short": 5.0, "first": 6.5, "second": 6.5, "prompt": 9.0, "long": 20.5}


def test_a_rank_that_goes_on_computing_frees_no_core():
    on = Host()
    on.host.work(2, 4.0, lambda: on.host.work(2, 4.0, on.note("again")))
    on.host.work(3, 20.0, on.note("long"))
    on.host.move(0, 1, 0.0, on.note("m"))
    assert on.run() == {"again": 8.0, "m": 9.0, "long": 20.0}


def test_computing_that_was_stopped_delays_nobody():
    on = Host()
    stops = [on.host.work(rank, 5.0, on.note("never")) for rank in (2, 3)]
    on.host.move(0, 1, 0.0, on.note("m"))
    on.engine.after(2.0, lambda: [stop() for stop in stops])
    on.engine.after(3.0, lambda: [stop() for stop in stops])  # nothing is left to stop
    assert on.run() == {"m": 3.0}
