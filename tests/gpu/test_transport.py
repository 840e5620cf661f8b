"""What torch and NCCL say of themselves, tried: streams, payloads that are computed late, memory, losses. Not run yet."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, replace

import pytest
import torch
import torch.distributed as dist
from real.mortal import Mortal

from distsim.backends.real import launch
from distsim.backends.real.transport import gloo
from distsim.backends.real.transport.devices import CudaDevice
from distsim.backends.simulated import simulate
from distsim.interface import SGD, AdamW, Batch, Checkpoint, Failure, Region, Strategy, Trace
from distsim.interface.trace import Transfer
from distsim.numerics.tensors import TensorsFactory
from distsim.numerics.tensors_assemble import assemble
from distsim.strategies.all_reduce import AllReduce
from distsim.strategies.zero import Zero
from gpu.test_gpu import GPUS, SEED, STEPS, WIDE, WORKLOAD, assert_close, job, launched, on_gpus

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(GPUS == 0, reason="torch sees no GPU")]
LATE = 20_000_000  # cycles of a GPU: some 10 ms


def late(x):
    """The same values, on a device that is busy until it computes them."""
    if x.is_cuda:
        torch.cuda._sleep(LATE)
    return x + 0.0


# ---- NCCL by itself, in a group of one, which any GPU can have

CALLS = {
    "all_reduce": lambda group, x, out: (gloo.all_reduce(group, x), x),
    "broadcast": lambda group, x, out: (gloo.broadcast(group, x, 0), x),
    "reduce": lambda group, x, out: (gloo.reduce(group, x, 0), x),
    "all_gather": lambda group, x, out: (gloo.all_gather_flat(group, out, x), out),
    "reduce_scatter": lambda group, x, out: (gloo.reduce_scatter(group, out, x), out),
    "in place": lambda group, x, out: (gloo.reduce_scatter(group, x.view(2, 4), x), x),
    "all_to_all": lambda group, x, out: (gloo.all_to_all(group, out, x), out),
}


@pytest.mark.skipif(not dist.is_nccl_available(), reason="torch has no NCCL")
def test_a_transfer_waits_for_its_payload_and_who_awaits_it_for_the_transfer(tmp_path):
    """The host waits for neither, but for the values."""
    device, trace = CudaDevice(0), Trace(0)
    device.enter()
    group = gloo.make_group(dist.FileStore(str(tmp_path / "store"), 1), 0, 1, nccl=True)
    with device.beside("group"):
        gloo.all_reduce(group, torch.zeros(1, device="cuda")).wait()
    torch.cuda.synchronize()
    device.start(time.monotonic)
    for name, call in CALLS.items():
        x, out = late(torch.arange(8.0, device="cuda")), torch.full((8,), torch.nan, device="cuda")
        posted = device.mark(time.monotonic())
        with device.beside("group", posted):
            request, result = call(group, x, out)
        end = device.ended(request, "group", posted)
        device.expect(end)
        trace.transfers.append(Transfer(name, name, 0, 32.0, float(posted), end, end))
        assert (name, (result * 2.0).tolist()) == (name, [2.0 * i for i in range(8)])
    device.settle(trace)
    for transfer in trace.transfers:
        assert transfer.posted <= transfer.awaited <= transfer.ended <= transfer.posted + 1.0
    group.abort()


# ---- ranks, on one GPU through the host, on two by NCCL


@dataclass(frozen=True)
class EveryKind(Strategy):
    """All collectives of two ranks are under way at once, each of a payload that is computed late."""

    async def run(self, worker):
        for _ in worker.steps():
            for ranks in ([0, 1], [1, 0]):
                await self.among(worker.within(ranks), ranks, worker)
            await worker.apply(worker.read() * 0.0)
            worker.publish()

    async def among(self, group, ranks, worker):
        ones = torch.arange(1.0, 9.0, device=worker.read().device)
        zeroth, first = (ones * (rank + 1.0) for rank in ranks)
        place = ranks.index(worker.rank)
        part = slice(4 * place, 4 * place + 4)
        mine = (zeroth, first)[place]
        x = late(mine)
        begun = [
            (group.all_reduce(late(mine), "sum"), ones * 3.0),
            (group.all_reduce(late(mine)), ones * 1.5),
            (group.all_reduce(x, in_place=True), ones * 1.5),
            (group.reduce_scatter(late(mine)), ones[part] * 1.5),
            (group.reduce_scatter(late(mine).view(2, 4), "sum"), ones[part].view(1, 4) * 3.0),
            (group.all_gather(late(mine)), torch.cat([zeroth, first])),
            (group.broadcast(late(mine), 1), first),
            (group.reduce(late(mine), 0, "sum"), ones * 3.0 if place == 0 else ones[:0]),
            (group.all_to_all(late(mine)), torch.cat([zeroth[part], first[part]])),
        ]
        for number, (work, expected) in reversed([*enumerate(begun)]):
            found = await work
            assert torch.equal(found, expected), f"number {number} among {ranks}: {found}, not {expected}"
        assert torch.equal(x, ones * 1.5)
        await group.barrier()


def test_collectives_of_all_kinds(tmp_path):
    for trace in launched(EveryKind(), 2, tmp_path).traces:
        assert all(t.posted <= t.awaited <= t.ended <= trace.ended for t in trace.transfers)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_shards_are_those_of_a_whole_model(stage, tmp_path):
    shown = replace(job(Zero(stage), 2), samples_between_snapshots=WORKLOAD.batch * 2 * STEPS)
    outcome = launch(shown, on_gpus(), tmp_path)
    assert (outcome.status, outcome.message) == ("done", "")
    pieces = [piece for snapshot in outcome.snapshots if snapshot.number == STEPS for piece in snapshot.pieces]
    expected = simulate(job(AllReduce(), 2, device="cpu")).weights[0]
    assert_close(assemble(WORKLOAD.model(), WORKLOAD.task(SEED).blocks, pieces), expected)


def test_all_begin_again_when_one_dies_with_the_bits_of_a_run_that_nothing_ended(tmp_path):
    """What a checkpoint holds of the optimizer is on the GPU again."""
    whole = replace(job(AllReduce(), 2), failure=Failure(checkpoint=Checkpoint(updates=2)))
    whole = replace(whole, numerics=replace(whole.numerics, optimizer=AdamW(1e-3)))
    cut = replace(whole, strategy=Mortal(whole.strategy, str(tmp_path), 1, 7))
    options = on_gpus(deterministic=True, on_worker_loss="restart")
    expected, found = launch(whole, options, tmp_path / "whole"), launch(cut, options, tmp_path / "cut")
    assert (found.status, found.message, found.losses.restarts) == ("done", "", 1)
    for ours, theirs in zip(found.weights, expected.weights, strict=True):
        assert all(torch.equal(ours[block], theirs[block]) for block in theirs)


@dataclass(frozen=True)
class Ends(Strategy):
    """The second rank ends while the others reduce: it is killed, or asks for more memory than there is."""

    how: str

    async def run(self, worker):
        for step in worker.steps():
            if worker.rank == 1 and step == 3 and self.how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            if worker.rank == 1 and step == 3:
                torch.empty(1 << 50, dtype=torch.uint8, device=worker.read().device)
            gradient = await worker.gradient(Batch(step, worker.rank, worker.world_size))
            await worker.apply(await worker.all_reduce(gradient))
            worker.publish()


@pytest.mark.parametrize(
    ("how", "status", "said"),
    [("killed", "failed", "rank 1 was killed by SIGKILL"), ("full", "out of memory", "rank 1 failed")],
)
def test_the_end_of_a_rank_ends_all_with_one_message(how, status, said, tmp_path):
    outcome = launch(job(Ends(how), 2), on_gpus(), tmp_path)
    assert outcome.status == status
    assert outcome.message.startswith(said)


# ---- one process


@pytest.mark.parametrize("optimizer", [SGD(0.1), SGD(0.1, momentum=0.9), AdamW(0.1)], ids=str)
def test_a_step_waits_for_the_loss_alone(optimizer):
    """torch raises where the host would wait for the GPU."""
    ours, everything = TensorsFactory(WIDE, 1, optimizer, SEED, "cuda")(0), Region()
    blocks = tuple(range(len(WIDE.model().blocks)))
    try:
        for step in range(3):
            torch.cuda.set_sync_debug_mode("error" if step else "default")
            ours.zero(None)
            y = ours.forward(blocks, ours.input(Batch(step)), Batch(step))
            torch.cuda.set_sync_debug_mode("default")
            g, _ = ours.loss(y, Batch(step))
            torch.cuda.set_sync_debug_mode("error" if step else "default")
            ours.backward(blocks, g, Batch(step), "both")
            ours.update(everything, ours.accumulated(everything), None, 1.0)
            ours.load(everything, ours.read(everything))
    finally:
        torch.cuda.set_sync_debug_mode("default")


READS = """
import threading, torch
from distsim.backends.real.transport.shelves import GpuMemory
memory = GpuMemory(1, 2)
shelf, _ = memory.make(65536)
memory.put(shelf, torch.ones_like(shelf))
found = []
reading = threading.Thread(target=lambda: found.append(memory.get(shelf)))
reading.start()
reading.join()
print(int(found[0].sum()), torch._C._cuda_hasPrimaryContext(0), torch._C._cuda_hasPrimaryContext(1))
"""


@pytest.mark.skipif(GPUS < 2, reason="one GPU")
def test_a_thread_that_reads_a_shelf_touches_no_other_gpu():
    ran = subprocess.run([sys.executable, "-c", READS], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["65536", "False", "True"]
