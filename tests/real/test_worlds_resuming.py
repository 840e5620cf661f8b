"""Checkpoints of ranks that an engine starts: started again, by torchrun or by hand, the run goes on."""

from __future__ import annotations

import os
import platform
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from distsim import api
from distsim.results import store
from real.test_worlds import ROOT, WAIT, launched

pytestmark = pytest.mark.slow
SETTINGS = {
    "backend": "real",
    "backend.device": "cpu",
    "cluster.workers": 2,
    "workload.width": 32,
    "optimizer.momentum": 0.9,
    "budget.updates": 120,
    "checkpoint.every": 10,
    "evaluation.samples": 3200,
    "straggler": "exponential",  # 20 ms a step asleep: so a run is caught in its middle
    "straggler.scales_with_work": False,
    "straggler.work_seconds": "20ms",
}


def words(strategy: str, folder: Path) -> list[str]:
    return [f"{key}={value}" for key, value in {"strategy": strategy, "runs": folder, **SETTINGS}.items()]


def await_checkpoint(runs: Path, update: int, said: Callable[[], str]) -> None:
    until = time.monotonic() + WAIT
    while not list(runs.glob(f"*/checkpoints/*{update}/manifest.json")):
        assert time.monotonic() < until, said()
        time.sleep(0.01)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], store.Result]:
    """Runs that nobody stops, without an engine."""
    folder = str(tmp_path_factory.mktemp("whole"))
    return lambda strategy: api.run(runs=folder, strategy=strategy, **SETTINGS)  # stored after the first time


def goes_on_as(expected: store.Result, found: store.Result) -> None:
    """It was resumed, and ends as one that nobody stopped."""
    assert found.status == "done", found.summary["message"]
    (note,) = [note for note in found.summary["notes"] if note.startswith("resumed at update ")]
    assert int(note.removeprefix("resumed at update ")) >= 20
    curves = [[(point["update"], point["loss"]) for point in run.summary["curve"]] for run in (expected, found)]
    assert curves[0] == curves[1]
    assert [update.number for update in found.trace()[-1].updates] == [*range(1, 121)]
    assert not (found.folder / store.CHECKPOINTS).exists()


def a_rank(agent: int) -> int:
    """torchrun's processes are launchers, whose fork servers have the ranks as children."""
    (found, *_) = [rank for launcher in own(agent) for server in own(launcher) for rank in own(server)]
    return found


def rank_0s_launcher(agent: int) -> int:
    return next(pid for pid in own(agent) if is_rank_0s(pid))


def is_rank_0s(launcher: int) -> bool:
    return b"\0RANK=0\0" in Path(f"/proc/{launcher}/environ").read_bytes()


def own(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("victim", [a_rank, rank_0s_launcher])
def test_torchrun_starts_all_again_and_the_run_goes_on(
    victim: Callable[[int], int], whole: Callable[[str], store.Result], tmp_path: Path
) -> None:
    runs, environment = tmp_path / "runs", {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    torchrun = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1", "-m", "distsim", "run"]
    command = [sys.executable, "-m", *torchrun, *words("all_reduce", runs)]
    with (tmp_path / "said").open("w") as said:
        started = subprocess.Popen(command, env=environment, stdout=said, stderr=said)
    try:
        await_checkpoint(runs, 20, (tmp_path / "said").read_text)
        os.kill(victim(started.pid), signal.SIGKILL)
        assert started.wait(WAIT) == 0, (tmp_path / "said").read_text()
    finally:
        started.kill()
        started.wait()
    (found,) = store.scan(runs)
    goes_on_as(whole("all_reduce"), found)
    assert "started by torchrun" in " ".join(found.summary["notes"])


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def test_agents_that_count_restarts_differently(whole: Callable[[str], store.Result], tmp_path: Path) -> None:
    """Two hosts, which find each other by a rendezvous of torchrun's. Where the leading launcher dies, its agent counts a
    restart; the other agent sees that the first one waits for it, starts its launcher again, and counts none."""
    runs = tmp_path / "runs"
    rendezvous = ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}", "--rdzv-id=a-run"]
    torchrun = ["torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--max-restarts=1", *rendezvous]
    command = [sys.executable, "-m", *torchrun, "-m", "distsim", "run", *words("all_reduce", runs)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    with (tmp_path / "said").open("w") as file:
        agents = [subprocess.Popen(command, env=environment, stdout=file, stderr=file) for _ in range(2)]
    said = (tmp_path / "said").read_text
    try:
        await_checkpoint(runs, 20, said)
        leader = next(pid for agent in agents for pid in own(agent.pid) if is_rank_0s(pid))
        os.kill(leader, signal.SIGKILL)
        assert [agent.wait(WAIT) for agent in agents] == [0, 0], said()
    finally:
        for agent in agents:
            agent.kill()
            agent.wait()
    (found,) = store.scan(runs)
    goes_on_as(whole("all_reduce"), found)


def test_after_sigterm_to_all(whole: Callable[[str], store.Result], tmp_path: Path) -> None:
    """As Slurm does when it preempts a job: the same command goes on. The server asks other launchers' workers to save."""
    runs = tmp_path / "runs"
    with launched(tmp_path / "a", words("sync_ps", runs), prefixes=[()] * 3) as first:
        await_checkpoint(runs, 20, lambda: first.said(0))
        for process in first.processes:
            process.terminate()
        assert first.codes() == [143, 143, 143]
    (cut,) = store.scan(runs)
    assert cut.status == "interrupted"
    with launched(tmp_path / "b", words("sync_ps", runs), prefixes=[()] * 3) as second:
        assert second.codes() == [0, 0, 0], second.said(0)
    (found,) = store.scan(runs)
    assert found.folder == cut.folder
    goes_on_as(whole("sync_ps"), found)


def test_a_folder_that_a_host_does_not_share_is_one_line(tmp_path: Path) -> None:
    """Rank 1's launcher sees a disk of its own there."""
    runs = tmp_path / "runs"
    runs.mkdir()
    if subprocess.run(["unshare", "-m", "mount", "-t", "tmpfs", "none", runs], capture_output=True).returncode:
        pytest.skip("only root can mount")
    elsewhere = ["unshare", "-m", "sh", "-c", f'mount -t tmpfs none {runs} && exec "$@"', "sh"]
    with launched(tmp_path / "a", words("all_reduce", runs), prefixes=[(), elsewhere]) as both:
        assert both.codes() == [2, 2], both.said(0) + both.said(1)
    (line,) = both.said(0).splitlines()
    assert line.startswith("runs=")
    assert line.endswith(
        f": checkpoints need a folder that all hosts share, and rank 1 on {platform.node()} does not see this one; "
        "set runs= to a folder that they share"
    )
    assert list(runs.iterdir()) == []
