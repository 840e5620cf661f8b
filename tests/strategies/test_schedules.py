"""Schedules and cuts are data: printed, they can be checked by eye, and compared with torch's action by action."""

from __future__ import annotations

from itertools import combinations
from random import Random

import pytest

from distsim.strategies.schedules import (
    Schedule,
    cut,
    gpipe,
    interleaved,
    one_f_one_b,
    zb_h1,
    zb_h2,
    zb_v,
)

GPIPE, ONE_F_ONE_B, ZB_H1, ZB_H2 = map(Schedule, (gpipe, one_f_one_b, zb_h1, zb_h2))
ZB_V = Schedule(zb_v, 2, is_folded=True)


def line(schedule: Schedule, rank: int, ranks: int, microbatches: int) -> str:
    return " ".join(map(str, schedule.actions(rank, ranks, microbatches)))


def test_gpipe_of_three_micro_batches() -> None:
    assert {line(GPIPE, rank, 4, 3) for rank in range(4)} == {"F0 F1 F2 B0 B1 B2"}


def test_1f1b_of_four_stages_and_five_micro_batches() -> None:
    assert [line(ONE_F_ONE_B, rank, 4, 5) for rank in range(4)] == [
        "F0 F1 F2 F3 B0 F4 B1 B2 B3 B4",
        "F0 F1 F2 B0 F3 B1 F4 B2 B3 B4",
        "F0 F1 B0 F2 B1 F3 B2 F4 B3 B4",
        "F0 B0 F1 B1 F2 B2 F3 B3 F4 B4",
    ]


def test_1f1b_of_fewer_micro_batches_than_stages() -> None:
    lines = [line(ONE_F_ONE_B, rank, 4, 2) for rank in range(4)]
    assert lines == ["F0 F1 B0 B1", "F0 F1 B0 B1", "F0 F1 B0 B1", "F0 B0 F1 B1"]


def test_1f1b_of_one_stage_alternates() -> None:
    assert line(ONE_F_ONE_B, 0, 1, 3) == "F0 B0 F1 B1 F2 B2"


def test_interleaved_1f1b_of_two_ranks_with_two_chunks() -> None:
    """Narayanan et al., SC 2021, figure 4, for p = 2: micro-batches of the second chunk are 0.1, 1.1, ..."""
    schedule = Schedule(interleaved, 2)
    assert [line(schedule, rank, 2, 4) for rank in range(2)] == [
        "F0 F1 F0.1 F1.1 F2 B0.1 F3 B1.1 F2.1 B0 F3.1 B1 B2.1 B3.1 B2 B3",
        "F0 F1 F0.1 B0.1 F1.1 B1.1 F2 B0 F3 B1 F2.1 B2.1 F3.1 B3.1 B2 B3",
    ]


def test_interleaved_with_one_chunk_is_1f1b() -> None:
    for rank in range(4):
        assert line(Schedule(interleaved, 1), rank, 4, 8) == line(ONE_F_ONE_B, rank, 4, 8)


def test_zb_h1_of_three_ranks() -> None:
    """Qi et al., ICLR 2024, figure 3, top, for p = 3: W comes as late as the stage's place."""
    assert [line(ZB_H1, rank, 3, 4) for rank in range(3)] == [
        "F0 F1 F2 I0 W0 F3 I1 W1 I2 W2 I3 W3",
        "F0 F1 I0 F2 I1 W0 F3 I2 W1 I3 W2 W3",
        "F0 I0 F1 I1 F2 I2 W0 F3 I3 W1 W2 W3",
    ]


# ---- what every schedule keeps

