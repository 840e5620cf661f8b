"""Ctrl-C and SIGTERM: once, what is known is written and the exit code says so; twice, nothing is left at once."""

from __future__ import annotations

import _thread
import contextlib
import ctypes
import fcntl
import json
import multiprocessing
import multiprocessing.util
import os
import signal
import subprocess
import sys
import tempfile
import termios
import threading
import time
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import distsim
from distsim import execution, registry, signals
from distsim.backends.real.watching.board import _HEAD
from distsim.interface import Strategy, Worker
from distsim.results import store

ROOT = Path(__file__).parents[2]
SETTINGS = {"backend": "modeled", "cluster": "switch", "cluster.workers": 2}


@dataclass(frozen=True)
class Pressed(Strategy):
    """Somebody interrupts it in the body of update 3, as long as the file is there."""

    file: str

    async def run(self, worker: Worker[Any]) -> None:
        for step in worker.steps():
            await worker.all_reduce(worker.read())
            if step == 3 and Path(self.file).exists():
                raise KeyboardInterrupt


def test_an_interrupted_run_has_a_row_and_is_done_when_asked_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_OFFERED", {})  # its name is not to outlive the test
    for backend in ("modeled", "cosimulated"):
        (tmp_path / "file").touch()
        one = {**SETTINGS, "backend": backend, "budget.updates": 6}
        with pytest.raises(execution.Stopped) as stop:
            distsim.run(Pressed(str(tmp_path / "file")), **one)
        row = store.load(stop.value.result.folder)
        assert (row.status, row.summary["updates"]) == ("interrupted", 3)
        assert row.summary["message"] == "interrupted after 3 updates: run it again to have all of them"
        assert [len(trace.updates) for trace in row.trace()] == [3, 3]
        assert not row.is_finished
        (tmp_path / "file").unlink()
        again = distsim.run(Pressed(str(tmp_path / "file")), **one)
        assert (again.folder, again.status, again.summary["updates"]) == (row.folder, "done", 6)


def test_an_interrupt_is_neither_lost_by_an_error_nor_by_who_reads_no_more(monkeypatch):
    """As when the disk is full while a row is written, and when `tee` ends by the same Ctrl-C."""

    def gone(*_):
        raise BrokenPipeError

    monkeypatch.setattr(os, "write", gone)

    def told_then_failing():
        with signals.whole():
            os.kill(os.getpid(), signal.SIGTERM)
            raise OSError

    with signals.heeded():
        with pytest.raises(KeyboardInterrupt):
            told_then_failing()
        assert (signals.came(), signals.exit_code()) == (True, 143)


