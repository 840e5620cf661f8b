"""Folding: of ranks that do alike, one is simulated and stands for all.

A strategy says which workers do alike (`Strategy.alike_every`): worker r + p does what worker r does, with all ranks it
names moved on by p. If the network looks the same from both, their times are the same, and workers 0 to p - 1 are enough
(to the last digit; where hosts share up-links, to the 1e-12 that rates of flows are known to):

- A message of rank r to rank q arrives at the rank that stands for q, as if from the rank that lies before it as r lies
  before q. It travels over the links of that rank's neighbourhood, which stand for their images, too.
- A collective goes on when the members that are simulated have come: the others come with them.

The network says what it repeats (`Topology.pattern`); capacities are compared, and ways where that does not hold for all.
Where ranks are set apart all the same (a tree has a root, say), `SetApart` is raised, and the run begins again with every
rank. What sets ranks apart from the beginning (stragglers, servers, values) is not folded at all.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from inspect import isroutine
from math import lcm

from distsim.interface import Job, Loopback, Strategy, Topology, Trace


class SetApart(BaseException):  # a stop, and nothing that a strategy may catch
    """Ranks that were taken to be alike are not."""


@dataclass(frozen=True)
class Fold:
    """Ranks r, r + period, r + 2 period, ... are alike. Of as many ranks as the period, each is only like itself."""

    ranks: int
    period: int

    @property
    def copies(self) -> int:
        """How many ranks each simulated one stands for, itself included."""
        return self.ranks // self.period

    def standing_for(self, rank: int) -> int:
        """The simulated rank that is like this one."""
        return rank % self.period

    def seen_from(self, source: int, to: int) -> tuple[int, int]:
        """Two ranks, moved together so that the second is a simulated one."""
        moved = to - to % self.period
        return (source - moved) % self.ranks, to - moved


APART = Fold(sys.maxsize, sys.maxsize)
"""No two ranks are alike."""


def find_fold(job: Job, fold_ranks: int) -> Fold:
    """Which ranks of a run are alike, if it has at least `fold_ranks` workers; 0 asks for none."""
    cluster, workers = job.cluster, job.cluster.workers
    network = cluster.network
    if not 0 < fold_ranks <= workers or cluster.servers or cluster.placement or isinstance(network, Loopback):
        return APART
    if job.failure.links or (job.failure.loses_ranks and job.on_loss == "continue"):
        return APART
    if not job.straggler.is_off or not _says_itself(job.strategy) or job.numerics(0).has_values:
        return APART
    pattern = network.pattern()
    if pattern is None:
        return APART
    period = lcm(job.strategy.alike_every(workers), pattern.hosts)
    return Fold(workers, period) if 0 < period < workers and workers % period == 0 else APART


def may_march(job: Job, fold_ranks: int) -> bool:
    """Whether all ranks of a run of at least `fold_ranks` workers do alike, if not at the same times: see marching."""
    cluster, workers = job.cluster, job.cluster.workers
    if not 0 < fold_ranks <= workers or cluster.servers or isinstance(cluster.network, Loopback):
        return False
    if not job.failure.is_off or job.budget.seconds is not None or job.samples_between_snapshots:
        return False
    return _says_itself(job.strategy) and job.strategy.alike_every(workers) == 1 and not job.numerics(0).has_values


def _says_itself(strategy: Strategy) -> bool:
    """What is said of a program holds of that program: who overrides `run`, or what it may call, has to say it again."""
    for cls in type(strategy).__mro__:
        if "alike_every" in vars(cls):
            return True
        if any(isroutine(value) and _is_program(name) for name, value in vars(cls).items()):
            return False
    return False


def _is_program(method: str) -> bool:
    """Other methods of Strategy say something about a strategy, and do nothing in a run."""
    return method == "run" or not (method.startswith("__") or hasattr(Strategy, method))


class FoldedLinks:
    """The links of a topology by number, those that are alike as one."""

    def __init__(self, topology: Topology, fold: Fold) -> None:
        """Raises `SetApart` if links that should be alike have unequal capacities."""
        pattern = topology.pattern()
        assert pattern is not None
        hosts, links, self._holds = pattern
        self._fold = fold
        self._links = links * (fold.period // hosts)
        self._all = self._links * fold.copies
        capacities = topology.capacities(fold.ranks)
        self.capacities = list(capacities[: self._links])
        if list(capacities) != self.capacities * fold.copies:
            raise SetApart("links")

    def fold(self, link: int) -> tuple[int, int]:
        """The link that stands for this one, and by how many ranks this one is moved on from there."""
        copy, place = divmod(link, self._links)
        return place, copy * self._fold.period

    def image(self, link: int, step: int) -> int:
        """The link that is to ranks moved on by `step` what this one is to them."""
        return (link + step // self._fold.period * self._links) % self._all

    def compare(self, topology: Topology, source: int, to: int) -> None:
        """Raises `SetApart` if the way between two hosts is not like those between their images."""
        if self._holds:
            return
        ranks, period = self._fold.ranks, self._fold.period
        links, *rest = topology.route(source, to)
        for moved in range(period, ranks, period):
            others, *same = topology.route((source + moved) % ranks, (to + moved) % ranks)
            if same != rest or list(others) != [self.image(link, moved) for link in links]:
                raise SetApart("ways")


@dataclass(frozen=True)
class Members:
    """The members of a group, and those of them that are simulated."""

    ranks: tuple[int, ...]
    """All of them, in the group's order."""
    simulated: tuple[int, ...]
    place: Sequence[int]
    """Of each member's position, the position among the simulated of the one that stands for it."""
    after: Sequence[int]
    """Of each member's position, that of its next image."""
    step: int
    """By how many ranks an image is moved on from the one before."""
    turns: bool = False
    """The images of the simulated members follow them in the group's order, one row after the other."""

    @property
    def is_whole(self) -> bool:
        """Every member is simulated."""
        return len(self.ranks) == len(self.simulated)


