"""Collectives as flows and at their price, and when the price is noted as inexact."""

from functools import partial
from gc import collect
from weakref import ref

import pytest
from contract.kit import MODELED, Bench, block

from distsim.backends.simulated import collectives as collectives_module
from distsim.backends.simulated.algorithms import make_plan
from distsim.backends.simulated.collectives import Collectives
from distsim.backends.simulated.engine import Engine
from distsim.backends.simulated.hosts import RoutedHosts, SharedHost
from distsim.backends.simulated.messages import Messages
from distsim.backends.simulated.rounds import Rounds
from distsim.interface import Collective, Curve, Loopback, Switch

KINDS = [
    Collective("all_reduce", "mean"),
    Collective("reduce_scatter", "sum"),
    Collective("all_gather"),
    Collective("broadcast"),
]
SKEWED = [0.0, 0.5, 0.1, 0.0, 0.45, 0.2, 0.3, 0.1]


def ends(mode, hosts, joins, collective, nbytes):
    """When each rank's collective is over, if rank i joins after joins[i] seconds; and how many were inexact."""
    engine = Engine()
    hosts = hosts(engine)
    collectives = Collectives(engine, hosts, Messages(engine, hosts), mode)
    group, operations = tuple(range(len(joins))), {}

    def join(rank):
        operations[rank] = collectives.join(rank, group, collective, None, nbytes, lambda collective, values: list(values))

    for rank, seconds in enumerate(joins):
        engine.after(seconds, lambda rank=rank: join(rank))
    engine.env.run()
    assert abs(hosts.unaccounted()) < 1e-9
    return [operations[rank].ended for rank in group], collectives.inexact


@pytest.mark.parametrize("collective", KINDS, ids=lambda collective: collective.kind)
@pytest.mark.parametrize("joins", [[0.0, 0.0], [0.3, 0.0], [0.0] * 5, SKEWED[:4], SKEWED])
def test_the_price_is_what_flows_take_when_nothing_else_is_under_way(collective, joins):
    def hosts(engine):
        return RoutedHosts(engine, Switch(bandwidth=1e6, latency=1e-3), range(len(joins)))

    flows, _ = ends("flows", hosts, joins, collective, 123456.0)
    for mode in ("price", "auto"):
        priced, inexact = ends(mode, hosts, joins, collective, 123456.0)
        assert priced == pytest.approx(flows, rel=1e-12)
        assert inexact == 0


@pytest.mark.parametrize(
    ("collective", "expected"),
    [
        # n = 4, M = 4e6 bytes at 1e6 a second, 2 ms a path: rounds of a chunk.
        (Collective("all_reduce", "sum"), 6 * (1.0 + 0.002)),
        (Collective("reduce_scatter", "mean"), 3 * (1.0 + 0.002)),
        (Collective("all_gather"), 3 * (4.0 + 0.002)),
        (Collective("broadcast", root=2), (2.0 + 0.002) + (1.0 + 0.002) + 3 * (1.0 + 0.002)),  # scatter, then all-gather
    ],
)
def test_rounds_by_hand(collective, expected):
    found, _ = ends("flows", lambda e: RoutedHosts(e, Switch(1e6, 1e-3), range(4)), [0.0] * 4, collective, 4e6)
    assert found == pytest.approx([expected] * 4, rel=1e-12)


def test_ranks_that_share_a_link():
    # Two hosts of two ranks: where neighbours share a host, their chunks stay inside it, and half of the links carry all.
    for hosts in ([0, 1, 0, 1], [0, 0, 1, 1]):
        makes = partial(_switched, hosts)
        priced, inexact = ends("price", makes, [0.0] * 4, KINDS[0], 4e6)
        assert priced == pytest.approx(ends("flows", makes, [0.0] * 4, KINDS[0], 4e6)[0], rel=1e-12)
        assert inexact == 0
    crossing, _ = ends("flows", partial(_switched, [0, 1, 0, 1]), [0.0] * 4, KINDS[0], 4e6)
    assert crossing == pytest.approx([6 * (2 * 1.0 + 0.002)] * 4)  # two chunks of a round on each link
    staying, _ = ends("flows", partial(_switched, [0, 0, 1, 1]), [0.0] * 4, KINDS[0], 4e6)
    assert staying == pytest.approx([6 * (1.0 + 0.002)] * 4)


def _switched(hosts, engine):
    return RoutedHosts(engine, Switch(1e6, 1e-3), hosts)


def test_on_a_shared_host_a_measured_collective_takes_what_was_measured():
    network = Loopback(
        cores=Curve(((1.0, 1.0), (2.0, 1.5))),
        message=Curve(((0.0, 0.25),)),
        all_reduce={2: Curve(((0.0, 1.0), (8.0, 3.0)))},
    )
    found, _ = ends("auto", lambda engine: SharedHost(engine, network), [0.0, 2.0], KINDS[0], 4.0)
    assert found == [4.0, 4.0]
    found, _ = ends("auto", lambda engine: SharedHost(engine, network), [0.0, 2.0], KINDS[2], 4.0)
    assert found == [2.5, 2.5]  # not measured: one round, a message each way, one after the other


class Payload:
    """Something that can be watched."""


