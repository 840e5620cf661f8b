"""A rank that was killed, stopped, raised or met NaN ends the run within 10 s, by one message, leaving no process."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from contract.tiny import Tiny

from distsim.backends.real.private import private_folder
from distsim.interface import SGD, Budget, Strategy, Worker
from distsim.numerics.tensors import TensorsFactory
from distsim.strategies.all_reduce import AllReduce
from real.faults import RANKS, VICTIM, Endless, Numerics, Reducing, Served, Serving, job, living, note_pid, run

WORDS = {
    "killed": ["rank {} was killed by SIGKILL"],
    "stopped": ["rank {} was stopped (SIGSTOP)"],
    "raised": ["rank {} failed", "ValueError: the victim's own words", "Traceback", "in go_wrong"],
}
PLACES = {
    "numerics": "in its phase 'numerics'",
    "init_process_group": "in its phase 'rendezvous'",  # nobody has met
    "broadcast": "in its phase 'rendezvous'",  # all are connected
    "all_reduce": "all_reduce of ranks 0,1,2 (faults.py:",
    "client": "while it ran its own code after receive 'answer' from rank 2 (faults.py:",
    "receive any": "receive 'gradient' from any rank (faults.py:",
}


@pytest.mark.parametrize("fault", WORDS)
@pytest.mark.parametrize("place", PLACES)
def test_the_run_ends_and_says_which_rank_and_where(place, fault, tmp_path, record_property):
    strategy = {"client": Serving, "receive any": Served}.get(place, Reducing)(str(tmp_path), fault)
    before = {"fault": fault, "at": place} if place in ("numerics", "init_process_group", "broadcast") else {}
    outcome = run(job(strategy, tmp_path, **before), tmp_path)
    took = time.monotonic() - float((tmp_path / "fault").read_text())
    print(f"\n{fault} during {place}: ended {took:.2f} s later, with {outcome.message.splitlines()[0]}")
    record_property("seconds", took)
    assert outcome.status == "failed"
    victim = RANKS - 1 if place == "receive any" else VICTIM
    for words in (*WORDS[fault], PLACES[place]):
        assert words.format(victim) in outcome.message
    table = (tmp_path / "last_operations.txt").read_text()
    assert table.startswith(f"failed: {outcome.message.splitlines()[0]}\n")
    assert (
        place in ("numerics", "init_process_group", "broadcast")
        or PLACES[place].removeprefix("while it ran its own code after ")
        in table.partition(f"\nrank {victim}, phase run: ")[2]
    )
    assert took < 10.0  # promised


def test_a_device_that_is_full_is_out_of_memory(tmp_path):
    outcome = run(job(Serving(str(tmp_path), "full"), tmp_path), tmp_path)
    assert outcome.status == "out of memory"
    assert f"rank {VICTIM} failed" in outcome.message
    assert "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB" in outcome.message


class NaN(Tiny):
    """Its loss is not a number from the third step on."""

    def task(self, seed):
        task, steps = super().task(seed), count()
        task.loss = lambda y, target: y.sum() * (float("nan") if next(steps) > 2 else 1.0)
        return task


def test_nan_ends_the_run_and_names_step_and_rank(tmp_path):
    numerics = Numerics(TensorsFactory(NaN(), 2, SGD(), 0), str(tmp_path))
    outcome = run(job(AllReduce(), tmp_path, ranks=2, numerics=numerics, budget=Budget(updates=50)), tmp_path)
    assert outcome.status == "diverged"
    assert "step 3" in outcome.message
    assert "rank 0" in outcome.message or "rank 1" in outcome.message


LAUNCHER = """
import sys
from pathlib import Path
from real.faults import VICTIM, Endless, job, run
run(job(Endless(), Path(sys.argv[1])), Path(sys.argv[1]))
"""


def test_nothing_outlives_a_killed_launcher(tmp_path, monkeypatch):
    """Nor does a rank that is stopped and could not end by itself."""
    path = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parents[2])])
    env = {**os.environ, "PYTHONPATH": path, "TMPDIR": str(tmp_path)}
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCHER, str(tmp_path)], env=env, start_new_session=True)
    try:
        wait_until(lambda: len(living(tmp_path)) == 3, 60.0)
        time.sleep(0.5)
        os.kill(int((tmp_path / "pid-1").read_text()), signal.SIGSTOP)
        killed = time.monotonic()
        launcher.kill()
        launcher.wait()
        wait_until(lambda: living(tmp_path) == [], 10.0)
        print(f"\nno rank left {time.monotonic() - killed:.2f} s after kill -9 of the launcher")
        wait_until(lambda: session(launcher.pid) == [], 10.0)  # nor the fork server
        (left,) = tmp_path.glob("distsim-*")
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        with private_folder() as mine, private_folder() as another:  # nor, once something is launched, a file
            assert sorted(tmp_path.glob("distsim-*")) == sorted([mine, another])
            assert left not in (mine, another)
    finally:
        launcher.kill()
        for pid in session(launcher.pid):
            os.kill(pid, signal.SIGKILL)


def wait_until(holds, seconds):
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.02)


def session(leader):
    """Processes of a session."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == leader and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def test_a_run_over_its_limit_is_timed_out(tmp_path):
    outcome = run(job(Endless(), tmp_path, ranks=2), tmp_path, limit_seconds=2.0)
    assert outcome.status == "timed out"
    assert outcome.message.startswith("the run did not end within 2 s")


