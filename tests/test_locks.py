"""File systems without locks, as clusters share them: all goes on, and says so once."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from distsim import locks
from distsim.backends.real.saving import lease
from distsim.interface import DistsimError
from distsim.results import store

ROOT = Path(__file__).parent.parent
WITHOUT = f"""
import fcntl, os

def flock(*arguments):
    raise OSError({errno.ENOSYS}, os.strerror({errno.ENOSYS}))

fcntl.flock = flock
"""
"""For every process of a command, ranks included."""


@pytest.fixture(params=[errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def without(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """There are none; the words for it."""
    code: int = request.param

    def flock(*arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    return os.strerror(code)


def test_runs_are_stored_and_one_line_says_that_nothing_keeps_two_commands_apart(
    without: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a-run", "another"):
        with store.claim(tmp_path, name, {}) as draft:
            assert isinstance(draft, store.Draft)
            draft.commit({"config": {}, "status": "done"}, {}, [])
    assert [result.id for result in store.scan(tmp_path)] == ["a-run", "another"]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"the file system of {tmp_path / '.locks'} has no locks ({without}): all goes on without")


def test_who_saves_after_another_launch_has_begun_is_told_by_its_word(without: str, tmp_path: Path) -> None:
    with lease.leased(tmp_path) as word:
        lease.join(tmp_path, word).close()
        lease.check(tmp_path, word)
        with lease.leased(tmp_path) as newer:
            lease.check(tmp_path, newer)
            for call in (lease.join, lease.check):
                with pytest.raises(DistsimError, match="another launch has begun in"):
                    call(tmp_path, word)


def test_any_other_error_is_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def flock(*arguments: object) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(fcntl, "flock", flock)
    with (tmp_path / "file").open("w") as file, pytest.raises(OSError, match="broken"):
        locks.take(file, locks.ALONE)


@pytest.mark.slow
def test_a_real_run_trains_and_saves_without_locks(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WITHOUT)
    words = ["strategy=all_reduce", "backend=real", "cluster.workers=2", "budget.updates=8", "checkpoint.every=2"]
    command = [sys.executable, "-m", "distsim", "run", *words, f"runs={tmp_path / 'runs'}"]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}", "TMPDIR": str(tmp_path)}
    said = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert "Traceback" not in said.stderr
    assert said.stderr.count("has no locks") == 3  # of the run, of its checkpoints, of the temporary folder
    (row,) = store.scan(tmp_path / "runs")
    assert row.summary["losses"]["checkpoints"] == 3
    assert not (row.folder / store.CHECKPOINTS).exists()
