"""`distsim run` and `distsim run -m`: what is printed, stored, resumed, and the exit codes."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import distsim
from distsim import composition
from distsim.cli import main
from distsim.results import store

ROOFLINE = ["cluster=switch", "cluster.device=roofline", "cluster.flops=50Gflop/s", "cluster.memory_bandwidth=10GB/s"]
TINY = [*ROOFLINE, "workload.width=16", "workload.depth=4"]
SMALL = [*TINY, "budget.updates=4"]
DIVERGES = "optimizer.learning_rate=1e30"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@contextmanager
def small_file_system(at: Path) -> Iterator[Path]:
    """64 KB of room there."""
    at.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", at]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("needs to mount a file system")
    try:
        yield at
    finally:
        subprocess.run(["umount", "-l", at], check=True)


def run_folders(here: Path) -> list[str]:
    return sorted(path.name for path in (here / "runs").iterdir() if not path.name.startswith("."))


def test_a_run_is_stored_and_not_done_again(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "strategy=async_ps", *SMALL]) == 0
    first = capsys.readouterr().out.splitlines()
    (name,) = run_folders(here)
    assert first[0].startswith("done: 4 updates in ")
    assert first[0].endswith(" s modeled")
    assert first[1] == f"runs/{name}"
    written = (here / "runs" / name / "summary.json").stat().st_mtime_ns
    assert main(["run", "strategy=async_ps", *SMALL]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{first[0]} (stored before)", first[1]]
    assert (here / "runs" / name / "summary.json").stat().st_mtime_ns == written
    assert sorted(path.name for path in here.iterdir()) == ["runs"]  # Hydra left nothing


def test_the_summary_has_what_reports_read(here: Path) -> None:
    assert main(["run", "strategy=async_ps", *SMALL, "straggler=one_slow"]) == 0
    result = distsim.load(here / "runs" / run_folders(here)[0])
    row = result.summary
    assert (row["status"], row["workers"], row["servers"], row["world_size"]) == ("done", 4, 1, 5)
    assert (row["updates"], row["samples"]) == (4, 64)
    assert row["seconds_per_update"] == row["seconds"] / 4
    assert row["samples_per_second"] == 64 / row["seconds"]
    assert sum(row["breakdown"].values()) == pytest.approx(1.0)
    assert sum(row["staleness"]["histogram"].values()) == 4
    assert row["curve"] == []
    assert [number for number, _, _ in result.metrics()["updates"]] == [1, 2, 3, 4]
    assert [trace.rank for trace in result.trace()] == [0, 1, 2, 3, 4]


def test_a_cosimulated_run_is_evaluated_from_the_initial_model_on(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "backend=cosimulated", *SMALL, "evaluation.samples=128"]) == 0
    assert "accuracy" in capsys.readouterr().out
    curve = distsim.load(here / "runs" / run_folders(here)[0]).summary["curve"]
    assert [(point["update"], point["samples"]) for point in curve] == [(0, 0), (2, 128), (4, 256)]
    assert curve[0]["seconds"] == 0.0
    assert curve[2]["loss"] < curve[0]["loss"]


def test_a_real_run_leaves_a_log_a_rank(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "strategy=sync_ps", "backend=real", "cluster.workers=2", "workload.width=16", "budget.updates=4"]
    assert main(words) == 0
    assert " s measured, validation loss " in capsys.readouterr().out
    result = store.scan(here / "runs")[0]
    assert sorted(path.name for path in (result.folder / "logs").iterdir()) == ["rank0.log", "rank1.log", "rank2.log"]
    assert [point["update"] for point in result.summary["curve"]] == [0, 4]
    assert len(result.trace()) == 3


def test_a_rank_that_finds_no_room_for_its_results_or_its_log_says_so(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with small_file_system(here / "runs"):
        assert main(["run", "backend=real", "cluster.workers=2", "budget.updates=2"]) == 1
        said = r"failed: rank \d failed in its phase 'end': the disk is full.*: make room, then give .*"
        assert re.match(said, capsys.readouterr().out.splitlines()[0])


def test_a_real_run_whose_temporary_folder_is_full_says_so(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before any rank starts: what ranks and their launcher share would kill them where it finds no room."""
    with small_file_system(here / "tmp") as small:
        monkeypatch.setattr(tempfile, "tempdir", str(small))
        assert main(["run", "backend=real", "cluster.workers=4", "workload.width=16", "budget.updates=4"]) == 1
        said = rf"failed: the disk is full \({small}/distsim-\w+/board\): make room, then give .*"
        assert re.fullmatch(said, capsys.readouterr().out.splitlines()[0])
        assert list((here / "runs").glob("*/logs/rank*")) == []


