"""What is warned of and runs all the same."""

from __future__ import annotations

import os
from typing import Any

import pytest

from distsim.composition import compose
from distsim.configuration import resolve


def warnings(*settings: tuple[str, Any]) -> tuple[str, ...]:
    resolved, problems = resolve(compose(settings)[0])
    assert problems == []
    assert resolved is not None
    return resolved.warnings


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ([("strategy", "all_reduce")], ()),
        (
            [("strategy", "one_f_one_b"), ("strategy.microbatches", 2)],
            ("2 micro-batches are fewer than 4 stages: 60% of all time is bubble",),
        ),
        (
            [("straggler.slow", {1: 0.5})],
            ("straggler.slow.1=0.5: a factor under 1 makes worker 1 faster",),
        ),
        (
            [("straggler.stages", [1, 0.5]), ("straggler.spread", {"kind": "share", "factor": 0.5})],
            (
                "straggler.stages=[1.0, 0.5]: a factor under 1 makes a stage faster",
                "straggler.spread.factor=0.5: a factor under 1 makes workers faster",
            ),
        ),
        (
            [("cluster", "switch"), ("cluster.latency", "50ms")],
            ("cluster.latency=0.05 s is unusual for one link (0.5us to 1ms): is the unit right?",),
        ),
    ],
)
def test_warns(settings: list[tuple[str, Any]], expected: tuple[str, ...]) -> None:
    assert warnings(*settings) == expected


def test_more_ranks_than_cores() -> None:
    cores = len(os.sched_getaffinity(0))
    (warning,) = warnings(("backend", "real"), ("strategy", "sync_ps"), ("cluster.workers", cores))
    assert warning == f"contended: {cores + 1} ranks share {cores} cores, so times hold for this machine only"


def test_a_course_that_does_nothing_is_told() -> None:
    assert warnings(("optimizer.schedule.final", 0.1)) == (
        "optimizer.schedule.final=0.1 changes nothing: the rate decays to nowhere",
    )
    assert warnings(("optimizer.schedule.warmup", 5), ("budget.updates", 5)) == (
        "optimizer.schedule.warmup=5: the run has 5 updates, and all of them warm up",
    )
    assert warnings(("optimizer.schedule.warmup", 4), ("budget.updates", 5)) == ()
    assert warnings(("optimizer.schedule.warmup", 1000), ("budget.seconds", 5)) == ()


@pytest.mark.parametrize(("variant", "microbatches", "least"), [("h1", 2, 4), ("h2", 4, 7)])
def test_a_zero_bubble_wants_more_micro_batches(variant: str, microbatches: int, least: int) -> None:
    settings = [("strategy", "zero_bubble"), ("strategy.variant", variant), ("strategy.microbatches", microbatches)]
    assert warnings(*settings) == (
        f"{microbatches} micro-batches are fewer than {least}: the bubble is longer than by its closed form",
    )
    assert warnings(*settings[:2], ("strategy.microbatches", 8)) == ()
