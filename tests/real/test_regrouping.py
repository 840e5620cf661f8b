"""Ranks that go on as a smaller group: in a real run one is killed, and the others train on, as the simulated ones do."""

from __future__ import annotations

import os
import random
import signal
import socket
import threading
import time
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from oracles.jobs import done
from oracles.replicas import BATCH, TOLERANCE, Replica, job
from oracles.test_elastic import trained

from distsim.backends.real import RealOptions, launch, regrouping
from distsim.backends.real.saving.tally import pipe
from distsim.backends.real.transport import wires
from distsim.backends.real.transport.survivors import Regrouped, Survivors
from distsim.backends.real.transport.word import Word
from distsim.interface import SGD, Checkpoint, Failure, Job, Outcome, Straggler, Worker
from distsim.results.conservation import check_conservation
from distsim.strategies.all_reduce import AllReduce
from real.fuzz import Case, Victim
from real.mortal import Mortal

EVERY_2 = Failure(checkpoint=Checkpoint(updates=2))
OPTIMIZER = SGD(0.05, momentum=0.9)


def a_job(workers: int, updates: int) -> Job:
    """Shown after every update; of buckets so small that several are under way."""
    made = replace(job(AllReduce(bucket_bytes=3000.0), workers, updates, OPTIMIZER), straggler=Straggler())
    return replace(made, samples_between_snapshots=1)


def run(made: Job, folder: Path, **options: object) -> Outcome:
    return launch(made, RealOptions(device="cpu", **options), folder)  # type: ignore[arg-type]


