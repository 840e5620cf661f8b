"""Prices are what flows take, whoever comes when and whatever else is under way."""

from random import Random

import pytest

from distsim.backends.simulated.algorithms import ALGORITHMS, make_plan
from distsim.backends.simulated.engine import Engine
from distsim.backends.simulated.hosts import RoutedHosts
from distsim.backends.simulated.prices import Course, fair_rates
from distsim.backends.simulated.rounds import Replay
from distsim.interface import Switch
from distsim.topologies.fat_tree import FatTree
from distsim.topologies.torus import Torus
from distsim.topologies.two_level import TwoLevel
from simulated.traffic import KINDS, Call, Sent, carry, make_up, of

SWITCH = Switch(bandwidth=1e6, latency=1e-3)
LEAVES = FatTree(2, 1, 1e6, 1e6, 1e-3)
"""Leaves of two hosts and one link up."""
EVERY_HOP_LEAVES = (0, 2, 4, 6, 1, 3, 5, 7)


def topologies(draw):
    latency = draw.choice([0.0, 1e-3, 0.1])
    return draw.choice(
        [
            Switch(1e6, latency),
            FatTree(2, draw.choice([1, 2]), 1e6, draw.choice([1e6, 4e5]), latency),
            TwoLevel(2, 5e6, latency / 10, draw.choice([1, 2]), 1e6, latency),
            Torus((8,), 1e6, latency),
            Torus((4, 2), 1e6, latency),
        ]
    )


def in_order(ends):
    return [ends[key] for key in sorted(ends)]


@pytest.mark.parametrize("seed", range(8))
def test_auto_is_flows_to_the_last_digit(seed):
    # Groups that share ranks, in lock step and not, messages in between, ranks that share a host; 50 scenarios a seed.
    draw = Random(seed)
    for _ in range(50):
        ranks, topology = draw.choice([1, 2, 3, 5, 8]), topologies(draw)
        hosts = range(ranks) if draw.random() < 0.8 else [rank // 2 for rank in range(ranks)]
        algorithm, size = draw.choice(["auto", *ALGORITHMS]), draw.choice([1, 2, 3])
        traffic = make_up(draw, ranks)
        flows, auto = (carry(topology, traffic, mode, algorithm, hosts, size) for mode in ("flows", "auto"))
        assert auto.ends == pytest.approx(flows.ends, rel=1e-12, abs=1e-15), traffic
        assert auto.inexact == 0


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 6, 7, 8, 12])
def test_a_price_is_exact_for_whoever_comes_when(algorithm, ranks):
    draw = Random(f"{algorithm} {ranks}")
    for kind in KINDS:
        for skew in (0.0, 0.01, 1.0, 100.0):
            nbytes = 0.0 if kind == "barrier" else draw.uniform(1e3, 1e7)
            when = tuple(draw.uniform(0.0, skew) for _ in range(ranks))
            root = draw.randrange(ranks) if kind in ("broadcast", "reduce") else 0
            traffic = [Call(tuple(draw.sample(range(ranks), ranks)), of(kind, root), nbytes, when)]
            flows, price = (carry(SWITCH, traffic, mode, algorithm, node_ranks=2) for mode in ("flows", "price"))
            assert price.ends == pytest.approx(flows.ends, rel=1e-12)
            assert price.inexact == 0


def test_a_rank_is_over_when_its_own_transfers_are():
    # A tree of four ranks sends 1 MB in 1.002 s: 0 to 2, then 0 to 1 and 2 to 3. Rank 3 comes late: only 2 waits.
    for mode in ("flows", "price", "auto"):
        call = Call((0, 1, 2, 3), of("broadcast"), 1e6, (0.0, 0.5, 0.25, 10.0))
        ends = carry(SWITCH, [call], mode, "tree").ends
        assert in_order(ends) == pytest.approx([0.25 + 2 * 1.002, 0.25 + 2 * 1.002, 11.002, 11.002], rel=1e-12)
        back = Call((0, 1, 2, 3), of("reduce"), 1e6, (0.0, 0.5, 0.25, 10.0))
        ends = carry(SWITCH, [back], mode, "tree").ends
        assert in_order(ends) == pytest.approx([12.004, 1.502, 12.004, 11.002], rel=1e-12)


