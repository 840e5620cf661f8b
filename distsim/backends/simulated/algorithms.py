"""Algorithms of collectives as data: who sends how much to whom, in phases.

An algorithm is a function of a group's size that gives phases. In a phase every transfer happens `times` times. A rank
does its transfers of a round at once, and goes on to its next round when its own are over; it passes by rounds without any.
Positions are those in the group, `share` is the part of the payload that each rank brings (of the root's, in a
broadcast). With n ranks, payload M, latency a, bandwidth B and lg n = log2 n, in lock step:

- ring: all-reduce 2(n-1) (a + M/nB); reduce-scatter half of that; all-gather (n-1) (a + M/B), where M is a rank's part;
  broadcast a binomial scatter and a ring all-gather of the parts, reduce the reverse. Patarasuk and Yuan, JPDC 69(2), 2009.
- halving_doubling: recursive halving, recursive doubling. All-reduce 2 lg n a + 2 (n-1)/n M/B, the others half of it. Where
  n is no power of two the ranks beyond it fold into others before, and unfold after. Broadcast and reduce: a tree.
- circulant: the same time for any n, lg n rounded up, as every rank sends to the one 1, 2, 4, ... places away. Broadcast
  and reduce: a tree. Bruck et al., "Efficient Algorithms for All-to-All Communications", IEEE TPDS 8(11), 1997; Traeff,
  "Optimal, Non-pipelined Reduce-scatter and Allreduce Algorithms", arXiv:2410.14234, 2024.
- tree: a binomial tree. Broadcast and reduce lg n (a + M/B), all-reduce one after the other. The rest: halving_doubling.
- hierarchical: rings within nodes, then between the ranks of equal place in their nodes, then within nodes again. A ring
  where the nodes are unequal.

An all-to-all is pairwise, (n-1) (a + M/nB), by any of them; a barrier is an all-reduce of 0 bytes. Thakur, Rabenseifner and
Gropp, "Optimization of Collective Communication Operations in MPICH", IJHPCA 19(1), 2005.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, get_args

from distsim.interface.fabric import Kind

Algorithm = Literal["ring", "halving_doubling", "circulant", "tree", "hierarchical"]
Choice = Literal["auto", "ring", "halving_doubling", "circulant", "tree", "hierarchical"]
ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)


class Transfer(NamedTuple):
    """One transfer of a round."""

    source: int
    to: int
    share: float


@dataclass(frozen=True)
class Phase:
    """Equal rounds."""

    transfers: tuple[Transfer, ...]
    times: int = 1
    rings: tuple[tuple[int, ...], ...] = ()
    """The rings that the transfers form, if they are rings apart from each other: each sends to the next of its ring. Then
    transfers are in the order of the rings and of equal shares."""
    members: tuple[tuple[int, int], ...] = ()
    """In a plan of those who stand for others, the two members of the group that each transfer is between."""

    def ends(self, which: int) -> tuple[int, int]:
        """The positions in the whole group of a transfer's two ends."""
        return self.members[which] if self.members else self.transfers[which][:2]


@dataclass(frozen=True)
class Rotation:
    """A phase in which every rank sends to the one `by` places further. Its transfers are listed once somebody asks."""

    size: int
    by: int
    share: float
    times: int = 1

    @cached_property
    def rings(self) -> tuple[tuple[int, ...], ...]:
        """The ring, of those whose ranks send to the next one or to the one before."""
        ring = tuple(range(self.size))
        return (ring,) if self.by == 1 else (ring[::-1],) if self.by == self.size - 1 else ()

    @cached_property
    def transfers(self) -> tuple[Transfer, ...]:
        """In the order of the ring, or of the ranks."""
        order = self.rings[0] if self.rings else range(self.size)
        return tuple(Transfer(p, (p + self.by) % self.size, self.share) for p in order)

    def ends(self, which: int) -> tuple[int, int]:
        """The positions of a transfer's two ends."""
        return self.transfers[which][:2]


@dataclass(frozen=True, eq=False)
class Plan:
    """A collective of a group of `size` ranks by one algorithm."""

    size: int
    phases: tuple[Phase | Rotation, ...]
    is_rooted: bool
    """Some ranks may be over before others have come."""

    @cached_property
    def parts(self) -> list[list[tuple[int, list[int]]]]:
        """Of each position the phases it takes part in, and which of their transfers are its own."""
        parts: list[list[tuple[int, list[int]]]] = [[] for _ in range(self.size)]
        for number, phase in enumerate(self.phases):
            for which, transfer in enumerate(phase.transfers):
                for position in transfer[:2]:
                    mine = parts[position]
                    if not mine or mine[-1][0] != number:
                        mine.append((number, []))
                    mine[-1][1].append(which)
        return parts


