"""What blocks of steps say: which of them count, and the ratio of two programs with its interval.

- A block in which other processes of the machine used more CPU than `others` (a share of all its core-seconds) is rejected.
  What others used is the machine's time that was not idle, less the CPU time of all processes of the comparison.
- Programs take turns, a block each a round, in random order. The blocks of one round are a pair; it counts if neither was
  rejected. The ratio is the median over pairs, its interval needs no distribution (distsim.results.statistics).
- The ratio is resolved once its 95 % interval reaches no further than 2 % to either side.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from statistics import median
from typing import Any

from distsim.results.statistics import Estimate, median_interval

RESOLVED = 0.02
"""How far the interval of a ratio may reach, as a share of the ratio."""
AGAIN = "-again"
"""Ends the name of a second copy of a program."""
OTHERS = 0.04
"""The share of a block's core-seconds that other processes may use."""


@dataclass(frozen=True)
class Block:
    """One program's block of steps."""

    program: str
    seconds: float
    """Wall-clock, a step."""
    cpu: float
    """Of all its ranks, a step."""
    others: float
    """The share of the block's core-seconds that other processes used."""


@dataclass(frozen=True)
class Used:
    """CPU seconds used so far, since some instant."""

    machine: float
    """Negative: what was idle."""
    ours: float
    at: float

    def others(self, before: Used, cores: int) -> float:
        """The share of all core-seconds since `before` that other processes used."""
        whole = cores * (self.at - before.at)
        return max(0.0, whole + self.machine - before.machine - (self.ours - before.ours)) / whole if whole else 0.0


def used(pids: Iterable[int]) -> Used:
    """The counts of now; `pids` are the processes of the comparison."""
    fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()
    idle = (int(fields[4]) + int(fields[5])) / os.sysconf("SC_CLK_TCK")  # and waiting for disks; see proc(5)
    return Used(-idle, sum(map(_cpu_seconds, pids)), time.monotonic())


def cores_of_the_machine() -> int:
    """Cores that /proc/stat counts."""
    return sum(line[:3] == "cpu" and line[3].isdigit() for line in Path("/proc/stat").read_text().splitlines())


def _cpu_seconds(pid: int) -> float:
    """Of a process with all its threads, to the nanosecond: its CPU clock, as clock_getcpuclockid(3) names it."""
    return time.clock_gettime((~pid << 3) | 2)


def row(
    workload: str, ranks: int, arm: str, baseline: str, rounds: Sequence[Sequence[Block]], others: float
) -> dict[str, Any]:
    """What the rounds say about a program and its baseline; a copy of that is called by its name and `-again`."""
    pairs, rejected = list[tuple[Block, Block]](), 0
    for blocks in rounds:
        named = {block.program: block for block in blocks}
        a, b = named[arm], named[baseline]
        noisy = sum(block.others > others for block in (a, b))
        rejected += noisy
        if not noisy:
            pairs.append((a, b))
    found = estimate([a.seconds / b.seconds for a, b in pairs])
    made: dict[str, Any] = {
        "workload": workload,
        "ranks": ranks,
        "arm": arm.removesuffix(AGAIN),
        "baseline": baseline,
        "ratio": found and found.value,
        "low": found and _finite(found.low),
        "high": found and _finite(found.high),
        "blocks": len(pairs),
        "rejected": rejected,
        "resolved": found is not None and is_resolved(found),
    }
    if pairs:
        made["step_seconds"] = median(a.seconds for a, _ in pairs)
        made["baseline_step_seconds"] = median(b.seconds for _, b in pairs)
        made["cpu_ratio"] = median(a.cpu / b.cpu for a, b in pairs)
    return made


def estimate(ratios: Sequence[float]) -> Estimate | None:
    """The median and its interval; None where no pair counts."""
    return median_interval(ratios) if ratios else None


def is_resolved(found: Estimate) -> bool:
    """Whether the interval reaches no further than 2 % to either side."""
    return found.high - found.value <= RESOLVED * found.value and found.value - found.low <= RESOLVED * found.value


def _finite(value: float) -> float | None:
    return value if isfinite(value) else None
