"""The board and what is said from it, with ranks that are no processes."""

from __future__ import annotations

import itertools
import time

import pytest

from distsim.backends.real.transport.ledger import Ledger, group_file, merge, not_joined, slices
from distsim.backends.real.watching.board import COMPUTES, IDLES, WAITS, Board, Desk
from distsim.backends.real.watching.deadlock import describe
from distsim.backends.real.watching.operations import NAME, explained
from distsim.backends.real.watching.watch import End
from distsim.interface import Collective, Trace, Update


def test_who_has_not_joined_a_group_of_other_launchers_is_named(tmp_path):
    """Its first member alone has told of its call."""
    theirs, ours = tmp_path / "theirs", tmp_path / "ours"
    theirs.mkdir()
    ours.mkdir()
    number = Ledger(theirs, (2, 3), 2).check(Collective("all_reduce", "sum"), "float32", 4)
    merge(ours, slices(theirs))
    assert not_joined(ours, (2, 3), number) == [3]


def test_what_ranks_map_has_its_room_on_the_disk(tmp_path):
    """A process that writes where the file has none, on a full disk, is killed by SIGBUS."""
    board = Board(tmp_path / "board", 3)
    Ledger(tmp_path, (0, 1), 0)
    for path in (tmp_path / "board", group_file(tmp_path, (0, 1))):
        assert path.stat().st_blocks * 512 >= path.stat().st_size > 0
    board.close()


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


def test_the_last_operations_of_a_rank_outlive_it(tmp_path, monkeypatch):
    """32 a flow, each with its step and peers; the last is under way still."""
    ticks = itertools.count(1000)
    monkeypatch.setattr("time.monotonic", lambda: 0.125 * next(ticks))
    board, trace = Board(tmp_path / "board", 2), Trace(1)
    desk = Desk(tmp_path / "board", 1, 2)
    desk.phase("run")
    desk.follow(trace)
    for step in range(40):
        begun = desk.enter(WAITS, f"receive 'x' number {step}", (0,))
        if step < 39:
            trace.updates.append(Update(step + 1, 8 * (step + 1), 0.5 * step))
            assert desk.leave(begun) == begun + 0.125
    del desk
    found = board.last(1)
    assert [last.step for last in found] == list(range(8, 40))
    assert [last.what for last in found] == [f"receive 'x' number {step}" for step in range(8, 40)]
    assert {last.peers for last in found} == {(0,)}
    assert [last.ended >= last.begun for last in found] == [True] * 31 + [False]
    assert board.read(1).update == (39, 312, 19.0)
    assert board.read(1).slowest == 0.125
    end = explained(End("failed", "rank 1 was killed"), board, 2, tmp_path, tmp_path)
    first, *lines = end.message.splitlines()
    assert first == "rank 1 was killed"
    assert lines[1] == "  rank 0 is in its phase 'start'"
    assert lines[2].startswith("  rank 1 waits for receive 'x' number 39 for 0.")
    assert lines[3] == f"last operations of all ranks: {tmp_path / NAME}"
    table = (tmp_path / NAME).read_text()
    assert table.startswith("failed: rank 1 was killed\n\nWho waited for whom:\n  rank 0 is in its phase 'start'\n")
    assert "rank 1, phase run: 39 updates, slowest operation 0.125 s" in table
    assert "receive 'x' number 7" not in table
    assert table.count("waits for receive 'x' number ") == 1 + 32
    board.close()


def test_an_operation_that_goes_on_in_another_state_is_one(tmp_path):
    board, desk = Board(tmp_path / "board", 1), Desk(tmp_path / "board", 0, 1)
    desk.phase("run")
    desk.step = 5
    desk.enter(COMPUTES, "forward of step 5")
    desk.turn(IDLES)
    assert board.read(0).doing == "while it was slowed down in forward of step 5"
    desk.leave()
    assert board.read(0).doing == "while it ran its own code after forward of step 5"
    assert [(last.step, last.what, last.is_wait) for last in board.last(0)] == [(5, "forward of step 5", False)]
    board.close()