def make_plan(algorithm: Algorithm, kind: Kind, size: int, root: int, nodes: Sequence[Sequence[int]]) -> Plan:
    """The plan of a collective of at least 2 ranks; `nodes` are the positions of the group that share a node, by node."""
    if kind == "all_to_all":
        return Plan(size, _pairwise(size), is_rooted=False)
    if algorithm == "hierarchical" and (len({len(node) for node in nodes}) > 1 or len(nodes) in (1, size)):
        algorithm = "ring"
    if kind in ("broadcast", "reduce"):
        phases = _broadcast(algorithm, size, root, nodes)
        return Plan(size, phases if kind == "broadcast" else _reverse(phases), is_rooted=algorithm != "ring")
    if algorithm == "tree" and kind in ("all_reduce", "barrier"):
        down = _binomial(list(range(size)), lambda count: 1.0)
        return Plan(size, (*_reverse(down), *down), is_rooted=False)
    gather = _all_gather(algorithm, size, nodes)
    if kind == "all_gather":
        return Plan(size, gather, is_rooted=False)
    if kind == "reduce_scatter":
        return Plan(size, _reverse(gather, 1.0 / size), is_rooted=False)
    return Plan(size, _all_reduce(algorithm, size, nodes), is_rooted=False)


@dataclass(frozen=True)
class Thresholds:
    """When `auto` takes a ring although it has more rounds: a ring sends to neighbors only, and on real networks long ways
    cost more than predictions know."""

    ring_bytes: float = 524288.0
    """From so many bytes a rank on; 512 KiB is where MPICH goes over to rings."""
    ring_factor: float = 2.0
    """While it is predicted to take at most so many times the least: among many ranks its rounds are too many."""


USUAL = Thresholds()


def choose(kind: Kind, size: int, nbytes: float, latency: float, bandwidth: float, given: Thresholds) -> Algorithm:
    """What takes least by latency and bandwidth, in case of doubt the ring; a ring too where `given` says so.

    NCCL compares predictions of this kind, by size and number of ranks (src/graph/tuning.cc).
    """

    def seconds(algorithm: Algorithm) -> float:
        rounds, volume = _cost(algorithm, kind, size)
        return rounds * latency + volume * nbytes / bandwidth

    best: Algorithm = "ring"
    ring = least = seconds("ring")
    for algorithm in ALGORITHMS[1:4]:
        if (found := seconds(algorithm)) < least * (1.0 - 1e-9):
            best, least = algorithm, found
    return "ring" if nbytes >= given.ring_bytes and ring <= given.ring_factor * least else best


def _cost(algorithm: Algorithm, kind: Kind, n: int) -> tuple[float, float]:
    """Rounds, and payloads sent one after the other, by an algorithm in lock step."""
    rounds, folded = (n - 1).bit_length(), n & (n - 1) != 0
    share = (n - 1) / n
    if kind == "all_to_all":
        return n - 1, share
    if kind in ("broadcast", "reduce"):
        return (rounds + n - 1, 2.0 * share) if algorithm == "ring" else (rounds, rounds)
    if kind in ("all_reduce", "barrier"):
        core = 1 << (n.bit_length() - 1)
        halving = (2 * (core.bit_length() - 1 + folded), 2.0 * ((core - 1) / core + folded))
        costs = {"tree": (2 * rounds, 2.0 * rounds), "halving_doubling": halving, "circulant": (2 * rounds, 2.0 * share)}
        return costs.get(algorithm, (2 * (n - 1), 2.0 * share))
    whole = 1.0 if kind == "reduce_scatter" else float(n)
    if algorithm == "ring":
        return n - 1, share * whole
    if algorithm == "circulant" or not folded:
        return rounds, share * whole
    core = 1 << (n.bit_length() - 1)
    doubled = sum(step + min(n - core, step) for step in (1 << k for k in range(core.bit_length() - 1)))
    return rounds + 1, (1 + doubled + n - 1) / n * whole  # the members that others have folded into are side by side


# ---- the pieces that algorithms are made of


def _ring(rings: Sequence[Sequence[int]], times: int, share: float) -> Phase | Rotation:
    cycles = tuple(tuple(ring) for ring in rings)
    if len(cycles) == 1 and cycles[0] == tuple(range(len(cycles[0]))):
        return Rotation(len(cycles[0]), 1, share, times)
    transfers = (Transfer(p, after, share) for ring in cycles for p, after in zip(ring, ring[1:] + ring[:1], strict=True))
    return Phase(tuple(transfers), times, cycles)


def _reverse(phases: Sequence[Phase | Rotation], factor: float = 1.0) -> tuple[Phase | Rotation, ...]:
    """Backwards in time, all transfers turned round, shares times `factor`: a gather becomes a reduce, and so on."""

    def turned(phase: Phase | Rotation) -> Phase | Rotation:
        if isinstance(phase, Rotation):
            return Rotation(phase.size, phase.size - phase.by, phase.share * factor, phase.times)
        if phase.rings:
            return _ring([ring[::-1] for ring in phase.rings], phase.times, phase.transfers[0].share * factor)
        return Phase(tuple(Transfer(to, source, share * factor) for source, to, share in phase.transfers), phase.times)

    return tuple(turned(phase) for phase in reversed(phases))


