"""The cluster that a run is modeled on: devices that compute and the network between hosts.

Bandwidths are bytes a second, times seconds, sizes bytes (GB is 1e9). Two kinds of network exist: a `Topology`, where ranks
have hosts of their own with links between them (`Switch` here, more in distsim.topologies), and `Loopback`, where all ranks
share one host's cores and a transfer is CPU work.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import NamedTuple, Protocol

from distsim.interface.model import Block, Cost, Model, Operation
from distsim.interface.transport import NO_CORRECTIONS, Transport


@dataclass(frozen=True)
class Curve:
    """A measured function, linear between its points and beyond them (never below 0). One point is a constant."""

    points: tuple[tuple[float, float], ...]

    def __call__(self, x: float) -> float:
        points = self.points
        if len(points) == 1:
            return points[0][1]
        right = min(max(bisect_left(points, (x,)), 1), len(points) - 1)
        (x0, y0), (x1, y1) = points[right - 1], points[right]
        return max(0.0, y0 + (y1 - y0) * (x - x0) / (x1 - x0))


class Device(Protocol):
    """Turns costs into seconds of uncontended computing."""

    def seconds(self, model: Model, cost: Cost) -> float: ...


@dataclass(frozen=True)
class Roofline:
    """A device by its data sheet: an operation takes the longer of its FLOPs and its memory traffic, plus an overhead.

    Williams, Waterman and Patterson, CACM 52(4), 2009. `flops_per_second` is the achievable rate (peak times efficiency).
    """

    flops_per_second: float
    bytes_per_second: float
    overhead: float = 0.0
    """Seconds to start one operation on one block."""

    def seconds(self, model: Model, cost: Cost) -> float:
        model = model.sharded(cost.shards)
        total = cost.nbytes / self.bytes_per_second
        for operation, index in cost.parts:
            flops, scalars = _work(model, operation, index, cost.samples)
            seconds = max(flops / self.flops_per_second, scalars * model.itemsize / self.bytes_per_second)
            total += self.overhead + cost.share * seconds
        return total


def _work(model: Model, operation: Operation, index: int, samples: float) -> tuple[float, float]:
    """FLOPs and scalars moved through memory by one primitive operation."""
    block = model.blocks[index]
    if operation == "apply":
        return 2.0 * block.parameters, 3.0 * block.parameters
    if operation == "loss":
        return 5.0 * block.activation * samples, 2.0 * block.activation * samples
    before = model.input if index == 0 else model.blocks[index - 1].activation
    moved = block.parameters + (before + block.activation) * samples
    if operation == "forward":
        return block.flops * samples, moved
    flops = {
        "backward": block.input_flops + block.weight_flops,
        "backward_input": block.input_flops,
        "backward_weights": block.weight_flops,
    }[operation]
    return flops * samples, 2.0 * moved


@dataclass(frozen=True)
class Measured:
    """A device by measurement: seconds of an operation on a kind of block, by samples; the rest falls back to a roofline.

    Keys are (operation, block kind); the loss's kind is that of the last block. A half of a backward pass that was measured
    only as a whole takes its share of it by FLOPs.
    """

    table: Mapping[tuple[str, str], Curve]
    fallback: Roofline
    overhead: float = 0.0
    """Seconds that a Worker operation costs beyond the blocks it runs."""
    pass_overhead: float = 0.0
    """Seconds that a forward or backward pass costs beyond its blocks, however many run as one."""

    def seconds(self, model: Model, cost: Cost) -> float:
        blocks = model.sharded(cost.shards).blocks
        total = self.overhead + self.pass_overhead * cost.passes + cost.nbytes / self.fallback.bytes_per_second
        for operation, index in cost.parts:
            share, curve = cost.share, self.table.get((operation, blocks[index].kind))
            if curve is None and operation in ("backward_input", "backward_weights"):
                share, curve = share * _half(blocks[index], operation), self.table.get(("backward", blocks[index].kind))
            if curve is None:
                part = Cost(((operation, index),), cost.samples, shards=cost.shards, share=cost.share)
                total += self.fallback.seconds(model, part)
            else:
                total += share * curve(cost.samples)
        return total


def _half(block: Block, operation: Operation) -> float:
    """The share by FLOPs that a half of a backward pass has in the whole."""
    flops = block.input_flops if operation == "backward_input" else block.weight_flops
    both = block.input_flops + block.weight_flops
    return flops / both if both else 0.5


class Route(NamedTuple):
    """The way from one host to another."""

    links: tuple[int, ...]
    """By number, in the order of travel; none within a host."""
    latency: float
    """Seconds before the first byte arrives."""
    limit: float = inf
    """Bytes a second that one transfer gets at most, whatever is free: a window."""


class Pattern(NamedTuple):
    """The smallest part that a network repeats: so many hosts, and so many links after each other."""

    hosts: int
    links: int
    holds: bool = True
    """All ways are moved on when their ends are; else most are: where two ways are equally long, a choice may be uneven."""


class Topology(Protocol):
    """Hosts 0, 1, ... and the directed links between them."""

    def capacities(self, hosts: int) -> Sequence[float]:
        """Bytes a second of each link, by number, where at least so many hosts are there."""

    def route(self, source: int, to: int) -> Route:
        """The way between two different hosts; the same whenever it is asked for."""

    def cables(self, hosts: int) -> Sequence[str]:
        """The names of the links, by number; the two directions of a full-duplex cable have the same."""

    def nearby(self) -> int:
        """How many hosts in a row are near each other: those of a node or a leaf; 1 where all are alike."""

    def pattern(self) -> Pattern | None:
        """What the network repeats, host after host and link after link, so that it looks the same from each; None if it
        does not."""


def is_part(word: str, cable: str) -> bool:
    """True if `word` names a cable or one of its ends: leaf0 of "leaf0-spine1", node2 of "node2.nic0"."""
    return word in ("all", cable) or word in re.split(r"[-.]", cable) or word in cable.split("-")


@dataclass(frozen=True)
class Switch:
    """Hosts on one non-blocking switch, a full-duplex link each; a path crosses two links.

    Host h sends over link 2h and receives over link 2h + 1.
    """

    bandwidth: float
    """Bytes a second of one link, each direction."""
    latency: float
    """Seconds of one link; a path has two."""

    def capacities(self, hosts: int) -> Sequence[float]:
        return [self.bandwidth] * (2 * hosts)

    def route(self, source: int, to: int) -> Route:
        return Route((2 * source, 2 * to + 1), 2.0 * self.latency)

    def cables(self, hosts: int) -> Sequence[str]:
        return [f"host{link // 2}" for link in range(2 * hosts)]

    def nearby(self) -> int:
        return 1

    def pattern(self) -> Pattern | None:
        return Pattern(1, 2)


@dataclass(frozen=True)
class Loopback:
    """All ranks on one host: its cores are shared as processors, and moving bytes is CPU work."""

    cores: Curve
    """Number of computing ranks -> how many ranks' worth of work gets done a second (at most their number)."""
    message: Curve
    """Bytes -> seconds of a point-to-point message between two ranks, alone on the machine."""
    all_reduce: Mapping[int, Curve]
    """Group size -> bytes -> seconds of an all-reduce by that many ranks, nothing else running."""
    delay: float = 0.0
    """Seconds that a message waits at most for its turn while ranks compute on all cores; not CPU work."""


@dataclass(frozen=True)
class Cluster:
    """P workers and S parameter servers, their device and their network. Servers are the last ranks."""

    workers: int
    servers: int
    device: Device
    network: Topology | Loopback
    memory: float = inf
    """Bytes of memory of one rank's device."""
    beside: bool = False
    """Server i lives on the host of worker i mod P and shares its link; else every rank has a host of its own."""
    transport: Transport = NO_CORRECTIONS
    """Corrections of the network; none on loopback, which is measured."""
    placement: tuple[int, ...] = ()
    """The host of each rank that has one of its own, in the order of ranks; empty: rank r lives on host r."""

    @property
    def world_size(self) -> int:
        """P + S ranks."""
        return self.workers + self.servers

    def host(self, rank: int) -> int:
        """The host that a rank lives on."""
        own = (rank - self.workers) % self.workers if self.beside and rank >= self.workers else rank
        return self.placement[own] if self.placement else own
