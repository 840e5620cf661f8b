"""What a run that went wrong leaves behind: who waited for whom, and what every rank did last, from the board."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

from distsim.backends.real.watching.board import Board
from distsim.backends.real.watching.deadlock import describe
from distsim.backends.real.watching.watch import End

NAME = "last_operations.txt"
_SHOWN = 8  # ranks in the message; the file has all


def explained(end: End, board: Board, world_size: int, private: Path, logs: Path) -> End:
    """The end of a run with who waited for whom in its message; the whole table lies among the logs."""
    now = time.monotonic()
    waits = describe([board.read(rank) for rank in range(world_size)], private, now)
    path = logs / NAME
    with contextlib.suppress(OSError):  # the disk may be what went wrong
        path.write_text(f"{end.status}: {end.message}\n\n{table(waits, board, world_size, now)}", encoding="utf-8")
    if end.status == "interrupted":  # nothing went wrong
        return end
    if waits in end.message:
        return end._replace(message=f"{end.message}\nlast operations of all ranks: {path}")
    lines = waits.splitlines()
    shown = lines if len(lines) <= _SHOWN + 1 else [*lines[:_SHOWN], f"  and {len(lines) - _SHOWN} more"]
    said = "\n".join(["when it ended:", *shown, f"last operations of all ranks: {path}"])
    return end._replace(message=f"{end.message}\n{said}")


def table(waits: str, board: Board, world_size: int, now: float) -> str:
    """The last operations of all ranks; times are seconds before `now`."""
    text = f"Who waited for whom:\n{waits}\n\nThe last operations of each rank, in seconds; 0 is when this was written.\n"
    for rank in range(world_size):
        part = board.read(rank)
        counts = f"{part.update.number} updates, slowest operation {part.slowest:.3f} s"
        text += f"\nrank {rank}, phase {part.phase}: {counts}\n  flow    step     begun      took  operation\n"
        for last in board.last(rank):
            took = f"{last.ended - last.begun:.4f}" if last.ended else "-"
            what = f"waits for {last.what}" if last.is_wait else last.what
            text += f"  {last.flow:4}  {last.step:6}  {last.begun - now:8.4f}  {took:>8}  {what}\n"
    return text
