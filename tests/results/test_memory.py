"""What a run needs of memory, and what becomes of one that needs more than there is. By hand, for the smallest perceptron.

Widths 64-16-16-16-10: (64+1)*16 + 2 * (16+1)*16 + (16+1)*10 = 1,754 scalars, 7,016 bytes. A batch of 16 samples keeps
64 + 16 scalars in the first block (its input and its ReLU's output) and 16 in each of the others: 128 * 16 * 4 = 8,192
bytes. From the second step on momentum is there when the forward pass ends: 7,016 + 7,016 + 8,192 = 22,224 bytes, the
peak (the gradients that come are smaller than the activations that go; after the backward pass 3 * 7,016 = 21,048).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from races import FAST, SLOW, race, run

import distsim
from distsim.cli import main
from distsim.interface import Cluster, Job, Memory, Outcome, Roofline, Switch, Trace, Update
from distsim.interface.budget import Budget
from distsim.numerics.sizes import SizesFactory
from distsim.report.page import write_report
from distsim.results.cases import cases
from distsim.results.explanation import sentence
from distsim.results.summary import summarize
from distsim.results.table import row
from distsim.results.verdict import verdicts
from distsim.strategies.all_reduce import AllReduce
from distsim.workloads.digits_mlp import DigitsMLP

GB = 1e9
SMALL: dict[str, Any] = {
    "cluster": "switch",
    "cluster.device": "roofline",
    "cluster.flops": "50Gflop/s",
    "cluster.memory_bandwidth": "10GB/s",
    "workload.width": 16,
    "workload.depth": 4,
    "optimizer.momentum": 0.9,
    "budget.updates": 3,
}
NEEDS = (
    "would not fit: rank 0 needs 22.2 kB, 2.22 kB more than the 20 kB of its device "
    "(parameters 7.02 kB, optimizer 7.02 kB, activations 8.19 kB); 3 more ranks do not fit"
)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def summary(*peaks: Memory, memory: float = float("inf"), status: str = "done") -> dict[str, Any]:
    """The row of ranks that held `peaks` on devices of `memory` bytes."""
    model = DigitsMLP().model()
    cluster = Cluster(len(peaks), 0, Roofline(1e9, 1e9), Switch(1e9, 0.0), memory=memory)
    job = Job(AllReduce(), model, cluster, Budget(updates=1), SizesFactory(model, len(peaks)))
    traces = [
        Trace(rank, updates=[Update(1, 64, 1.0)], ended=1.0, peak=peak, peak_activations=peak.activations + 1.0)
        for rank, peak in enumerate(peaks)
    ]
    return summarize(job, Outcome(status, "", 1.0, traces), [])


def test_the_row_names_the_rank_that_held_most_and_what_for() -> None:
    found = summary(Memory(1.0, 2.0, 3.0, 4.0), Memory(2.0, 2.0, 3.0, 4.0, 5.0), Memory(16.0))["memory"]
    assert found == {
        "rank": 1,
        "bytes": 16.0,
        "parameters": 2.0,
        "gradients": 2.0,
        "optimizer": 3.0,
        "activations": 4.0,
        "versions": 5.0,
        "peak_activations": 5.0,
        "by_rank": [10.0, 16.0, 16.0],
    }
    assert summary(Memory())["memory"] is None  # nobody weighed


def test_what_does_not_fit_says_by_how_much_and_has_no_time() -> None:
    large = Memory(16 * GB, 16 * GB, 32 * GB, 27.2 * GB)
    found = summary(large, Memory(16 * GB), memory=80 * GB)
    assert found["status"] == "out of memory"
    assert found["message"] == (
        "would not fit: rank 0 needs 91.2 GB, 11.2 GB more than the 80 GB of its device "
        "(parameters 16 GB, gradients 16 GB, optimizer 32 GB, activations 27.2 GB)"
    )
    assert found["seconds_per_update"] is None
    assert found["samples_per_second"] is None
    assert found["breakdown"] is None
    assert summary(large, memory=91.2 * GB)["status"] == "done"
    assert summary(large, memory=80 * GB, status="diverged")["status"] == "out of memory"
    assert summary(large, memory=80 * GB, status="failed")["status"] == "failed"


@pytest.mark.parametrize("backend", ["modeled", "cosimulated"])
def test_a_run_is_weighed(backend: str) -> None:
    result = distsim.run("all_reduce", backend=backend, **SMALL)
    memory = result.summary["memory"]
    assert result.status == "done"
    assert memory == {
        "rank": 0,
        "bytes": 22_224.0,
        "parameters": 7_016.0,
        "gradients": 0.0,
        "optimizer": 7_016.0,
        "activations": 8_192.0,
        "versions": 0.0,
        "peak_activations": 8_192.0,
        "by_rank": [22_224.0] * 4,
    }
    columns = row(result)
    assert (columns["memory_rank"], columns["memory_bytes"], columns["optimizer_bytes"]) == (0, 22_224.0, 7_016.0)


def test_a_run_that_does_not_fit_is_a_failed_run_and_a_row(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", *(f"{key}={value}" for key, value in SMALL.items()), "strategy=all_reduce", "cluster.memory=20kB"]
    assert main(words) == 1
    said, folder = capsys.readouterr().out.splitlines()
    assert said == f"out of memory: {NEEDS}"
    result = distsim.load(here / folder)
    assert row(result)["message"] == NEEDS
    assert row(result)["seconds_per_update"] is None
    assert main(words) == 1  # it is an answer, and not tried again
    assert capsys.readouterr().out.startswith(f"out of memory: {NEEDS} (stored before)\n")
    assert main([*words[:-1], "cluster.memory=22224B"]) == 0
    assert main(["run", "-m", *words[1:-1], "cluster.memory=20kB,30kB"]) == 3


def test_a_real_run_on_cpus_has_this_machines_memory() -> None:
    small = {key: value for key, value in SMALL.items() if not key.startswith("cluster")}
    result = distsim.run("all_reduce", backend="real", **{**small, "cluster.workers": 2, "cluster.memory": "1kB"})
    assert result.status == "done", result.summary["message"]
    assert result.summary["memory"]["bytes"] == 22_224.0


def unfit(repeats: int = 5) -> list[Any]:
    runs = [run("zero", i, None, status="out of memory") for i in range(repeats)]
    for each in runs:
        each.summary |= {"message": NEEDS, "samples_per_second": None}
    return runs


def test_what_does_not_fit_is_shown_and_not_ranked() -> None:
    (verdict,) = verdicts(cases([*race(FAST, SLOW), *unfit(1)]))
    assert sentence(verdict).startswith("Take async_ps: validation loss 0.25 in 1 s, 2.00 times as fast as sync_ps ")
    assert [standing.label for standing in verdict.standings] == ["async_ps", "sync_ps", "zero"]
    assert [standing.label for standing in verdict.ranked] == ["async_ps", "sync_ps"]
    assert [standing.label for standing in verdict.unfit] == ["zero"]
    alone = [run("ring", i, 1.0) for i in range(5)]
    assert sentence(verdicts(cases([*alone, *unfit()]))[0]).startswith(
        "No winner: only ring fits into the memory of its devices; zero would not; "
    )


def test_a_page_shows_it_as_an_answer(tmp_path: Path) -> None:
    settings = {**SMALL, "cluster.memory": "20kB"}
    runs = [distsim.run("all_reduce", **settings), distsim.run("one_f_one_b", **settings, **{"strategy.microbatches": 16})]
    assert [run.status for run in runs] == ["out of memory", "done"]  # a stage holds a part of the model
    said = write_report(runs, tmp_path / "page.html")
    assert said.startswith("No winner: only one_f_one_b fits into the memory of its devices; all_reduce would not; ")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Does not fit" in page
    assert page.count(NEEDS) >= 2
