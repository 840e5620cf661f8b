"""Groups: the same worker, seen narrower."""

from contract.kit import constant
from distsim.interface import StrategyError


async def grid_of_four(worker, note):
    inner, outer = worker.grid(2)
    for name, group in (("inner", inner), ("outer", outer)):
        note(name, [group.rank, group.world_size])
        note(f"{name} sum", await group.all_reduce(constant(worker, 10.0**worker.rank), "sum"))


def test_a_grid_has_a_group_an_axis_and_the_first_varies_fastest(mode):
    ran = mode.run(grid_of_four, ranks=4)
    assert ran.all("inner") == [[[0, 2]], [[1, 2]], [[0, 2]], [[1, 2]]]
    assert ran.all("outer") == [[[0, 2]], [[0, 2]], [[1, 2]], [[1, 2]]]
    assert ran.all("inner sum") == [[mode.payload([value] * 4)] for value in (11.0, 11.0, 1100.0, 1100.0)]
    assert ran.all("outer sum") == [[mode.payload([value] * 4)] for value in (101.0, 1010.0, 101.0, 1010.0)]


async def views(worker, note):
    for groups in (worker.grid(2, 2), worker.grid(), worker.grid(1, 4), worker.grid(4)):
        note("views", [[group.rank, group.world_size] for group in groups])
    note("workers", worker.workers)
    for inner in ((3,), (2, 3)):
        try:
            worker.grid(*inner)
        except StrategyError as error:
            note("error", str(error))


def test_grids_of_other_shapes(mode):
    ran = mode.run(views, ranks=4, servers=1)
    assert ran.notes[2]["views"] == [[[0, 2], [1, 2], [0, 1]], [[2, 4]], [[0, 1], [2, 4], [0, 1]], [[2, 4], [0, 1]]]
    assert ran.all("workers") == [[3]] * 4
    assert ran.notes[0]["error"] == ["a grid of (3,) does not divide 4 ranks", "a grid of (2, 3) does not divide 4 ranks"]


async def crossed(worker, note):
    inner, outer = worker.grid(2)
    first, second = (inner, outer) if worker.rank in (0, 3) else (outer, inner)
    a = first.all_reduce(constant(worker, 10.0**worker.rank), "sum")
    b = second.all_reduce(constant(worker, 10.0**worker.rank), "sum")
    note("first", await a)
    note("second", await b)


def test_groups_do_not_wait_for_each_other(mode):
    ran = mode.run(crossed, ranks=4)  # 0 waits for 1, which waits for 3, which waits for 2, which waits for 0
    assert ran.all("first") == [[mode.payload([value] * 4)] for value in (11.0, 1010.0, 101.0, 1100.0)]
    assert ran.all("second") == [[mode.payload([value] * 4)] for value in (101.0, 11.0, 1100.0, 1010.0)]


async def within_within(worker, note):
    if worker.rank == 0:
        return
    odd = worker.within([3, 1, 2])
    note("odd", [odd.rank, odd.world_size])
    note("gathered", await odd.all_gather(constant(worker, worker.rank)))
    note("root 0", await odd.broadcast(constant(worker, worker.rank), 0))
    if worker.rank != 2:
        pair = odd.within([1, 0])  # ranks 1 and 3 of the world
        note("pair", [pair.rank, pair.world_size])
        receive = pair.receive(1 - pair.rank, "news")
        await pair.send(constant(worker, worker.rank), 1 - pair.rank, "news")
        message = await receive
        note("message", [message.source])
        note("payload", message.payload)


def test_ranks_of_a_view_are_its_positions(mode):
    ran = mode.run(within_within, ranks=4)
    assert ran.all("odd") == [[], [[1, 3]], [[2, 3]], [[0, 3]]]
    assert ran.all("gathered")[1:] == [[mode.payload([3.0] * 4 + [1.0] * 4 + [2.0] * 4)]] * 3
    assert ran.all("root 0")[1:] == [[mode.payload([3.0] * 4)]] * 3
    assert ran.all("pair") == [[], [[0, 2]], [], [[1, 2]]]
    assert ran.all("message") == [[], [[1]], [], [[0]]]
    assert ran.all("payload") == [[], [mode.payload([3.0] * 4)], [], [mode.payload([1.0] * 4)]]


async def other_order(worker, note):
    group = worker.within([worker.rank, 1 - worker.rank])
    await group.all_reduce(constant(worker, 1.0))


def test_the_same_ranks_in_another_order_are_another_group(mode):
    ran = mode.run(other_order, status="deadlocked", options={"hang_seconds": 1.0})
    for rank in range(2):
        assert f"rank {rank} waits for all_reduce of ranks {rank},{1 - rank} (test_groups.py:" in ran.outcome.message
    assert "cycle: 0 -> 1 -> 0" in ran.outcome.message


async def both_orders(worker, note):
    views = [worker.within([0, 1]), worker.within([1, 0])]
    order = views if worker.rank else views[::-1]
    works = {view.rank: view.all_gather(constant(worker, worker.rank)) for view in order}
    for position in (0, 1):
        note("gathered", await works[position])


def test_groups_of_both_orders_do_not_mix(mode):
    up, down = mode.payload([0.0] * 4 + [1.0] * 4), mode.payload([1.0] * 4 + [0.0] * 4)
    assert mode.run(both_orders).all("gathered") == [[up, down], [down, up]]


async def not_within(worker, note):
    for ranks in ([1 - worker.rank], [0, 1, 1], [0, 1, 2], [worker.rank - 2, worker.rank]):
        try:
            worker.within(ranks)
        except StrategyError as error:
            note("error", str(error))


def test_a_group_holds_whoever_makes_it_and_each_rank_once(mode):
    assert mode.run(not_within).notes[0]["error"] == [
        "rank 0 of 2 cannot be within the group [1]",
        "rank 0 of 2 cannot be within the group [0, 1, 1]",
        "rank 0 of 2 cannot be within the group [0, 1, 2]",
        "rank 0 of 2 cannot be within the group [-2, 0]",
    ]


async def from_outside(worker, note):
    if worker.rank == 2:
        await worker.send(None, 0)
    else:
        await worker.within([0, 1]).receive_any() if worker.rank == 0 else None


def test_a_message_from_outside_of_the_group_is_refused(mode):
    ran = mode.run(from_outside, ranks=3, status="failed")
    assert "a message from rank 2 reached a group without it: (0, 1)" in ran.outcome.message
