"""Random programs of sends, receives, all-reduces and barriers: a run ends done, or with a report of who waits for whom.

The judge is a machine of its own: ranks with a list of operations each, all blocking; a send goes with the receive that
waits for it, a collective when its whole group has come to it. What can go never ceases to, so the order of going changes
nothing, and where the machine stops is the one place where the simulator may stop.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise
from random import Random

import pytest
from oracles.jobs import Times, chain

from distsim.backends.simulated import SimulatedOptions, simulate
from distsim.interface import Budget, Cluster, Job, Strategy, Switch, T, Worker
from distsim.numerics.sizes import SizesFactory

RUNS = 400
Operation = tuple[str, tuple[int, ...]]
"""("send", (to,)), ("receive", (source,)), ("all_reduce", group) or ("barrier", group)."""


@dataclass(frozen=True)
class Listed(Strategy):
    """Every rank does what its list says, one operation after the other."""

    lists: tuple[tuple[Operation, ...], ...] = ()

    async def run(self, worker: Worker[T]) -> None:
        for kind, ranks in self.lists[worker.rank]:
            if kind == "send":
                await worker.send(worker.read(), ranks[0])
            elif kind == "receive":
                await worker.receive(ranks[0])
            elif kind == "barrier":
                await worker.within(ranks).barrier()
            else:
                await worker.within(ranks).all_reduce(worker.read())


def a_program(random: Random) -> Listed:
    """What is dealt out would end if every rank did its part in that order; some parts change places, one may lack."""
    ranks = random.randint(2, 5)
    lists: list[list[Operation]] = [[] for _ in range(ranks)]
    for _ in range(random.randint(1, 8)):
        if random.random() < 0.7:
            a, b = random.sample(range(ranks), 2)
            lists[a].append(("send", (b,)))
            lists[b].append(("receive", (a,)))
        else:
            group = tuple(sorted(random.sample(range(ranks), random.randint(2, ranks))))
            kind = (
                "barrier" if sum(group) % 2 else "all_reduce"
            )  # one kind a group: in another order they would be an error
            for rank in group:
                lists[rank].append((kind, group))
    for _ in range(random.choice([0, 0, 1, 2])):
        one = random.choice(lists)
        if len(one) > 1:
            i = random.randrange(len(one) - 1)
            one[i], one[i + 1] = one[i + 1], one[i]
    if random.random() < 0.1:
        random.choice([one for one in lists if one]).pop()
    return Listed(tuple(tuple(one) for one in lists))


def judge(program: Listed) -> dict[int, set[int]]:
    """Whom each rank that is stuck waits for; empty if all end."""
    lists, at = program.lists, [0] * len(program.lists)

    def now(rank: int) -> Operation | None:
        return lists[rank][at[rank]] if at[rank] < len(lists[rank]) else None

    def needed(rank: int) -> set[int]:
        """Who has not come to the operation that this rank is at."""
        kind, others = now(rank)
        if kind in ("all_reduce", "barrier"):
            return {r for r in others if now(r) != (kind, others)}
        meets = ("receive" if kind == "send" else "send", (rank,))
        return set() if now(others[0]) == meets else {others[0]}

    going = True
    while going:
        ready = [rank for rank in range(len(lists)) if now(rank) and not needed(rank)]
        going = bool(ready)
        for rank in ready:  # both ends, or the whole group, are ready together
            at[rank] += 1
    return {rank: needed(rank) for rank in range(len(lists)) if now(rank)}


def reaches(graph: dict[int, set[int]], start: int, goal: int) -> bool:
    """Whether `goal` can be reached from `start` by at least one edge."""
    seen, left = set(), list(graph.get(start, ()))
    while left:
        if (node := left.pop()) == goal:
            return True
        if node not in seen:
            seen.add(node)
            left += graph.get(node, ())
    return False


def test_every_program_ends_as_the_judge_says() -> None:
    ends = Counter[str]()
    for i in range(RUNS):
        random = Random(i)
        program = a_program(random)
        ranks, model = len(program.lists), chain()
        cluster = Cluster(ranks, 0, Times(), Switch(10.0 ** random.uniform(2, 6), random.choice([0.0, 1e-3])))
        options = SimulatedOptions(collectives=random.choice(["auto", "flows"]))
        outcome = simulate(Job(program, model, cluster, Budget(updates=1), SizesFactory(model, ranks)), options)
        waits = judge(program)
        assert outcome.status == ("deadlocked" if waits else "done"), f"run {i}: {program}: {outcome.message}"
        stuck = {int(rank) for rank in re.findall(r"rank (\d+) waits for", outcome.message)}
        assert stuck == set(waits), f"run {i}: {program}: {outcome.message}"
        named = re.search(r"cycle: ([\d> -]+)", outcome.message)
        has_cycle = any(reaches(waits, rank, rank) for rank in waits)
        assert (named is not None) == has_cycle, f"run {i}: {program}: {outcome.message}"
        if named:
            cycle = [int(rank) for rank in named[1].split(" -> ")]
            assert cycle[0] == cycle[-1]
            assert all(b in waits[a] for a, b in pairwise(cycle)), f"run {i}: {program}: {cycle}"
        ends["cycle" if named else outcome.status] += 1
    assert min(ends[end] for end in ("done", "cycle", "deadlocked")) > RUNS // 50, ends  # each kind was really met


@pytest.mark.parametrize(
    ("lists", "waits"),
    [
        ([[("send", (1,))], [("receive", (0,))]], {}),
        ([[("send", (1,))], [("send", (0,))]], {0: {1}, 1: {0}}),
        ([[("send", (1,))], []], {0: {1}}),
        ([[("all_reduce", (0, 1, 2))], [("all_reduce", (0, 1, 2))], [("receive", (0,))]], {0: {2}, 1: {2}, 2: {0}}),
        ([[("barrier", (0, 1)), ("barrier", (0, 2))], [("barrier", (0, 1))], [("barrier", (0, 2))]], {}),
        (
            [[("barrier", (0, 1))], [("barrier", (1, 2)), ("barrier", (0, 1))], [("receive", (0,))]],
            {0: {1}, 1: {2}, 2: {0}},
        ),
    ],
)
def test_the_judge(lists: list[list[Operation]], waits: dict[int, set[int]]) -> None:
    assert judge(Listed(tuple(tuple(one) for one in lists))) == waits
