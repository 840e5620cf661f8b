"""The failures of a simulated run, in a real one: the named rank is killed at its time, and the run says so and ends."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from distsim.interface import BadInput, Budget, Failure
from distsim.strategies.all_reduce import AllReduce
from distsim.strategies.zero import Zero
from real.faults import job, run


def test_a_rank_is_lost_at_its_time(tmp_path: Path) -> None:
    a_run = replace(
        job(AllReduce(), tmp_path, ranks=2),
        budget=Budget(seconds=60.0),
        failure=Failure(ranks={1: (0.5,)}, on_loss="abort"),
    )
    outcome = run(a_run, tmp_path)
    assert outcome.status == "failed"
    assert outcome.message.startswith("rank 1 was killed by SIGKILL while it ")
    (said,) = [note for note in outcome.notes if note.startswith("rank 1")]
    assert said.startswith("rank 1 was killed at 0.5")
    assert said.endswith("s, for failure says that it is lost at 0.5 s")
    assert outcome.losses == (1, 0, 0, 0.0)


def test_a_rank_is_lost_at_the_time_that_is_drawn(tmp_path: Path) -> None:
    failure = Failure(mtbf=0.5, on_loss="abort")
    at, rank = next(failure.losses(0, 2))
    started = time.monotonic()
    outcome = run(replace(job(AllReduce(), tmp_path, ranks=2), budget=Budget(seconds=60.0), failure=failure), tmp_path)
    assert outcome.message.startswith(f"rank {rank} was killed by SIGKILL")
    print(f"lost at {at:.2f} s by the run's clock; the launch took {time.monotonic() - started:.2f} s")


def test_a_loss_after_the_end_is_said(tmp_path: Path) -> None:
    failure = Failure(ranks={0: (1000.0,)}, on_loss="abort")
    outcome = run(replace(job(AllReduce(), tmp_path, ranks=2), budget=Budget(updates=2), failure=failure), tmp_path)
    assert outcome.status == "done"
    assert outcome.notes[-1].startswith("the failure of rank 0 at 1000 s comes after the end of the run at 0.")


def test_who_cannot_go_on_as_a_smaller_group_says_so(tmp_path: Path) -> None:
    failure = Failure(ranks={1: (0.5,)}, on_loss="continue")
    with pytest.raises(BadInput, match=r"failure.on_loss='continue': Zero cannot work on without a rank; take failure.on"):
        run(replace(job(Zero(), tmp_path, ranks=2), failure=failure), tmp_path)
