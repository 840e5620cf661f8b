"""Who waits for whom, in words."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distsim.backends.real.transport.ledger import not_joined
from distsim.backends.real.watching.board import WAITS, Part
from distsim.interface.deadlock import find_cycle


def describe(parts: Sequence[Part], private: Path, now: float) -> str:
    """What every rank is in and for how long, a line each; and a cycle of those that wait, if there is one."""
    lines, waits_for = [], dict[int, list[int]]()
    for rank, part in enumerate(parts):
        if part.phase == "done":
            lines.append(f"  rank {rank} has ended")
        elif part.phase != "run":
            lines.append(f"  rank {rank} is in its phase {part.phase!r}")
        for flow in part.flows if part.phase == "run" else ():
            missing = not_joined(private, flow.peers, flow.number) if flow.number >= 0 else list(flow.peers)
            if flow.state == WAITS:
                waits_for.setdefault(rank, []).extend(missing)
            text = f"  rank {rank} {flow.says()} for {now - flow.since:.1f} s"
            if flow.number >= 0 and missing:
                text += f"; not joined by rank {', '.join(map(str, missing))}"
            lines.append(text)
    cycle = find_cycle(waits_for)
    return "\n".join([*lines, *([f"  cycle: {' -> '.join(map(str, cycle))}"] if cycle else [])])
