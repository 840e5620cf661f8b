"""Hosts in a ring, or in a grid of two or three dimensions whose rows close to rings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

from distsim.interface import Pattern, Route
from distsim.topologies.wiring import both


def ring(hosts: int, bandwidth: float, latency: float) -> Torus:
    """Hosts in a ring, each joined to the next; a way goes round the shorter side."""
    return Torus((hosts,), bandwidth, latency)


@dataclass(frozen=True)
class Torus:
    """Hosts in a grid, each joined to the next of every dimension; ways go through hosts, dimension after dimension.

    Host h stands at (h mod X, h div X mod Y, h div XY). A way corrects the first coordinate, then the second, then the
    third, each round the shorter side; where both are equal upwards, but from the middle of a row down, as in SimGrid. Two
    hosts in a row have one cable.
    """

    shape: tuple[int, ...]
    bandwidth: float
    """Bytes a second of one cable, each direction."""
    latency: float
    """Seconds of one cable; a way has as many as it has hops."""

    @property
    def hosts(self) -> int:
        """How many there are."""
        return prod(self.shape)

    @cached_property
    def _strides(self) -> tuple[int, ...]:
        return tuple(prod(self.shape[:dimension]) for dimension in range(len(self.shape)))

    @cached_property
    def _numbers(self) -> dict[tuple[int, int], int]:
        """The cable from a host to the next of a dimension, and where it goes."""
        found: dict[tuple[int, int], int] = {}
        for host in range(self.hosts):
            for dimension, size in enumerate(self.shape):
                at = host // self._strides[dimension] % size
                if size > 2 or (size == 2 and at == 0):
                    found[host, dimension] = len(found)
        return found

    def _after(self, host: int, dimension: int, step: int) -> int:
        """The next host of a dimension, or the one before."""
        size, stride = self.shape[dimension], self._strides[dimension]
        at = host // stride % size
        return host + ((at + step) % size - at) * stride

    def capacities(self, hosts: int) -> Sequence[float]:
        return [self.bandwidth] * (2 * len(self._numbers))

    def route(self, source: int, to: int) -> Route:
        links, here = [], source
        for dimension, size in enumerate(self.shape):
            stride = self._strides[dimension]
            at, end = here // stride % size, to // stride % size
            distance = (end - at) % size
            step = 1 if 2 * distance < size or (2 * distance == size and 2 * at != size) else -1
            for _ in range(min(distance, size - distance)):
                there = self._after(here, dimension, step)
                up = (here, dimension) in self._numbers if size == 2 else step > 0
                links.append(2 * self._numbers[here if up else there, dimension] + (not up))
                here = there
        return Route(tuple(links), len(links) * self.latency)

    def cables(self, hosts: int) -> Sequence[str]:
        return both([f"host{host}-host{self._after(host, dimension, 1)}" for host, dimension in self._numbers])

    def nearby(self) -> int:
        return self.shape[0] if len(self.shape) > 1 else 1

    def pattern(self) -> Pattern | None:
        if min(self.shape) <= 2:
            return None  # two hosts in a row have one cable
        hosts = prod(self.shape[:-1])
        return Pattern(hosts, 2 * len(self.shape) * hosts, holds=self.shape[-1] % 2 == 1)
