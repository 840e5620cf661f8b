"""Files that a command is to write, or finds: what is wrong with them is one line each and exit code 2, before any work."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import distsim
from distsim.cli import main


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    return tmp_path


@pytest.fixture
def run(here: Path) -> distsim.Result:
    return distsim.run("all_reduce", backend="modeled", budget={"updates": 1}, evaluation={"samples": 0})


WRITES = ["report runs --output", "explain all_reduce --html", "calibrate --output"]
WRITES += ["bench fabric --json", "bench overhead --json"]


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "it is a folder"),
        ("runs", "it is a folder"),
        ("file/page", "Not a directory"),
        ("/proc/page", "No such file or directory"),
        ("x" * 300, "File name too long"),
    ],
)
@pytest.mark.parametrize("command", WRITES)
def test_what_cannot_be_written(
    command: str, name: str, why: str, run: distsim.Result, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command.split(), name]) == 2
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert line.startswith(f"{command.split()[-1]}=")
    in_a_file = name == "file/page" and command.startswith("bench")
    assert line.endswith(": a file in a folder that is there" if in_a_file else f": a file that can be written ({why})")
    assert said.out == ""


def test_a_report_names_everything_that_cannot_be_read(
    here: Path, run: distsim.Result, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, text in (("a", "{"), ("b", "[]"), ("c", '{"schema": 1}')):
        (here / "runs" / name).mkdir()
        (here / "runs" / name / "summary.json").write_text(text)
    assert main(["report", "runs", "nowhere"]) == 2
    first, second, third, fourth = capsys.readouterr().err.splitlines()
    remedy = "; remove that folder, and run it again"
    assert first.startswith("run='runs/a': its summary.json cannot be read (Expecting ")
    assert first.endswith(remedy)
    assert second.startswith("run='runs/b': has schema None, this version reads 1; ")
    assert third == f"run='runs/c': its summary.json cannot be read (no id, status, config in it){remedy}"
    assert fourth == "runs='nowhere': an existing folder of runs"
    assert not (here / "report.html").exists()


@pytest.mark.parametrize("how", ["torn", "gone", "a folder", "foreign"])
def test_a_torn_trace_is_named(how: str, here: Path, run: distsim.Result, capsys: pytest.CaptureFixture[str]) -> None:
    trace = run.folder / "trace.jsonl.gz"
    content = trace.read_bytes()
    trace.unlink()
    if how == "a folder":
        trace.mkdir()
    elif how != "gone":
        trace.write_bytes(content[: len(content) // 2] if how == "torn" else b"foreign")
    assert main(["report", "runs"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"run='{run.folder}': its trace.jsonl.gz cannot be read (")
    assert line.endswith("; remove that folder, and run it again")
    shutil.rmtree(run.folder)
    assert distsim.run("all_reduce", backend="modeled", budget={"updates": 1}, evaluation={"samples": 0}).trace()


def test_a_profile_with_a_name_too_long_is_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", f"cluster.profile={'x' * 300}", "budget.updates=1"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("cluster.profile=")
    assert "cannot be read (File name too long)" in line


def test_what_is_missing_is_named_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["explain"])
    assert capsys.readouterr().err.splitlines()[-1] == (
        "distsim explain: error: the following arguments are required: STRATEGY"
    )


def test_a_temporary_folder_whose_path_is_too_long_for_sockets_is_named(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    settings = ["backend=real", "strategy=all_reduce", "cluster.workers=2", "budget.updates=1"]
    command, env = [sys.executable, "-m", "distsim", "run", *settings], {**os.environ, "TMPDIR": str(folder)}
    done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True)
    said = done.stdout + done.stderr
    assert done.returncode == 1
    assert f"the path of {folder} is too long for the sockets of ranks: set TMPDIR to a shorter one" in said
    assert "Traceback" not in said
