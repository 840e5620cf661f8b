"""The device of a rank: what the fabric asks of it, and when it was really done.

A GPU works behind its host: a call returns when the work is queued. To wait for it after each operation would be the end of
overlap, so the host never waits for the sake of a record. A `Mark` is put into the queue where a host would look at its
clock: an event, and as a number the host's time then. What it was on the device is read when that has passed it, and
`settle` puts it into the records at the end of the run. Rules:

- Compute runs on the current stream of the rank's GPU; NCCL has a stream of its own, and each group one more that waits for
  its transfers in their order, so that the end of each can be marked; they start from there, once their payload is there.
  Who awaits a transfer has the compute stream wait.
- A rank's time in an operation runs from the mark before to the mark after it; a transfer is posted when its payload is
  there, and awaited from when the compute stream has nothing else to do.
- The host waits where it needs a value (the loss of a batch, which must be finite; whether fp16 overflowed), where a
  message takes a payload or brings one, before a straggler's sleep, and between blocks that `unless` may cancel.
- A GPU counts from an event at the start, in milliseconds of single precision: so a new one takes over every 10 s. Its
  clock is fitted to the host's by both ends of the run, if that took longer.

Not verified on a GPU: the rules are tested with events that are told when they pass.

Deterministic: two runs of one configuration on one machine compute the same bits, wherever the order in which ranks hear of
each other decides nothing, as in every synchronous strategy. gloo sums in an order that ranks and sizes give, NCCL by an
algorithm that it chooses by sizes and wires.
"""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Any, Protocol

import torch

from distsim.backends.real.transport.gloo import Request
from distsim.interface import Trace

TAKE_OVER = 10.0
"""Seconds after which another event is counted from; a float32 of as many milliseconds is exact to 1 us."""


def make_deterministic() -> None:
    """Take only algorithms that give the same bits in every run; called before CUDA starts, which reads the environment."""
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # what torch.use_deterministic_algorithms asks for
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


class Device(Protocol):
    """The device of one rank."""

    name: str
    """As torch calls it."""

    def enter(self) -> None:
        """Make it the current one of this thread."""

    def start(self, now: Callable[[], float]) -> None:
        """The run begins; `now` is its clock."""

    def mark(self, now: float) -> float:
        """When all is done that the device has been asked for by `now`."""

    def wait(self) -> None:
        """Wait until that is done."""

    def settle(self, trace: Trace) -> Callable[[float], float]:
        """Put into a rank's records when things were really done; when what was asked for by a time was."""


class HostDevice:
    """The CPU: what was called is done when the call returns."""

    name = "cpu"

    def enter(self) -> None:
        """Nothing to do."""

    def start(self, now: Callable[[], float]) -> None:
        """Nothing to do."""

    def mark(self, now: float) -> float:
        """Now."""
        return now

    def wait(self) -> None:
        """Nothing to wait for."""

    def settle(self, trace: Trace) -> Callable[[float], float]:
        """All is as it was written."""
        return float


class Mark(float):
    """A place in a queue of the device; as a number, the host's time when it was put there."""

    __slots__ = ("awaited", "event", "posted", "seconds")

    def __init__(self, now: float) -> None:
        self.event: Any = None
        """Until it has been read."""
        self.seconds = 0.0
        """On the device's clock, once it has been read."""
        self.posted: Mark | None = None
        self.awaited: Mark | None = None
        """Of the end of a transfer, when its payload was there and when the compute stream had to wait for it."""

    def __reduce__(self) -> Any:
        return float, (float(self),)


