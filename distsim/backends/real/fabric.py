"""The real fabric: time is the machine's, transport is torch.distributed, a task is a thread.

- Compute runs at the call, one operation at a time; messages and collectives run beside it, in gloo's threads. A GPU works
  behind its host, and its times are put into the records at the end: see devices.py.
- An injected straggler of factor f adds (f - 1) x the calibrated uncontended seconds of the operation's cost, asleep, using
  no CPU; a delay is slept after the first block. With `burn` it uses so many seconds of CPU instead. An episode is on or
  off by the run's wall clock when the operation begins. What a sleep takes too long is a credit for the next; less than
  0.2 ms is saved up. A factor under 1 adds nothing.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeVar

from distsim.backends.real.transport.collectives import Collectives
from distsim.backends.real.transport.devices import Device
from distsim.backends.real.transport.gloo import Store
from distsim.backends.real.transport.handle import Pending, Ready, named
from distsim.backends.real.transport.messages import Messages
from distsim.backends.real.transport.survivors import Regrouped
from distsim.backends.real.watching.board import COMPUTES, IDLES, SAVES, WAITS, Desk
from distsim.interface import Batch, Collective, Cost, Envelope, Handle, Job, Message, StrategyError, drive
from distsim.interface.model import Operation

R = TypeVar("R")

_SHORTEST = 2e-4  # seconds; the kernel wakes a sleeper some 0.06 ms late
_BURNT = bytes(1 << 17)  # whose checksum takes some 30 us
_POLL = 0.002  # seconds between looks for what others have saved
_CALLS = 4
"""From `named` to the strategy's line, at least: over `Real.compute`, the Rank's method and the Worker's."""
_LARGEST_CREDIT = 0.1  # seconds; a rank that was suspended for longer does not run ahead afterwards


class Sleeper:
    """Sleeps what is owed, and remembers what it slept too long."""

    def __init__(self, sleep: Callable[[float], None] = time.sleep, clock: Callable[[], float] = time.monotonic) -> None:
        self._owed = 0.0
        self._sleep = sleep
        self._clock = clock

    def owe(self, seconds: float) -> None:
        """Add to what is owed and sleep it off, unless it is too short to sleep."""
        self._owed += seconds
        if self._owed < _SHORTEST:
            return
        begun = self._clock()
        self._sleep(self._owed)
        self._owed = max(self._owed - (self._clock() - begun), -_LARGEST_CREDIT)


