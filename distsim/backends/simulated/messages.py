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
from functools import partial
from typing import Any

from distsim.backends.simulated.engine import Clock, Engine, Operation
from distsim.backends.simulated.hosts import Hosts
from distsim.interface import Envelope, Message, Transport
from distsim.interface.transport import NO_CORRECTIONS

Copy = Callable[[Any], Any]


class _Receive(Operation[Message[Any]]):
    """A receive, from any rank if `source` is None."""

    def __init__(self, env: Clock, source: int | None) -> None:
        super().__init__(env)
        self.source = source


class _Send(Operation[None]):
    """A send."""

    is_eager = False
    receive: _Receive | None = None
    """Whom it has met."""
    is_here = False
    """Its bytes have arrived; only of an eager one before it has met a receive."""
    is_dropped = False
    since = 0.0
    """When its bytes could travel."""
    arrived: Callable[[], None] | None = None
    """Called when its bytes, which are under way, have arrived."""

    def __init__(
        self, env: Clock, source: int, to: int, tag: str, envelope: Envelope[Any], nbytes: float, copy: Copy
    ) -> None:
        super().__init__(env)
        self.source = source
        self.to = to
        self.tag = tag
        self.envelope = envelope
        self.nbytes = nbytes
        self.copy = copy

    @property
    def is_heard(self) -> bool:
        """It has met a receive."""
        return self.receive is not None


class _Mailbox:
    """What was posted to one rank with one tag and has met nothing yet, the oldest first."""

    __slots__ = ("receives", "sends")

    def __init__(self) -> None:
        self.sends = deque[_Send]()
        self.receives = deque[_Receive]()


