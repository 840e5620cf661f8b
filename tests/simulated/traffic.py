"""Made-up traffic: collectives of groups that share ranks, and messages, on any topology; and when each is over."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, NamedTuple

from distsim.backends.simulated.algorithms import Choice
from distsim.backends.simulated.collectives import Collectives, Mode
from distsim.backends.simulated.engine import Engine, Operation
from distsim.backends.simulated.hosts import RoutedHosts
from distsim.backends.simulated.messages import Messages
from distsim.interface import Collective, Envelope, Topology
from distsim.interface.fabric import Kind

KINDS: tuple[Kind, ...] = ("all_reduce", "reduce_scatter", "all_gather", "broadcast", "reduce", "all_to_all", "barrier")


class Call(NamedTuple):
    """A collective, and when each rank of the group calls it (or after its call before)."""

    group: tuple[int, ...]
    collective: Collective
    nbytes: float
    when: tuple[float, ...]


class Sent(NamedTuple):
    """A message, and when it is sent and received."""

    source: int
    to: int
    nbytes: float
    when: tuple[float, float]


class Carried(NamedTuple):
    """When each rank's part of each call, and each side of each message, was over; and how many prices were inexact."""

    ends: dict[tuple[int, int], float]
    inexact: int


def of(kind: Kind, root: int = 0) -> Collective:
    """A collective of a kind."""
    return Collective(kind, "sum" if "reduce" in kind else "", root)


def carry(
    topology: Topology,
    traffic: Sequence[Call | Sent],
    mode: Mode,
    algorithm: Choice = "ring",
    hosts: Sequence[int] | None = None,
    node_ranks: int = 1,
) -> Carried:
    """Carry traffic between ranks, each on its own host unless `hosts` says otherwise; all must end, all bytes arrive."""
    ranks = 1 + max(max(item.group) if isinstance(item, Call) else max(item[:2]) for item in traffic)
    engine = Engine()
    places = RoutedHosts(engine, topology, hosts or range(ranks))
    messages = Messages(engine, places)
    collectives = Collectives(engine, places, messages, mode, algorithm, node=lambda rank: rank // node_ranks)
    operations: dict[tuple[int, int], Operation[Any]] = {}
    called: dict[tuple[int, tuple[int, ...]], float] = {}

    def call(number: int, position: int, item: Call) -> None:
        rank, nbytes = item.group[position], item.nbytes
        operations[number, position] = collectives.join(
            rank, item.group, item.collective, None, nbytes, lambda collective, values: list(values)
        )

    def post(number: int, side: int, item: Sent) -> None:
        source, to, nbytes, _ = item
        operations[number, side] = (
            messages.receive(to, source, f"{number}")
            if side
            else messages.send(source, to, f"{number}", Envelope(0, "", None), nbytes, lambda payload: payload)
        )

    for number, item in enumerate(traffic):
        for side, when in enumerate(item.when):
            if isinstance(item, Call):
                key = item.group[side], item.group
                called[key] = when = max(when, called.get(key, 0.0))
                engine.after(when, lambda number=number, side=side, item=item: call(number, side, item))
            else:
                engine.after(when, lambda number=number, side=side, item=item: post(number, side, item))
    engine.env.run()
    assert abs(places.unaccounted()) < 1e-9
    ends = {key: operation.ended for key, operation in operations.items() if operation.over()}
    assert len(ends) == sum(len(item.when) for item in traffic)
    return Carried(ends, collectives.inexact)


def make_up(draw: Random, ranks: int) -> list[Call | Sent]:
    """Some 1 to 5 collectives of 1 to 3 groups, in lock step or skewed, and up to 4 messages."""
    groups = [tuple(draw.sample(range(ranks), draw.randint(1, ranks))) for _ in range(draw.randint(1, 3))]
    traffic: list[Call | Sent] = []
    for _ in range(draw.randint(1, 5)):
        group, kind = draw.choice(groups), draw.choice(KINDS)
        root = draw.randrange(len(group)) if kind in ("broadcast", "reduce") else 0
        nbytes = 0.0 if kind == "barrier" else draw.choice([1e6, 3.3e5, 0.0, draw.uniform(1e3, 5e6)])
        begin = draw.choice([0.0, draw.uniform(0.0, 5.0)])
        skew = draw.choice([0.0, 0.0, 1e-6, draw.expovariate(1.0)])
        when = tuple(begin + draw.uniform(0.0, skew) for _ in group)
        traffic.append(Call(group, of(kind, root), nbytes, when))
    for _ in range(draw.choice([0, 0, 1, 4]) if ranks > 1 else 0):
        source, to = draw.sample(range(ranks), 2)
        when = draw.uniform(0.0, 6.0), draw.uniform(0.0, 6.0)
        traffic.append(Sent(source, to, draw.choice([0.0, draw.uniform(1e3, 5e6)]), when))
    return traffic
