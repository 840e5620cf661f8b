"""Algorithms of collectives: that what each rank needs can reach it, how many bytes that takes, and which one is taken."""

from math import log2

import pytest

from distsim.backends.simulated.algorithms import ALGORITHMS, Thresholds, choose, make_plan

SIZES = [2, 3, 4, 5, 6, 7, 8, 12, 16, 23]


def nodes(size):
    """Nodes of two ranks, or of three."""
    ranks = 2 if size % 2 == 0 else 3
    return [list(range(first, min(first + ranks, size))) for first in range(0, size, ranks)]


def rounds(plan):
    """All rounds in order, each as its transfers."""
    return [phase.transfers for phase in plan.phases for _ in range(phase.times)]


def reached(plan):
    """Whose payload may have reached each rank in the end, if all send all they have."""
    known = [{rank} for rank in range(plan.size)]
    for transfers in rounds(plan):
        before = [set(ranks) for ranks in known]
        for source, to, _ in transfers:
            known[to] |= before[source]
    return known


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("size", SIZES)
def test_what_each_rank_needs_can_reach_it(algorithm, size):
    everyone = set(range(size))
    for kind in ("all_reduce", "reduce_scatter", "all_gather", "all_to_all", "barrier"):
        assert reached(make_plan(algorithm, kind, size, 0, nodes(size))) == [everyone] * size
    for root in {0, 1, size - 1}:
        assert all(root in known for known in reached(make_plan(algorithm, "broadcast", size, root, nodes(size))))
        assert reached(make_plan(algorithm, "reduce", size, root, nodes(size)))[root] == everyone


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("size", SIZES)
def test_a_rank_receives_what_it_needs(algorithm, size):
    # Payloads of 1. An all-gather brings the others' to every rank, an all-to-all a part of each, a broadcast all of one.
    def received(kind, root=0):
        plan = make_plan(algorithm, kind, size, root, nodes(size))
        total = [0.0] * size
        for transfers in rounds(plan):
            for _, to, share in transfers:
                total[to] += share
        return total

    assert received("all_gather") == pytest.approx([size - 1] * size)
    assert received("all_to_all") == pytest.approx([(size - 1) / size] * size)
    assert sum(received("reduce_scatter")) == pytest.approx(size - 1)  # n parts of 1/n, each added n - 1 times
    for root in (0, size - 1):
        assert all(share >= 1 - 1e-12 for rank, share in enumerate(received("broadcast", root)) if rank != root)
        assert sum(received("reduce", root)) >= size - 1 - 1e-12


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("size", SIZES)
def test_transfers_of_a_round_are_between_two_ranks_of_the_group_and_not_twice_the_same(algorithm, size):
    for kind in ("all_reduce", "reduce_scatter", "all_gather", "all_to_all", "broadcast", "reduce"):
        for phase in make_plan(algorithm, kind, size, size - 1, nodes(size)).phases:
            pairs = [(source, to) for source, to, _ in phase.transfers]
            assert all(0 <= a < size and 0 <= b < size and a != b for a, b in pairs)
            assert len(set(pairs)) == len(pairs)
            assert phase.times > 0
            assert pairs
            for ring in phase.rings:
                assert {(a, b) for a, b in zip(ring, ring[1:] + ring[:1], strict=True)} <= set(pairs)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("size", SIZES)
def test_a_gather_backwards_is_a_reduction(algorithm, size):
    def backwards(kind, factor, root=0):
        plan = make_plan(algorithm, kind, size, root, nodes(size))
        return [{(to, source, share * factor) for source, to, share in each} for each in reversed(rounds(plan))]

    def forwards(kind, root=0):
        return [set(each) for each in rounds(make_plan(algorithm, kind, size, root, nodes(size)))]

    assert forwards("reduce", size - 1) == backwards("broadcast", 1.0, size - 1)
    assert forwards("reduce_scatter") == backwards("all_gather", 1.0 / size)


@pytest.mark.parametrize("size", [2, 4, 8, 64])
def test_rounds_of_a_power_of_two(size):
    for kind, halves in (("all_reduce", 2), ("reduce_scatter", 1), ("all_gather", 1)):
        assert len(rounds(make_plan("halving_doubling", kind, size, 0, []))) == halves * log2(size)
        assert len(rounds(make_plan("ring", kind, size, 0, []))) == halves * (size - 1)
    assert len(rounds(make_plan("tree", "all_reduce", size, 0, []))) == 2 * log2(size)
    assert len(rounds(make_plan("tree", "broadcast", size, 0, []))) == log2(size)


def test_a_hierarchy_sends_between_nodes_only_the_parts_of_its_rank():
    # Two nodes of four: 3 rounds of a quarter inside, 2 of an eighth between ranks of equal place, 3 of a quarter inside.
    plan = make_plan("hierarchical", "all_reduce", 8, 0, [[0, 1, 2, 3], [4, 5, 6, 7]])
    for transfers in rounds(plan):
        inside = {source // 4 == to // 4 for source, to, _ in transfers}
        assert inside in ({True}, {False})
        assert {share for _, _, share in transfers} == ({0.25} if inside == {True} else {0.125})
        assert inside == {True} or all(to == (source + 4) % 8 for source, to, _ in transfers)
    assert len(rounds(plan)) == 3 + 2 + 3
    unequal = make_plan("hierarchical", "all_reduce", 7, 0, [[0, 1, 2, 3], [4, 5, 6]])
    assert [phase.rings for phase in unequal.phases] == [(tuple(range(7)),)]


@pytest.mark.parametrize(
    ("kind", "size", "nbytes", "expected"),
    [
        ("all_reduce", 32, 524288.0, "ring"),  # from the threshold on: 62 (10 us) + 1016 us against 10 (10 us) + 1016 us
        ("all_reduce", 32, 524287.0, "halving_doubling"),  # 10 rounds instead of 62, and as many bytes
        ("all_reduce", 1024, 524288.0, "halving_doubling"),  # 2046 rounds are 20 times 20 and the bytes
        ("all_reduce", 1024, 20e6, "ring"),  # 20.5 ms + 40 ms against 0.2 ms + 40 ms
        ("all_reduce", 1024, 19e6, "ring"),
        ("all_reduce", 1024, 9e6, "halving_doubling"),  # 20.5 ms + 18 ms against 0.2 ms + 18 ms: more than twice
        ("all_reduce", 2, 1000.0, "ring"),  # two rounds of halves, both of them
        ("all_reduce", 12, 8.0, "circulant"),  # 8 rounds, as a tree's and a halving's; fewer bytes
        ("all_reduce", 12, 100_000.0, "circulant"),  # 8 (10 us) + 1.83 (100 us); a ring has 22 rounds
        ("broadcast", 64, 1000.0, "halving_doubling"),  # which is a tree here
        ("broadcast", 64, 500_000.0, "ring"),  # 69 (10 us) + 2 (500 us) against 6 (510 us)
        ("all_gather", 64, 1000.0, "halving_doubling"),
        ("all_to_all", 64, 1000.0, "ring"),
        ("barrier", 64, 0.0, "halving_doubling"),
    ],
)
def test_what_auto_takes(kind, size, nbytes, expected):
    # Ways of 10 us and 1 GB/s.
    assert choose(kind, size, nbytes, 10e-6, 1e9, Thresholds()) == expected


def test_without_latency_auto_takes_rings():
    for size in SIZES:
        for kind in ("all_reduce", "reduce_scatter", "all_gather", "barrier"):
            assert choose(kind, size, 1000.0, 0.0, 1e9, Thresholds()) == "ring"
