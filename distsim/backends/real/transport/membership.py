"""Servers that work on without a worker: what a lost one had under way is dropped, and servers are told.

gloo says nothing to a server that receives from any rank when one of them dies; the launcher sees it, and writes its rank
to a pipe of each server's. There the loss is a signal with the label `lost`, in the place of the next message. What the
lost worker sent and has not arrived whole never does, and what is sent to it is over at once. It stays away: processes
cannot join a group of gloo's that there is.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from distsim.backends.real.transport.gloo import Request, irecv
from distsim.backends.real.transport.handle import PeerLost, Pending, named
from distsim.backends.real.watching.board import Desk
from distsim.interface import LOST, Message

_AGAIN = 0.01  # seconds between tries to receive while a worker is dying
_TRIES = 200

Read = Callable[[torch.Tensor, Request], Message[torch.Tensor]]


class Inbox:
    """The receives from any rank of one tag: the n-th gets the n-th message, or the signal that came in its place.

    Frames are posted at the call of a receive, and a thread waits for them, so that a signal need wait for none.
    """

    def __init__(self, slot: int, nbytes: int, read: Read) -> None:
        self._slot = slot
        self._nbytes = nbytes
        self._read = read
        self._changed = threading.Condition()
        self._frames: deque[tuple[torch.Tensor, Request]] = deque()
        self._arrived: dict[int, Message[Any] | BaseException] = {}
        self._called = self._count = 0
        self._gone: set[int] = set()  # only membership is asked
        threading.Thread(target=self._pump, name="distsim inbox", daemon=True).start()

    def receive(self, desk: Desk, tag: str) -> Pending[Message[Any]]:
        """Post a receive."""
        with self._changed:
            number = self._called
            self._called += 1
            self._post()
        return Pending(named(f"receive {tag!r} from any rank"), desk, lambda: self._take(number))

    def lose(self, rank: int) -> None:
        """A worker is lost: nothing of it arrives any more."""
        with self._changed:
            self._gone.add(rank)
            self._put(Message(rank, 0, LOST, None))

    def _post(self) -> None:
        """Have a frame posted for every receive that has got nothing."""
        while self._count + len(self._frames) < self._called:
            frame = torch.empty(self._nbytes, dtype=torch.uint8)
            self._frames.append((frame, _posted(frame, self._slot)))
            self._changed.notify_all()

    def _put(self, message: Message[Any] | BaseException) -> None:
        self._arrived[self._count] = message
        self._count += 1
        self._changed.notify_all()

    def _take(self, number: int) -> Message[Any]:
        with self._changed:
            while number not in self._arrived:
                self._changed.wait()
            message = self._arrived.pop(number)
        if isinstance(message, BaseException):
            raise message
        return message

    def _pump(self) -> None:
        while True:
            with self._changed:
                while not self._frames:
                    self._changed.wait()
                frame, request = self._frames[0]
            found: Message[Any] | BaseException | None
            try:
                found = self._read(frame, request)
            except PeerLost:  # it died while it sent
                found = None
                time.sleep(_AGAIN)
            except BaseException as error:
                found = error
            with self._changed:
                self._frames.popleft()
                if found is not None and not (isinstance(found, Message) and found.source in self._gone):
                    self._put(found)
                try:
                    self._post()
                except PeerLost as error:  # whoever receives next says so
                    self._put(error)


def _posted(frame: torch.Tensor, slot: int) -> Request:
    """A receive from any rank; one that a dead rank had announced a message for fails, and the next does not."""
    for _ in range(_TRIES):
        try:
            return irecv(frame, None, tag=slot)
        except RuntimeError as error:
            last = error
            time.sleep(_AGAIN)
    raise PeerLost(str(last)) from last


def listen(path: Path, lose: Callable[[int], None]) -> None:
    """Have a thread tell `lose` of every rank that is written there."""

    def hear() -> None:
        with os.fdopen(os.open(path, os.O_RDWR)) as lines:  # for writing, too: so it never ends
            for line in lines:
                lose(int(line))

    threading.Thread(target=hear, name="distsim losses", daemon=True).start()
