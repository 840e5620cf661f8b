"""Collectives against closed forms (n ranks, M bytes, latency a of a way, bandwidth B of a link), and against SimGrid.

Chan, Heimlich, Purkayastha and van de Geijn, "Collective communication: theory, practice, and experience", Concurrency and
Computation 19(13), 2007; Thakur, Rabenseifner and Gropp, IJHPCA 19(1), 2005; Patarasuk and Yuan, JPDC 69(2), 2009.
"""

from __future__ import annotations

from math import ceil, log2
from random import Random

import pytest
from simulated.traffic import Call, carry, of

from distsim.backends.simulated import SimulatedOptions
from distsim.backends.simulated.algorithms import Algorithm, _cost
from distsim.backends.simulated.collectives import Mode
from distsim.interface import Straggler, Switch
from distsim.interface.fabric import Kind
from distsim.strategies.all_reduce import AllReduce
from distsim.topologies.fat_tree import FatTree

from .jobs import Times, chain, done, job

MODES: tuple[Mode, ...] = ("flows", "price", "auto")


def seconds(
    mode: Mode, algorithm: Algorithm, kind: Kind, n: int, nbytes: float, a: float, bandwidth: float, root: int = 0
) -> list[float]:
    """When each rank is over, all having come at 0."""
    call = Call(tuple(range(n)), of(kind, root), nbytes, (0.0,) * n)
    carried = carry(Switch(bandwidth, a / 2), [call], mode, algorithm)
    assert carried.inexact == 0
    return [carried.ends[0, rank] for rank in range(n)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("algorithm", "expected"), [("ring", 7.070e-3), ("halving_doubling", 7.030e-3), ("tree", 24.03e-3)]
)
def test_all_reduce_in_milliseconds(mode: Mode, algorithm: Algorithm, expected: float) -> None:
    found = seconds(mode, algorithm, "all_reduce", 8, 100e6, 5e-6, 25e9)
    assert max(found) == pytest.approx(expected, rel=1e-12)
    run = job(AllReduce(), 8, 3, Times(), Switch(25e9, 2.5e-6), chain(parameters=25_000_000))
    options = SimulatedOptions(collectives=mode, algorithm=algorithm)
    whole = done(run, options).seconds
    assert whole == pytest.approx(3 * expected, rel=1e-12)


PARAMETERS = [(100e6, 5e-6, 25e9), (308.0, 1.0, 1e3), (1e6, 0.0, 1e6), (0.0, 2e-6, 1e9), (8e3, 3e-5, 1.25e9)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("M", "a", "B"), PARAMETERS)
@pytest.mark.parametrize("n", [2, 4, 16, 32])
def test_powers_of_two(mode: Mode, n: int, M: float, a: float, B: float) -> None:
    lg, share = log2(n), (n - 1) / n
    expected: dict[tuple[Algorithm, Kind], float] = {
        ("ring", "all_reduce"): 2 * (n - 1) * a + 2 * share * M / B,
        ("ring", "reduce_scatter"): (n - 1) * a + share * M / B,
        ("ring", "all_gather"): (n - 1) * (a + M / B),
        ("ring", "broadcast"): (lg + n - 1) * a + 2 * share * M / B,  # a binomial scatter, then an all-gather
        ("ring", "reduce"): (lg + n - 1) * a + 2 * share * M / B,
        ("ring", "all_to_all"): (n - 1) * a + share * M / B,
        ("halving_doubling", "all_reduce"): 2 * lg * a + 2 * share * M / B,
        ("halving_doubling", "reduce_scatter"): lg * a + share * M / B,
        ("halving_doubling", "all_gather"): lg * a + (n - 1) * M / B,
        ("circulant", "all_reduce"): 2 * lg * a + 2 * share * M / B,
        ("circulant", "reduce_scatter"): lg * a + share * M / B,
        ("circulant", "all_gather"): lg * a + (n - 1) * M / B,
        ("tree", "all_reduce"): 2 * lg * (a + M / B),
        ("tree", "broadcast"): lg * (a + M / B),
        ("tree", "reduce"): lg * (a + M / B),
    }
    for (algorithm, kind), time in expected.items():
        found = seconds(mode, algorithm, kind, n, M, a, B, root=n // 3 if kind in ("broadcast", "reduce") else 0)
        assert max(found) == pytest.approx(time, rel=1e-12), (algorithm, kind)
        if algorithm == "circulant" or (algorithm == "ring" and kind != "reduce"):
            assert min(found) == pytest.approx(time, rel=1e-12), kind


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("M", "a", "B"), PARAMETERS)
@pytest.mark.parametrize("n", [3, 5, 6, 7, 12, 21])
def test_other_sizes(mode: Mode, n: int, M: float, a: float, B: float) -> None:
    share, up, p = (n - 1) / n, ceil(log2(n)), 2 ** int(log2(n))
    folded = 2 * (log2(p) + 1) * a + (2 * (p - 1) / p + 2) * M / B  # all of M into a partner, and back
    for algorithm, kind, time in (
        ("ring", "all_reduce", 2 * (n - 1) * a + 2 * share * M / B),
        ("ring", "all_to_all", (n - 1) * a + share * M / B),
        ("halving_doubling", "all_reduce", folded),
        ("circulant", "all_reduce", 2 * up * a + 2 * share * M / B),
        ("circulant", "reduce_scatter", up * a + share * M / B),
        ("circulant", "all_gather", up * a + (n - 1) * M / B),
        ("circulant", "broadcast", up * (a + M / B)),
        ("tree", "broadcast", up * (a + M / B)),
        ("tree", "reduce", up * (a + M / B)),
    ):
        found = seconds(mode, algorithm, kind, n, M, a, B)  # type: ignore[arg-type]
        assert max(found) == pytest.approx(time, rel=1e-12), (algorithm, kind)
        if algorithm == "circulant" and kind != "broadcast":
            assert min(found) == pytest.approx(time, rel=1e-12), kind