@dataclass(frozen=True)
class Slow(Strategy):
    """The victim takes long for one thing; the other waits for it."""

    thing: str

    async def run(self, worker: Worker[Any]) -> None:
        if worker.rank == VICTIM:
            if self.thing == "own code":
                asleep(worker.read())
            else:
                await worker.compute("work", {"asleep": asleep, "busy": busy}[self.thing], worker.read())
        await worker.all_reduce(worker.read())


def asleep(x):
    time.sleep(60.0)
    return x


def busy(x):
    until = time.process_time() + 2.5
    while time.process_time() < until:
        x = x + 0.0
    return x


@pytest.mark.parametrize(("thing", "words"), [("own code", "runs its own code"), ("asleep", "computes payload arithmetic")])
def test_a_rank_that_hangs_by_itself_is_named_with_its_stack(thing, words, tmp_path):
    outcome = run(job(Slow(thing), tmp_path, ranks=2), tmp_path, hang_seconds=1.0)
    assert outcome.status == "deadlocked"
    for text in (
        "hung: nothing completed for ",
        "rank 0 waits for all_reduce of ranks 0,1",
        f"rank 1 {words}",
        "in asleep",
    ):
        assert text in outcome.message


@dataclass(frozen=True)
class Spinning(Strategy):
    """The victim sleeps; the other uses its core meanwhile, as a host that waits for its GPU, and that for NCCL."""

    async def run(self, worker: Worker[Any]) -> None:
        if worker.rank == VICTIM:
            asleep(worker.read())
        await worker.compute("work", spin, worker.read())
        await worker.all_reduce(worker.read())


def spin(x):
    until = time.monotonic() + 60.0
    while time.monotonic() < until:
        x = x + 0.0
    return x


def test_a_rank_that_hangs_is_found_while_another_seems_to_compute(tmp_path):
    outcome = run(job(Spinning(), tmp_path, ranks=2), tmp_path, hang_seconds=1.0)
    assert outcome.status == "deadlocked"
    named = "hung: nothing completed for .* s on rank 1, which used no CPU, while it ran its own code"
    assert re.match(named, outcome.message)


def test_a_rank_that_computes_is_not_hung(tmp_path):
    outcome = run(job(Slow("busy"), tmp_path, ranks=2), tmp_path, hang_seconds=1.0)
    assert (outcome.status, outcome.message) == ("done", "")


@dataclass(frozen=True)
class Sleepy:
    """A factory of numerics that never comes back on the victim."""

    folder: str

    def __call__(self, rank: int) -> Any:
        note_pid(self.folder, rank)
        return time.sleep(60.0) if rank == VICTIM else TensorsFactory(Tiny(), 2)(rank)


def test_a_rank_that_does_not_come_up_is_named(tmp_path):
    made = job(Endless(), tmp_path, ranks=2, numerics=Sleepy(str(tmp_path)))
    outcome = run(made, tmp_path, start_seconds=2.0)
    assert outcome.status == "failed"
    assert outcome.message.startswith("the ranks did not meet within 2 s: ")
    assert "rank 1 is in its phase 'numerics'" in outcome.message