def members(ranks: tuple[int, ...], fold: Fold) -> Members:
    """Of a group. Raises `SetApart` if the images of its members do not belong to it as they do."""
    if max(ranks) < fold.period:
        whole = range(len(ranks))
        return Members(ranks, ranks, whole, whole, fold.ranks)
    position = {rank: place for place, rank in enumerate(ranks)}
    simulated = tuple(rank for rank in ranks if rank < fold.period)
    if not simulated:
        raise SetApart("a group without a simulated member")
    first = simulated[0]
    step = min((rank - first) % fold.ranks or fold.ranks for rank in ranks if rank % fold.period == first)
    among = {rank: place for place, rank in enumerate(simulated)}
    place = [among.get(rank % fold.period, -1) for rank in ranks]
    after = [position.get((rank + step) % fold.ranks, -1) for rank in ranks]
    if -1 in place or -1 in after or len(simulated) * (fold.ranks // step) != len(ranks):
        raise SetApart("groups")
    rows = len(simulated)
    turns = simulated == ranks[:rows] and after == [*range(rows, len(ranks)), *range(rows)]
    return Members(ranks, simulated, place, after, step, turns)


def name_transfers(trace: Trace, fold: Fold) -> None:
    """Name the transfers of a simulated rank by simulated ranks: what lies farther is said behind the tag."""
    names: dict[str, str] = {}
    for number, transfer in enumerate(trace.transfers):
        channel = transfer.channel
        if channel not in names:
            names[channel] = _name(channel, fold)
        trace.transfers[number] = transfer._replace(channel=names[channel])


def _name(channel: str, fold: Fold) -> str:
    kind, ranks, *rest = channel.split(" ", 2)
    if kind == "message":
        source, to = fold.seen_from(*map(int, ranks.split(">")))
        far = source - fold.standing_for(source)
        return f"message {source - far}>{to} {rest[0]}" + (f" from {far} on" if far else "")
    group = [int(rank) for rank in ranks.split(",")]
    simulated = [rank for rank in group if rank < fold.period]
    more = f" of {len(group)} ranks" if len(simulated) < len(group) else ""
    if more and group != sorted(group):  # another order is another group
        more += f" in the order {ranks}"
    return f"{kind} {','.join(map(str, simulated))}{more}"