@pytest.mark.parametrize("n", [2, 3, 4, 6, 7, 8, 12, 16])
def test_what_auto_predicts_is_what_flows_take(n: int) -> None:
    a, M, B = 0.25, 4800.0, 100.0
    kinds: tuple[Kind, ...] = ("all_reduce", "reduce_scatter", "all_gather", "broadcast", "reduce", "all_to_all", "barrier")
    for algorithm in ("ring", "halving_doubling", "tree", "circulant"):
        for kind in kinds:
            rounds, volume = _cost(algorithm, kind, n)  # type: ignore[arg-type]
            nbytes = 0.0 if kind == "barrier" else M
            found = seconds("flows", algorithm, kind, n, nbytes, a, B)  # type: ignore[arg-type]
            assert max(found) == pytest.approx(rounds * a + volume * nbytes / B, rel=1e-12), (algorithm, kind)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("algorithm", ["ring", "halving_doubling", "circulant", "tree"])
def test_a_barrier_is_an_all_reduce_of_nothing(mode: Mode, algorithm: Algorithm) -> None:
    rounds = {"ring": 14, "halving_doubling": 6, "circulant": 6, "tree": 6}[algorithm]
    assert max(seconds(mode, algorithm, "barrier", 8, 0.0, 5e-6, 25e9)) == pytest.approx(rounds * 5e-6, rel=1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("nodes", "ranks"), [(2, 4), (4, 2), (3, 3)])
def test_a_hierarchy_on_a_switch(mode: Mode, nodes: int, ranks: int) -> None:
    # Three rings one after the other: 2(g-1) rounds of M/g inside, 2(N-1) of M/gN between.
    M, a, B, g, N = 6e6, 1e-3, 1e6, ranks, nodes
    call = Call(tuple(range(g * N)), of("all_reduce"), M, (0.0,) * (g * N))
    ends = carry(Switch(B, a / 2), [call], mode, "hierarchical", node_ranks=g).ends
    expected = 2 * (g - 1) * (a + M / g / B) + 2 * (N - 1) * (a + M / g / N / B)
    assert list(ends.values()) == pytest.approx([expected] * (g * N), rel=1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("n", [2, 3, 8, 9])
def test_a_skewed_ring_is_its_recursion(mode: Mode, n: int) -> None:
    # Rank i enters round k + 1 when both its transfers of round k are over, which begin when both their ends are in it.
    draw, M, a, B = Random(n), 1e6, 0.01, 1e6
    when = tuple(draw.expovariate(1.0) for _ in range(n))
    d = a + M / n / B
    for kind, rounds in (("all_reduce", 2 * (n - 1)), ("reduce_scatter", n - 1)):
        T = list(when)
        for _ in range(rounds):
            ends = [max(T[i], T[(i + 1) % n]) + d for i in range(n)]
            T = [max(ends[i], ends[i - 1]) for i in range(n)]
        call = Call(tuple(range(n)), of(kind), M, when)  # type: ignore[arg-type]
        found = carry(Switch(B, a / 2), [call], mode).ends
        assert [found[0, i] for i in range(n)] == pytest.approx(T, rel=1e-12)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("skew", [{}, {0: 1.5}, {1: 40.0, 2: 1.3}])
def test_stragglers_before_a_tree(mode: Mode, skew: dict[int, float]) -> None:
    # All-reduce by a tree: to rank 0 along a binomial tree, odd ranks first, and back.
    hop, compute = 5e-6 + 100e6 / 25e9, 0.01
    run = job(
        AllReduce(), 8, 1, Times(forward=compute), Switch(25e9, 2.5e-6), chain(parameters=25_000_000), Straggler(slow=skew)
    )
    T = [compute * skew.get(rank, 1.0) for rank in range(8)]
    pairs = [[(r + step, r) for r in range(0, 8, 2 * step)] for step in (1, 2, 4)]
    for matching in [*pairs, *pairs[::-1]]:
        for a, b in matching:
            T[a] = T[b] = max(T[a], T[b]) + hop
    found = done(run, SimulatedOptions(collectives=mode, algorithm="tree")).seconds
    assert found == pytest.approx(max(T), rel=1e-12)


# ---- SimGrid 3.32, CM02 with all factors 1 and no cross-traffic: 10 Gbit/s links of 5 us, a ring of 100 MB


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("n", "leaf", "simgrid"), [(8, 0, 0.140140000), (64, 0, 0.158760000), (8, 4, 0.560280000), (64, 16, 0.632520000)]
)
def test_rings_are_simgrids(mode: Mode, n: int, leaf: int, simgrid: float) -> None:
    if n == 64 and leaf and mode == "flows":
        pytest.skip("8,064 flows that share links: the smaller one shows it")
    topology, group = Switch(1.25e9, 5e-6), range(n)
    if leaf:  # 4:1, and every hop leaves its leaf
        topology = FatTree(leaf, leaf // 4, 1.25e9, 1.25e9, 5e-6)  # type: ignore[assignment]
        group = [(rank % (n // leaf)) * leaf + rank // (n // leaf) for rank in range(n)]  # type: ignore[assignment]
    carried = carry(topology, [Call(tuple(group), of("all_reduce"), 100e6, (0.0,) * n)], mode)
    assert list(carried.ends.values()) == pytest.approx([simgrid] * n, rel=1e-9)
    assert carried.inexact == 0
