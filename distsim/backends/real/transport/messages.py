"""Point-to-point messages on gloo, in call order per (peer, tag), from one source or from any.

A message is a frame: a header of fixed size (version, label, layout) and, behind it, a payload of up to 64 KiB (one more
message of gloo costs as much as 64 KiB do). A larger payload follows by itself. Everything travels by rendez-vous: gloo
moves bytes only once both sides have posted. Rules:

- A receive posts its frame at the call. What a send waits for must never depend on the receiver's *awaiting*, only on its
  having posted; but a buffer for a large payload can only be posted once its layout is known. So:
- the large payloads of one layout on one channel (peer, tag) use a gloo tag of their own, which no other size can match;
- a receive on a channel that has carried one such layout posts a buffer of that layout at the call, too;
- where several layouts are known, or none although several receives are posted, a thread waits and posts the buffers;
- the first large payload of a layout on a channel is copied and travels in the background: its send is over when the header
  has arrived, for its receiver could not expect it.
- Receives of one channel complete in the order of their calls, in whichever order they are awaited.

Where ranks share memory, a large payload lies there, and its frame says where: see shelves.py. Else a CUDA payload travels
through the host's memory, whatever the collectives do.
"""

from __future__ import annotations

import contextlib
import ctypes
import queue
import struct
import threading
from collections import deque
from functools import lru_cache
from hashlib import blake2b
from math import prod
from typing import Any
from zlib import crc32

import torch

from distsim.backends.real.transport.devices import Device
from distsim.backends.real.transport.gloo import Request, irecv, isend
from distsim.backends.real.transport.handle import PeerLost, Pending, Ready, named
from distsim.backends.real.transport.membership import Inbox
from distsim.backends.real.transport.shelves import LONGEST, Shelves
from distsim.backends.real.watching.board import Desk
from distsim.interface import Envelope, Message, StrategyError

Layout = tuple[torch.dtype, tuple[int, ...]]

_HEADER = struct.Struct("<qibBB8q8s128s")  # version, source, dtype, dimensions, length of the label, shape, tag, label
_VERSION = struct.Struct("<q")
_DTYPES = (
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.int16,
    torch.int8,
    torch.uint8,
    torch.bool,
)
_SIGNAL = -1
_ON_SHELF = 64  # is added to a dtype: the frame names the shelf
_AHEAD = 256  # bytes before the payload in a frame
_SEND, _RECEIVE = 5, 6
"""Calls from `named` to the strategy's line, at least: over the Rank's method and the Worker's."""
_INLINE = 65_536  # bytes of the largest payload in a frame


class Channel:
    """The receives of one (source, tag) that are not over yet, and the layouts it has carried."""

    def __init__(self, source: int | None, tag: str) -> None:
        self.source = source
        self.tag = tag
        self.title = f"receive {tag!r} from {'any rank' if source is None else f'rank {source}'}"
        self.slot = _slot(tag, None)
        self.digest = _digest(tag)
        self.layouts: set[Layout] = set()
        self.posted: dict[tuple[int, Layout], deque[tuple[torch.Tensor, Request]]] = {}
        self._queue: deque[Receive] = deque()
        self._turn = threading.Condition()
        self._busy = False
        self._pumped = False
        self._seen = False

    def add(self, receive: Receive) -> None:
        """Queue a receive whose header has been posted; make sure that its payload can come."""
        with self._turn:
            self._queue.append(receive)
            if len(self.layouts) == 1:
                (layout,) = self.layouts
                wanted = 1 if self.source is None else len(self._queue)
                for (source, _), posted in list(self.posted.items()):
                    if len(posted) < wanted:
                        self.post(source, layout)
            elif not self._pumped and (self.layouts or (len(self._queue) > 1 and not self._seen)):
                self._pumped = True
                threading.Thread(target=self._pump, daemon=True).start()

    def post(self, source: int, layout: Layout) -> None:
        """Post a buffer for the next payload of this layout."""
        buffer = torch.empty(layout[1], dtype=layout[0])
        request = irecv(buffer, source, tag=_slot(self.tag, layout))
        self.posted.setdefault((source, layout), deque()).append((buffer, request))

    def take(self, source: int, layout: Layout) -> torch.Tensor:
        """Wait for the payload that belongs to a header."""
        with self._turn:
            if not self.posted.get((source, layout)):
                self.post(source, layout)
            self.layouts.add(layout)
            buffer, request = self.posted[source, layout].popleft()
        request.wait()
        return buffer

    def complete(self, receive: Receive) -> None:
        """Wait until `receive` and all before it are over; one flow at a time waits on gloo for all."""
        with self._turn:
            while not receive.is_over:
                if self._busy:
                    self._turn.wait()
                    continue
                self._busy = True
                self._turn.release()
                try:
                    head = self._queue[0]
                    head.run()
                finally:
                    self._turn.acquire()
                    del self._queue[0]
                    self._busy = False
                    self._seen = True
                    self._turn.notify_all()

    def _pump(self) -> None:
        while True:
            with self._turn:
                if not self._queue:
                    self._pumped = False
                    return
                last = self._queue[-1]
            self.complete(last)


