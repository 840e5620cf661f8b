"""The inside of a rank's process: build the numerics, meet the others, run the strategy, save what it gave."""

from __future__ import annotations

import gc
import os
import pickle
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import FileStore, Store

from distsim.backends.real import values
from distsim.backends.real.allocator import keep_freed_memory
from distsim.backends.real.fabric import Real
from distsim.backends.real.process import Order, how_messages_travel
from distsim.backends.real.regrouping import Regrouping
from distsim.backends.real.saving import checkpoints
from distsim.backends.real.saving.checkpoints import Checkpoints
from distsim.backends.real.saving.tally import Tally, pipe, tally_of
from distsim.backends.real.transport import gloo, membership
from distsim.backends.real.transport.collectives import Collectives, Everyone
from distsim.backends.real.transport.devices import CudaDevice, Device, HostDevice, make_deterministic
from distsim.backends.real.transport.gloo import FOREVER
from distsim.backends.real.transport.handle import PeerLost
from distsim.backends.real.transport.messages import Messages
from distsim.backends.real.transport.shelves import GpuMemory, HostMemory, Memory, Shelves, tried
from distsim.backends.real.transport.survivors import Survivors
from distsim.backends.real.transport.wires import Wires, noted
from distsim.backends.real.watching.board import RUNS, Desk
from distsim.backends.real.worlds.clock import Clock, align
from distsim.backends.real.worlds.meeting import connect
from distsim.interface import DistsimError, Job, Worker, drive, finish

_START = 0.005  # seconds from the agreement on the clock's origin to that origin


def run(order: Order, desk: Desk, raised: Callable[[BaseException], None]) -> None:
    """Run one rank of a job. `raised` takes what a task raised."""
    keep_freed_memory()
    torch.set_num_threads(order.threads)
    if order.deterministic:
        make_deterministic()
    device: Device = HostDevice()
    if order.device == "cuda":
        os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")  # a stream that waits should hold up none
        device = CudaDevice(order.local_rank % torch.cuda.device_count())
        device.enter()
    desk.phase("numerics")
    job: Job = pickle.loads(order.job)
    fabric = Real(order.rank, job, desk, device, raised)
    begin = order.begin
    state = job.rank(order.rank, fabric, checkpoints.start(begin))
    show = state.progress.pieces
    state.progress.pieces = lambda regions: [p._replace(values=_on_cpu(p.values)) for p in show(regions)]  # not on a GPU
    tally = Tally(tally_of(order.private), order.world_size)
    saver = Checkpoints(job, state, fabric, begin, tally)
    desk.follow(state.trace)
    _warm_up(device)
    gc.freeze()  # the collector need not look at torch again and again because records grow
    desk.phase("rendezvous")
    regroups = begin.works_on and job.strategy.hears_on is None
    try:
        hears_on = job.strategy.hears_on if begin.works_on and order.rank >= job.cluster.workers else None
        survivors = Survivors(order.private, order.rank, order.world_size) if regroups else None
        clock, collectives = _meet(order, desk, fabric, device, hears_on, survivors)
    except RuntimeError as error:  # of gloo: another rank is gone
        raise PeerLost(str(error)) from error
    if order.rank == 0:
        tally.start(desk.now())
    saver.begin(lambda: _store(order, "saving", order.world_size))
    if hears_on is not None:
        membership.listen(pipe(order.private, order.rank), saver.lose)
    regrouping = None
    if survivors is not None:
        regrouping = Regrouping(job, state, fabric, desk, survivors, collectives, begin, order.private, tally)
    desk.phase("run")
    desk.enter(RUNS, "")
    if regrouping is None:
        drive(finish(job.strategy, Worker(state, range(order.world_size))))
    else:
        state = regrouping.run()
    desk.phase("end")
    done = device.settle(state.trace)
    shown = state.progress.snapshots
    snapshots = [
        s._replace(time=done(s.time), pieces=[p._replace(values=_on_cpu(p.values)) for p in s.pieces]) for s in shown
    ]
    weights = {block: _on_cpu(x) for block, x in state.weights().items()}
    order.results.write_bytes(values.dumps((state.trace, snapshots, weights, clock)))


