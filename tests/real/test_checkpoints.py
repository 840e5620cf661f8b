"""Checkpoints on disk: a run that is cut off and asked for again ends as one that is not; torn files are passed over."""

from __future__ import annotations

import errno
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from oracles.replicas import job, workload
from oracles.test_restart_weights import RUNS

from distsim.backends.real import RealOptions, launch
from distsim.backends.real.saving import incarnations, lease, saved
from distsim.backends.real.saving.incarnations import Incarnations
from distsim.backends.real.saving.saved import Manifest
from distsim.backends.real.saving.tally import Tally
from distsim.interface import SGD, AdamW, Budget, Checkpoint, DistsimError, Failure, Interrupted, Job, Outcome
from distsim.interface.failure import Loss
from distsim.interface.precision import Precision
from distsim.numerics.tensors import TensorsFactory
from distsim.results.conservation import check_conservation
from distsim.strategies.all_reduce import AllReduce
from distsim.strategies.parameter_server import AsyncPS
from real.mortal import FullDisk, Mortal, Obstructed, SlowDisk

WORKERS, UPDATES = 4, 10
EVERY_2 = Failure(checkpoint=Checkpoint(updates=2))


def run(a_job: Job, folder: Path, **options: object) -> Outcome:
    return launch(a_job, RealOptions(device="cpu", **options), folder)  # type: ignore[arg-type]


def mortal(a_job: Job, folder: Path, victim: int, at: int) -> Job:
    return replace(a_job, strategy=Mortal(a_job.strategy, str(folder), victim, at), failure=EVERY_2)


def alike(expected: Outcome, found: Outcome) -> bool:
    """To the last bit, on every rank."""
    pairs = zip(expected.weights, found.weights, strict=True)
    return all(e.keys() == f.keys() and all(torch.equal(e[b], f[b]) for b in e) for e, f in pairs)


def test_a_rank_that_dies_ends_nothing_if_all_begin_again(tmp_path: Path) -> None:
    """Rank 1 dies before update 7: the checkpoint before update 6 is the last, and of each rank's updates at most the
    seventh is undone (the other rank may not have ended it)."""
    a_run = replace(job(AllReduce(), 2, UPDATES, SGD(0.05, momentum=0.9)), samples_between_snapshots=2 * 24)
    expected = run(a_run, tmp_path / "whole")
    assert (expected.status, expected.message) == ("done", "")
    found = run(mortal(a_run, tmp_path, 1, 7), tmp_path / "cut", on_worker_loss="restart")
    assert (found.status, found.message) == ("done", "")
    assert alike(expected, found)
    held = (tmp_path / "died-1-7").read_text()
    assert len([line for line in held.splitlines() if "FLOCK" in line and "READ" in line]) == 1
    assert found.losses is not None
    assert found.losses[:3] == (1, 1, 4)
    assert [[i.lost for i in trace.interruptions] for trace in found.traces] == [[1], [1]]
    for trace in found.traces:
        (interruption,) = trace.interruptions
        assert interruption.updates in ((1,) if trace.rank == 1 else (0, 1))
        assert [update.number for update in trace.updates] == [*range(1, UPDATES + 1)]
        assert [span.name for span in trace.compute].count("checkpoint") == 4
    assert sorted(s.number for s in found.snapshots) == sorted(s.number for s in expected.snapshots)
    check_conservation(found.traces)
    logs = sorted(path.name for path in (tmp_path / "cut").glob("*.log"))
    assert logs == ["rank0.1.log", "rank0.log", "rank1.1.log", "rank1.log"]
    kept = sorted(path.parent.name for path in (tmp_path / "cut").glob("checkpoints/*/manifest.json"))
    assert kept == ["000000006", "000000008"]
    state = torch.load(tmp_path / "cut" / "checkpoints" / "000000008" / "rank0.state", weights_only=True)
    assert state["version"] == 8