@pytest.mark.parametrize("mode", ["flows", "price", "auto"])
def test_what_is_over_is_let_go(mode):
    engine = Engine()
    hosts = RoutedHosts(engine, Switch(1e6, 1e-3), range(3))
    collectives, alive = Collectives(engine, hosts, Messages(engine, hosts), mode), []

    def join(rank):
        payload = Payload()
        alive.append(ref(payload))
        collectives.join(rank, (0, 1, 2), KINDS[0], payload, 1e6, lambda collective, values: [None] * len(values))

    for number in range(20):
        for rank in range(3):
            engine.after(10.0 * number + rank, lambda rank=rank: join(rank))
    engine.env.run()
    collect()
    assert len(alive) == 60
    assert [payload() for payload in alive] == [None] * 60


def test_ranks_that_are_over_within_the_window_go_on_together_in_their_order():
    # Transfers of 2e-13 s: rank 2 has what it needs after one, rank 1 after both of rank 0's.
    engine, order = Engine(), []
    hosts = RoutedHosts(engine, Switch(1e6, 1e-13), range(3))
    collectives = Collectives(engine, hosts, Messages(engine, hosts), "auto", "tree")

    def join(rank):
        operation = collectives.join(rank, (0, 1, 2), Collective("broadcast"), None, 0.0, lambda collective, values: values)
        operation.callbacks.append(lambda event: order.append((rank, engine.now)))

    for rank in range(3):
        engine.after(1.0, partial(join, rank))
    engine.env.run()
    assert order == [(rank, pytest.approx(1.0 + 4e-13, rel=0.0, abs=1e-15)) for rank in range(3)]


def test_a_rank_begins_all_transfers_of_its_round_before_anybody_goes_on():
    # A ring of four, transfers that take no time. When rank 3 comes, 2 could go on to the next round with 1 at once.
    started = []

    def move(phase, which, done):
        started.append(which)
        done()

    over = []
    rounds = Rounds(make_plan("ring", "all_gather", 4, 0, []), move, over.append)
    for rank in range(4):
        rounds.arrive(rank)
    assert started[:5] == [0, 1, 2, 3, 1]
    assert sorted(started) == sorted(3 * [0, 1, 2, 3])
    assert sorted(over) == [0, 1, 2, 3]


def test_tuples_that_name_a_group_are_kept_up_to_a_limit(monkeypatch):
    # Room for ten ranks is room for three tuples of three: the fourth and the seventh find none, and are the first again.
    monkeypatch.setattr(collectives_module, "_NAMES", 10)
    engine = Engine()
    hosts = RoutedHosts(engine, Switch(1e6, 1e-3), range(3))
    collectives, names, kept = Collectives(engine, hosts, Messages(engine, hosts)), [], []
    for _ in range(8):
        names.append(tuple(range(3)))
        for rank in range(3):
            collectives.join(rank, names[-1], KINDS[0], None, 1e6, lambda collective, values: list(values))
        engine.env.run()
        kept.append(len(collectives._named))
    assert kept == [1, 2, 3, 1, 2, 3, 1, 2]


async def message_meanwhile(worker, note):
    if worker.rank == 0:
        reduction = worker.all_reduce(worker.read())
        await worker.compute("wait", lambda x: x, block(worker))
        await worker.send(block(worker), 1)
        await reduction
    else:
        message = worker.receive(0)
        await worker.all_reduce(worker.read())
        await message


async def message_before(worker, note):
    receive = worker.receive(1 - worker.rank)
    send = worker.send(block(worker), 1 - worker.rank)
    await worker.all_reduce(worker.read())
    await send
    await receive


async def message_after(worker, note):
    await worker.all_reduce(worker.read())
    await (worker.receive(0) if worker.rank else worker.send(block(worker), 1))


@pytest.mark.parametrize(
    ("program", "collectives", "noted"),
    [
        (message_meanwhile, "auto", False),  # goes on as flows
        (message_meanwhile, "price", True),
        (message_meanwhile, "flows", False),
        (message_before, "auto", False),  # as flows
        (message_before, "price", True),
        (message_after, "auto", False),
        (message_after, "price", False),
    ],
)
def test_a_price_that_something_disturbed_is_noted(tmp_path, program, collectives, noted):
    notes = Bench(MODELED, tmp_path).run(program, options={"collectives": collectives}).outcome.notes
    expected = (
        "1 collectives were priced while other transfers used the network: "
        "their times are approximate, backend.collectives=flows is exact"
    )
    assert notes == ([expected] if noted else [])


async def two_groups(worker, note):
    """Ranks 0 and 1, then 0 and 2 (which share rank 0's links) or 2 and 3 (which share none)."""
    first = worker.within([0, 1]) if worker.rank < 2 else None
    second = [0, 2] if worker.workers == 3 else [2, 3]
    other = worker.within(second) if worker.rank in second else None
    works = [group.all_reduce(worker.read()) for group in (first, other) if group is not None]
    for work in works:
        await work
    note("now", worker.now)


@pytest.mark.parametrize(
    ("ranks", "collectives", "noted"), [(3, "auto", 0), (3, "price", 2), (3, "flows", 0), (4, "auto", 0), (4, "price", 0)]
)
def test_collectives_that_share_links_disturb_each_other(tmp_path, ranks, collectives, noted):
    ran = Bench(MODELED, tmp_path).run(two_groups, ranks=ranks, options={"collectives": collectives})
    assert [int(note.split()[0]) for note in ran.outcome.notes] == ([noted] if noted else [])
    if not noted:
        assert ran.all("now") == [[4.0 if ranks == 3 else 2.0]] * ranks