def _warm_up(device: Device) -> None:
    """Do once what torch does lazily (imports of a second, threads, libraries), so that it is not on the run's clock."""
    with torch.device(device.name):
        layer = torch.nn.Linear(2, 2)
        y = layer(torch.ones(2, 2))
        torch.autograd.grad(y, list(layer.parameters()), torch.ones_like(y))
        torch.nn.functional.cross_entropy(torch.ones(2, 2), torch.zeros(2, dtype=torch.long))
    device.wait()


def _meet(
    order: Order, desk: Desk, fabric: Real, device: Device, hears_on: str | None, survivors: Survivors | None
) -> tuple[float, partial[Collectives]]:
    """Connect to all ranks, over the order's interface only, and agree on the origin of the clock; how many seconds this
    machine's clock can be off, and what makes collectives for who is left when a rank is lost."""
    gloo.listen_on(order.interface)

    def store(name: str, size: int) -> Store:
        return _store(order, name, size)

    size = order.world_size
    wires = Wires()
    with noted(wires):
        dist.init_process_group("gloo", store=store("store", size), rank=order.rank, world_size=size, timeout=FOREVER)
        own = torch.tensor([int(order.device == "cuda" and torch.cuda.device_count() >= order.local_size)])
        dist.all_reduce(own, dist.ReduceOp.MIN)  # NCCL takes all ranks or none, and hosts may differ
        gpu = device if own and isinstance(device, CudaDevice) else None
        group = gloo.make_group(store("everyone", size), order.rank, size, nccl=gpu is not None)
    messages = Messages(desk, order.rank, device, hears_on, _share(order))
    make = partial(Collectives, desk, order.private, store, order.rank, gpu=gpu, losses=survivors)
    collectives = make(everyone=Everyone(tuple(range(size)), group, wires))
    if survivors is not None:
        survivors.use(collectives)
    fabric.connect(messages, collectives, store("decide", size))
    begin = order.begin
    if order.rank == 0:
        checkpoints.count_on(fabric, begin)
    dist.all_reduce(torch.zeros(1))
    if gpu is not None:  # NCCL connects at the first
        gloo.all_reduce(group, torch.zeros(1, device=gpu.name)).wait()
        gpu.wait()
    clock = Clock(0.0, 0.0) if order.elsewhere is None else align(order.rank, order.elsewhere.machines)
    earliest = 0.0 if begin.origin is None else begin.origin + begin.at
    start = max(time.monotonic() + max(_START, 100 * clock.uncertainty), earliest)
    agreed = torch.tensor([start], dtype=torch.float64)
    dist.broadcast(agreed, 0)
    start = float(agreed) - clock.behind
    desk.origin = start - begin.at if begin.origin is None else begin.origin
    time.sleep(max(0.0, start - time.monotonic()))
    device.start(desk.now)
    return clock.uncertainty, make


def _share(order: Order) -> Shelves | None:
    """What ranks that share memory send large payloads through, if they are to and can."""
    shelves = None
    if order.messages != "gloo":
        memory: Memory = HostMemory(order.private, order.rank)
        if order.device == "cuda":
            gpus = torch.cuda.device_count()
            memory = GpuMemory(order.local_rank % gpus, min(gpus, order.local_size))
        made = Shelves(memory, order.private / "shelves", order.rank, order.world_size)
        shelves = made if tried(memory, made, order.rank, order.world_size) else None
        if shelves is None and order.messages == "shared":
            raise DistsimError("backend.messages=shared: ranks cannot share memory here, see their logs; take auto or gloo")
    if order.rank == 0 and (shelves is not None or order.device == "cuda"):
        note = "messages travel through host memory"
        if shelves is not None:
            note = "large messages " + ("are copied between GPUs" if order.device == "cuda" else "go through shared memory")
        how_messages_travel(order.private).write_text(note + "\n")
    return shelves


def _store(order: Order, name: str, size: int) -> Store:
    """A connection of its own to a store of the run's ranks."""
    far = order.elsewhere
    if far is None:
        here = FileStore(str(order.private / name), size)
        here.set_timeout(FOREVER)  # NCCL waits for members as long as their store does
        return here
    return connect(far.address, far.port, f"{far.prefix}/{name}", FOREVER)


def _on_cpu(x: Any) -> Any:
    return x.detach().cpu() if isinstance(x, torch.Tensor) else x
