"""Ranks of a Python that finds this take the way of a GPU, over gloo on the CPU: loaded when that Python starts.

Their device is a CudaDevice whose streams and events are those below, and their collectives are as NCCL's: who waits for
one is a stream, not the host, until the compute stream, which is the host here, waits for that. What a GPU computes is not
tried.
"""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager

from distsim.backends.real import rank
from distsim.backends.real.transport import gloo
from distsim.backends.real.transport.devices import CudaDevice

current = threading.local()


class Request:
    """A collective of gloo's. It begins beside the compute stream, whatever that waits for."""

    def __init__(self, inner):
        assert current.stream is not Cuda.compute
        self.inner, self.lock, self.over = inner, threading.Lock(), None

    def wait(self):
        current.stream.waits.append(self)

    def finish(self):
        with self.lock:
            if self.over is None:
                self.inner.wait()
                self.over = time.monotonic()


class Stream:
    def __init__(self, index):
        self.waits = []

    def synchronize(self):
        for request in self.waits:
            request.finish()

    def wait_event(self, event):
        event.synchronize()


class Event:
    def __init__(self, enable_timing):
        assert enable_timing

    def record(self, stream):
        self.recorded, self.waits = time.monotonic(), list(stream.waits)

    def query(self):
        return all(request.over is not None for request in self.waits)

    def synchronize(self):
        for request in self.waits:
            request.finish()

    @property
    def time(self):
        return max([self.recorded, *(request.over for request in self.waits)])

    def elapsed_time(self, later):
        return (later.time - self.time) * 1e3


class Cuda:
    """As torch.cuda."""

    Stream, Event, compute = Stream, Event, Stream(0)

    def set_device(self, index):
        pass

    def current_stream(self, index):
        return self.compute

    @contextmanager
    def stream(self, stream):
        current.stream = stream
        yield
        del current.stream


device = CudaDevice(0, Cuda())
device.name = "cpu"
rank.HostDevice = lambda: device
collectives, make_group = rank.Collectives, gloo.make_group
rank.Collectives = lambda *given, gpu, **named: collectives(*given, gpu=device, **named)
gloo.make_group = lambda store, position, size, nccl: make_group(store, position, size, nccl=False)


def as_nccl(start):
    return lambda *given: Request(start(*given))


for name in ("all_reduce", "all_gather", "all_gather_flat", "all_to_all", "broadcast", "reduce", "reduce_scatter"):
    setattr(gloo, name, as_nccl(getattr(gloo, name)))
