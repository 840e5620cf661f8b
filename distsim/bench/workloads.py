"""Workloads, four of which exist as SimGrid programs, too (tests/benchmarks/simgrid): the same transfers, the same seconds.

Hosts have one full-duplex 10 Gbit/s link of 5 us to a switch, models and gradients 100 MB. Nothing but what is named takes
time, so the simulated seconds of both sides must be equal.

- sync_ps: 10 updates of `SyncPS`. The S4U program computes, pushes and pulls; `SyncPS` pulls, computes and pushes. All
  workers begin at once and all get the model at once, so ten rounds take as long either way.
- async_ps: `AsyncPS` in the S4U program's order, 10 gradients a worker (`PushFirst`).
- ring: one `AllReduce`, a ring of chunks of floor(100 MB / N) bytes.
- fat_tree_ring: the same on two levels, 16 hosts and 4 up-links of 10 Gbit/s a leaf (4 and 1 below 64 hosts), ranks placed
  so that every hop leaves its leaf.
- all_reduce_25, from 512 workers on and without a SimGrid program: 100 steps of `AllReduce` in 25 buckets of 4 MB, 1 ms of
  forward and 2 ms of backward pass each, with lognormal jitter of sigma 0.2.
"""

from __future__ import annotations

from array import array
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path

from distsim.interface import (
    Block,
    Budget,
    Cluster,
    Cost,
    Job,
    Model,
    Roofline,
    Straggler,
    Strategy,
    Switch,
    T,
    Topology,
    Worker,
)
from distsim.numerics.sizes import SizesFactory
from distsim.strategies.all_reduce import AllReduce
from distsim.strategies.parameter_server import AsyncPS, SyncPS
from distsim.topologies import FatTree

COMPARED = ("sync_ps", "async_ps", "ring", "fat_tree_ring")
"""Workloads that SimGrid programs exist for."""
_BUCKETS, _STEPS, _MANY = 25, 100, 512
ROUNDS = 10
"""Gradients of each worker of a server."""
_BANDWIDTH, _LATENCY = 1.25e9, 5e-6
_BYTES = 100_000_000
_ITEMSIZE = 4


@dataclass(frozen=True)
class PushFirst(AsyncPS):
    """`AsyncPS` whose workers know the first model, and give so many gradients each: compute, push, pull.

    The server updates with every gradient at once, however old the model, and sends the new one to its worker.
    """

    async def train(self, worker: Worker[T]) -> None:
        server, version = worker.workers, 0
        for _ in range(ROUNDS):
            gradient = await worker.gradient(worker.draw(worker.rank, worker.workers))
            pull = worker.receive(server, "model")
            await worker.send(gradient, server, "gradient", version, "gradient")
            model = await pull
            worker.load(model.payload)
            version = model.version

    async def serve(self, server: Worker[T]) -> None:
        inbox = deque(server.receive_any("gradient") for _ in range(server.workers))
        for step in server.steps():
            if step + server.workers < ROUNDS * server.workers:
                inbox.append(server.receive_any("gradient"))
            message = await inbox.popleft()
            await server.apply(message.payload, of=[message])
            server.post(server.read(), message.source, "model", server.version)


@dataclass(frozen=True)
class Literal(Straggler):
    """Compute times from a table of rounds x workers, in seconds where the device takes one."""

    workers: int = 0
    table: array[float] = field(default_factory=lambda: array("d"), compare=False)

    @property
    def is_persistent(self) -> bool:
        """False: the table says otherwise."""
        return False

    def factor(self, seed: int, worker: int, step: int | None) -> float:
        return 1.0 if step is None else self.table[step * self.workers + worker]


@dataclass(frozen=True)
class Device:
    """A second for a forward pass, or none; nothing else takes time."""

    forward: float

    def seconds(self, model: Model, cost: Cost) -> float:
        """Seconds of an operation."""
        return self.forward * sum(operation == "forward" for operation, _ in cost.parts)


def problem(workers: int) -> str:
    """Why the workloads do not exist for so many workers; empty if they do."""
    leaf, _ = _leaf(workers)
    if not 8 <= workers <= 16384 or workers % leaf:
        return "8 to 16384, a multiple of 4, and of 16 from 64 on: leaves are full"
    return ""


def compute_file(folder: Path, workers: int) -> Path:
    """Where the compute times of so many workers are, as the SimGrid program wants it named."""
    return folder / f"compute_{workers}.f64"


def names(workers: int) -> tuple[str, ...]:
    """The workloads for so many workers."""
    return (*COMPARED, "all_reduce_25") if workers >= _MANY else COMPARED


def job(workload: str, workers: int, folder: Path) -> Job:
    """A workload; `folder` holds the compute times of the servers' workers."""
    if workload == "all_reduce_25":
        return _buckets(workers)
    if workload in ("sync_ps", "async_ps"):
        strategy: Strategy = SyncPS() if workload == "sync_ps" else PushFirst()
        table = array("d")
        table.frombytes(compute_file(folder, workers).read_bytes())
        updates = ROUNDS * (1 if workload == "sync_ps" else workers)
        return _job(strategy, workers, Device(1.0), Budget(updates=updates), _BYTES, Literal(workers=workers, table=table))
    nbytes = _BYTES // workers * workers
    device, budget = Device(0.0), Budget(updates=1)
    if workload == "ring":
        return _job(AllReduce(), workers, device, budget, nbytes)
    leaf, uplinks = _leaf(workers)
    leaves = workers // leaf
    tree = FatTree(leaf, uplinks, _BANDWIDTH, _BANDWIDTH, _LATENCY)
    placement = tuple(rank % leaves * leaf + rank // leaves for rank in range(workers))
    return _job(AllReduce(), workers, device, budget, nbytes, None, tree, placement)


def _leaf(workers: int) -> tuple[int, int]:
    """Hosts and up-links of a leaf."""
    return (16, 4) if workers >= 64 else (4, 1)


def _buckets(workers: int) -> Job:
    bucket = Block(
        index=0,
        kind="block",
        parameters=_BYTES // _BUCKETS // _ITEMSIZE,
        activation=1,
        saved=0,
        flops=1e9,
        input_flops=1e9,
        weight_flops=1e9,
    )
    model = Model(tuple(replace(bucket, index=i) for i in range(_BUCKETS)), 1, 1, _ITEMSIZE)
    cluster = Cluster(workers, 0, Roofline(1e12, 1e12, 0.0), Switch(_BANDWIDTH, _LATENCY))
    numerics, jitter = SizesFactory(model, workers), Straggler("lognormal", sigma=0.2)
    return Job(AllReduce(bucket_bytes=0.0), model, cluster, Budget(updates=_STEPS), numerics, jitter)


def _job(
    strategy: Strategy,
    workers: int,
    device: Device,
    budget: Budget,
    nbytes: int,
    straggler: Straggler | None = None,
    network: Topology | None = None,
    placement: tuple[int, ...] = (),
) -> Job:
    block = Block(
        index=0,
        kind="block",
        parameters=nbytes // _ITEMSIZE,
        activation=1,
        saved=0,
        flops=0.0,
        input_flops=0.0,
        weight_flops=0.0,
    )
    model = Model((block,), 1, 1, _ITEMSIZE)
    servers, switch = strategy.server_count(workers), Switch(_BANDWIDTH, _LATENCY)
    cluster = Cluster(workers, servers, device, network or switch, placement=placement)
    return Job(strategy, model, cluster, budget, SizesFactory(model, workers), straggler or Straggler())
