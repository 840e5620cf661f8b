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


class Messages:
    """All messages of a run."""

    def __init__(self, engine: Engine, hosts: Hosts, transport: Transport = NO_CORRECTIONS) -> None:
        self._engine = engine
        self._hosts = hosts
        self._eager_bytes = transport.eager_bytes
        self._one_at_a_time = transport.one_at_a_time
        self._sends: defaultdict[tuple[int, str], deque[_Send]] = defaultdict(deque)
        self._receives: defaultdict[tuple[int, str], deque[_Receive]] = defaultdict(deque)
        self._ready: defaultdict[Channel, deque[tuple[_Send, float]]] = defaultdict(deque)
        """Sends whose bytes can travel, and since when; the first of each channel does."""
        self.started = self.under_way = 0
        """Messages that have begun to travel, and those that still do."""
        self.on_the_way: dict[int, tuple[int, int]] = {}
        """Source and destination of those that still do, but signals, by number."""
        self.watch: Callable[[int, int], None] | None = None
        """Told of each as it begins."""

    def send(
        self, source: int, to: int, tag: str, envelope: Envelope[Any], nbytes: float, copy: Callable[[Any], Any]
    ) -> Operation[None]:
        """Post a send."""
        operation: Operation[None] = self._engine.operation()
        send = _Send(source, envelope, nbytes, copy, operation)
        if nbytes < self._eager_bytes:
            send.eager = True
            if envelope.payload is not None:
                send.envelope = envelope._replace(payload=copy(envelope.payload))
            operation.finish(None)
            self._enqueue(send, to, tag)
        receives = self._receives[to, tag]  # none of them has met a send that was posted before
        for receive in receives:
            if receive.source is None or receive.source == source:
                receives.remove(receive)
                self._meet(send, receive, to, tag)
                break
        else:
            self._sends[to, tag].append(send)
        return operation

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
        self._ready[channel].append((send, self._engine.now))
        if len(self._ready[channel]) == 1:
            self._carry(channel)

    def _carry(self, channel: Channel) -> None:
        send, since = self._ready[channel][0]
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
            self.under_way -= 1
            self.on_the_way.pop(number, None)
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

        self._hosts.move(send.source, channel[1], send.nbytes, arrived, self._engine.now - since)


def _deliver(send: _Send, payload: Any) -> None:
    assert send.receive is not None
    message = Message(send.source, send.envelope.version, send.envelope.label, payload)
    send.receive.operation.finish(message)
