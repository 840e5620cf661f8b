"""The board and what is said from it, with ranks that are no processes."""

from __future__ import annotations

import time

import pytest

from distsim.backends.real.board import WAITS, Board, Desk
from distsim.backends.real.deadlock import describe
from distsim.backends.real.ledger import Ledger
from distsim.interface import Collective


@pytest.mark.parametrize("size", [3, 48, 300])
def test_who_has_not_joined_a_large_group_is_named(size, tmp_path):
    board, group = Board(tmp_path / "board", size), tuple(range(size))
    what = f"all_reduce of ranks {','.join(map(str, group))} (mine.py:12)"
    desks = []
    for rank in group:
        desks.append(Desk(tmp_path / "board", rank, size))
        desks[rank].phase("run")
        if rank:
            desks[rank].enter(WAITS, f"receive 'x' from rank {rank - 1} (mine.py:14)", (rank - 1,))
        else:
            number = Ledger(tmp_path, group, rank).check(Collective("all_reduce", "sum"), "float32", 4)
            desks[rank].enter(WAITS, what, group, number)
    text = describe([board.read(rank) for rank in group], tmp_path, time.monotonic())
    lines = text.splitlines()
    others = ", ".join(str(rank) for rank in group if rank)
    assert lines[0].startswith(f"  rank 0 waits for {what} for 0.")
    assert lines[0].endswith(f" s; not joined by rank {others}")
    assert lines[size - 1].startswith(f"  rank {size - 1} waits for receive 'x' from rank {size - 2} (mine.py:14) for 0.")
    assert lines[size:] == ["  cycle: 0 -> 1 -> 0"]
    board.close()
