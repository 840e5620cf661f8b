"""What the contract tests are made of: modes, programs, and running one in the other."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from contract.tiny import BLOCK_BYTES, DEVICE, Tiny
from distsim.backends.simulated import SimulatedOptions, simulate
from distsim.interface import SGD, Budget, Cluster, Job, Outcome, Region, Strategy, Switch, Worker
from distsim.numerics.sizes import SizesFactory

SWITCH = Switch(bandwidth=BLOCK_BYTES, latency=0.0)
"""A block's bytes travel in 1 s."""
FIRST = Region((0,))

Note = Callable[[str, Any], None]
Main = Callable[[Worker[Any], Note], Awaitable[None]]


@dataclass(frozen=True)
class Program(Strategy):
    """A function of (worker, note) as a strategy. Its notes lie in `folder` when the rank ends, however it ends."""

    main: Main
    folder: str
    servers: int = 0
    gradients: int | None = None
    """An update's; None: one of each worker."""

    def server_count(self, workers: int) -> int:
        return self.servers

    def gradients_an_update(self, workers: int) -> int:
        return self.gradients or workers

    async def run(self, worker: Worker[Any]) -> None:
        notes: list[tuple[str, Any]] = []
        try:
            await self.main(worker, lambda key, value: notes.append((key, plain(value))))
        finally:
            (Path(self.folder) / f"notes-{worker.rank}.json").write_text(json.dumps(notes))


def plain(value: Any) -> Any:
    """A payload's values, or its bytes where there are none; anything else as it is."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return getattr(value, "nbytes", value)


@dataclass(frozen=True)
class Ran:
    """A run that has ended: its outcome, and by rank what was noted under each key, in order."""

    outcome: Outcome
    notes: list[dict[str, list[Any]]]

    def all(self, key: str) -> list[list[Any]]:
        """What each rank noted under `key`."""
        return [notes[key] for notes in self.notes]

    def computed(self, rank: int) -> list[tuple[str, float, float]]:
        """The compute spans of a rank in order of time."""
        return sorted((c.name, c.begun, c.ended) for c in self.outcome.traces[rank].compute)


@dataclass(frozen=True)
class Mode:
    """One way to run a job, and what may be expected of it."""

    name: str
    launch: Callable[[Job, Path, dict[str, Any]], Outcome]
    has_values: bool
    """Payloads are tensors; else byte counts."""
    is_exact: bool
    """Its clock is modeled."""


@dataclass(frozen=True)
class Bench:
    """A mode, with a folder to run in."""

    mode: Mode
    folder: Path

    @property
    def is_exact(self) -> bool:
        return self.mode.is_exact

    def payload(self, values: list[float]) -> Any:
        """What is noted of a payload of these values."""
        return values if self.mode.has_values else 8 * len(values)

    def run(self, main: Main, ranks: int = 2, status: str = "done", **changes: Any) -> Ran:
        """Run a program on `ranks` ranks, the last `servers` of them servers; it must end with `status`.

        `changes`: workload, servers, gradients_an_update, budget, device, network, optimizer, options.
        """
        servers = changes.pop("servers", 0)
        program = Program(main, str(self.folder), servers, changes.pop("gradients_an_update", None))
        workload = changes.pop("workload", Tiny())
        options = changes.pop("options", {})
        optimizer = changes.pop("optimizer", SGD(learning_rate=1.0))
        job = Job(
            strategy=program,
            model=workload.model(),
            cluster=Cluster(ranks - servers, servers, changes.pop("device", DEVICE), changes.pop("network", SWITCH)),
            budget=changes.pop("budget", Budget(updates=1)),
            numerics=numerics(self.mode.has_values, workload, ranks - servers, optimizer),
            **changes,
        )
        for old in self.folder.glob("notes-*.json"):
            old.unlink()
        outcome = self.mode.launch(job, self.folder, options)
        assert outcome.status == status, f"{outcome.status}: {outcome.message}"
        return Ran(outcome, [_read(self.folder / f"notes-{rank}.json") for rank in range(ranks)])


def numerics(has_values: bool, workload: Any, workers: int, optimizer: SGD | None = None, seed: int = 0) -> Any:
    """The factory of tensors or of byte counts."""
    if not has_values:
        return SizesFactory(workload.model(), workers, optimizer or SGD())
    from distsim.numerics.tensors import TensorsFactory

    return TensorsFactory(workload, workers, optimizer or SGD(), seed)


def _read(path: Path) -> dict[str, list[Any]]:
    notes = defaultdict[str, list[Any]](list)
    for key, value in json.loads(path.read_text()) if path.exists() else ():
        notes[key].append(value)
    return notes


def block(worker: Worker[Any], factor: float = 1.0) -> Any:
    """The payload [1, 2, 3, 4] times `factor`, while nothing was applied or loaded."""
    return worker.read(FIRST) * factor


def constant(worker: Worker[Any], value: float) -> Any:
    """The payload of four times `value`."""
    return worker.read(FIRST) * 0.0 + value


def _simulated(job: Job, folder: Path, options: dict[str, Any]) -> Outcome:
    known = {key: value for key, value in options.items() if key in ("preemption", "collectives", "algorithm")}
    return simulate(job, SimulatedOptions(**known))


def _real(job: Job, folder: Path, options: dict[str, Any]) -> Outcome:
    from distsim.backends.real import RealOptions, launch

    known = {key: value for key, value in options.items() if key in ("hang_seconds", "messages")}
    return launch(job, RealOptions(device="cpu", **known), folder)


MODELED = Mode("modeled", _simulated, has_values=False, is_exact=True)
COSIMULATED = Mode("cosimulated", _simulated, has_values=True, is_exact=True)
REAL = Mode("real", _real, has_values=True, is_exact=False)
