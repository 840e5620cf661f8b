"""When things were done on a GPU, by a device whose streams and events are told what they do; expectations by hand."""

from __future__ import annotations

import struct
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from distsim.backends.real.fabric import Real
from distsim.backends.real.transport.devices import CudaDevice, HostDevice
from distsim.interface import Batch, Cost, Straggler, Trace
from distsim.interface.trace import Compute, Loss, Transfer, Update


class Stream:
    def __init__(self, cuda):
        self.cuda, self.free = cuda, 0.0

    def work(self, seconds):
        """Queue work: it begins when what was queued before is done, not before now."""
        self.free = max(self.free, self.cuda.now) + seconds

    def until(self, time):
        self.free = max(self.free, time)

    def wait_event(self, event):
        self.until(event.time)

    def synchronize(self):
        self.cuda.now = max(self.cuda.now, self.free)


class Event:
    def __init__(self, cuda):
        self.cuda = cuda
        cuda.events += 1

    def record(self, stream):
        self.time = max(stream.free, self.cuda.now)

    def query(self):
        return self.time <= self.cuda.now

    def synchronize(self):
        self.cuda.now = max(self.cuda.now, self.time)

    def elapsed_time(self, later):
        milliseconds = (later.time - self.time) * 1e3 * self.cuda.rate
        return struct.unpack("f", struct.pack("f", milliseconds))[0]


class Cuda:
    """As torch.cuda; `now` is the host's clock, and the GPU's runs `rate` times as fast."""

    def __init__(self, rate=1.0):
        self.now, self.rate, self.events = 0.0, rate, 0
        self.compute, self.current = Stream(self), None

    def set_device(self, index):
        assert index == 3

    def current_stream(self, index):
        return self.compute

    def Stream(self, index):
        return Stream(self)

    def Event(self, enable_timing):
        return Event(self)

    @contextmanager
    def stream(self, stream):
        self.current = stream
        yield


class Request:
    """A transfer of NCCL that takes so long once its payload is there; who waits for it is a stream."""

    def __init__(self, cuda, seconds):
        self.cuda, self.over = cuda, cuda.compute.free + seconds

    def wait(self):
        self.cuda.current.until(self.over)


def started(rate=1.0):
    cuda = Cuda(rate)
    device = CudaDevice(3, cuda)
    device.start(lambda: cuda.now)
    return cuda, device


def compute(cuda, device, trace, name, seconds):
    begun = device.mark(cuda.now)
    cuda.compute.work(seconds)
    trace.compute.append(Compute(name, begun, device.mark(cuda.now), 0, 0))


def test_a_device_is_waited_for_before_the_run_begins():
    """As ranks do that warm up, and that meet."""
    cuda = Cuda()
    device = CudaDevice(3, cuda)
    device.enter()
    cuda.compute.work(2.0)
    device.wait()
    assert cuda.now == 2.0


def test_spans_are_the_devices_and_the_host_never_waits():
    cuda, device = started()
    trace = Trace(0)
    compute(cuda, device, trace, "A", 3.0)
    cuda.now = 0.5
    compute(cuda, device, trace, "B", 2.0)
    trace.losses.append(Loss(0, 0, 1, 1.0, cuda.now))
    trace.updates.append(Update(1, 8, cuda.now))
    assert cuda.now == 0.5
    cuda.now = 6.0
    compute(cuda, device, trace, "C", 1.0)
    trace.ended = cuda.now
    when = device.settle(trace)
    assert [(c.name, c.begun, c.ended) for c in trace.compute] == [("A", 0, 3), ("B", 3, 5), ("C", 6, 7)]
    assert (trace.losses[0].time, trace.updates[0].time, trace.ended) == (5, 5, 7)
    assert [when(time) for time in (0.25, 5.5, 9.0)] == [3, 5.5, 9]
    assert all(type(time) is float for c in trace.compute for time in (c.begun, c.ended))


