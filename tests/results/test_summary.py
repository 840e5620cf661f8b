"""What a row says of a run whose model exploded, or that was not evaluated at its end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import distsim
from distsim.cli import main
from distsim.interface import Block, Budget, Cluster, Job, Model, Outcome, Roofline, Switch, Trace, Update
from distsim.numerics.sizes import SizesFactory
from distsim.results.store import Result
from distsim.results.summary import Curve, summarize
from distsim.strategies.all_reduce import AllReduce
from distsim.sweeping import outcome

ROOFLINE = ["cluster=switch", "cluster.device=roofline", "cluster.flops=50Gflop/s", "cluster.memory_bandwidth=10GB/s"]
SMALL = [*ROOFLINE, "backend=cosimulated", "workload.width=16", "workload.depth=4"]
MODEL = Model((Block(0, "linear(4,8)", 40, 8, 4, 64.0, 0.0, 64.0),), 4, 4)
JOB = Job(
    AllReduce(), MODEL, Cluster(2, 0, Roofline(1e9, 1e9), Switch(1e9, 1e-6)), Budget(updates=10), SizesFactory(MODEL, 2)
)


def ended(curve: Curve, status: str = "done", message: str = "") -> dict[str, Any]:
    """The row of two ranks after 10 updates of 8 samples, at 2 s."""
    traces = [Trace(rank, updates=[Update(10, 80, 2.0)], ended=2.0) for rank in (0, 1)]
    return summarize(JOB, Outcome(status, message, 2.0, traces), curve)


def point(update: int, loss: float | None) -> dict[str, float | None]:
    return {"update": update, "samples": 8 * update, "seconds": update / 5, "loss": loss, "accuracy": None}


def test_the_final_loss_is_that_of_the_last_update() -> None:
    assert ended([point(0, 2.3), point(10, 0.5)])["final_loss"] == 0.5
    assert ended([point(0, 2.3), point(9, 0.5)])["final_loss"] is None
    assert ended([])["final_loss"] is None


def test_a_loss_that_is_not_finite_at_the_end_is_a_divergence() -> None:
    row = ended([point(0, 2.3), point(5, 0.5), point(10, None)])
    assert (row["status"], row["message"]) == ("diverged", "validation loss is not finite at update 10")
    assert row["final_loss"] is None
    assert ended([point(0, 2.3), point(5, None), point(10, 0.5)])["status"] == "done"  # it came back
    assert ended([point(10, None)], "failed", "rank 1: gone")["message"] == "rank 1: gone"


def test_a_model_that_exploded_in_its_only_update_has_diverged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    explode = ["optimizer.learning_rate=1e30", "budget.updates=1", "evaluation.samples=64"]
    assert main(["run", *SMALL, *explode]) == 1
    assert capsys.readouterr().out.startswith("diverged: validation loss is not finite at update 1\n")
    (folder,) = (tmp_path / "runs").glob("all_reduce*")
    row = distsim.load(folder).summary
    assert [(p["update"], p["loss"] is None, p["accuracy"] is None) for p in row["curve"]] == [
        (0, False, False),
        (1, True, True),
    ]
    assert row["final_loss"] is None


def test_a_run_that_was_not_evaluated_at_its_end_says_when_it_was_last(tmp_path: Path) -> None:
    config = {"backend": {"name": "cosimulated"}}
    row = {"config": config, **ended([point(0, 2.3), point(9, 0.5), point(10, None)]), "status": "done"}
    assert outcome(Result(tmp_path, row)) == (
        "done: 10 updates in 2 s cosimulated; last evaluated at update 9: validation loss 0.5"
    )
