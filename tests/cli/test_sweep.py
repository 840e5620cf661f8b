"""Sweeps in a pool: the same rows however many run at once and in whatever order, and what a run does to the others."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import hydra
import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from pandas.testing import assert_frame_equal

import distsim
from distsim import api, composition, execution, grammar, jobs
from distsim.cli import main
from distsim.configuration import checks
from distsim.execution import Prepared
from distsim.results import store

ROOFLINE = ["cluster=switch", "cluster.device=roofline", "cluster.flops=50Gflop/s", "cluster.memory_bandwidth=10GB/s"]
TINY = [*ROOFLINE, "workload.width=16", "workload.depth=4"]
GRID = {"cluster": "switch", "workload.width": 16, "workload.depth": 4, "budget.updates": 2}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stored(runs: Path) -> dict[str, tuple[str, bytes, bytes]]:
    """Of every run: its trace's hash, its records and its metrics."""
    return {
        run.id: (
            run.summary["trace_hash"],
            (run.folder / "trace.jsonl.gz").read_bytes(),
            (run.folder / "metrics.json").read_bytes(),
        )
        for run in store.scan(runs)
    }


def test_neither_the_jobs_nor_the_order_change_a_row(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*TINY, "straggler=exponential", "budget.updates=3", "evaluation.samples=64"]
    axes = (["all_reduce", "async_ps"], ["modeled", "cosimulated"], ["0", "1", "2"])
    for runs, at_once, way in (("one", 1, 1), ("two", 2, 1), ("backwards", 2, -1), ("backwards_alone", 1, -1)):
        swept = [
            f"{key}={','.join(axis[::way])}" for key, axis in zip(("strategy", "backend", "repeat"), axes, strict=True)
        ]
        assert main(["run", "-m", "--jobs", str(at_once), *swept, *words, f"runs={runs}"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines[:-1]] == [f"[{i}/12]" for i in range(1, 13)]
        assert lines[-1] == f"12 of 12 runs done in {runs}"
    first = stored(here / "one")
    assert len(first) == 12
    assert len({trace_hash for trace_hash, _, _ in first.values()}) > 6  # they do differ from each other
    for other in ("two", "backwards", "backwards_alone"):
        assert stored(here / other) == first


def test_python_sweeps_at_once_too(here: Path) -> None:
    grid = {"strategy": ["async_ps", "sync_ps"], "repeat": [1, 0], **GRID}
    tables = distsim.sweep(grid), distsim.sweep(grid, jobs=2, runs="together")
    assert_frame_equal(*(table.drop(columns="wall_seconds") for table in tables))
    assert list(tables[0]["repeat"]) == [1, 0, 1, 0]


@pytest.fixture
def composed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What Hydra is asked to compose."""
    asked: list[Any] = []
    compose = hydra.compose
    monkeypatch.setattr(hydra, "compose", lambda *words, **names: asked.append(words) or compose(*words, **names))
    composition._compose_groups.cache_clear()
    return asked


def test_groups_are_composed_once_for_each_choice(here: Path, composed: list[Any]) -> None:
    swept = ["strategy=all_reduce,sync_ps", "optimizer=sgd,adamw", "repeat=range(0,50)"]
    assert main(["run", "-m", "--jobs=1", *swept, *TINY, "budget.updates=1"]) == 0
    assert len(composed) == 4
    assert len(store.scan(here / "runs")) == 200


def test_many_combinations_are_put_together(composed: list[Any]) -> None:
    names = {
        "strategy": ["all_reduce", "ssp", "easgd"],
        "optimizer": ["sgd", "adamw"],
        "straggler": ["none", "pareto+one_slow"],
    }
    runs = grammar.expand_grid({**names, "seed": [0, 1]})
    made = composition.put_together(runs)
    assert len(made) == 12
    assert len(composed) == 1 + 7
    for chosen, values in made.items():
        assert values == composition._compose_groups(chosen)
    assert composition.put_together(grammar.expand_grid({**names, "strategy": ["no_such", "ssp", "easgd"]})) == {}


def test_a_file_that_reaches_beyond_its_group_is_composed_with_the_others(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(composition.conf(), here / "conf")
    text = "# @package _global_\nstraggler: {name: one_slow, slow: {0: 3.0}}\ncluster: {workers: 3}\n"
    (here / "conf" / "straggler" / "one_slow.yaml").write_text(text)
    monkeypatch.setattr(composition, "conf", lambda: here / "conf")
    composition._compose_groups.cache_clear()
    names = {"strategy": ["all_reduce", "ssp", "easgd"], "straggler": ["none", "one_slow", "pareto"]}
    runs = grammar.expand_grid(names)
    assert composition.put_together(runs) == {}
    prepared = api.prepare_all([*run, *GRID.items()] for run in runs)
    assert [each.config["cluster"]["workers"] for each in prepared] == [4, 3, 4] * 3
    composition._compose_groups.cache_clear()


EXPANDED = [
    ["strategy=glob(*_ps)", "seed=range(0,3)"],
    ["straggler.slow={0: 2.0},{1: 3.0, 2: 1e1}", "label='x y','',z", "budget.updates=1e3,7"],
    ["cluster.latency=5us,1ms", "evaluation.samples=0", "optimizer.learning_rate=range(0.1,0.5,0.1)", "runs=a/b"],
    ["optimizer.nesterov=true,false", "budget.samples=null,auto", "cluster.profile='a,b'"],
    ["repeat=sort(3,1,2)", "seed=choice(5,4)"],
]


@pytest.mark.parametrize("overrides", EXPANDED)
def test_a_grid_is_what_hydra_makes_of_it(overrides: list[str]) -> None:
    strategies = ",".join(name for name in composition.choices("strategy") if name.endswith("_ps"))
    plain = [override.replace("glob(*_ps)", strategies) for override in overrides]
    parsed, problems = grammar._parsed(plain)
    assert problems == []
    runs = BasicSweeper.split_arguments(parsed, None)[0]
    assert grammar.expand(overrides) == [grammar.parse(run)[0] for run in runs]


def test_a_launcher_of_hydras_stores_the_same(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [*TINY, "budget.updates=2", "straggler=lognormal+one_slow", "straggler.slow={1: 3.0}", "label='a b'"]
    assert main(["run", "-m", "repeat=0,1", *words]) == 0
    first = stored(here / "runs")
    assert main(["run", "-m", "repeat=0,1", "hydra/launcher=basic", *words, "runs=by_hydra"]) == 0
    assert stored(here / "by_hydra") == first
    capsys.readouterr()
    assert main(["run", "-m", "repeat=0,1,2", "hydra/launcher=basic", *words, "runs=by_hydra"]) == 0
    output = capsys.readouterr()
    assert output.err == "3 runs, 2 of them stored before\n"
    assert [line.endswith("(stored before)") for line in output.out.splitlines()] == [True, True, False, False]


# ---- what goes wrong


def is_second(prepared: Prepared) -> bool:
    return prepared.config["repeat"] == 1


def dies(prepared: Prepared, *rest: Any, backend: Callable[..., Any]) -> Any:
    if is_second(prepared):
        os.kill(os.getpid(), signal.SIGKILL)
    return backend(prepared, *rest)


def test_a_process_that_dies_costs_its_own_run(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    backend = execution._backend
    monkeypatch.setattr(execution, "_backend", partial(dies, backend=backend))
    assert main(["run", "-m", "--jobs=2", "repeat=range(0,6)", *TINY, "budget.updates=2"]) == 3
    assert capsys.readouterr().out.splitlines()[-1] == "5 of 6 runs done in runs"
    rows = {row.config["repeat"]: row for row in store.scan(here / "runs")}
    assert [rows[repeat].status for repeat in range(6)] == ["done", "failed", "done", "done", "done", "done"]
    assert rows[1].summary["message"] == "the process that ran it ended with signal 9"
    monkeypatch.setattr(execution, "_backend", backend)
    assert main(["run", "-m", "--jobs=2", "repeat=range(0,6)", *TINY, "budget.updates=2"]) == 0
    assert capsys.readouterr().err == "6 runs, 5 of them stored before\n"


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_run_whose_row_cannot_be_made_is_a_failed_row(
    at_once: int, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    summarize = execution.summarize

    def torn(job: Any, outcome: Any, curve: Any) -> Any:
        if job.seed == second and outcome.status == "done":
            raise ZeroDivisionError("no updates")
        return summarize(job, outcome, curve)

    second = api.prepare([*GRID.items(), ("repeat", 1)]).job.seed
    monkeypatch.setattr(execution, "summarize", torn)
    assert main(["run", "-m", f"--jobs={at_once}", "repeat=range(0,3)", *TINY, "budget.updates=2"]) == 3
    rows = {row.config["repeat"]: row for row in store.scan(here / "runs")}
    assert [rows[repeat].status for repeat in range(3)] == ["done", "failed", "done"]
    assert rows[1].summary["message"] == "ZeroDivisionError: no updates"
    assert f"{rows[1].id} failed: ZeroDivisionError: no updates\n" in capsys.readouterr().err


@pytest.mark.parametrize("at_once", [1, 2])
def test_a_run_that_cannot_be_stored_is_said(
    at_once: int, here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    claim = store.claim

    def full(runs: Path, run: str, config: Any) -> Any:
        if config["repeat"] == 1:
            raise OSError(28, "No space left on device")
        return claim(runs, run, config)

    monkeypatch.setattr(store, "claim", full)
    assert main(["run", "-m", f"--jobs={at_once}", "repeat=range(0,3)", *TINY, "budget.updates=2"]) == 3
    output = capsys.readouterr()
    assert output.out.splitlines()[-1] == "2 of 3 runs done in runs; 1 left no row"
    what = "the disk is full: make room, then give the same command again; what is finished is kept"
    assert re.search(rf"\[\d/3\] all_reduce-modeled-\w+: {what}\n", output.err)
    with pytest.raises(distsim.interface.errors.DistsimError, match="1 of 3 runs left no row"):
        distsim.sweep({"repeat": [0, 1, 2], **GRID}, jobs=at_once)


@pytest.mark.slow
def test_a_disk_that_fills_up(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A sweep on 400 KB: what fits is finished, and stays; what does not is said; with room, the same command goes on."""
    (here / "runs").mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400k", "none", here / "runs"], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("needs to mount a file system")
    try:
        command = ["run", "-m", "--jobs=1", "repeat=range(0,40)", *TINY, "budget.updates=2"]
        assert main(command) == 3
        said = capsys.readouterr()
        done = int(re.match(r"(\d+) of 40 runs done in runs", said.out.splitlines()[-1])[1])  # type: ignore[index]
        assert 0 < done < 40
        assert "the disk is full" in said.err
        assert [row.status for row in store.scan(here / "runs") if row.is_finished] == ["done"] * done
        assert list(here.glob("runs/*/.*.json.*")) == []
        subprocess.run(["mount", "-o", "remount,size=40m", here / "runs"], check=True)
        assert main(command) == 0
        assert f"{done} of them stored before" in capsys.readouterr().err
    finally:
        subprocess.run(["umount", "-l", here / "runs"], check=True)


# ---- where runs run


def places(prepared: list[Prepared], at_once: int, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """The backend of each run in the order of their ends, and whether it was in this process."""
    monkeypatch.setattr(jobs, "attempt", lambda each, run=None: f"{each.resolved.backend} {os.getpid()}")
    said: list[str] = []
    jobs.run_all(prepared, at_once, lambda number, row: said.append(str(row)))
    return [(text.split()[0], text.split()[1] == str(os.getpid())) for text in said]


def test_real_runs_wait_until_the_pool_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = {**GRID, "cluster": "local4", "cluster.workers": 2, "backend": ["real", "modeled"], "repeat": [0, 1]}
    prepared = api.prepare_all(grammar.expand_grid(grid))
    modeled, real = ("modeled", False), ("real", True)
    assert places(prepared, 2, monkeypatch) == [modeled, modeled, real, real]
    assert places(prepared, 1, monkeypatch) == [real, real, ("modeled", True), ("modeled", True)]


def test_no_more_at_once_than_fit_into_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = api.prepare_all(grammar.expand_grid({**GRID, "cluster.workers": 8, "repeat": [0, 1, 2]}))
    a_run = 8 * checks.RANK_BYTES["modeled"]
    monkeypatch.setattr(checks, "memory", lambda: int(1.9 * a_run))
    assert places(prepared, 3, monkeypatch) == [("modeled", True)] * 3
    monkeypatch.setattr(checks, "memory", lambda: int(2.1 * a_run))
    assert places(prepared, 3, monkeypatch) == [("modeled", False)] * 3


def test_a_pool_that_does_not_start_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = api.prepare_all(grammar.expand_grid({**GRID, "repeat": [0, 1]}))
    monkeypatch.setattr(jobs, "_serve", lambda *words: os._exit(1))
    with pytest.raises(distsim.interface.errors.DistsimError, match="with jobs=1 they run in this one"):
        jobs.run_all(prepared, 2, lambda number, row: None)