def test_ctrl_c_before_all_have_begun_again_keeps_what_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rank 1 dies when it has made 7 updates, the last of which it may not have told of."""

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(incarnations, "time", SimpleNamespace(sleep=interrupt, monotonic=time.monotonic))
    a_run = job(AllReduce(), 2, UPDATES, SGD(0.05))
    with pytest.raises(Interrupted) as stop:
        run(mortal(a_run, tmp_path, 1, 7), tmp_path / "cut", on_worker_loss="restart")
    assert stop.value.outcome.status == "interrupted"
    assert max(trace.updates[-1].number for trace in stop.value.outcome.traces) in (6, 7)
    resumed = Incarnations(mortal(a_run, tmp_path, 1, 7), tmp_path / "cut" / "checkpoints", works_on=False)
    assert [trace.updates[-1].number for trace in resumed.known] == [6, 6]


def test_a_worker_that_cannot_save_ends_the_run(tmp_path: Path) -> None:
    """The server that waits for it would wait for ever."""
    place = tmp_path / "cut" / "checkpoints" / "000000002" / "rank0.state"
    a_run = replace(job(AsyncPS(), 2, UPDATES, SGD(0.05)), failure=EVERY_2)
    outcome = run(replace(a_run, strategy=Obstructed(place=str(place))), tmp_path / "cut")
    assert outcome.status == "failed"
    assert outcome.message.startswith("rank 0 failed while it ")
    assert "IsADirectoryError" in outcome.message


def test_a_full_disk_says_what_to_do(tmp_path: Path) -> None:
    a_run = replace(job(AsyncPS(), 2, UPDATES, SGD(0.05)), failure=EVERY_2, strategy=FullDisk())
    outcome = run(a_run, tmp_path)
    assert outcome.status == "failed"
    said, *_ = outcome.message.splitlines()
    assert said.startswith("rank 0 failed while it ")
    assert said.endswith(
        f": the disk is full ({tmp_path}/checkpoints/000000002/rank0.state): make room, then give the same command again; "
        "what is finished is kept"
    )
    assert "Traceback" not in outcome.message
    assert list((tmp_path / "checkpoints" / "000000002").glob(".*")) == []


@pytest.mark.slow
def test_who_saves_is_not_hung_as_long_as_its_file_grows(tmp_path: Path) -> None:
    """20 ms for every 64 bytes: 3 s and more in which nothing else goes on, where 2 s are the limit."""
    a_run = replace(job(AsyncPS(), 2, 3, SGD(0.05)), failure=EVERY_2)
    outcome = run(replace(a_run, strategy=SlowDisk(seconds=0.02)), tmp_path, hang_seconds=2.0)
    assert (outcome.status, outcome.message) == ("done", "")
    assert (tmp_path / "checkpoints" / "000000002" / "rank0.state").stat().st_size > 150 * 64


def test_who_saves_and_gets_nowhere_is_hung(tmp_path: Path) -> None:
    a_run = replace(job(AsyncPS(), 2, 3, SGD(0.05)), failure=EVERY_2)
    outcome = run(replace(a_run, strategy=SlowDisk(seconds=1000.0)), tmp_path, hang_seconds=0.5)
    assert outcome.status == "deadlocked"
    assert "saved a checkpoint before update 2" in outcome.message.splitlines()[0]
    assert "rank 2 waits for rank 0, 1 to save before update 2" in outcome.message


def test_an_incarnation_that_never_began_takes_no_time_of_its_own(tmp_path: Path) -> None:
    """Rank 1 is lost at 5 s of a run that began at 1 s, then again before all had met; then the third begins at 9 s: from
    1 s to 9 s all is lost. Who may run no longer need not wait for the hour of a restart."""
    runs = Incarnations(job(AllReduce(), 2, UPDATES, SGD(0.05)), tmp_path, works_on=False)

    def tally(number: int, started: float) -> Tally:
        made = Tally(tmp_path / f"tally{number}", 2, make=True)
        made.start(started)
        return made

    assert runs.lose(Loss(5.0, 1), 3600.0, 0.0, tally(1, 1.0), absent=0, until=0.001) == ""
    assert runs.lose(Loss(6.0, 1), 0.0, 0.0, tally(2, 0.0), absent=1, until=0.001) == ""
    losses = runs.result(9.0, killed=0)
    assert losses is not None
    assert (losses.failures, losses.restarts, losses.lost_seconds) == (3, 2, 8.0)


def manifest(update: int, files: dict[str, str]) -> Manifest:
    return Manifest("a job", 0, update, 10 * update, 0.5, 1, 0, 0, 0.0, files=files)


def test_what_is_torn_or_corrupted_is_passed_over_with_one_line(tmp_path: Path) -> None:
    for update in (2, 4, 6):
        name = f"{saved.place(update)}/rank0.state"
        (tmp_path / "records").mkdir(exist_ok=True)
        saved.commit(tmp_path, manifest(update, {name: saved.write(tmp_path / name, b"weights %d" % update)}))
    assert sorted(path.name for path in tmp_path.glob("0*")) == ["000000004", "000000006"]
    found, passed = saved.find(tmp_path, "a job")
    assert found is not None
    assert (found.update, passed) == (6, [])
    (tmp_path / "000000006" / "rank0.state").write_bytes(b"weights 7")
    found, passed = saved.find(tmp_path, "a job")
    assert found is not None
    assert (found.update, passed) == (
        4,
        ["the checkpoint before update 6 is torn or corrupted (000000006/rank0.state): it is passed over"],
    )
    (tmp_path / "000000006" / "manifest.json").write_text('{"update": 6')
    assert saved.find(tmp_path, "a job")[0] == found
    saved.clear(tmp_path, found)
    assert sorted(path.name for path in tmp_path.glob("0*")) == ["000000004"]
    found, passed = saved.find(tmp_path, "another")
    assert (found, passed) == (None, ["the checkpoint before update 4 is of another job: it is not gone on from"])


def test_what_cannot_be_read_now_is_not_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A share that is gone for a moment took all that a run had saved; of two, the one that can be read is gone on from."""
    (tmp_path / "records").mkdir()
    a_job = job(AllReduce(), 2, UPDATES, SGD(0.05))
    for update in (2, 4):
        name = f"{saved.place(update)}/rank0.state"
        files = {name: saved.write(tmp_path / name, b"weights")}
        saved.commit(tmp_path, replace(manifest(update, files), job=saved.fingerprint(a_job)))
    unreadable = {4}
    whole = saved._digest

    def digest(path: Path) -> str:
        if int(path.parent.name) in unreadable:
            raise OSError(errno.ESTALE, "Stale file handle", str(path))
        return whole(path)

    monkeypatch.setattr(saved, "_digest", digest)
    assert saved.find(tmp_path, saved.fingerprint(a_job))[0] == saved.read(tmp_path, 2)
    unreadable.add(2)
    with pytest.raises(DistsimError, match="Stale file handle"):
        Incarnations(a_job, tmp_path, works_on=False)
    unreadable.clear()
    assert Incarnations(a_job, tmp_path, works_on=False).begin.manifest == saved.read(tmp_path, 4)


