"""Which machine this is, and how much of its CPU somebody else is using. Reads /proc; imports the standard library only."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field
from pathlib import Path

QUIET = 0.05
"""Measured while others used at most this share of the machine's CPU, a time counts as undisturbed."""

_PROC = Path("/proc")


def hardware() -> dict[str, str | int]:
    """CPU model, usable cores, memory in bytes and operating system of this machine; "unknown" or 0 if unreadable."""
    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 0,
        "memory_bytes": _memory(),
        "os": f"{platform.system()} {platform.release()}",
    }


def _cpu() -> str:
    try:
        for line in (_PROC / "cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or "unknown"


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return 0


def _machine_ticks() -> tuple[int, int]:
    """Clock ticks of all cores since boot: busy (stolen by other virtual machines included), and all."""
    fields = [int(x) for x in (_PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]]
    user, nice, system, idle, iowait, irq, softirq, steal = fields
    busy = user + nice + system + irq + softirq + steal
    return busy, busy + idle + iowait


def _family_ticks(root: int) -> int:
    """Clock ticks used by process `root` and its descendants, ended children included."""
    ticks: dict[int, int] = {}
    children: dict[int, list[int]] = {}
    for entry in _PROC.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        ticks[int(entry.name)] = sum(map(int, fields[11:15]))
        children.setdefault(int(fields[1]), []).append(int(entry.name))
    total, pending = 0, [root]
    while pending:
        pid = pending.pop()
        total += ticks.get(pid, 0)
        pending += children.get(pid, ())
    return total


@dataclass
class Others:
    """Called again and again, gives the share of this machine's CPU that other processes used since the last call.

    0 to 1 of all cores; 0 where there is no /proc. `root` is the process whose descendants are our own.
    """

    root: int
    _last: tuple[int, int] | None = field(default=None, init=False)

    def __call__(self) -> float:
        try:
            busy, total = _machine_ticks()
            now = (busy - _family_ticks(self.root), total)
        except (OSError, ValueError):
            return 0.0
        last, self._last = self._last or now, now
        return min(1.0, max(0.0, (now[0] - last[0]) / max(1, now[1] - last[1])))