class CudaDevice:
    """One GPU. `cuda` is torch.cuda, or something that behaves like it."""

    def __init__(self, index: int, cuda: Any = torch.cuda) -> None:
        self.name = f"cuda:{index}"
        self._index = index
        self._cuda = cuda
        self._lock = threading.Lock()
        self._free: list[Any] = []
        self._queue: deque[Mark] = deque()
        """What was not read yet."""
        self._sides: dict[object, Any] = {}
        self._now: Callable[[], float]

    def enter(self) -> None:
        """Make it the current one of this thread: each begins with the first GPU."""
        self._cuda.set_device(self._index)

    def start(self, now: Callable[[], float]) -> None:
        """Count from here."""
        self._now = now
        self._compute = self._cuda.current_stream(self._index)
        self._base = self._event()
        self._base.record(self._compute)
        self._base.synchronize()
        self._begun = now()
        self._base_seconds = 0.0

    def mark(self, now: float) -> Mark:
        """The end of the compute queue."""
        return self._mark(now, self._compute)

    def wait(self) -> None:
        """Wait for the compute stream; also before the run begins."""
        self._cuda.current_stream(self._index).synchronize()

    # ---- transfers

    def side(self, group: object) -> Any:
        """The stream that waits for the transfers of a group."""
        with self._lock:
            if group not in self._sides:
                self._sides[group] = self._cuda.Stream(self._index)
            return self._sides[group]

    @contextmanager
    def beside(self, group: object, posted: Mark | None = None) -> Iterator[None]:
        """What is called inside waits for the transfers of a group before it, and for its payload, not for what the compute
        stream has come to wait for since: ranks that make their groups in different orders would wait in a circle."""
        side = self.side(group)
        if posted is not None:
            with self._lock:
                if posted.event is not None:  # else it is over
                    side.wait_event(posted.event)
        with self._cuda.stream(side):
            yield

    def ended(self, request: Request, group: object, posted: Mark) -> Mark:
        """The end of a transfer that has just been started."""
        with self.beside(group):
            request.wait()  # of NCCL: the stream waits, the host does not
        mark = self._mark(self._now(), self.side(group))
        mark.posted = posted
        return mark

    def expect(self, end: Mark) -> None:
        """Have the compute stream wait for a transfer."""
        end.awaited = self.mark(self._now())
        with self._lock:
            if end.event is not None:  # else it is over
                self._compute.wait_event(end.event)

    def has_passed(self, mark: Mark) -> bool:
        """Whether all before a mark is done."""
        with self._lock:
            return mark.event is None or bool(mark.event.query())

    # ---- time

    def settle(self, trace: Trace) -> Callable[[float], float]:
        """Put the device's times into the records; the host's times of updates and losses become those of their work."""
        last = self.mark(self._now())
        self.wait()
        finished = self._now()
        with self._lock:
            while self._queue:
                self._queue[0].event.synchronize()
                self._read(self._queue.popleft())
        took = last.seconds
        rate = (finished - self._begun) / took if took > TAKE_OVER else 1.0

        def at(time: float) -> float:
            return self._begun + time.seconds * rate if isinstance(time, Mark) else time

        known = sorted((float(c.ended), at(c.ended)) for c in trace.compute)
        asked, done = [a for a, _ in known], list(accumulate((d for _, d in known), max))

        def when(time: float) -> float:
            index = bisect_right(asked, time)
            return max(time, done[index - 1]) if index else time

        trace.compute[:] = [c._replace(begun=at(c.begun), ended=at(c.ended)) for c in trace.compute]
        for i, t in enumerate(trace.transfers):
            end = t.ended
            if isinstance(end, Mark) and end.posted is not None and end.awaited is not None:
                ended = at(end)
                posted, awaited = min(at(end.posted), ended), min(at(end.awaited), ended)
                trace.transfers[i] = t._replace(posted=posted, awaited=awaited, ended=ended)
        trace.updates[:] = [u._replace(time=when(u.time)) for u in trace.updates]
        trace.losses[:] = [loss._replace(time=when(loss.time)) for loss in trace.losses]
        trace.ended = when(trace.ended)
        return when

    def _mark(self, now: float, stream: Any) -> Mark:
        mark = Mark(now)
        with self._lock:
            while self._queue and self._queue[0].event.query():
                self._read(self._queue.popleft())
            mark.event = self._free.pop() if self._free else self._event()
            mark.event.record(stream)
            self._queue.append(mark)
        return mark

    def _event(self) -> Any:
        return self._cuda.Event(enable_timing=True)

    def _read(self, mark: Mark) -> None:
        """Note when a mark was passed; its event goes to the next one."""
        event, mark.event = mark.event, None
        passed = self._base.elapsed_time(event) / 1e3
        mark.seconds = self._base_seconds + passed
        if passed > TAKE_OVER:
            event, self._base, self._base_seconds = self._base, event, mark.seconds
        self._free.append(event)
