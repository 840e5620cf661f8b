"""Messages: matching sends with receives, and carrying what matched.

A transfer starts when both sides have posted it (rendez-vous), or, below a size that the transport may set (eager), when it
is sent: then its payload is copied, its send is over at once, and its bytes wait where they go. Sends meet receives by
(destination, tag) in the order of posting; a receive from any rank takes the oldest send. The bytes of one (source,
destination, tag) follow each other, as on one connection, and of one (source, destination) if the transport says so:
latencies overlap, bandwidth does not.
The payload is copied at delivery: what arrives is the receiver's own.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from distsim.backends.simulated.engine import Engine, Operation
from distsim.backends.simulated.hosts import Hosts
from distsim.interface import Envelope, Message, Transport
from distsim.interface.transport import NO_CORRECTIONS

Channel = tuple[int, int, str]


@dataclass(eq=False, slots=True)
class _Receive:
    source: int | None
    operation: Operation[Message[Any]]


@dataclass(eq=False, slots=True)
class _Send:
    source: int
    envelope: Envelope[Any]
    nbytes: float
    copy: Callable[[Any], Any]
    operation: Operation[None]
    eager: bool = False
    receive: _Receive | None = None
    """Whom it has met."""
    is_here: bool = False
    """Its bytes have arrived; only of an eager one before it has met a receive."""
    is_dropped: bool = False
    arrived: Callable[[], None] | None = None
    """Called when its bytes, which are under way, have arrived."""

    @property
    def is_heard(self) -> bool:
        """It has met a receive."""
        return self.receive is not None


class Messages:
    """All messages of a run."""

    def __init__(self, engine: Engine, hosts: Hosts, transport: Transport = NO_CORRECTIONS) -> None:
        self._engine = engine
        self._hosts = hosts
        self._eager_bytes = transport.eager_bytes
        self._one_at_a_time = transport.one_at_a_time
        self._sends: defaultdict[tuple[int, str], deque[_Send]] = defaultdict(deque)
        self._receives: defaultdict[tuple[int, str], deque[_Receive]] = defaultdict(deque)
        self._ready: defaultdict[Channel, deque[tuple[_Send, float, str]]] = defaultdict(deque)
        """Sends whose bytes can travel, since when, and their tag; the first of each channel does."""
        self.started = self.under_way = 0
        """Messages that have begun to travel, and those that still do."""
        self.on_the_way: dict[int, tuple[int, int]] = {}
        """Source and destination of those that still do, but signals, by number."""
        self.watch: Callable[[int, int], None] | None = None
        """Told of each as it begins."""
        self._away: set[int] = set()  # ranks that are not there; only membership is asked

    def send(
        self, source: int, to: int, tag: str, envelope: Envelope[Any], nbytes: float, copy: Callable[[Any], Any]
    ) -> Operation[None]:
        """Post a send."""
        operation: Operation[None] = self._engine.operation()
        if to in self._away:
            operation.finish(None)
            return operation
        send = _Send(source, envelope, nbytes, copy, operation)
        if nbytes < self._eager_bytes:
            send.eager = True
            if envelope.payload is not None:
                send.envelope = envelope._replace(payload=copy(envelope.payload))
            operation.finish(None)
            self._enqueue(send, to, tag)
        self._post(send, to, tag)
        return operation

    def _post(self, send: _Send, to: int, tag: str) -> None:
        """Let a send meet the first receive that takes it, or wait for one."""
        receives = self._receives[to, tag]  # none of them has met a send that was posted before
        for receive in receives:
            if receive.source is None or receive.source == send.source:
                receives.remove(receive)
                self._meet(send, receive, to, tag)
                break
        else:
            self._sends[to, tag].append(send)

    def receive(self, rank: int, source: int | None, tag: str) -> Operation[Message[Any]]:
        """Post a receive."""
        operation: Operation[Message[Any]] = self._engine.operation()
        receive = _Receive(source, operation)
        sends = self._sends[rank, tag]
        for send in sends:
            if source is None or source == send.source:
                sends.remove(send)
                self._meet(send, receive, rank, tag)
                break
        else:
            self._receives[rank, tag].append(receive)
        return operation

    def _meet(self, send: _Send, receive: _Receive, to: int, tag: str) -> None:
        send.receive = receive
        if not send.eager:
            self._enqueue(send, to, tag)
        else:
            receive.operation.begin()
            if send.is_here:
                _deliver(send, send.envelope.payload)

    def _enqueue(self, send: _Send, to: int, tag: str) -> None:
        """Its bytes can travel, after those before it on its channel."""
        channel = (send.source, to, "" if self._one_at_a_time else tag)
        self._ready[channel].append((send, self._engine.now, tag))
        if len(self._ready[channel]) == 1:
            self._carry(channel)

    def _carry(self, channel: Channel) -> None:
        send, since, _ = self._ready[channel][0]
        if send.receive is not None and not send.eager:
            send.operation.begin()
            send.receive.operation.begin()
        self.started += 1
        self.under_way += 1
        number = self.started
        if send.nbytes:
            self.on_the_way[number] = send.source, channel[1]
            if self.watch is not None:
                self.watch(send.source, channel[1])

        def arrived() -> None:
            send.arrived = None  # it refers to the send: a cycle, which would keep its tensors until the run's end
            self.under_way -= 1
            self.on_the_way.pop(number, None)
            if send.is_dropped:
                return
            payload = send.envelope.payload
            if send.eager:
                send.is_here = True
                if send.receive is not None:
                    _deliver(send, payload)
            else:
                _deliver(send, None if payload is None else send.copy(payload))
                send.operation.finish(None)
            ready = self._ready[channel]
            ready.popleft()
            if ready:
                self._carry(channel)

        send.arrived = arrived
        self._hosts.move(send.source, channel[1], send.nbytes, arrived, self._engine.now - since)

    # ---- ranks that are lost

    def drop(self, rank: int) -> defaultdict[tuple[int, str], list[Envelope[Any]]]:
        """A rank is gone: what it had sent and has not arrived, by destination and tag. Whoever sends to it is done."""
        self._away.add(rank)
        gone: dict[tuple[int, str, _Send], None] = {}
        for channel, ready in self._ready.items():
            if rank in channel[:2]:
                gone |= {(channel[1], tag, send): None for send, _, tag in ready}
                ready.clear()
        for (to, tag), sends in self._sends.items():
            out = [send for send in sends if to == rank or (send.source == rank and not send.is_here)]
            gone |= {(to, tag, send): None for send in out}
            for send in out:
                sends.remove(send)
        for (to, _), receives in self._receives.items():
            if to == rank:
                receives.clear()
        dropped: defaultdict[tuple[int, str], list[Envelope[Any]]] = defaultdict(list)
        freed = []
        for to, tag, send in gone:
            if send.source == rank:
                dropped[to, tag].append(send.envelope)
                if send.receive is not None:
                    freed.append((to, tag, send.receive))
            self._drop(send)
        for to, tag, receive in reversed(freed):
            self._receives[to, tag].appendleft(receive)  # it waits on, before those that came later
        return dropped

    def _drop(self, send: _Send) -> None:
        send.is_dropped, send.receive = True, None
        if not send.operation.over():
            send.operation.finish(None)
        if send.arrived is not None and not send.is_here and self._hosts.drop(send.arrived):
            send.arrived()

    def _matches(self, to: int, tag: str, receive: _Receive) -> bool:
        """Let a receive whose send was dropped meet another that waits, if there is one."""
        for send in self._sends[to, tag]:
            if receive.source is None or receive.source == send.source:
                self._sends[to, tag].remove(send)
                self._meet(send, receive, to, tag)
                return True
        return False

    def readmit(self, rank: int) -> None:
        """A rank is there again."""
        self._away.discard(rank)

    def tell(self, source: int, to: int, tag: str, label: str) -> _Send:
        """Let a rank hear a signal as if `source` had sent it, at once: in place of what it was about to hear from that."""
        told = _Send(source, Envelope(0, label, None), 0.0, lambda payload: payload, self._engine.operation(), True)
        told.is_here = True
        told.operation.finish(None)
        self._post(told, to, tag)
        receives = self._receives[to, tag]
        for receive in list(receives):  # some may be free that were not when others were sent
            if self._matches(to, tag, receive):
                receives.remove(receive)
        return told


Told = _Send
"""A signal that was told, which knows whether it was heard."""


def _deliver(send: _Send, payload: Any) -> None:
    assert send.receive is not None
    message = Message(send.source, send.envelope.version, send.envelope.label, payload)
    send.receive.operation.finish(message)