EVERY = {
    "gpipe": GPIPE,
    "one_f_one_b": ONE_F_ONE_B,
    "interleaved 2": Schedule(interleaved, 2),
    "interleaved 3": Schedule(interleaved, 3),
    "zb_h1": ZB_H1,
    "zb_h1 of 2 chunks": Schedule(zb_h1, 2),
    "zb_h2": ZB_H2,
    "zb_v": ZB_V,
}


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("microbatches", [1, 2, 3, 8, 13])
def test_each_action_comes_once_in_order_and_after_what_it_needs(name: str, ranks: int, microbatches: int) -> None:
    schedule = EVERY[name]
    if schedule.needs_rounds:
        microbatches *= ranks
    tables = [schedule.actions(rank, ranks, microbatches) for rank in range(ranks)]
    for table in tables:
        kinds = {"F", "B"} if any(action.kind == "B" for action in table) else {"F", "I", "W"}
        for chunk in range(schedule.chunks):
            for kind in kinds:  # in ascending order: messages carry no numbers
                order = [action.microbatch for action in table if (action.kind, action.chunk) == (kind, chunk)]
                assert order == list(range(microbatches))
        assert len(table) == len(kinds) * schedule.chunks * microbatches
    # Run the tables, each rank as far as it can go: all of them end.
    last, done, at = ranks * schedule.chunks - 1, set[tuple[str, int, int]](), [0] * ranks
    while moved := [rank for rank in range(ranks) if at[rank] < len(tables[rank])]:
        before = list(at)
        for rank in moved:
            for kind, microbatch, chunk in tables[rank][at[rank] :]:
                stage = schedule.stage(rank, chunk, ranks)
                needs = {
                    "F": {("F", stage - 1, microbatch)} if stage else set(),
                    "W": {("g", stage, microbatch)},
                }.get(kind, {("F", stage, microbatch)} | ({("g", stage + 1, microbatch)} if stage < last else set()))
                if not needs <= done:
                    break
                done.add(("F" if kind == "F" else "w" if kind == "W" else "g", stage, microbatch))
                at[rank] += 1
        assert at != before, f"nobody can go on: {at}"


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize(("ranks", "chunks"), [(1, 1), (1, 3), (4, 1), (4, 2), (3, 4)])
def test_every_stage_has_one_home(ranks: int, chunks: int, folded: bool) -> None:
    schedule = Schedule(gpipe, chunks, folded)
    places = [(schedule.stage(rank, chunk, ranks), rank) for rank in range(ranks) for chunk in range(chunks)]
    assert sorted(places) == [(stage, schedule.home(stage, ranks)) for stage in range(ranks * chunks)]


def test_chunks_go_round_or_turn_back() -> None:
    assert [Schedule(interleaved, 3).home(stage, 2) for stage in range(6)] == [0, 1, 0, 1, 0, 1]
    assert [ZB_V.home(stage, 3) for stage in range(6)] == [0, 1, 2, 2, 1, 0]


def held(schedule: Schedule, rank: int, ranks: int, microbatches: int) -> int:
    """Most micro-batches of one chunk each that a rank holds between their forward and the end of their backward pass."""
    now = peak = 0
    for kind, _, _ in schedule.actions(rank, ranks, microbatches):
        now += {"F": 1, "B": -1, "I": 0, "W": -1}[kind]
        peak = max(peak, now)
    return peak


@pytest.mark.parametrize("p", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("m", [1, 2, 3, 8, 20])
def test_micro_batches_held(p: int, m: int) -> None:
    for rank in range(p):
        assert held(GPIPE, rank, p, m) == m
        assert held(ONE_F_ONE_B, rank, p, m) == min(m, p - rank)
        assert held(ZB_H1, rank, p, m) == min(m, p)  # Qi et al., table 2: p M
        assert held(ZB_H2, rank, p, m) == min(m, 2 * p - 1)  # (2p - 1) M
        assert held(ZB_V, rank, p, m) <= 2 * p  # p M, of chunks half as large
        if m % p == 0:
            for v in (2, 3):  # the warm-up forwards and one more
                assert held(Schedule(interleaved, v), rank, p, m) == min(m * v, (v - 1) * p + 2 * (p - 1 - rank) + 1)


# ---- torch's schedules


class Fake:
    """A stage of torch's pipelines that notes the calls of a schedule and has nobody to talk to."""

    def __init__(self, stage: int, stages: int, ranks: int) -> None:
        import torch

        self.stage_index, self.num_stages, self.group_size, self.group_rank = stage, stages, ranks, stage % ranks
        self.is_first, self.is_last, self.submod = stage == 0, stage == stages - 1, torch.nn.Identity()
        self.calls: list[str] = []

    def get_fwd_recv_ops(self, microbatch: int) -> list[object]:
        return []

    get_fwd_send_ops = get_bwd_recv_ops = get_bwd_send_ops = get_fwd_recv_ops

    def forward_one_chunk(self, microbatch: int, *inputs: object, **options: object) -> None:
        self.calls.append(f"{self.stage_index}F{microbatch}")

    def backward_one_chunk(self, microbatch: int, **options: object) -> None:
        self.calls.append(f"{self.stage_index}B{microbatch}")

    def perform_reduce_grad(self, microbatches: int) -> None:
        """After the last of them."""


def as_torch_writes(schedule: Schedule, rank: int, ranks: int, microbatches: int) -> list[str]:
    """Stage, kind, micro-batch."""
    actions = schedule.actions(rank, ranks, microbatches)
    return [f"{schedule.stage(rank, a.chunk, ranks)}{a.kind}{a.microbatch}" for a in actions]


@pytest.mark.parametrize(("name", "ours"), [("ScheduleGPipe", GPIPE), ("Schedule1F1B", ONE_F_ONE_B)])
@pytest.mark.parametrize(("p", "m"), [(1, 1), (1, 5), (2, 2), (2, 7), (3, 4), (4, 8), (5, 5), (8, 19)])
def test_calls_are_those_of_torch(name: str, ours: Schedule, p: int, m: int) -> None:
    """Run over stages that note the calls, as the table that torch prints for 1F1B is not what it executes."""
    from torch.distributed.pipelining import schedules

    for rank in range(p):
        stage = Fake(rank, p, p)
        schedule = getattr(schedules, name)(stage, m)
        schedule._initialize_stage = lambda *inputs, **options: None
        schedule._step_microbatches()
        assert as_torch_writes(ours, rank, p, m) == stage.calls


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("ScheduleInterleaved1F1B", Schedule(interleaved, 2)),
        ("ScheduleInterleaved1F1B", Schedule(interleaved, 3)),
        ("ScheduleInterleaved1F1B", Schedule(interleaved, 4)),
        ("ScheduleInterleavedZeroBubble", ZB_H1),
        ("ScheduleInterleavedZeroBubble", Schedule(zb_h1, 2)),
        ("ScheduleInterleavedZeroBubble", Schedule(zb_h1, 3)),
        ("ScheduleZBVZeroBubble", ZB_V),
    ],
)
@pytest.mark.parametrize(("p", "rounds"), [(1, 1), (1, 4), (2, 1), (2, 3), (3, 2), (4, 1), (4, 2), (4, 5), (8, 2)])
def test_tables_are_those_of_torch(name: str, ours: Schedule, p: int, rounds: int) -> None:
    """ZB-H1 is torch's interleaved zero bubble with one stage a rank. Idle slots (None) are time, not order."""
    from torch.distributed.pipelining import schedules

    m = p * rounds
    theirs = getattr(schedules, name)([Fake(c * p, p * ours.chunks, p) for c in range(ours.chunks)], m)
    for rank in range(p):
        table = [str(action) for action in theirs.pipeline_order[rank] if action is not None]
        assert as_torch_writes(ours, rank, p, m) == table


