"""Messages: matching sends with receives, and carrying what matched.

A transfer starts when both sides have posted it (rendez-vous). Sends meet receives by (destination, tag) in the order of
posting; a receive from any rank takes the oldest send. The bytes of one (source, destination, tag) follow each other, as on
one connection: latencies overlap, bandwidth does not.
The payload is copied at delivery: what arrives is the receiver's own.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from distsim.backends.simulated.engine import Engine, Operation
from distsim.backends.simulated.hosts import Hosts
from distsim.interface import Envelope, Message

Channel = tuple[int, int, str]


@dataclass(eq=False)
class _Send:
    source: int
    envelope: Envelope[Any]
    nbytes: float
    copy: Callable[[Any], Any]
    operation: Operation[None]


@dataclass(eq=False)
class _Receive:
    source: int | None
    operation: Operation[Message[Any]]


class Messages:
    """All messages of a run."""

    def __init__(self, engine: Engine, hosts: Hosts) -> None:
        self._engine = engine
        self._hosts = hosts
        self._sends: defaultdict[tuple[int, str], deque[_Send]] = defaultdict(deque)
        self._receives: defaultdict[tuple[int, str], deque[_Receive]] = defaultdict(deque)
        self._matched: defaultdict[Channel, deque[tuple[_Send, _Receive, float]]] = defaultdict(deque)
        """And when."""
        self.started = self.under_way = 0
        """Messages that have begun to travel, and those that still do."""

    def send(
        self, source: int, to: int, tag: str, envelope: Envelope[Any], nbytes: float, copy: Callable[[Any], Any]
    ) -> Operation[None]:
        """Post a send."""
        operation: Operation[None] = self._engine.operation()
        self._sends[to, tag].append(_Send(source, envelope, nbytes, copy, operation))
        self._match(to, tag)
        return operation

    def receive(self, rank: int, source: int | None, tag: str) -> Operation[Message[Any]]:
        """Post a receive."""
        operation: Operation[Message[Any]] = self._engine.operation()
        self._receives[rank, tag].append(_Receive(source, operation))
        self._match(rank, tag)
        return operation

    def _match(self, to: int, tag: str) -> None:
        sends, receives = self._sends[to, tag], self._receives[to, tag]
        for receive in list(receives) if sends else ():
            send = next((s for s in sends if receive.source in (None, s.source)), None)
            if send is None:
                continue
            sends.remove(send)
            receives.remove(receive)
            channel = (send.source, to, tag)
            self._matched[channel].append((send, receive, self._engine.now))
            if len(self._matched[channel]) == 1:
                self._carry(channel)

    def _carry(self, channel: Channel) -> None:
        send, receive, since = self._matched[channel][0]
        send.operation.begin()
        receive.operation.begin()
        self.started += 1
        self.under_way += 1

        def arrived() -> None:
            self.under_way -= 1
            envelope = send.envelope
            payload = None if envelope.payload is None else send.copy(envelope.payload)
            receive.operation.finish(Message(send.source, envelope.version, envelope.label, payload))
            send.operation.finish(None)
            matched = self._matched[channel]
            matched.popleft()
            if matched:
                self._carry(channel)

        self._hosts.move(send.source, channel[1], send.nbytes, arrived, self._engine.now - since)
