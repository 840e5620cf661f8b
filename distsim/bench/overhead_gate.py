"""Blocks of steps, let through a gate: how `distsim bench overhead` times several programs in turns on one machine.

Every rank of every program stays up for the whole comparison, connected to the controller by a socket. It blocks in a read
until it is let through, so programs whose turn it is not use no CPU. A block lasts from the first rank's first step to the
last rank's last; CLOCK_MONOTONIC is the same for all.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

from distsim.bench.fabric import BenchError
from distsim.interface import Strategy, T, Worker


class Hello(NamedTuple):
    """A rank is ready for its first step."""

    program: str
    rank: int
    pid: int


class Passed(NamedTuple):
    """What a block of steps took on one rank: its begin and end, and the CPU seconds of the rank's process."""

    begun: float
    ended: float
    cpu: float


class Gate:
    """One rank's side."""

    def __init__(self, address: Path, program: str, rank: int) -> None:
        self._hello = Hello(program, rank, os.getpid())
        self._address = address

    def steps(self) -> Iterator[int]:
        """Steps 0, 1, ..., a block at a time, until the controller wants no more or is gone."""
        with socket.socket(socket.AF_UNIX) as made:
            made.connect(str(self._address))
            connection = Connection(made.detach())
        step = 0
        with connection:
            connection.send(self._hello)
            while count := _asked(connection):
                cpu, begun = time.process_time(), time.monotonic()
                for _ in range(count):
                    yield step
                    step += 1
                connection.send(Passed(begun, time.monotonic(), time.process_time() - cpu))


def _asked(connection: Connection) -> int:
    try:
        return int(connection.recv())
    except (EOFError, OSError):
        return 0


class Gated(Worker[T]):
    """A worker whose steps are let through a gate."""

    def __init__(self, worker: Worker[T], gate: Gate) -> None:
        super().__init__(worker._state, worker._ranks)
        self._gate = gate

    def steps(self) -> Iterator[int]:
        """The same steps, whenever the gate opens."""
        for step, _ in zip(super().steps(), self._gate.steps(), strict=False):
            yield step


@dataclass(frozen=True)
class Paced(Strategy):
    """A strategy whose steps, and nothing else of it, are let through a gate."""

    strategy: Strategy
    address: Path
    program: str

    def run(self, worker: Worker[T]) -> Coroutine[Any, Any, None]:
        return self.strategy.run(Gated(worker, Gate(self.address, self.program, worker.rank)))

    def gradients_an_update(self, workers: int) -> int:
        return self.strategy.gradients_an_update(workers)


@dataclass(frozen=True)
class Program:
    """The controller's side of a program: its ranks' connections and process ids, by rank."""

    name: str
    connections: Sequence[Connection]
    pids: Sequence[int]

    def run(self, steps: int, until: float) -> list[Passed]:
        """Run a block; what it took on each rank. Raises `BenchError` if a rank is gone, or not through at `until`."""
        try:
            for connection in self.connections:
                connection.send(steps)
            passed = []
            for rank, connection in enumerate(self.connections):
                if not connection.poll(max(0.0, until - time.monotonic())):
                    raise BenchError(f"rank {rank} of {self.name} did not end its block of {steps} steps in time")
                passed.append(connection.recv())
            return passed
        except (EOFError, OSError):
            raise BenchError(f"a rank of {self.name} has ended in the middle of a block") from None

    def end(self) -> None:
        """No more steps."""
        for connection in self.connections:
            try:
                connection.send(0)
            except OSError:
                continue
            finally:
                connection.close()


class Door:
    """Where ranks come in."""

    def __init__(self, address: Path) -> None:
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(address))
        self._listening.listen(256)
        self._listening.settimeout(0.2)
        self._waiting: dict[str, dict[int, tuple[Connection, int]]] = {}

    def admit(self, program: str, ranks: int, until: float, check: Callable[[], None]) -> Program:
        """Wait for all ranks of a program; `check` raises if it cannot come any more. Raises `BenchError` after `until`."""
        while len(here := self._waiting.setdefault(program, {})) < ranks:
            check()
            if time.monotonic() > until:
                raise BenchError(f"only {len(here)} of {ranks} ranks of {program} were ready in time")
            try:
                accepted, _ = self._listening.accept()
            except TimeoutError:
                continue
            accepted.setblocking(True)
            connection = Connection(accepted.detach())
            hello: Hello = connection.recv()
            self._waiting.setdefault(hello.program, {})[hello.rank] = connection, hello.pid
        known = self._waiting.pop(program)
        return Program(program, [known[rank][0] for rank in range(ranks)], [known[rank][1] for rank in range(ranks)])

    def close(self) -> None:
        """Nobody comes in any more."""
        self._listening.close()
        for ranks in self._waiting.values():
            for connection, _ in ranks.values():
                connection.close()
