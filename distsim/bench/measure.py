"""One measurement, in a process of its own: `python -m distsim.bench.measure WORKLOAD WORKERS FOLDER [--profile]`.

Prints a line of JSON. CPU is that of the whole process from its start; the start-up ends at the simulation's first event.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from distsim.backends.simulated import SimulatedOptions
from distsim.backends.simulated.run import simulate
from distsim.bench.workloads import job
from distsim.interface import Job, Outcome, Strategy, T, Worker

_RINGS = SimulatedOptions(algorithm="ring")
"""All that the workloads reduce goes round rings, whatever would take less."""


@dataclass(frozen=True)
class Noted(Strategy):
    """A strategy that notes the CPU used when its first rank begins."""

    strategy: Strategy
    begun: list[float] = field(default_factory=list)

    def server_count(self, workers: int) -> int:
        return self.strategy.server_count(workers)

    def alike_every(self, workers: int) -> int:
        return self.strategy.alike_every(workers)

    def gradients_an_update(self, workers: int) -> int:
        return self.strategy.gradients_an_update(workers)

    def run(self, worker: Worker[T]) -> Coroutine[Any, Any, None]:
        if not self.begun:
            self.begun.append(time.process_time())
        return self.strategy.run(worker)


def measure(workload: str, workers: int, folder: Path, profile: bool = False) -> dict[str, Any]:
    """Run a workload. Raises `RuntimeError` if it does not end well."""
    given = job(workload, workers, folder)
    strategy = Noted(given.strategy)
    top: list[Any] = []
    if profile:
        outcome, top = _profiled(replace(given, strategy=strategy))
    else:
        outcome = simulate(replace(given, strategy=strategy), _RINGS)
    if outcome.status != "done":
        raise RuntimeError(f"{workload} with {workers} workers: {outcome.message}")
    seconds = outcome.seconds
    if workload == "async_ps":  # until the last pull
        seconds = max(trace.ended for trace in outcome.traces)
    return {
        "simulated_seconds": seconds,
        "startup_cpu_seconds": strategy.begun[0],
        "cpu_seconds": time.process_time(),
        "peak_mb": _peak_mb(),
        "profile": top,
    }


def _profiled(given: Job) -> tuple[Outcome, list[tuple[str, int, float]]]:
    """The outcome, and of each function its name, its calls and its own seconds, slowest first."""
    import cProfile
    import pstats

    profiler = cProfile.Profile()
    outcome = profiler.runcall(simulate, given, _RINGS)
    stats: dict[tuple[str, int, str], Any] = pstats.Stats(profiler).stats  # type: ignore[attr-defined]
    rows = [(_name(*key), int(value[1]), float(value[2])) for key, value in stats.items()]
    return outcome, sorted(rows, key=lambda row: -row[2])


def _name(file: str, line: int, function: str) -> str:
    if file == "~":
        return f"built-in {function}"
    parts = Path(file).parts
    packages = [i for i, part in enumerate(parts[:-1]) if part in ("distsim", "simpy")]
    at = max(packages, default=len(parts) - 2)
    return f"{'/'.join(parts[max(0, at) :])}:{line} {function}"


def _peak_mb() -> float:
    """The most memory that this process has held; `ru_maxrss` counts what its parent held when it was made."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) / 1024.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1024.0 * 1024.0 if sys.platform == "darwin" else 1024.0)


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), "--profile" in sys.argv[4:])))