def test_a_run_that_goes_wrong_is_a_row_and_exit_1(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "backend=cosimulated", *SMALL, DIVERGES]) == 1
    assert capsys.readouterr().out.startswith("diverged: ")
    assert [result.status for result in store.scan(here / "runs")] == ["diverged"]


def test_what_a_real_rank_raised_is_one_line_and_its_traceback(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["backend=real", "cluster.workers=1", "optimizer.learning_rate=1e30", "budget.updates=9"]
    assert main(["run", *words]) == 1
    said = capsys.readouterr()
    line, folder = said.out.splitlines()
    assert line.startswith("diverged: rank 0 failed while it computed")
    assert line.endswith("the training loss is nan; try a learning rate below 1e+30")
    assert "Traceback" in said.err
    assert main(["run", "-m", *words]) == 3
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    assert "Traceback" in str(store.load(folder).summary["message"])


def test_a_warning_is_said_and_noted(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *SMALL, "straggler.slow={1: 0.5}"]) == 0
    warning = "straggler.slow.1=0.5: a factor under 1 makes worker 1 faster"
    assert capsys.readouterr().err == f"warning: {warning}\n"
    assert store.scan(here / "runs")[0].summary["notes"][0] == warning


def test_a_sweep_runs_the_grid_and_resumes(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "-m", "strategy=all_reduce,glob(*_ps)", "repeat=range(0,2)", *SMALL]
    assert main([word.replace("all_reduce,glob(*_ps)", "glob(*_ps)") for word in words]) == 0
    output = capsys.readouterr()
    assert output.err.startswith("4 runs\n")
    assert output.out.splitlines()[-1] == "4 of 4 runs done in runs"
    stored = {path: path.stat().st_mtime_ns for path in (here / "runs").glob("*/summary.json")}
    lost = sorted(stored)[0].parent
    shutil.rmtree(lost)
    assert main(["run", "-m", "strategy=glob(*_ps)", "repeat=0,1", *SMALL]) == 0
    assert capsys.readouterr().err.startswith("4 runs, 3 of them stored before\n")
    again = {path: path.stat().st_mtime_ns for path in (here / "runs").glob("*/summary.json")}
    assert again.keys() == stored.keys()
    assert {path.parent for path in again if again[path] != stored[path]} == {lost}
    assert sorted(path.name for path in here.iterdir()) == ["runs"]


def test_some_runs_of_a_sweep_fail(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "-m", "backend=cosimulated", f"{DIVERGES},0.03", "repeat=0,1", *SMALL]
    assert main(words) == 3
    output = capsys.readouterr()
    assert output.out.splitlines()[-1] == "2 of 4 runs done in runs"
    assert output.err.count(" diverged: ") == 2
    assert sorted(result.status for result in store.scan(here / "runs")) == ["diverged", "diverged", "done", "done"]


def test_python_and_the_command_line_are_one(here: Path) -> None:
    settings = {
        "cluster": "switch",
        "cluster.device": "roofline",
        "cluster.flops": "50Gflop/s",
        "cluster.memory_bandwidth": "10GB/s",
        "straggler": "one_slow",
        "straggler.slow": {2: 1.5},
        "budget.updates": 2,
    }
    result = distsim.run("sync_ps", **settings, label="a b")
    words = [
        "strategy=sync_ps", *ROOFLINE, "straggler=one_slow", "straggler.slow={2: 1.5}", "budget.updates=2", "label='a b'"
    ]  # fmt: skip
    summary = (result.folder / "summary.json").stat().st_mtime_ns
    assert main(["run", *words]) == 0
    assert main(["run", "-m", *words]) == 0
    assert run_folders(here) == [result.id]
    assert (result.folder / "summary.json").stat().st_mtime_ns == summary


def test_a_sweep_from_python_is_a_table(here: Path) -> None:
    grid = {
        "strategy": ["all_reduce", "sync_ps"],
        "repeat": range(2),
        **dict(word.split("=") for word in SMALL[1:]),
        "cluster": "switch",
    }
    table = distsim.sweep(grid)
    assert table[["strategy", "repeat", "status", "updates"]].to_dict("records") == [
        {"strategy": strategy, "repeat": repeat, "status": "done", "updates": 4}
        for strategy in ("all_reduce", "sync_ps")
        for repeat in (0, 1)
    ]
    with pytest.raises(distsim.BadInput) as error:
        distsim.sweep({**grid, "repeat": [], "seed": [1, 1]})
    assert [problem.key for problem in error.value.problems] == ["repeat", "seed"]