def test_an_interrupt_that_a_library_swallows_cuts_short_what_comes_next(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with signals.heeded():
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(execution.Stopped) as stop:
            distsim.run("all_reduce", **SETTINGS, **{"budget.updates": 6})
    assert stop.value.result.status == "interrupted"
    assert distsim.run("all_reduce", **SETTINGS, **{"budget.updates": 6}).status == "done"


def test_a_real_run_that_has_just_ended_is_stored(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    multiprocessing.util.get_temp_dir()  # which lasts longer than this test
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    kill = ForkServerProcess.kill

    def told(process):
        if not signals.came():
            os.kill(os.getpid(), signal.SIGTERM)
        kill(process)

    monkeypatch.setattr(ForkServerProcess, "kill", told)
    with signals.heeded(), pytest.raises(KeyboardInterrupt):
        distsim.run("all_reduce", **{"backend": "real", "cluster.workers": 2, "budget.updates": 3})
    (row,) = rows(tmp_path)
    assert (row["status"], row["updates"]) == ("done", 3)
    assert left_over(tmp_path) == []


def test_the_exit_code_is_that_of_the_signal_wherever_it_came():
    """C code that evaluates Python's, as torch's does while it is imported, leaves CPython to end by SIGINT."""
    program = """if True:
        import ctypes, sys
        from distsim import signals
        with signals.heeded():
            ctypes.pythonapi.PyRun_SimpleString(b"import os, signal; os.kill(os.getpid(), signal.SIGTERM)")
            try:
                signals.check()
            except KeyboardInterrupt:
                sys.exit(signals.exit_code())"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True).returncode == 143


@dataclass(frozen=True)
class Broken(Strategy):
    async def run(self, worker: Worker[Any]) -> None:
        raise ValueError


def test_no_rank_is_left_by_an_interrupt_that_another_thread_takes(tmp_path, monkeypatch):
    """As a notebook's do: what this thread blocks does not keep Python from calling its handlers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_OFFERED", {})
    kill = ForkServerProcess.kill
    killed = []

    def pressed(process):
        if not killed:
            _thread.interrupt_main()
        time.sleep(0)
        kill(process)
        killed.append(process)

    monkeypatch.setattr(ForkServerProcess, "kill", pressed)
    with pytest.raises(KeyboardInterrupt):
        distsim.run(Broken(), **{"backend": "real", "cluster.workers": 2, "budget.updates": 3})
    assert len(killed) == 2
    assert multiprocessing.active_children() == []


def test_what_another_thread_does_as_a_whole_does_not_keep_this_one(monkeypatch):
    """As `distsim bench overhead` launches its ranks."""
    monkeypatch.setattr(signals, "time", SimpleNamespace(sleep=lambda seconds: None))
    begun, over = threading.Event(), threading.Event()

    def launches():
        signals.hold()
        with signals.delayed():
            begun.set()
            over.wait(60.0)

    with signals.heeded():
        thread = threading.Thread(target=launches)
        thread.start()
        begun.wait(60.0)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        over.set()
        thread.join()


def test_two_that_another_thread_takes_are_once(monkeypatch):
    """CPython calls their handler later, and complains if it is gone by then."""
    libc = ctypes.CDLL(None)
    libc.signal.restype, libc.signal.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)
    complaints = []
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)
    with signals.heeded():
        taken = libc.signal(signal.SIGTERM, None)  # what the system calls in whatever thread it chooses
        libc.signal(signal.SIGTERM, taken)
        again = SimpleNamespace(sleep=lambda seconds: ctypes.CFUNCTYPE(None, ctypes.c_int)(taken)(signal.SIGTERM))
        monkeypatch.setattr(signals, "time", again)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    assert complaints == []


def test_one_of_each_at_a_time_is_the_first(monkeypatch):
    """As a terminal's Ctrl-C and torchrun's SIGTERM."""
    sent = [signal.SIGTERM]
    monkeypatch.setattr(signals, "time", SimpleNamespace(sleep=lambda seconds: sent and os.kill(os.getpid(), sent.pop())))
    with signals.heeded():
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == [signal.SIG_DFL] * 2
    assert signals.exit_code() == 130


def test_a_process_that_others_fork_ends_by_sigterm():
    with signals.heeded():
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,), daemon=True)
        child.start()
        time.sleep(0.2)
        child.terminate()
        child.join(30)
    assert child.exitcode == -signal.SIGTERM


def test_two_at_a_time_are_once(monkeypatch):
    """As `timeout` sends them."""
    monkeypatch.setattr(signals, "time", SimpleNamespace(sleep=lambda seconds: os.kill(os.getpid(), signal.SIGTERM)))
    with signals.heeded():
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL  # once more kills
    assert signals.exit_code() == 143


class Command:
    """`distsim` on a terminal of its own, as the only thing that runs there."""

    def __init__(self, folder: Path, *words: str) -> None:
        self._ours, theirs = os.openpty()
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "distsim.cli", "run", *words],
            cwd=folder,
            env=environment,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(theirs)
        self.said = b""

    def press_ctrl_c(self) -> None:
        """The terminal sends SIGINT to all that runs in its foreground."""
        os.write(self._ours, b"\x03")

    def end(self) -> int:
        """Wait for its end, and for that of all its processes; its exit status, negative for a signal."""
        with contextlib.suppress(OSError):  # Linux's way to say that nobody has the terminal open any more
            while more := os.read(self._ours, 65536):
                self.said += more
        code = self.process.wait(60.0)
        until(lambda: not self.living(), 10.0)
        os.close(self._ours)
        return code

    def living(self) -> list[int]:
        """Its session's processes, zombies aside."""
        found = []
        for path in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = path.read_text().rpartition(")")[2].split()
                if int(fields[3]) == self.process.pid and fields[0] != "Z":
                    found.append(int(path.parent.name))
        return found


