"""Schedules and cuts are data: printed, they can be checked by eye."""

from itertools import combinations
from random import Random

import pytest

from distsim.strategies.schedules import cut, one_f_one_b


def line(stage: int, stages: int, microbatches: int) -> str:
    return " ".join(f"{kind}{i}" for kind, i in one_f_one_b(stage, stages, microbatches))


def test_1f1b_of_four_stages_and_five_micro_batches() -> None:
    assert [line(stage, 4, 5) for stage in range(4)] == [
        "F0 F1 F2 F3 B0 F4 B1 B2 B3 B4",
        "F0 F1 F2 B0 F3 B1 F4 B2 B3 B4",
        "F0 F1 B0 F2 B1 F3 B2 F4 B3 B4",
        "F0 B0 F1 B1 F2 B2 F3 B3 F4 B4",
    ]


def test_1f1b_of_fewer_micro_batches_than_stages() -> None:
    assert [line(stage, 4, 2) for stage in range(4)] == ["F0 F1 B0 B1", "F0 F1 B0 B1", "F0 F1 B0 B1", "F0 B0 F1 B1"]


def test_1f1b_of_one_stage_alternates() -> None:
    assert line(0, 1, 3) == "F0 B0 F1 B1 F2 B2"


@pytest.mark.parametrize("stages", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("microbatches", [1, 2, 3, 8, 20])
def test_1f1b_holds_few_and_does_each_once_in_order(stages: int, microbatches: int) -> None:
    for stage in range(stages):
        actions = list(one_f_one_b(stage, stages, microbatches))
        for kind in "FB":
            assert [i for k, i in actions if k == kind] == list(range(microbatches))
        held = peak = 0
        for kind, _ in actions:
            held += 1 if kind == "F" else -1
            assert held >= 0
            peak = max(peak, held)
        assert peak == min(microbatches, stages - stage)


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