def test_hash_seeds_change_nothing(here: Path) -> None:
    words = [sys.executable, "-m", "distsim.cli", "run", "strategy=async_ps", "straggler=exponential", *SMALL]
    for seed, runs in (("1", "one"), ("2", "two")):
        subprocess.run(
            [*words, f"runs={runs}"], env={**os.environ, "PYTHONHASHSEED": seed}, check=True, capture_output=True
        )
    first, second = store.scan(here / "one") + store.scan(here / "two")
    assert first.id == second.id
    assert first.summary["trace_hash"] == second.summary["trace_hash"]
    assert (first.folder / "trace.jsonl.gz").read_bytes() == (second.folder / "trace.jsonl.gz").read_bytes()


def test_what_decides_the_name(here: Path) -> None:
    def name(*words: str) -> str:
        assert main(["run", *SMALL, *words]) == 0
        return max((here / "runs").glob("*/summary.json"), key=lambda path: path.stat().st_mtime_ns).parent.name

    one = name()
    assert len({one, name("seed=1"), name("repeat=1"), name("label=again"), name("optimizer.momentum=0.5")}) == 5
    assert one.startswith("all_reduce-modeled-")
    before = run_folders(here)
    assert main(["run", *SMALL, "cluster.bandwidth=1.25GB/s", "cluster.latency=0.000005"]) == 0  # 10Gbit/s, 5us: the same
    assert run_folders(here) == before


WAITING = '''
import time
from dataclasses import dataclass
from pathlib import Path
from distsim.strategies.all_reduce import AllReduce

@dataclass(frozen=True)
class Waiting(AllReduce):
    """Stands still, if it is asked to, until a file beside this one says go."""

    waits: bool = False

    async def run(self, worker):
        while self.waits and not Path(__file__).with_name("go").exists():
            time.sleep(0.01)
        await super().run(worker)
'''


@pytest.mark.parametrize("jobs", ["1", "2"])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_ended_sweep_goes_on_where_it_was(here: Path, how: signal.Signals, jobs: str) -> None:
    """Three of its runs end at once; the others wait, so that it is ended with some of them under way."""
    (here / "waiting.py").write_text(WAITING)
    (here / "waiting-1.0.dist-info").mkdir()
    (here / "waiting-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: waiting\nVersion: 1.0\n")
    (here / "waiting-1.0.dist-info" / "entry_points.txt").write_text("[distsim.strategies]\nwaiting = waiting:Waiting\n")
    words = ["run", "-m", "--jobs", jobs, "strategy=waiting", "strategy.waits=false,true", "repeat=range(0,3)", *SMALL]
    command = [sys.executable, "-m", "distsim.cli", *words]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(here), os.environ.get("PYTHONPATH")]))}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": env}
    # A background shell starts its programs deaf to SIGINT, and these would inherit it.
    with subprocess.Popen(command, **pipes, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("[1/6] ")
        process.send_signal(how)
        (here / "go").touch()
        said = process.communicate()[1]  # when the last process that could write there is gone
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert said.endswith("interrupted; what is finished is kept, and the same command goes on from there\n")
    before = finished(here / "runs")  # what was interrupted is done anew
    assert 1 <= len(before) < 6
    again = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert again.stderr.startswith(f"6 runs, {len(before)} of them stored before\n")
    after = finished(here / "runs")
    assert len(after) == 6
    assert after.items() >= before.items()


def finished(runs: Path) -> dict[str, int]:
    """When each finished run was stored."""
    return {row.id: (row.folder / "summary.json").stat().st_mtime_ns for row in store.scan(runs) if row.status == "done"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("name: all_reduce\n\tx: 1\n", "found character '\\t'"),
        ("name: all_reduce\nname: sync_ps\n", "found duplicate key name"),
    ],
)
def test_a_torn_file_of_conf_is_named(
    content: str, said: str, here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(composition.conf(), here / "conf")
    (here / "conf" / "strategy" / "all_reduce.yaml").write_text(content)
    monkeypatch.setattr(composition, "conf", lambda: here / "conf")
    composition._compose_groups.cache_clear()
    assert main(["run"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert "all_reduce.yaml" in line
    composition._compose_groups.cache_clear()