def test_no_flipped_bit_of_a_manifest_is_gone_on_from(tmp_path: Path) -> None:
    """Another number of samples would be other data, and nobody would see it."""
    (tmp_path / "records").mkdir()
    for update in (2, 4):
        name = f"{saved.place(update)}/rank0.state"
        saved.commit(tmp_path, manifest(update, {name: saved.write(tmp_path / name, b"weights")}))
    newest, older = saved.read(tmp_path, 4), saved.read(tmp_path, 2)
    path = tmp_path / saved.place(4) / "manifest.json"
    whole = path.read_bytes()
    for i, bit in ((i, bit) for i in range(len(whole)) for bit in (0, 1, 5)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ 1 << bit]) + whole[i + 1 :])
        assert saved.find(tmp_path, "a job")[0] in (newest, older)


def test_a_launch_waits_for_the_ranks_of_one_that_was_killed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One lives until the launch after has said that it waits; the checkpoint that it still writes is gone on from."""
    a_job = replace(job(AllReduce(), 2, UPDATES, SGD(0.05)), failure=EVERY_2)
    with lease.leased(tmp_path) as word:
        rank = lease.join(tmp_path, word)
    entered, said = threading.Event(), list[str]()

    def launch_again() -> None:
        with lease.leased(tmp_path):
            entered.set()
            said.append(str(Incarnations(a_job, tmp_path, works_on=False).begin.manifest))

    launcher = threading.Thread(target=launch_again, daemon=True)
    launcher.start()
    while "have not left" not in (told := capsys.readouterr().err):
        assert not entered.wait(0.01)
    assert told == f"processes of another launch have not left {tmp_path} yet: waiting for them\n"
    name = f"{saved.place(4)}/rank0.state"
    (tmp_path / "records").mkdir()
    files = {name: saved.write(tmp_path / name, b"weights")}
    saved.commit(tmp_path, replace(manifest(4, files), job=saved.fingerprint(a_job)))
    assert not entered.is_set()
    rank.close()
    launcher.join()
    assert "update=4" in said[0]
    with pytest.raises(DistsimError, match="another launch has begun in"):
        lease.join(tmp_path, word)


def test_another_optimizer_or_precision_is_another_job() -> None:
    """Its state would not fit: of SGD's momentum AdamW knows nothing."""
    numerics = TensorsFactory(workload(), 2)
    one = replace(job(AllReduce(), 2, UPDATES, SGD(0.05)), numerics=numerics)
    others = (
        replace(numerics, optimizer=SGD(0.07)),
        replace(numerics, optimizer=AdamW()),
        replace(numerics, precision=Precision("bf16")),
    )
    names = [saved.fingerprint(replace(one, numerics=each)) for each in (numerics, *others)]
    assert len({*names}) == 4
    assert saved.fingerprint(replace(one, budget=Budget(updates=99))) == names[0]  # longer, it goes on


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_a_resumed_run_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    """The last rank (where there are servers, a server) dies before update 7, and again in the second launch before 9."""
    strategy, optimizer = RUNS[name]
    a_run = job(strategy, WORKERS, UPDATES, optimizer)
    victim = a_run.cluster.world_size - 1
    expected = run(a_run, tmp_path / "whole")
    assert (expected.status, expected.message) == ("done", "")
    cut = mortal(a_run, tmp_path, victim, 7)
    first = run(cut, tmp_path / "cut")
    assert first.status == "failed"
    assert first.message.startswith(f"rank {victim} was killed by SIGKILL")
    last = max(step for step in range(7) if step % 2 == 0 and strategy.can_resume(step))
    second = run(cut, tmp_path / "cut")
    assert (second.status, second.message) == ("done", "")
    resumed = [note.removeprefix("resumed at update ") for note in second.notes if note.startswith("resumed at")]
    assert all(int(update) <= last for update in resumed)  # who need not wait for others may die before they have saved
    assert alike(expected, second)
    check_conservation(second.traces)


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, WORKERS])
def test_an_asynchronous_run_goes_on_with_right_staleness(victim: int, tmp_path: Path) -> None:
    """Every gradient is applied at once: the k-th makes version k, so its staleness is k less the version that it names."""
    cut = mortal(job(AsyncPS(), WORKERS, 40, SGD(0.05)), tmp_path, victim, 7)
    assert run(cut, tmp_path / "cut").status == "failed"
    outcome = run(cut, tmp_path / "cut")
    assert (outcome.status, outcome.message) == ("done", "")
    check_conservation(outcome.traces)
    server = outcome.traces[-1]
    applied = [arrival for arrival in server.arrivals if arrival.applied]
    assert [arrival.staleness for arrival in applied] == [k - arrival.version for k, arrival in enumerate(applied)]
    assert [update.number for update in server.updates] == [*range(1, 41)]
    (note,) = [note for note in outcome.notes if note.startswith("resumed")]
    update = int(note.removeprefix("resumed at update "))
    assert all(arrival.version >= update for arrival in applied[update:])