@pytest.mark.parametrize(("p", "m"), [(2, 1), (2, 5), (3, 4), (4, 5), (4, 9), (4, 11)])
def test_zb_v_of_any_number_of_micro_batches_is_that_of_torch(p: int, m: int) -> None:
    from torch.distributed.pipelining.schedules import ScheduleZBVZeroBubble

    theirs = ScheduleZBVZeroBubble([Fake(c * p, 2 * p, p) for c in range(2)], m)
    for rank in range(p):
        assert as_torch_writes(ZB_V, rank, p, m) == [str(a) for a in theirs.pipeline_order[rank] if a is not None]


# ---- cuts


@pytest.mark.parametrize(
    ("costs", "stages", "expected"),
    [
        ([1, 1, 1, 1], 4, [[0], [1], [2], [3]]),
        ([1, 1, 1, 1], 2, [[0, 1], [2, 3]]),
        ([1, 1, 1, 1], 1, [[0, 1, 2, 3]]),
        ([5, 1, 1, 1], 2, [[0], [1, 2, 3]]),
        ([1, 1, 1, 5], 2, [[0, 1, 2], [3]]),
        ([1, 2, 3, 4, 5], 2, [[0, 1, 2], [3, 4]]),
        ([1, 2, 3, 4, 5], 3, [[0, 1, 2], [3], [4]]),
        ([0, 0, 7], 3, [[0], [1], [2]]),
        ([1, 1, 1], 2, [[0], [1, 2]]),  # equally good: the earlier stage gets fewer
    ],
)
def test_cut(costs: list[float], stages: int, expected: list[list[int]]) -> None:
    assert [list(blocks) for blocks in cut(costs, stages)] == expected


def test_no_cut_has_a_cheaper_worst_stage() -> None:
    draw = Random(0)
    for _ in range(200):
        costs = [draw.choice([0.0, draw.random(), 3.0]) for _ in range(draw.randint(1, 9))]
        stages = draw.randint(1, len(costs))
        ranges = cut(costs, stages)
        assert [block for blocks in ranges for block in blocks] == list(range(len(costs)))
        assert all(ranges)
        assert len(ranges) == stages
        every = (  # all ways to place the boundaries
            [sum(costs[a:b]) for a, b in zip((0, *inner), (*inner, len(costs)), strict=True)]
            for inner in combinations(range(1, len(costs)), stages - 1)
        )
        assert max(sum(costs[b] for b in blocks) for blocks in ranges) == pytest.approx(min(map(max, every)), rel=1e-12)