def groups(outcome: Outcome, updates: int) -> list[int]:
    """How many made each update, by the samples of it; and all that holds of a run in which some were lost."""
    assert (outcome.status, outcome.message) == ("done", "")
    check_conservation(outcome.traces)
    left = [trace.rank for trace in outcome.traces if trace.updates]
    for rank in left:
        mine = [(update.number, update.samples) for update in outcome.traces[rank].updates]
        assert mine == [(update.number, update.samples) for update in outcome.traces[left[0]].updates]
    assert [snapshot.number for snapshot in sorted(outcome.snapshots, key=lambda each: each.number)] == [
        *range(1, updates + 1)
    ]
    samples = [0, *(update.samples for update in outcome.traces[left[0]].updates)]
    workers = [(b - a) // BATCH for a, b in pairwise(samples)]
    assert len(workers) == updates
    expected, start = trained(workers, OPTIMIZER), Replica(0, 1, SGD()).blocks()
    for block, value in expected.items():
        ours = [outcome.weights[rank][block] for rank in left]
        assert all(torch.equal(ours[0], other) for other in ours[1:])
        assert (ours[0] - value).abs().max() <= TOLERANCE * (value - start[block]).abs().max()
    return workers


def test_the_others_train_on_as_a_smaller_group(tmp_path: Path) -> None:
    """Rank 0, which shows the model, dies before its sixth update, of which nobody has its part. The weights are those of
    a loop of torch's over groups of three, then two, and those of the cosimulated run in which it is lost there."""
    made = a_job(3, 8)
    mortal = replace(made, strategy=Mortal(made.strategy, str(tmp_path), 0, 5), failure=EVERY_2)
    outcome = run(mortal, tmp_path, on_worker_loss="continue")
    assert groups(outcome, 8) == [3, 3, 3, 3, 3, 2, 2, 2]
    lost, *others = [trace.interruptions for trace in outcome.traces]
    assert [each.lost for (each,) in (lost, *others)] == [0, 0, 0]
    assert lost[0].resumed == float("inf")
    at, since = lost[0].at, max(trace.updates[4].time for trace in outcome.traces[1:])
    resumed, end = max(each.resumed for (each,) in others), outcome.seconds
    assert outcome.losses is not None
    assert outcome.losses[:3] == (1, 0, 2)  # saved before updates 2 and 4, and not by two of three
    assert outcome.losses.lost_seconds == pytest.approx(((at - since) * 3 + (resumed - at) * 2 + (end - at)) / 3, rel=1e-12)
    (said,) = [note for note in outcome.notes if note.startswith("rank 0 was lost at")]
    assert said.endswith("s and stayed away: the other 2 went on")
    times = [update.time for update in done(made).traces[0].updates]
    failure = Failure(ranks={0: ((times[4] + times[5]) / 2,)}, restart=1e6, on_loss="continue")
    simulated = done(replace(made, failure=failure))
    assert [update[:2] for update in simulated.traces[1].updates] == [update[:2] for update in outcome.traces[1].updates]
    start = Replica(0, 1, SGD()).blocks()
    for block, value in simulated.weights[1].items():
        moved = (value - start[block]).abs().max()
        assert (outcome.weights[1][block] - value).abs().max() <= TOLERANCE * moved


@pytest.fixture
def three(tmp_path: Path) -> list[Survivors]:
    """Of ranks that have no groups to cut."""
    for rank in range(3):
        os.mkfifo(pipe(tmp_path, rank))
    return [Survivors(tmp_path, rank, 3) for rank in range(3)]


def tell(folder: Path, to: int, word: Word) -> None:
    with pipe(folder, to).open("w") as line:
        line.write(word.line)


def told(survivors: Survivors) -> list[Word]:
    """Wait for a word."""
    with pytest.raises(Regrouped):
        survivors.explain(RuntimeError("no word"))  # type: ignore[arg-type]
    return survivors.heed()


def test_another_loss_while_they_meet(three: list[Survivors], tmp_path: Path) -> None:
    """Rank 1 is lost; rank 0 has come to update 5, rank 2 to 4. Rank 0 learns of that, and waits for a group with rank 2,
    which is lost, too: rank 0 goes on alone, before the update that it had gone back to."""
    first, second = Word(1, 0.5, 1, (0, 2)), Word(2, 0.75, 2, (0,))
    for rank in (0, 2):
        tell(tmp_path, rank, first)
        assert told(three[rank]) == [first]
        three[rank].check()  # it goes on without rank 1
    found: list[int | None] = []
    other = threading.Thread(target=lambda: found.append(three[2].agree(4)))
    other.start()
    assert three[0].agree(5) == 4
    other.join()
    assert found == [4]
    tell(tmp_path, 0, second)
    assert three[0].connect() is None
    assert three[0].heed() == [second]
    assert three[0].here == (0,)
    assert three[0].agree(4) == 4
    assert three[0].connect() == (None, set())
    three[0].end()


def test_a_run_has_ended_before_a_loss_or_after_it_for_all(three: list[Survivors], tmp_path: Path) -> None:
    """All three have ended. Rank 0 finds that, then hears that rank 2 is lost; rank 1 hears of the loss first."""
    word = Word(1, 0.5, 2, (0, 1))
    for rank in (1, 2):
        (tmp_path / f"regroup0-over{rank}").touch()
    three[0].end()
    tell(tmp_path, 1, word)
    with pytest.raises(Regrouped):
        three[1].explain(RuntimeError("no word"))  # type: ignore[arg-type]
    three[1].end()  # nothing is made anew


def test_a_connection_is_cut_and_what_has_got_its_number_is_not() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        found, gone = wires.Wires(), wires.Wires()
        with wires.noted(found):
            ours = socket.create_connection(server.getsockname())
            theirs, _ = server.accept()
        with wires.noted(gone):
            closed = socket.create_connection(server.getsockname())
        accepted, _ = server.accept()
        number = closed.fileno()
        closed.close()
        with socket.create_connection(server.getsockname()) as new, accepted, ours, theirs:
            assert new.fileno() == number
            wires.cut(gone)
            new.sendall(b"x")  # it is another
            wires.cut(found)
            assert theirs.recv(1) == b""
            assert ours.recv(1) == b""


@dataclass(frozen=True)
class LastBreath(AllReduce):
    """The first of three dies when its last update is made, and the others wait for its end."""

    async def run(self, worker: Worker[Any]) -> None:
        await super().run(worker)
        if worker.rank == 0 and worker.world_size == 3:
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_who_has_ended_makes_the_last_update_anew(tmp_path: Path) -> None:
    outcome = run(replace(a_job(3, 8), strategy=LastBreath(bucket_bytes=3000.0)), tmp_path, on_worker_loss="continue")
    assert groups(outcome, 8) == [3, 3, 3, 3, 3, 3, 3, 2]
    assert [trace.interruptions[0].updates for trace in outcome.traces] == [0, 1, 1]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_whoever_is_lost_whenever(seed: int, tmp_path: Path) -> None:
    """One to three of four, together or while the others meet after the loss before."""
    draw = random.Random(seed)
    victims, at = draw.sample(range(4), draw.randint(1, 3)), draw.uniform(0.0, 0.5)
    ranks = {}
    for victim in victims:
        ranks[victim] = (at,)
        at += draw.random() * draw.choice([0.0, 0.005, 0.02, 0.05, 0.2])
    outcome = run(replace(a_job(4, 40), failure=Failure(ranks=ranks, on_loss="continue")), tmp_path)
    workers = groups(outcome, 40)
    print(ranks, "".join(map(str, workers)))
    lost = [trace.rank for trace in outcome.traces if not trace.updates]
    assert workers == sorted(workers, reverse=True)
    assert workers[-1] >= 4 - len(victims)
    assert outcome.losses is not None
    assert outcome.losses[:3] == (len(lost), 0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["forward", "backward", "apply", "all_reduce", "publish"])
@pytest.mark.parametrize("late", [False, True])
def test_whatever_it_was_in(phase: str, late: bool, tmp_path: Path) -> None:
    made = a_job(3, 20)
    case = Case("all_reduce", phase, "killed", 0, 9, late)
    doomed = replace(made, numerics=Victim(made.numerics, case, str(tmp_path)))  # type: ignore[arg-type]
    outcome = run(doomed, tmp_path / "logs", on_worker_loss="continue")
    assert (outcome.status, outcome.message) == ("done", "")
    check_conservation(outcome.traces)
    made_by = [[update.number for update in trace.updates] for trace in outcome.traces]
    assert made_by == [[], [*range(1, 21)], [*range(1, 21)]]
    for block, value in outcome.weights[1].items():
        assert torch.equal(outcome.weights[2][block], value)


@pytest.mark.slow
def test_who_is_lost_while_it_writes_its_results(tmp_path: Path) -> None:
    """The others have ended, too, and give theirs."""
    made = replace(a_job(3, 8), samples_between_snapshots=0)
    case = Case("all_reduce", "end", "killed", 0, 1, False)
    doomed = replace(made, numerics=Victim(made.numerics, case, str(tmp_path)))  # type: ignore[arg-type]
    outcome = run(doomed, tmp_path / "logs", on_worker_loss="continue")
    assert (outcome.status, outcome.message) == ("done", "")
    check_conservation(outcome.traces)
    assert [len(trace.updates) for trace in outcome.traces] == [0, 8, 8]
    assert [[each.lost for each in trace.interruptions] for trace in outcome.traces] == [[0], [], []]
    (said,) = [note for note in outcome.notes if note.startswith("rank 0 was lost at")]
    assert said.endswith("s and stayed away: the other 2 went on")


@pytest.mark.slow
def test_when_nobody_is_left_all_restart(tmp_path: Path) -> None:
    """From the last checkpoint that all had a part in; the weights are those of a run in which nobody was lost."""
    failure = Failure(ranks={0: (0.1,), 1: (0.2,)}, restart=0.1, on_loss="continue", checkpoint=Checkpoint(updates=5))
    outcome = run(replace(a_job(2, 100), failure=failure), tmp_path)
    assert groups(outcome, 100) == [2] * 100
    assert outcome.losses is not None
    assert outcome.losses[:2] == (2, 1)


@dataclass(frozen=True)
class LostAtOnce:
    """Numerics of a run whose rank 0 dies as soon as it runs, if there is such a file."""

    inner: Any
    workers: int
    mark: str

    def __call__(self, rank: int) -> Any:
        if rank == 0 and Path(self.mark).exists():
            regrouping.Regrouping.run = lambda self: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
        return replace(self.inner, workers=self.workers)(rank)


@pytest.mark.slow
def test_what_was_shown_before_a_checkpoint_outlives_who_showed_it(tmp_path: Path) -> None:
    """Rank 1 dies and ends the run, which is begun again from the checkpoint before update 6; then rank 0 dies at once."""
    made, mark = a_job(3, 8), tmp_path / "mark"
    strategy, numerics = Mortal(made.strategy, str(tmp_path), 1, 7), LostAtOnce(made.numerics, 3, str(mark))
    mortal = replace(made, strategy=strategy, numerics=numerics, failure=EVERY_2)
    assert run(mortal, tmp_path).status == "failed"
    mark.touch()
    assert groups(run(mortal, tmp_path, on_worker_loss="continue"), 8) == [3, 3, 3, 3, 3, 3, 2, 2]


@pytest.mark.slow
def test_what_a_restart_took_is_not_counted_again(tmp_path: Path) -> None:
    """All are lost at once, and begin again 2 s later, when one of them is lost, mostly before it has made an update."""
    failure = Failure(
        {0: (0.3,), 1: (0.3,), 2: (0.3, 2.3001)}, restart=2.0, on_loss="continue", checkpoint=Checkpoint(updates=1)
    )
    outcome = run(replace(a_job(3, 100), failure=failure), tmp_path)
    groups(outcome, 100)
    (restart, loss), made = outcome.traces[0].interruptions, [update.time for update in outcome.traces[0].updates]
    saved = max([0.0, *(time for time in made if time <= restart.at)])
    since = max([restart.resumed, *(time for time in made if time <= loss.resumed)])
    away = (loss.at - since) * 3 + (loss.resumed - loss.at) * 2 + (outcome.seconds - loss.at)
    assert outcome.losses is not None
    assert outcome.losses.lost_seconds == pytest.approx(restart.resumed - saved + away / 3, abs=0.5)  # it was 2 s more


@pytest.mark.slow
def test_the_last_one_that_dies_by_itself_ends_the_run(tmp_path: Path) -> None:
    made = a_job(2, 20)
    both = Mortal(Mortal(made.strategy, str(tmp_path), 0, 5), str(tmp_path), 0, 10)  # who is first of those left
    outcome = run(replace(made, strategy=both), tmp_path, on_worker_loss="continue")
    assert outcome.status == "failed"
    assert outcome.message.startswith("rank 1 was killed by SIGKILL while it ")