def _binomial(members: Sequence[int], share: Callable[[int], float]) -> tuple[Phase, ...]:
    """From the first member to all: who has it sends to who is 2^k further; `share` of the receiver's subtree's size."""
    n, phases = len(members), []
    step = 1 << max(0, n - 1).bit_length() >> 1
    while step:
        heads = range(0, n - step, 2 * step)
        pairs = (Transfer(members[v], members[v + step], share(min(2 * step, n - v) - step)) for v in heads)
        phases.append(Phase(tuple(pairs)))
        step >>= 1
    return tuple(phases)


def _doubling(members: Sequence[int], weights: Sequence[float]) -> list[Phase]:
    """All-gather of `weights` shares by a power of two of members: both of a pair send all that they have."""
    phases, step = [], 1
    held = list(weights)
    while step < len(members):
        pairs = (Transfer(p, members[i ^ step], held[i]) for i, p in enumerate(members))
        phases.append(Phase(tuple(pairs)))
        held = [held[i] + held[i ^ step] for i in range(len(members))]
        step *= 2
    return phases


def _folded(size: int) -> tuple[list[tuple[int, int]], list[int]]:
    """Pairs (who folds, into whom), and the members that are left, a power of two."""
    rest = size - (1 << (size.bit_length() - 1))
    pairs = [(2 * i, 2 * i + 1) for i in range(rest)]
    return pairs, [into for _, into in pairs] + list(range(2 * rest, size))


def _fold(pairs: Sequence[tuple[int, int]], share: float) -> list[Phase]:
    return [Phase(tuple(Transfer(rest, into, share) for rest, into in pairs))] if pairs else []


def _circulant(size: int, share: float) -> list[Rotation]:
    """All-gather: who has the parts of so many ranks from its own on sends as many of them as the receiver lacks."""
    steps = [1 << k for k in range((size - 1).bit_length())]
    return [Rotation(size, size - step, share * min(step, size - step)) for step in steps]


def _all_gather(algorithm: Algorithm, size: int, nodes: Sequence[Sequence[int]]) -> tuple[Phase | Rotation, ...]:
    if algorithm == "ring":
        return (Rotation(size, 1, 1.0, size - 1),)
    if algorithm == "circulant":
        return tuple(_circulant(size, 1.0))
    if algorithm == "hierarchical":
        across = list(zip(*nodes, strict=True))
        return _ring(across, len(nodes) - 1, 1.0), _ring(nodes, len(across) - 1, float(len(nodes)))
    pairs, members = _folded(size)
    weights = [2.0 if i < len(pairs) else 1.0 for i in range(len(members))]
    unfold = _fold([(into, rest) for rest, into in pairs], size - 1.0)
    return (*_fold(pairs, 1.0), *_doubling(members, weights), *unfold)


def _all_reduce(algorithm: Algorithm, size: int, nodes: Sequence[Sequence[int]]) -> tuple[Phase | Rotation, ...]:
    if algorithm == "ring":
        return (Rotation(size, 1, 1.0 / size, 2 * (size - 1)),)
    if algorithm == "circulant":
        turns = _circulant(size, 1.0 / size)
        return *_reverse(turns), *turns
    if algorithm == "hierarchical":
        across = list(zip(*nodes, strict=True))
        within = _ring(nodes, len(across) - 1, 1.0 / len(across))
        return within, _ring(across, 2 * (len(nodes) - 1), 1.0 / size), within
    pairs, members = _folded(size)
    gather = _doubling(members, [1.0 / len(members)] * len(members))
    return (*_fold(pairs, 1.0), *_reverse(gather), *gather, *_fold([(into, rest) for rest, into in pairs], 1.0))


def _broadcast(algorithm: Algorithm, size: int, root: int, nodes: Sequence[Sequence[int]]) -> tuple[Phase | Rotation, ...]:
    members = [*range(root, size), *range(root)]
    if algorithm == "ring":
        return *_binomial(members, lambda count: count / size), _ring([members], size - 1, 1.0 / size)
    if algorithm != "hierarchical":
        return _binomial(members, lambda count: 1.0)
    first = next(i for i, node in enumerate(nodes) if root in node)
    place = list(nodes[first]).index(root)
    ordered = [*nodes[first:], *nodes[:first]]
    within = [_binomial([*node[place:], *node[:place]], lambda count: 1.0) for node in ordered]
    together = [Phase(tuple(t for phase in phases for t in phase.transfers)) for phases in zip(*within, strict=True)]
    return *_binomial([node[place] for node in ordered], lambda count: 1.0), *together


def _pairwise(size: int) -> tuple[Rotation, ...]:
    return tuple(Rotation(size, k, 1.0 / size) for k in range(1, size))