class Messages:
    """All messages of a run."""

    def __init__(self, engine: Engine, hosts: Hosts, transport: Transport = NO_CORRECTIONS) -> None:
        self._engine = engine
        self._env = engine.env
        self._hosts = hosts
        self._eager_bytes = transport.eager_bytes
        self._one_at_a_time = transport.one_at_a_time
        self._mailboxes: defaultdict[tuple[int, str], _Mailbox] = defaultdict(_Mailbox)
        self._ready: defaultdict[tuple[int, int, str], deque[_Send]] = defaultdict(deque)
        """By channel, sends whose bytes can travel; the first of each does."""
        self.started = self.under_way = 0
        """Messages that have begun to travel, and those that still do."""
        self.on_the_way: dict[Operation[None], tuple[int, int]] = {}
        """Source and destination of those that still do, but signals."""
        self.watch: Callable[[int, int], None] | None = None
        """Told of each as it begins."""
        self._away: set[int] = set()  # ranks that are not there; only membership is asked

    def send(self, source: int, to: int, tag: str, envelope: Envelope[Any], nbytes: float, copy: Copy) -> Operation[None]:
        """Post a send."""
        send = _Send(self._env, source, to, tag, envelope, nbytes, copy)
        if to in self._away:
            send.finish(None)
            return send
        if nbytes < self._eager_bytes:
            send.is_eager = True
            if envelope.payload is not None:
                send.envelope = envelope._replace(payload=copy(envelope.payload))
            send.finish(None)
            self._enqueue(send)
        self._post(send)
        return send

    def _post(self, send: _Send) -> None:
        """Let a send meet the first receive that takes it, or wait for one."""
        mailbox = self._mailboxes[send.to, send.tag]
        for receive in mailbox.receives:  # none of them has met a send that was posted before
            if receive.source is None or receive.source == send.source:
                mailbox.receives.remove(receive)
                self._meet(send, receive)
                break
        else:
            mailbox.sends.append(send)

    def receive(self, rank: int, source: int | None, tag: str) -> Operation[Message[Any]]:
        """Post a receive."""
        receive, mailbox = _Receive(self._env, source), self._mailboxes[rank, tag]
        for send in mailbox.sends:
            if source is None or source == send.source:
                mailbox.sends.remove(send)
                self._meet(send, receive)
                break
        else:
            mailbox.receives.append(receive)
        return receive

    def _meet(self, send: _Send, receive: _Receive) -> None:
        send.receive = receive
        if not send.is_eager:
            self._enqueue(send)
        else:
            receive.begin()
            if send.is_here:
                _deliver(send, receive, send.envelope.payload)

    def _enqueue(self, send: _Send) -> None:
        """Its bytes can travel, after those before it on its channel."""
        ready = self._ready[send.source, send.to, "" if self._one_at_a_time else send.tag]
        send.since = self._env._now
        ready.append(send)
        if len(ready) == 1:
            self._carry(send, ready)

    def _carry(self, send: _Send, ready: deque[_Send]) -> None:
        source, to, nbytes, now = send.source, send.to, send.nbytes, self._env._now
        if send.receive is not None and not send.is_eager:
            send.begun = send.receive.begun = now
        self.started += 1
        self.under_way += 1
        if nbytes:
            self.on_the_way[send] = source, to
            if self.watch is not None:
                self.watch(source, to)
        send.arrived = partial(self._arrive, send, ready)
        self._hosts.move(source, to, nbytes, send.arrived, now - send.since)

    def _arrive(self, send: _Send, ready: deque[_Send]) -> None:
        """The bytes of a send are there; those after it on its channel follow."""
        send.arrived = None  # it refers to the send: a cycle, which would keep its tensors until the run's end
        self.under_way -= 1
        self.on_the_way.pop(send, None)
        if send.is_dropped:
            return
        payload, receive = send.envelope.payload, send.receive
        if send.is_eager:
            send.is_here = True
            if receive is not None:
                _deliver(send, receive, payload)
        else:
            assert receive is not None
            _deliver(send, receive, None if payload is None else send.copy(payload))
            send.finish(None)
        del ready[0]
        if ready:
            self._carry(ready[0], ready)

    # ---- ranks that are lost

    def drop(self, rank: int) -> defaultdict[tuple[int, str], list[Envelope[Any]]]:
        """A rank is gone: what it had sent and has not arrived, by destination and tag. Whoever sends to it is done."""
        self._away.add(rank)
        gone: dict[_Send, None] = {}
        for channel, ready in self._ready.items():
            if rank in channel[:2]:
                gone |= dict.fromkeys(ready)
                ready.clear()
        for (to, _), mailbox in self._mailboxes.items():
            out = [send for send in mailbox.sends if to == rank or (send.source == rank and not send.is_here)]
            gone |= dict.fromkeys(out)
            for send in out:
                mailbox.sends.remove(send)
            if to == rank:
                mailbox.receives.clear()
        dropped: defaultdict[tuple[int, str], list[Envelope[Any]]] = defaultdict(list)
        freed = []
        for send in gone:
            if send.source == rank:
                dropped[send.to, send.tag].append(send.envelope)
                if send.receive is not None:
                    freed.append((self._mailboxes[send.to, send.tag], send.receive))
            self._drop(send)
        for mailbox, receive in reversed(freed):
            mailbox.receives.appendleft(receive)  # it waits on, before those that came later
        return dropped

    def _drop(self, send: _Send) -> None:
        send.is_dropped, send.receive = True, None
        if not send.over():
            send.finish(None)
        if send.arrived is not None and not send.is_here and self._hosts.drop(send.arrived):
            send.arrived()

    def _matches(self, mailbox: _Mailbox, receive: _Receive) -> bool:
        """Let a receive whose send was dropped meet another that waits, if there is one."""
        for send in mailbox.sends:
            if receive.source is None or receive.source == send.source:
                mailbox.sends.remove(send)
                self._meet(send, receive)
                return True
        return False

    def readmit(self, rank: int) -> None:
        """A rank is there again."""
        self._away.discard(rank)

    def tell(self, source: int, to: int, tag: str, label: str) -> _Send:
        """Let a rank hear a signal as if `source` had sent it, at once: in place of what it was about to hear from that."""
        told = _Send(self._env, source, to, tag, Envelope(0, label, None), 0.0, lambda payload: payload)
        told.is_eager = told.is_here = True
        told.finish(None)
        self._post(told)
        mailbox = self._mailboxes[to, tag]
        for receive in list(mailbox.receives):  # some may be free that were not when others were sent
            if self._matches(mailbox, receive):
                mailbox.receives.remove(receive)
        return told


Told = _Send
"""A signal that was told, which knows whether it was heard."""


def _deliver(send: _Send, receive: _Receive, payload: Any) -> None:
    receive.finish(Message(send.source, send.envelope.version, send.envelope.label, payload))
