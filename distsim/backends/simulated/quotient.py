"""Plans of collectives among ranks that stand for others (see folding).

Of transfers that are images of each other one is carried out: a ring of ten thousand equal ranks is one rank that sends to
itself, recursive halving among 1,024 ten transfers of one rank to itself. That holds where in each phase a member and its
image send and receive alike, and a link and its image carry alike: then all that are alike stay in step. Where they do not
(a tree has a root, a number that is no power of two leaves some over), the group cannot be folded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from distsim.backends.simulated.algorithms import Phase, Plan, Rotation, Transfer
from distsim.backends.simulated.folding import Members, SetApart
from distsim.backends.simulated.routes import Routes

K = TypeVar("K")
Signs = dict[K, list[Any]]


def quotient(plan: Plan, members: Members, routes: Routes) -> Plan:
    """The plan among the simulated members of a group. Raises `SetApart` if it is not the same for their images."""
    phases = []
    for phase in plan.phases:
        if isinstance(phase, Rotation) and members.turns:
            phases.append(_rotation(phase, len(members.simulated)))
        else:
            phases.append(_rings(phase, members) if phase.rings else _transfers(phase, members, routes))
    return Plan(len(members.simulated), tuple(phases), plan.is_rooted)


def _rotation(phase: Rotation, size: int) -> Phase:
    """Turning the group by as many places as are simulated changes nothing."""
    order = range(size) if phase.by != phase.size - 1 else range(size - 1, -1, -1)
    transfers = tuple(Transfer(p, (p + phase.by) % size, phase.share) for p in order)
    ends = tuple((p, (p + phase.by) % phase.size) for p in order)
    is_ring = phase.by in (1, phase.size - 1)
    return Phase(transfers, phase.times, (tuple(order),) if is_ring else (), ends)


def _transfers(phase: Phase | Rotation, members: Members, routes: Routes) -> Phase:
    """Those that end at a simulated member."""
    ranks, place, after = members.ranks, members.place, members.after
    sends, receives, carries = Signs[int](), Signs[int](), Signs[int]()
    transfers, ends = [], []
    for source, to, share in phase.transfers:
        links, kind = routes.kind(ranks[source], ranks[to])
        sign = (place[source], place[to], share, kind)
        sends.setdefault(source, []).append(sign)
        receives.setdefault(to, []).append(sign)
        for link in links:
            carries.setdefault(link, []).append(sign)
        if ranks[to] == members.simulated[place[to]]:
            transfers.append(Transfer(place[source], place[to], share))
            ends.append((source, to))
    _compare(sends, {member: after[member] for member in sends})
    _compare(receives, {member: after[member] for member in receives})
    _compare(carries, {link: routes.image(link, members.step) for link in carries})
    return Phase(tuple(transfers), phase.times, members=tuple(ends))


def _compare(signs: Mapping[K, list[Any]], image: Mapping[K, K]) -> None:
    for key, seen in signs.items():
        same = signs.get(image[key])
        if same != seen and (same is None or sorted(same) != sorted(seen)):
            raise SetApart("a phase of a collective")


def _rings(phase: Phase | Rotation, members: Members) -> Phase:
    """Of rings that are images of each other one, and of that as many members in a row as there are different ones."""
    place, after, transfers = members.place, members.after, set(phase.transfers)
    if any((after[source], after[to], share) not in transfers for source, to, share in phase.transfers):
        raise SetApart("rings")
    known = set[int]()
    rings, ends = [], []
    for ring in phase.rings:
        places = [place[member] for member in ring]
        different = len(set(places))
        if places != places[:different] * (len(ring) // different):
            raise SetApart("a ring")
        if places[0] not in known:
            known.update(places)
            rings.append(tuple(places[:different]))
            ends += list(zip(ring, ring[1:] + ring[:1], strict=True))[:different]
    share = phase.transfers[0].share
    folded = [Transfer(p, then, share) for ring in rings for p, then in zip(ring, ring[1:] + ring[:1], strict=True)]
    return Phase(tuple(folded), phase.times, tuple(rings), tuple(ends))
