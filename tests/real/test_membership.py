"""Servers that work on without a worker: in a real run it is killed, and the run ends with the others."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from oracles.replicas import job

from distsim.backends.real import RealOptions, launch
from distsim.backends.real.watching.board import Desk
from distsim.interface import SGD, BadInput, Checkpoint, Failure, Job, Outcome, Strategy, Worker
from distsim.results.conservation import check_conservation
from distsim.strategies.parameter_server import SSP, AsyncPS, BackupWorkers, KAsync, KBatchAsync
from distsim.strategies.zero import Zero
from real.mortal import Mortal

WORKERS, UPDATES = 3, 200
EVERY_2 = Failure(checkpoint=Checkpoint(updates=2))


def run(a_job: Job, folder: Path, **options: object) -> Outcome:
    return launch(a_job, RealOptions(device="cpu", **options), folder)  # type: ignore[arg-type]


def checked(outcome: Outcome, victim: int) -> None:
    """It went on to its end without the victim, whose gradients are all applied, discarded or dropped."""
    assert (outcome.status, outcome.message) == ("done", "")
    check_conservation(outcome.traces)
    server, lost = outcome.traces[-1], outcome.traces[victim]
    assert [update.number for update in server.updates] == [*range(1, UPDATES + 1)]
    (interruption,) = lost.interruptions
    assert (interruption.lost, interruption.resumed) == (victim, float("inf"))
    decided = sum(arrival.source == victim for trace in outcome.traces for arrival in trace.arrivals)
    assert (interruption.gradients >= 0, decided + interruption.gradients) == (True, lost.gradients)
    (said,) = [note for note in outcome.notes if note.startswith(f"rank {victim} was lost at")]
    assert said.endswith("dropped")
    assert outcome.losses is None or outcome.losses.failures == 1
    assert not any(trace.interruptions for trace in outcome.traces if trace.rank != victim)


def test_a_worker_that_dies_is_missed_by_nobody(tmp_path: Path) -> None:
    """It dies in its fifth gradient, so that the server has decided about four."""
    a_run = job(AsyncPS(), WORKERS, UPDATES, SGD(0.05))
    outcome = run(replace(a_run, strategy=Mortal(a_run.strategy, str(tmp_path), 1, 5)), tmp_path, on_worker_loss="continue")
    checked(outcome, 1)
    server = outcome.traces[-1]
    assert sum(arrival.source == 1 for arrival in server.arrivals) == outcome.traces[1].gradients == 4
    assert [a.staleness for a in server.arrivals if a.applied] == [
        k - a.version for k, a in enumerate(a for a in server.arrivals if a.applied)
    ]


@dataclass(frozen=True, kw_only=True)
class Dying(AsyncPS):
    """Worker 1 dies when its program has ended, in this phase, while the server waits for the last gradient of worker 2."""

    phase: str

    async def run(self, worker: Worker[Any]) -> None:
        backward = worker._state.numerics.backward_of_loss

        def slowly(*given: Any) -> Any:
            time.sleep(0.5)
            return backward(*given)

        if worker.rank == 2:
            worker._state.numerics.backward_of_loss = slowly
        await super().run(worker)
        if worker.rank == 1:
            enter = Desk.phase

            def entering(desk: Desk, name: str) -> None:
                enter(desk, name)
                if name == self.phase:
                    os.kill(os.getpid(), signal.SIGKILL)

            patch.object(Desk, "phase", entering).start()


@pytest.mark.parametrize("phase", ["end", "done"])
def test_a_worker_that_dies_when_its_work_is_done_has_given_all(phase: str, tmp_path: Path) -> None:
    a_run = job(Dying(phase=phase), WORKERS, UPDATES, SGD(0.05))
    outcome = run(a_run, tmp_path, on_worker_loss="continue")
    if phase == "end":  # its records were not written yet
        checked(outcome, 1)
        assert outcome.traces[1].interruptions[0].gradients == 0
    else:
        assert (outcome.status, outcome.message) == ("done", "")
        check_conservation(outcome.traces)
        assert len(outcome.traces[1].losses) == outcome.traces[1].gradients > 0
        assert not any(trace.interruptions for trace in outcome.traces)


def test_who_cannot_work_on_says_so(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"backend.on_worker_loss='continue': Zero cannot work on without a worker"):
        run(job(Zero(), 2, 2, SGD(0.05)), tmp_path, on_worker_loss="continue")


def test_a_loss_by_plan_is_what_the_plan_says(tmp_path: Path) -> None:
    """Though servers work on without whom nobody was to kill."""
    a_run = replace(job(AsyncPS(), 2, 100_000, SGD(0.05)), failure=Failure(ranks={1: (0.1,)}, on_loss="abort"))
    outcome = run(a_run, tmp_path, on_worker_loss="continue")
    assert outcome.status == "failed"
    assert outcome.message.startswith("rank 1 was killed by SIGKILL while it ")
    assert outcome.losses is not None
    assert outcome.losses.failures == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "strategy",
    [
        AsyncPS(),
        AsyncPS(compression="top_k"),
        KAsync(k=2),
        KBatchAsync(k=2),
        SSP(bound=1),
        BackupWorkers(backups=1),
    ],
    ids=repr,
)
@pytest.mark.parametrize("at", [1, 6])
def test_every_server_that_can_works_on(strategy: Strategy, at: int, tmp_path: Path) -> None:
    a_run = job(strategy, WORKERS, UPDATES, SGD(0.05))
    outcome = run(replace(a_run, strategy=Mortal(strategy, str(tmp_path), 1, at)), tmp_path, on_worker_loss="continue")
    checked(outcome, 1)


@pytest.mark.slow
@pytest.mark.parametrize("at", [0.0, 0.02, 0.05, 0.1, 0.2])
def test_a_worker_is_lost_at_its_time_and_missed_by_nobody(at: float, tmp_path: Path) -> None:
    """Wherever it is then: computing, sending, waiting."""
    failure = Failure(ranks={2: (at,)}, on_loss="continue")
    a_run = replace(job(AsyncPS(), WORKERS, UPDATES, SGD(0.05)), failure=failure)
    outcome = run(a_run, tmp_path)
    if outcome.traces and not outcome.traces[2].interruptions:
        pytest.skip("the run ended before it")
    checked(outcome, 2)


@pytest.mark.slow
def test_a_lost_server_brings_the_worker_back(tmp_path: Path) -> None:
    """Rank 2 dies in its third gradient, and the others work on; the server dies before its update 30: all begin again."""
    a_run = job(AsyncPS(), WORKERS, UPDATES, SGD(0.05))
    worker = Mortal(a_run.strategy, str(tmp_path), 2, 3)
    both = replace(a_run, strategy=Mortal(worker, str(tmp_path), WORKERS, 30), failure=EVERY_2)
    first = run(both, tmp_path / "run", on_worker_loss="continue")
    assert (first.status, first.message.partition(" while")[0]) == ("failed", f"rank {WORKERS} was killed by SIGKILL")
    second = run(both, tmp_path / "run", on_worker_loss="continue")
    assert (second.status, second.message) == ("done", "")
    check_conservation(second.traces)
    assert [update.number for update in second.traces[-1].updates] == [*range(1, UPDATES + 1)]
    assert len([arrival for arrival in second.traces[-1].arrivals if arrival.source == 2]) > 3  # it is there again
