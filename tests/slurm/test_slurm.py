"""What a user of Slurm does: submit the emitted script, sweep by Hydra's submitit launcher."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from distsim import api
from distsim.results import store
from slurm.cluster import Slurm

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]
ROOT = Path(__file__).parent.parent.parent
FOUND = {
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin",
    "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}",
}


def distsim(*arguments: str) -> str:
    command = [sys.executable, "-m", "distsim", *arguments]
    return subprocess.run(command, env={**os.environ, **FOUND}, check=True, capture_output=True, text=True).stdout


def test_the_emitted_script_trains_on_two_nodes(slurm: Slurm) -> None:
    settings = ["strategy=sync_ps", "cluster.workers=3", "budget.updates=20"]
    script = slurm.folder / "job.sh"
    script.write_text(distsim("emit", "slurm", "--per-node", "2", *settings, "backend.interface=lo"))
    slurm.run("sbatch", "--wait", "--output=job.out", str(script), **FOUND)
    (run,) = store.scan(slurm.folder / "runs")
    assert (run.status, run.summary["updates"]) == ("done", 20)
    assert f"started by Slurm on {platform.node()}: rank 0, 1, 2, 3" in run.summary["notes"]
    assert [(trace.rank, len(trace.updates)) for trace in run.trace()] == [(0, 0), (1, 0), (2, 0), (3, 20)]
    assert (run.folder / "logs" / "rank3.log").exists()


def test_a_job_that_is_queued_again_goes_on(slurm: Slurm) -> None:
    """In the middle: 20 ms a step are slept."""
    slow = {"straggler": "exponential", "straggler.scales_with_work": False, "straggler.work_seconds": "20ms"}
    course = {"budget.updates": 150, "checkpoint.every": 10, "evaluation.samples": 3200, "cluster.workers": 2, **slow}
    settings = [f"{key}={value}" for key, value in {"strategy": "all_reduce", "runs": "again", **course}.items()]
    script = slurm.folder / "again.sh"
    script.write_text(distsim("emit", "slurm", "--per-node", "1", *settings, "backend.interface=lo"))
    job = slurm.run("sbatch", "--parsable", "--output=again.out", str(script), **FOUND).strip()
    checkpoint = "again/*/checkpoints/*20/manifest.json"
    slurm.until(lambda: bool(list(slurm.folder.glob(checkpoint))), "no checkpoint", 180.0)
    slurm.run("scontrol", "requeue", job)
    ended = re.compile("JobState=(COMPLETED|FAILED|CANCELLED|NODE_FAIL)")
    slurm.until(lambda: bool(ended.search(slurm.run("scontrol", "show", "job", job))), "it has not ended", 300.0)
    (run,) = store.scan(slurm.folder / "again")
    assert run.status == "done", (slurm.folder / "again.out").read_text()
    assert [note for note in run.summary["notes"] if note.startswith("resumed at update ")]
    whole = api.run(runs=str(slurm.folder / "whole"), strategy="all_reduce", backend="real", **course)
    curves = [[(point["update"], point["loss"]) for point in each.summary["curve"]] for each in (whole, run)]
    assert curves[0] == curves[1]
    assert "Restarts=1" in slurm.run("scontrol", "show", "job", job)


def test_tasks_that_are_not_the_ranks_are_refused_with_both_numbers(slurm: Slurm) -> None:
    command = ["srun", "-N2", "-n2", "python", "-m", "distsim", "run", "backend=real", "cluster.workers=3"]
    ended = subprocess.run(command, env=slurm.environment(**FOUND), cwd=slurm.folder, capture_output=True, text=True)
    assert ended.returncode == 2
    expected = (
        "SLURM_STEP_NUM_TASKS=2: the job has 3 ranks (cluster.workers and servers), Slurm started 2 processes; "
        "start 3 processes, or set cluster.workers to fit"
    )
    assert expected in ended.stderr


@pytest.mark.skipif(find_spec("submitit") is None, reason="needs hydra-submitit-launcher")
def test_submitit_runs_a_sweep_of_four_jobs(slurm: Slurm) -> None:
    grid = ["strategy=all_reduce,sync_ps", "repeat=0,1", "backend=real", "cluster.workers=2", "budget.updates=5"]
    launcher = ["hydra/launcher=submitit_slurm", "hydra.launcher.timeout_min=10", "runs=sweep"]
    command = [sys.executable, "-m", "distsim", "run", "-m", *grid, *launcher]
    ended = subprocess.run(command, env=slurm.environment(**FOUND), cwd=slurm.folder, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr + slurm.logs()
    rows = [
        (run.config["strategy"]["name"], run.config["repeat"], run.status) for run in store.scan(slurm.folder / "sweep")
    ]
    assert sorted(rows) == [(name, repeat, "done") for name in ("all_reduce", "sync_ps") for repeat in (0, 1)]
    jobs = slurm.run("scontrol", "show", "jobs", "--oneliner").splitlines()
    assert len([job for job in jobs if "ArrayTaskId=" in job and "ExitCode=0:0" in job]) == 4
