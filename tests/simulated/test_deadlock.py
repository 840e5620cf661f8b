"""The report of a deadlock: who waits for whom, and a cycle if there is one."""

from itertools import pairwise

import pytest
from contract.kit import MODELED, Bench, block
from hypothesis import given
from hypothesis import strategies as st

from distsim.interface.deadlock import find_cycle, listed


@pytest.mark.parametrize(
    ("edges", "expected"),
    [
        ({}, []),
        ({0: []}, []),
        ({0: [0]}, [0, 0]),
        ({0: [1], 1: [0]}, [0, 1, 0]),
        ({0: [1], 1: [2], 2: []}, []),
        ({0: [1], 1: [2], 2: [1]}, [1, 2, 1]),
        ({0: [5]}, []),  # rank 5 has ended: nobody is waited for in a circle
        ({0: [1, 2], 1: [3], 2: [0], 3: []}, [0, 2, 0]),
        ({0: [1, 2], 1: [3], 2: [3], 3: []}, []),
        ({4: [2], 2: [3, 1], 3: [], 1: [4]}, [4, 2, 1, 4]),
    ],
)
def test_a_cycle_is_found(edges, expected):
    assert find_cycle(edges) == expected


def is_acyclic(edges):
    edges = {rank: {peer for peer in peers if peer in edges} for rank, peers in edges.items()}
    while free := [rank for rank, peers in edges.items() if not peers]:
        edges = {rank: peers - set(free) for rank, peers in edges.items() if peers}
    return not edges


@given(st.dictionaries(st.integers(0, 7), st.lists(st.integers(0, 9), max_size=4), max_size=8))
def test_a_cycle_is_one_and_is_found_if_there_is_one(edges):
    cycle = find_cycle(edges)
    assert bool(cycle) != is_acyclic(edges)
    if cycle:
        assert cycle[0] == cycle[-1]
        assert len(set(cycle)) == len(cycle) - 1
        assert all(after in edges[before] for before, after in pairwise(cycle))


async def groups_in_a_ring(worker, note):
    pair = worker.within(sorted([worker.rank, (worker.rank + 1) % 3]))
    await pair.all_reduce(block(worker))


def test_a_collective_that_others_have_not_joined_is_waited_for(tmp_path):
    message = Bench(MODELED, tmp_path).run(groups_in_a_ring, ranks=3, status="deadlocked").outcome.message
    assert "rank 0 waits for all_reduce of ranks 0,1 (test_deadlock.py:" in message
    assert "ranks 1 have not joined that of (0, 1)" in message
    assert message.endswith("cycle: 0 -> 1 -> 2 -> 0")


async def any_source(worker, note):
    if worker.rank == 0:
        await worker.receive_any("gradient")


def test_ranks_that_have_ended_are_not_reported(tmp_path):
    message = Bench(MODELED, tmp_path).run(any_source, ranks=3, status="deadlocked").outcome.message
    assert message.startswith("deadlock: rank 0 waits for receive 'gradient' from any rank (test_deadlock.py:")
    assert "rank 1" not in message
    assert "cycle" not in message


async def in_a_task(worker, note):
    await worker.task(waits_for_itself(worker))


async def waits_for_itself(worker):
    await worker.receive(1 - worker.rank, "never")


def test_what_a_task_waits_for_is_reported_with_its_rank(tmp_path):
    message = Bench(MODELED, tmp_path).run(in_a_task, status="deadlocked").outcome.message
    assert "rank 0 waits for task (test_deadlock.py:" in message
    assert "and receive 'never' from rank 1 (test_deadlock.py:" in message
    assert message.endswith("cycle: 0 -> 1 -> 0")


def test_ranks_in_a_message_are_counted_where_they_are_many():
    assert listed(range(16)) == "0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15"
    assert listed(range(17), " ") == "0 1 2 3 4 5 6 7 ... 9 10 11 12 13 14 15 16 (17 of them)"


async def one_elsewhere(worker, note):
    if worker.rank == 299:
        await worker.receive(298)
    else:
        await worker.all_reduce(block(worker))


def test_the_report_of_many_ranks_is_short(tmp_path):
    """It named every rank and, for each, all others: 40 MB of 2,000 ranks. Those in the cycle come first."""
    message = Bench(MODELED, tmp_path).run(one_elsewhere, ranks=300, status="deadlocked").outcome.message
    assert len(message) < 6000
    assert "rank 299 waits for receive '' from rank 298" in message
    assert "ranks 299 have not joined that of (0, 1, 2, 3, 4, 5, 6, 7, ..., 292," in message
    assert "; 284 more ranks wait; cycle: 298 -> 299 -> 298" in message or "cycle: 299 -> 298 -> 299" in message