class Outgoing:
    """The sends of one tag to one rank."""

    def __init__(self, to: int, tag: str) -> None:
        self.title = f"send {tag!r} to rank {to}"
        self.slot = _slot(tag, None)
        self.digest = _digest(tag)
        self.layouts: set[Layout] = set()
        """Of the large payloads that its receiver has come to expect."""


class Receive(Pending[Message[torch.Tensor]]):
    """A receive under way: it completes in its channel's order."""

    def __init__(self, desk: Desk, channel: Channel, device: Device, shelves: Shelves | None) -> None:
        frame = torch.empty(_AHEAD + _INLINE, dtype=torch.uint8)
        try:
            request = irecv(frame, channel.source, tag=channel.slot)
        except RuntimeError as error:
            raise PeerLost(str(error)) from error
        what = named(channel.title, _RECEIVE)
        peers = () if channel.source is None else (channel.source,)
        super().__init__(what, desk, lambda: _read(channel, frame, request, device, shelves), peers)
        self._channel = channel
        channel.add(self)

    def complete(self) -> None:
        """Wait until the operation is over, whatever came out."""
        self._channel.complete(self)


class Messages:
    """One rank's sends and receives."""

    def __init__(
        self, desk: Desk, rank: int, device: Device, hears_on: str | None = None, shelves: Shelves | None = None
    ) -> None:
        self._desk = desk
        self._rank = rank
        self._device = device
        self._hears_on = hears_on
        self._shelves = shelves
        self._gone: set[int] = set()  # only membership is asked
        self._inbox: Inbox | None = None
        self._channels: dict[tuple[int | None, str], Channel] = {}
        self._outgoing: dict[tuple[int, str], Outgoing] = {}
        self._background: queue.SimpleQueue[tuple[Request, torch.Tensor]] | None = None
        self._lock = threading.Lock()

    def send(self, to: int, tag: str, envelope: Envelope[torch.Tensor]) -> Pending[None] | Ready[None]:
        """Start sending; over when the receiver has it (see the module's rules for the first of a layout), or is gone and
        the others work on."""
        if to in self._gone:
            now = self._desk.now()
            return Ready(None, now, now)
        outgoing = self._outgoing.get((to, tag))
        if outgoing is None:
            outgoing = self._outgoing.setdefault((to, tag), Outgoing(to, tag))
        frame, body = self._pack(outgoing, envelope)
        requests: list[Request] = []
        try:
            with self._lock:  # a header and its payload keep their order against other flows
                requests.append(isend(frame, to, outgoing.slot))
                if body is not None:
                    layout = (body.dtype, tuple(body.shape))
                    known = layout in outgoing.layouts
                    body = body if known else body.clone()
                    request = isend(body, to, _slot(tag, layout))
                    if known:
                        requests.append(request)
                    else:
                        outgoing.layouts.add(layout)
                        self._let_go(request, body)
        except RuntimeError as error:
            if self._hears_on is None:
                raise PeerLost(str(error)) from error

        def finish(keep: Any = (frame, body)) -> None:
            try:
                for request in requests:
                    request.wait()
            except RuntimeError as error:
                if self._hears_on is None:  # else the launcher will say that it is gone
                    raise PeerLost(str(error)) from error

        return Pending(named(outgoing.title, _SEND), self._desk, finish, (to,))

    def receive(self, source: int | None, tag: str) -> Pending[Message[torch.Tensor]]:
        """Post a receive from `source`, or from any rank."""
        if source is None and tag == self._hears_on:
            return self._open().receive(self._desk, tag)
        with self._lock:
            channel = self._channels.get((source, tag))
            if channel is None:
                channel = self._channels[source, tag] = Channel(source, tag)
            return Receive(self._desk, channel, self._device, self._shelves)

    def lose(self, rank: int) -> None:
        """A worker is lost, and this server works on."""
        self._gone.add(rank)
        self._open().lose(rank)

    def _open(self) -> Inbox:
        with self._lock:
            if self._inbox is None:
                assert self._hears_on is not None
                channel, device = Channel(None, self._hears_on), self._device
                self._inbox = Inbox(channel.slot, _AHEAD + _INLINE, lambda f, r: _read(channel, f, r, device, None))
            return self._inbox

    def _pack(self, outgoing: Outgoing, envelope: Envelope[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The frame of a message, and its payload if that follows by itself."""
        layout: Layout | None = None
        body = shelf = None
        if envelope.payload is not None:
            x = envelope.payload.detach()
            layout = x.dtype, tuple(x.shape)
            if self._shelves is not None and x.nbytes > _INLINE:
                shelf = self._shelves.put(x)
            if shelf is None:
                body = x.cpu().contiguous()
        raw = bytearray(_header(self._rank, outgoing.digest, envelope.label, layout, shelf is not None))
        _VERSION.pack_into(raw, 0, envelope.version)
        header = torch.frombuffer(raw if shelf is None else raw + shelf, dtype=torch.uint8)
        if body is None or body.nbytes > _INLINE:
            return header, body
        return torch.cat([header, body.view(-1).view(torch.uint8)]), None

    def _let_go(self, request: Request, body: torch.Tensor) -> None:
        """Keep a copied payload until gloo has sent it."""
        if self._background is None:
            self._background = queue.SimpleQueue()
            threading.Thread(target=_drain, args=(self._background,), daemon=True).start()
        self._background.put((request, body))


def _read(
    channel: Channel, frame: torch.Tensor, request: Request, device: Device, shelves: Shelves | None
) -> Message[torch.Tensor]:
    """Wait for a frame, then for the payload if it comes by itself."""
    try:
        request.wait()
        header = ctypes.string_at(frame.data_ptr(), _HEADER.size)
        version, source, code, dimensions, length, *rest = _HEADER.unpack(header)
        if rest[8] != channel.digest:
            raise StrategyError(f"the tag {channel.tag!r} collides with another one of this run: rename it")
        label = rest[9][:length].decode()
        if code == _SIGNAL:
            return Message(source, version, label, None)
        dtype, shape = _DTYPES[code % _ON_SHELF], tuple(rest[:dimensions])
        nbytes = prod(shape) * dtype.itemsize
        if code >= _ON_SHELF:
            payload = None
        elif nbytes > _INLINE:
            payload = channel.take(source, (dtype, shape))
        else:
            inline = frame[_AHEAD : _AHEAD + nbytes]
            if 2 * nbytes < _INLINE:  # else it may keep the frame
                inline = inline.clone()
            payload = inline.view(dtype).view(shape)
    except RuntimeError as error:
        raise PeerLost(str(error)) from error
    if payload is None:
        assert shelves is not None
        payload = shelves.take(source, ctypes.string_at(frame.data_ptr() + _AHEAD, LONGEST)).view(dtype).view(shape)
    return Message(source, version, label, payload if device.name == "cpu" else payload.to(device.name))


def _drain(waiting: queue.SimpleQueue[tuple[Request, torch.Tensor]]) -> None:
    while True:
        request, _body = waiting.get()
        with contextlib.suppress(RuntimeError):  # a rank is lost; whoever waits for it says so
            request.wait()


@lru_cache(1024)
def _header(source: int, digest: bytes, label: str, layout: Layout | None, on_shelf: bool) -> bytes:
    """What comes before the payload in a frame of version 0."""
    code, shape = _SIGNAL, tuple[int, ...]()
    if layout is not None:
        dtype, shape = layout
        if dtype not in _DTYPES or len(shape) > 8:
            raise StrategyError(f"a real run cannot send a payload of {len(shape)} dimensions of {dtype}")
        code = _DTYPES.index(dtype) + on_shelf * _ON_SHELF
    sizes, text = (*shape, *(0,) * (8 - len(shape))), label.encode()
    return _HEADER.pack(0, source, code, len(shape), len(text), *sizes, digest, text).ljust(_AHEAD, b"\0")


@lru_cache(1024)
def _slot(tag: str, layout: Layout | None) -> int:
    """The gloo tag of the frames (no layout) or of the large payloads of one layout."""
    return crc32(repr((tag, layout)).encode()) & 0x7FFFFFFF


@lru_cache(1024)
def _digest(tag: str) -> bytes:
    return blake2b(tag.encode(), digest_size=8).digest()