def test_lock_step_on_links_that_all_share_has_a_price_and_a_microsecond_off_it_has_none():
    # Every hop of the ring leaves its leaf over a link that two share: 14 rounds of 1/8 MB at half of 1 MB/s, 4 ms a way.
    step = Call(EVERY_HOP_LEAVES, of("all_reduce"), 1e6, (1.0,) * 8)
    expected = 1.0 + 14 * (0.25 + 0.004)
    for mode in ("flows", "price", "auto"):
        assert in_order(carry(LEAVES, [step], mode).ends) == pytest.approx([expected] * 8, rel=1e-12)
    late = step._replace(when=(1.0 + 1e-6, *(1.0,) * 7))
    flows = carry(LEAVES, [late], "flows").ends
    assert carry(LEAVES, [late], "auto").ends == flows  # exactly: they are flows
    assert carry(LEAVES, [late], "price").inexact == 1
    within_rounding = step._replace(when=(1.0 + 4e-13, *(1.0,) * 7))
    priced = carry(LEAVES, [within_rounding], "auto")
    assert in_order(priced.ends) == pytest.approx([expected] * 8, rel=1e-12)


def test_what_shares_links_from_the_start_is_never_priced():
    # Two rings of the same ranks share every link: both take twice as long.
    calls = [Call(group, of("all_reduce"), 1e6, (0.0,) * 4) for group in ((0, 1, 2, 3), (3, 2, 1, 0))]
    for mode in ("flows", "auto"):
        ends = carry(SWITCH, calls, mode).ends
        assert in_order(ends) == pytest.approx([6 * (0.5 + 0.002)] * 8, rel=1e-12)
    assert carry(SWITCH, calls, "price").inexact == 2


def test_groups_apart_do_not_disturb_each_other():
    calls = [Call(group, of("all_reduce"), 1e6, (0.0,) * 2) for group in ((0, 1), (2, 3))]
    for mode in ("flows", "auto", "price"):
        found = carry(SWITCH, calls, mode)
        assert in_order(found.ends) == pytest.approx([2 * (0.5 + 0.002)] * 4, rel=1e-12)
        assert found.inexact == 0


def test_groups_that_share_a_rank_but_no_link_do_not_disturb_each_other():
    # On a ring of hosts, rank 0 reduces with its neighbour on either side.
    calls = [Call(group, of("all_reduce"), 1e6, (0.0,) * 2) for group in ((0, 1), (3, 0))]
    for mode in ("flows", "auto", "price"):
        found = carry(Torus((4,), 1e6, 1e-3), calls, mode)
        assert in_order(found.ends) == pytest.approx([2 * (0.5 + 0.001)] * 4, rel=1e-12)
        assert found.inexact == 0