def _burn(seconds: float) -> None:
    """Use so much CPU on this thread, without the interpreter's lock: others of the rank's threads go on."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        zlib.crc32(_BURNT)


class Real:
    """The fabric of one rank. `connect` gives it its transport once all ranks have met."""

    def __init__(self, rank: int, job: Job, desk: Desk, device: Device, raised: Callable[[BaseException], None]) -> None:
        self.rank = rank
        self._job = job
        self._desk = desk
        self.device = device
        self._raised = raised
        self._queue = threading.Lock()
        self.now = desk.now
        """Seconds since the run began, on a clock that all ranks share."""
        self._pace = job.pace(rank)
        self._is_slowed = not job.straggler.is_off
        self._burns = job.straggler.burn
        self._sleeper = Sleeper(_burn, time.thread_time) if self._burns else Sleeper()
        self.count_gradient: Callable[[], None] | None = None
        """Told of every gradient before it is sent."""
        self._is_smaller = False
        self._messages: Messages
        self._collectives: Collectives
        self._store: Store

    def lose(self, rank: int) -> None:
        """A worker is lost, and this rank, a server, works on."""
        self._messages.lose(rank)

    def regroup(self, collectives: Collectives) -> None:
        """A rank is lost: these are the collectives of those who are left. There are no messages any more."""
        self._collectives, self._is_smaller = collectives, True

    def connect(self, messages: Messages, collectives: Collectives, store: Store) -> None:
        """Take the transport."""
        self._messages, self._collectives, self._store = messages, collectives, store

    def fail(self, error: BaseException) -> None:
        """A thread that nothing awaits has failed: it ends the run."""
        self._raised(error)

    def compute(
        self, cost: Cost, action: Callable[[Callable[[], bool]], R], batch: Batch | None, unless: Handle[Any] | None
    ) -> Handle[R | None]:
        """Run `action` now, and the straggler's wait between its blocks and after it."""
        desk, what = self._desk, named(_words(cost, batch), _CALLS)
        with self._queue:
            if batch is not None:
                desk.step = batch.step
            begun = self.device.mark(desk.enter(COMPUTES, what))
            if self._is_slowed or unless is not None:
                value = self._interrupted(cost, action, batch, unless, begun)
            else:
                value = action(_never)
            ended = self.device.mark(desk.leave(begun))
        return Ready(value, begun, ended)

    def _interrupted(
        self,
        cost: Cost,
        action: Callable[[Callable[[], bool]], R],
        batch: Batch | None,
        unless: Handle[Any] | None,
        begun: float,
    ) -> R | None:
        """Run `action` with the straggler's waits, unless it is cancelled."""
        waits = self._waits(cost, batch, begun) if self._is_slowed else []
        asked = False

        def stop() -> bool:
            # asked before each block: the one before it is paid for now. The first asks before anything ran.
            nonlocal asked
            if (waits or unless is not None) and asked:
                self.device.wait()
            if waits and asked:
                self._sleep(waits.pop(0))
            asked = True
            return unless is not None and unless.over()

        value = action(stop)
        if waits and not (value is None and unless is not None and unless.over()):
            self.device.wait()
            self._sleep(sum(waits))
        return value

    def send(self, to: int, tag: str, envelope: Envelope[Any]) -> Handle[None]:
        """Send; over when it has arrived."""
        self._check_messages()
        if self.count_gradient is not None and envelope.label == "gradient" and envelope.payload is not None:
            self.count_gradient()
        return self._messages.send(to, tag, envelope)

    def receive(self, source: int | None, tag: str) -> Handle[Message[Any]]:
        """Receive from a rank, or from any."""
        self._check_messages()
        return self._messages.receive(source, tag)

    def collective(self, group: tuple[int, ...], collective: Collective, payload: Any) -> Handle[Any]:
        """Join the group's next collective."""
        return self._collectives.start(group, collective, payload)

    def task(self, coroutine: Coroutine[Any, Any, R]) -> Handle[R]:
        """Run the coroutine on a thread; what it raises ends the run, awaited or not."""

        def run() -> None:
            self._desk.open_flow()
            self.device.enter()
            handle.complete()
            self._desk.close_flow()

        def finish() -> R:
            try:
                return drive(coroutine)
            except Regrouped:
                raise
            except BaseException as error:
                self._raised(error)
                raise

        handle = Pending(named("a task"), self._desk, finish)
        threading.Thread(target=run, daemon=True).start()
        return handle

    def aside(self, what: str, action: Callable[[float], None]) -> None:
        """Save, which is no part of the strategy, and no straggler slows down, on the compute queue, told when it began."""
        with self._queue:
            action(self._desk.enter(SAVES, what))
            self._desk.leave()

    @contextmanager
    def saves(self, what: str) -> Iterator[None]:
        """The calling thread, which is none of the strategy's, saves."""
        self._desk.open_flow()
        self._desk.enter(SAVES, what)
        try:
            yield
            self._desk.leave()
        finally:
            self._desk.close_flow()

    def progress(self, seconds: float) -> None:
        """Part of what is saved is saved; that took so long, and is what a hang is measured by, not the whole."""
        self._desk.leave_part(seconds)

    def wait_until(self, holds: Callable[[], bool], what: str) -> None:
        """Wait for what others save, in the middle of what this rank does."""
        self._desk.enter(WAITS, what)
        while not holds():
            time.sleep(_POLL)
        self._desk.leave()
        self._desk.turn(SAVES)

    def decide(self, key: str, proposal: bool) -> bool:
        """The proposal of the first rank to ask, by compare-and-set in the store (some 40 us)."""
        return self._store.compare_set(key, "", "yes" if proposal else "no") == b"yes"

    def count(self, key: str) -> int:
        """How often any rank has asked before, by a counter in the store."""
        return self._store.add(f"count {key}", 1) - 1

    def count_from(self, key: str, number: int) -> None:
        """As if it had been asked so often; for one rank, before anyone asks."""
        self._store.add(f"count {key}", number)

    def _check_messages(self) -> None:
        if self._is_smaller:
            raise StrategyError("real ranks that go on as a smaller group have collectives alone: no messages")

    def _waits(self, cost: Cost, batch: Batch | None, begun: float) -> list[float]:
        """Seconds to wait for each primitive operation of `cost`, which begins now, by a straggler."""
        factor, delay = self._pace.take(None if batch is None else batch.step)
        factor *= self._pace.episode(begun)
        waits = self._slowed(cost, factor) if factor > 1.0 else []
        if delay:
            waits = [delay + waits[0], *waits[1:]] if waits else [delay]
        return waits

    def _slowed(self, cost: Cost, factor: float) -> list[float]:
        """What a factor over 1 adds to each primitive operation."""
        device, model = self._job.cluster.device, self._job.model
        parts = [Cost((part,), cost.samples) for part in cost.parts]
        if cost.nbytes:
            parts.append(Cost((), cost.samples, cost.nbytes))
        seconds = [device.seconds(model, part) for part in parts]
        whole = device.seconds(model, cost)  # an operation's overhead counts once, not once a part
        return [(factor - 1.0) * each * whole / sum(seconds) for each in seconds] if whole else []

    def _sleep(self, seconds: float) -> None:
        if self._burns:
            self._sleeper.owe(seconds)
            return
        self._desk.turn(IDLES)
        self._sleeper.owe(seconds)
        self._desk.turn(COMPUTES)


def _never() -> bool:
    """Nothing stops it."""
    return False


def _words(cost: Cost, batch: Batch | None) -> str:
    """A compute operation in words, by its primitive operations."""
    operations = _operations(cost.parts)
    return operations if batch is None else f"{operations} of step {batch.step}"


@lru_cache(maxsize=4096)
def _operations(parts: tuple[tuple[Operation, int], ...]) -> str:
    return ", ".join(dict.fromkeys(operation for operation, _ in parts)) or "payload arithmetic"
