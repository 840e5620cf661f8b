"""What launchers of a world do before a run: see whether they share a folder, and hear where the run begins.

Which checkpoint is whole is for the leading launcher alone to say; the others take its word.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from distsim.backends.real.saving.saved import Begin
from distsim.interface import BadInput, Problem

if TYPE_CHECKING:
    from distsim.backends.real.worlds.meeting import Meeting

_LOOK = 0.05  # seconds
_PATIENCE = 10.0  # seconds until what a host writes is seen by another that shares its folder


def tell(meeting: Meeting, run: str, begin: Begin) -> None:
    """Have the launchers that follow begin there."""
    for rank in range(1, meeting.world.size):
        meeting.put(f"{run}/begin/{rank}", begin.of(rank))


def hear(meeting: Meeting, run: str) -> Begin | None:
    """Where the leading launcher begins; None if it has ended the run before. Raises `LauncherLost` if it is gone."""
    key = f"{run}/begin/{meeting.world.rank}"
    while not meeting.has(key):
        meeting.pulse.check(0)
        if meeting.has(f"{run}/end"):
            return None
        time.sleep(_LOOK)
    begin: Begin = meeting.get(key)[0]
    return begin


def lead_to(meeting: Meeting, folders: Sequence[Path]) -> None:
    """Write into each folder what the others are to see there. Raises `BadInput` if one does not."""
    with _tokens(folders) as tokens:
        meeting.put("shared", tokens)
        seen = [meeting.await_key(f"shared/{rank}", rank) for rank in range(1, meeting.world.size)]
    problems = []
    for i, folder in enumerate(folders):
        blind = [rank for rank, found in enumerate(seen, 1) if not found[i]]
        if blind:
            host, ranks = meeting.hellos[blind[0]].host, ", ".join(map(str, blind))
            allowed = f"checkpoints need a folder that all hosts share, and rank {ranks} on {host} does not see this one"
            problems.append(Problem("runs", str(folder), allowed, "set runs= to a folder that they share"))
    if problems:
        raise BadInput(problems)


def look(meeting: Meeting) -> None:
    """Say whether the leading launcher's folders are here, too. Raises `LauncherLost` if it is gone."""
    while not meeting.has("shared"):
        meeting.pulse.check(0)
        if meeting.has("order/1"):  # it has ended before that
            return
        time.sleep(_LOOK)
    tokens: list[Path] = meeting.get("shared")[0]
    until = time.monotonic() + _PATIENCE
    while not all(found := [token.exists() for token in tokens]) and time.monotonic() < until:
        time.sleep(_LOOK)
    meeting.put(f"shared/{meeting.world.rank}", found)


@contextmanager
def _tokens(folders: Sequence[Path]) -> Iterator[list[Path]]:
    tokens = [folder / f".shared-{uuid4().hex}" for folder in folders]
    try:
        for token in tokens:
            token.parent.mkdir(parents=True, exist_ok=True)
            token.touch()
        yield tokens
    finally:
        for token in tokens:
            token.unlink(missing_ok=True)