def test_a_priced_collective_goes_on_as_flows_from_where_it_stands():
    # Two ranks, 8 MB: rounds of 4 s and 2 ms. At 3.002 s a message of 2 MB takes half of 0's way out for the last second's
    # megabyte (until 5.002, 1 MB of the message is left), and then half of the second round's first seconds, from 5.004 on.
    calls = [Call((0, 1), of("all_reduce"), 8e6, (0.0, 0.0)), Sent(0, 2, 2e6, (3.0, 3.0))]
    by_hand = {
        (1, 0): 5.002 + 0.002 + (1e6 - 0.002e6) / 0.5e6,  # alone for 2 ms, then half
        (0, 0): 5.004 + 4.0 + (1e6 - 0.002e6) / 1e6,
    }
    for mode in ("flows", "auto"):
        ends = carry(SWITCH, calls, mode).ends
        assert {key: ends[key] for key in by_hand} == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_all_times_times_eight(algorithm):
    draw = Random(3)
    slow = Switch(1e6 / 8, 8e-3)
    for _ in range(10):
        traffic = make_up(draw, 6)
        slower = [item._replace(when=tuple(8 * when for when in item.when)) for item in traffic]
        ends = carry(SWITCH, traffic, "auto", algorithm).ends
        expected = {key: 8 * end for key, end in ends.items()}
        assert carry(slow, slower, "auto", algorithm).ends == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_who_is_called_what_changes_nothing(algorithm):
    draw = Random(4)
    for _ in range(10):
        traffic = make_up(draw, 6)
        names = draw.sample(range(6), 6)

        def renamed(item, names=names):
            if isinstance(item, Call):
                return item._replace(group=tuple(names[rank] for rank in item.group))
            return item._replace(source=names[item.source], to=names[item.to])

        ends = carry(SWITCH, traffic, "auto", algorithm).ends
        found = carry(SWITCH, [renamed(item) for item in traffic], "auto", algorithm).ends
        assert found == pytest.approx(ends, rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(
    ("topology", "kind", "nbytes", "expected"),
    [
        # Ways of 0 s in nodes and 2 s between them, 4 rounds instead of a ring's 6: halves across, quarters inside, back.
        (TwoLevel(2, 1e6, 0.0, 2, 1e3, 1.0), "all_reduce", 1e3, 2 * (2.0 + 0.5) + 2 * 0.25e-3),
        # Ways of 1 s. 10 s a payload between nodes: a ring's 5 + 1.5 (10) against a tree's 2 + 2 (10). A half across and a
        # quarter inside are scattered, then three rounds of quarters, of which every rank has one across.
        (TwoLevel(2, 1e6, 0.5, 2, 1e3, 0.5), "broadcast", 1e4, (1.0 + 5.0) + (1.0 + 2.5e-3) + 3 * (1.0 + 2.5)),
    ],
)
@pytest.mark.parametrize("mode", ["flows", "price", "auto"])
def test_auto_counts_with_the_worst_way_between_neighbours(mode, topology, kind, nbytes, expected):
    found = carry(topology, [Call((0, 1, 2, 3), of(kind), nbytes, (0.0,) * 4)], mode, "auto")
    assert in_order(found.ends) == pytest.approx([expected] * 4, rel=1e-12)


def test_a_plan_whose_transfers_are_apart_has_a_price_though_ranks_do_not_stay_in_lock_step():
    # A tree of four ranks sends 1 MB in 1.002 s: 0 to 2, while 1 and 3 wait, then 0 to 1 and 2 to 3.
    routes = RoutedHosts(Engine(), SWITCH, range(4)).routes
    course = Course(routes, range(4), make_plan("tree", "broadcast", 4, 0, []))
    assert course.in_step(1e6) == pytest.approx([2.004] * 4, rel=1e-12)


def test_what_is_under_way_in_a_replay_goes_on_in_the_order_in_which_it_began():
    replay = Replay(make_plan("ring", "all_gather", 3, 0, []), lambda phase, which: 1.0, lambda position: None)
    under_way = replay.until(0.5, [(0.0, rank) for rank in range(3)])
    assert [(underway.which, underway.begun) for underway in under_way] == [(0, 0.0), (1, 0.0), (2, 0.0)]


def test_fair_rates_by_hand():
    # Links of 6: three flows into link 2 get 2 each, so the other over link 0 gets 4; a limit leaves more for the rest.
    ways = [((0, 1), 1e9), ((0, 2), 1e9), ((3, 2), 1e9), ((4, 2), 1e9)]
    assert fair_rates(ways, lambda link: 6.0) == pytest.approx([4.0, 2.0, 2.0, 2.0], rel=1e-15)
    ways[2] = ((3, 2), 1.0)
    assert fair_rates(ways, lambda link: 6.0) == pytest.approx([3.5, 2.5, 1.0, 2.5], rel=1e-15)
    assert fair_rates([((), float("inf"))], lambda link: 6.0) == [float("inf")]


@pytest.mark.parametrize("mode", ["flows", "auto", "price"])
def test_what_begins_when_another_ends_does_not_disturb_it(mode):
    """Rank 3 is over with a broadcast at 1 s, a second before the others, and comes to the next collective at that instant:
    both take place over its links, in turn."""
    traffic = [Call((0, 1, 3), of("broadcast"), 1e6, (0.0, 0.0, 0.0)), Call((3, 2), of("all_reduce"), 1e6, (1.0, 0.0))]
    carried = carry(Switch(1e6, 0.0), traffic, mode, "tree")
    assert carried.ends == {(0, 0): 2.0, (0, 1): 2.0, (0, 2): 1.0, (1, 0): 3.0, (1, 1): 3.0}
    assert carried.inexact == 0