@pytest.mark.parametrize(("seconds", "awaited", "ended", "third"), [(4.0, 5.0, 7.0, 7.0), (1.0, 4.0, 4.0, 5.0)])
def test_a_transfer_begins_with_its_payload_and_who_awaits_it_is_the_compute_stream(seconds, awaited, ended, third):
    """A computes for 3 s what is reduced, B for 2 s beside it; C takes the result."""
    cuda, device = started()
    trace = Trace(0)
    compute(cuda, device, trace, "A", 3.0)
    end = device.ended(Request(cuda, seconds), (0, 1), device.mark(cuda.now))
    compute(cuda, device, trace, "B", 2.0)
    cuda.now = 0.25
    device.expect(end)
    trace.transfers.append(Transfer("all_reduce", "all_reduce 0,1", 0, 8.0, 0.0, end, end))
    compute(cuda, device, trace, "C", 1.0)
    assert cuda.now == 0.25
    device.settle(trace)
    (transfer,) = trace.transfers
    assert (transfer.posted, transfer.awaited, transfer.ended) == (3.0, awaited, ended)
    assert (trace.compute[2].begun, trace.compute[2].ended) == (third, third + 1.0)


def test_a_transfer_that_is_called_late_waits_for_its_payload_alone():
    """A is ready after 1 s. Until its group is made, the compute stream has come to wait for a transfer of 9 s."""
    cuda, device = started()
    cuda.compute.work(1.0)
    posted = device.mark(cuda.now)
    device.expect(device.ended(Request(cuda, 9.0), (2, 3), posted))
    assert cuda.compute.free == 10.0
    with device.beside((0, 1), posted):
        assert cuda.current.free == 1.0
    with device.beside((2, 3), posted):
        assert cuda.current.free == 10.0


def test_what_is_over_when_it_is_awaited_is_not_waited_for():
    cuda, device = started()
    trace = Trace(0)
    end = device.ended(Request(cuda, 1.0), (0, 1), device.mark(cuda.now))
    cuda.now = 2.0
    compute(cuda, device, trace, "A", 1.0)  # reads what has passed
    device.expect(end)
    trace.transfers.append(Transfer("all_reduce", "all_reduce 0,1", 0, 8.0, 0.0, end, end))
    device.settle(trace)
    assert trace.transfers[0][4:] == (0.0, 1.0, 1.0)
    assert (trace.compute[0].begun, trace.compute[0].ended) == (2.0, 3.0)


def test_a_long_run_takes_few_events_and_both_clocks_agree():
    """200 s in operations of 0.5 s, on a GPU whose clock gains 1 s in 10,000; single precision has some us at 10 s."""
    cuda, device = started(rate=1.0001)
    trace = Trace(0)
    for _ in range(400):
        compute(cuda, device, trace, "A", 0.5)
        device.wait()
    device.settle(trace)
    assert cuda.events <= 6
    assert [c.ended for c in trace.compute] == pytest.approx([0.5 * (i + 1) for i in range(400)], abs=50e-6, rel=0)


class Flow:
    """Stands for the desk of a rank and for a handle that is over when it is told."""

    is_over = False

    def __init__(self, cuda):
        self.now = lambda: cuda.now

    def over(self):
        return self.is_over

    def enter(self, *what):
        return self.now()

    def leave(self, begun):
        return self.now()


def test_the_host_waits_between_blocks_that_may_be_cancelled_only():
    cuda, device = started()
    job = SimpleNamespace(pace=lambda rank: None, straggler=Straggler())
    flow = Flow(cuda)
    fabric = Real(0, job, flow, device, lambda error: None)

    def blocks(stop):
        for _ in range(2):
            if stop():
                return None
            cuda.compute.work(1.0)
        return "done"

    handle = fabric.compute(Cost(()), blocks, Batch(0), None)
    assert (handle.value, cuda.now) == ("done", 0.0)
    handle = fabric.compute(Cost(()), blocks, Batch(0), flow)
    assert (handle.value, cuda.now) == ("done", 3.0)  # the first block of this one ran from 2 to 3
    flow.is_over = True
    assert fabric.compute(Cost(()), blocks, Batch(0), flow).value is None


def test_a_host_is_done_when_its_calls_return():
    device, trace = HostDevice(), Trace(0, [Compute("A", 1.0, 2.0, 0, 0)])
    device.wait()
    assert device.mark(1.5) == 1.5
    assert device.settle(trace)(3.0) == 3.0
    assert trace.compute == [Compute("A", 1.0, 2.0, 0, 0)]