def until(holds, seconds=120.0):
    limit = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < limit
        time.sleep(0.02)


def under_way(folder):
    """Rank 0 of a real run has counted an update."""
    boards = list(folder.glob("distsim-*/board"))
    return any(board.stat().st_size and _HEAD.unpack(board.read_bytes()[: _HEAD.size])[5] > 0 for board in boards)


def rows(folder):
    return [json.loads(path.read_text()) for path in sorted(folder.glob("runs/*/summary.json"))]


def left_over(folder):
    """Files that nobody should ever see: temporary ones, records of ranks, private folders."""
    names = ("distsim-*", "runs/**/.*.json.*", "runs/**/*.tmp", "runs/**/*.results", "runs/**/*.partial")
    return [path for name in names for path in folder.glob(name)]


LONG = ("strategy=all_reduce", "cluster.workers=2", "budget.seconds=100000")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("backend", ["real", "modeled", "cosimulated"])
def test_one_run_is_cut_short(backend, number, tmp_path):
    command = Command(tmp_path, *LONG, f"backend={backend}")
    started = (lambda: under_way(tmp_path)) if backend == "real" else lambda: list(tmp_path.glob("runs/*/config.json"))
    until(started)
    if number == signal.SIGINT:
        command.press_ctrl_c()
    else:
        command.process.terminate()
    assert command.end() == 128 + number
    (row,) = rows(tmp_path)
    assert row["status"] == "interrupted"
    assert row["updates"] > 0 or backend != "real"
    assert f"interrupted after {row['updates']} updates" in command.said.decode()
    assert left_over(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("is_early", [False, True])
def test_sigterm_to_all_its_processes_is_the_launchers(is_early, tmp_path):
    """As `timeout`, systemd and srun send it: to the group, ranks and all that serve them included."""
    command = Command(tmp_path, *LONG, "backend=real")
    until((lambda: list(tmp_path.glob("distsim-*/board"))) if is_early else (lambda: under_way(tmp_path)))
    os.killpg(command.process.pid, signal.SIGTERM)
    assert command.end() == 143  # and no process is left
    (row,) = rows(tmp_path)
    assert row["status"] == "interrupted"
    assert row["updates"] > 0 or is_early
    assert f"interrupted after {row['updates']} updates" in command.said.decode()
    assert left_over(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["real", "modeled"])
def test_twice_is_at_once(backend, tmp_path):
    command = Command(tmp_path, *LONG, f"backend={backend}")
    until((lambda: under_way(tmp_path)) if backend == "real" else lambda: list(tmp_path.glob("runs/*/config.json")))
    command.press_ctrl_c()
    time.sleep(0.01)
    command.press_ctrl_c()
    assert command.end() in (-signal.SIGINT, 130)  # the first may have been enough by then
    assert all(row["status"] == "interrupted" for row in rows(tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("backend", ["real", "modeled"])
def test_a_sweep_keeps_what_is_finished_and_goes_on(backend, number, tmp_path):
    words = ("-m", "strategy=all_reduce", f"backend={backend}", "cluster.workers=2", "repeat=0,1,2")
    quick = ("budget.updates=3",)
    first = Command(tmp_path, *words[1:-1], "repeat=0", *quick)
    assert first.end() == 0
    long = Command(tmp_path, *words[:-1], "repeat=0,1", "budget.seconds=100000,0.01", "--jobs", "2")
    until(lambda: len(list(tmp_path.glob("runs/*/config.json"))) >= 2 and (backend == "modeled" or under_way(tmp_path)))
    if number == signal.SIGINT:
        long.press_ctrl_c()
    else:
        long.process.terminate()
    assert long.end() == 128 + number
    found = [row["status"] for row in rows(tmp_path)]
    assert found.count("done") >= 1
    assert "interrupted" in found
    assert "runs finished in runs" in long.said.decode()
    assert left_over(tmp_path) == []
    again = Command(tmp_path, *words, *quick)
    assert again.end() == 0
    assert "1 of them stored before" in again.said.decode()
