"""What a launch guarantees: loopback only, a log a rank, one clock, notes, options checked first."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
import torch
from contract.kit import REAL, Bench

from distsim.backends.real import RealOptions, launch, process, starting
from distsim.backends.real.options import cores, problems
from distsim.backends.real.watching.watch import Watch, process_state
from distsim.interface import BadInput, Batch, Budget, Interrupted
from distsim.strategies.all_reduce import AllReduce
from real.faults import Endless, job, run


@pytest.fixture
def bench(tmp_path):
    return Bench(REAL, tmp_path)


async def listening(worker, note):
    await worker.within([1, 0]).all_reduce(worker.read())
    mine = {str(link.readlink()) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()}
    for family, table in ((socket.AF_INET, "tcp"), (socket.AF_INET6, "tcp6")):
        for line in Path(f"/proc/self/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in mine:
                raw = bytes.fromhex(fields[1].split(":")[0])
                words = b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4))
                note("address", socket.inet_ntop(family, words))


def test_nothing_listens_beyond_loopback(bench):
    ran = bench.run(listening)
    for addresses in ran.all("address"):
        assert addresses  # gloo does listen
        assert set(addresses) <= {"127.0.0.1", "::1"}


def enter_without_a_folder(order, reports):
    shutil.rmtree(order.folder, ignore_errors=True)  # both do
    process.enter(order, reports)


def test_a_rank_that_cannot_open_its_log_says_so_to_its_launcher_alone(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(starting, "enter", enter_without_a_folder)
    outcome = run(job(Endless(), tmp_path, ranks=2), tmp_path / "logs")
    assert outcome.status == "failed"
    line = outcome.message.splitlines()[0]
    assert re.match(r"rank . failed in its phase 'start': FileNotFoundError: .*/logs/rank.\.log'$", line)
    assert capfd.readouterr().err == ""


async def times(worker, note):
    note("begun", time.monotonic() - worker.now)
    await worker.all_reduce(worker.read())
    note("before", worker.now)
    message = worker.receive(1 - worker.rank)
    await worker.send(worker.read() * 0.0 + worker.now, 1 - worker.rank)
    note("sent", (await message).payload[0])
    note("after", worker.now)


def test_all_ranks_share_one_clock(bench):
    ran = bench.run(times)
    for rank in range(2):
        assert ran.notes[rank]["sent"][0] > ran.notes[1 - rank]["before"][0] - 0.1
        assert ran.notes[rank]["sent"][0] < ran.notes[rank]["after"][0]
    assert abs(ran.notes[0]["begun"][0] - ran.notes[1]["begun"][0]) < 1e-3  # the origin, not an interval
    trace = ran.outcome.traces[0]
    assert [t.kind for t in trace.transfers] == ["all_reduce", "send", "receive"]
    assert all(t.posted <= t.awaited <= t.ended <= trace.ended for t in trace.transfers)


async def talks(worker, note):
    print(f"hello from rank {worker.rank}")
    await worker.gradient(Batch(0))


def test_every_rank_has_a_log(bench):
    bench.run(talks)
    lines = (bench.folder / "rank1.log").read_text().splitlines()
    assert [line for line in lines if not line.startswith("[Gloo]")] == ["hello from rank 1"]  # torch 2.8 has its say, too
    assert not list(bench.folder.glob("*.results"))


def test_the_outcome_holds_what_every_rank_gave(tmp_path):
    made = job(AllReduce(), tmp_path, ranks=4, budget=Budget(updates=4), samples_between_snapshots=32)
    outcome = run(made, tmp_path)
    assert outcome.status == "done"
    assert [trace.rank for trace in outcome.traces] == [0, 1, 2, 3]
    assert [snapshot.number for snapshot in outcome.snapshots] == [2, 4]
    assert all(isinstance(p.values, torch.Tensor) for s in outcome.snapshots for p in s.pieces)
    assert [sorted(weights) for weights in outcome.weights] == [[0, 1]] * 4
    assert outcome.seconds == max(trace.updates[-1].time for trace in outcome.traces)
    said = f"contended: 4 ranks share {cores()} cores, so times hold for this machine only"  # as the configuration says it
    expected = [said] if cores() < 4 else []
    assert outcome.notes == expected
    assert outcome.contended is (cores() < 4)


async def decides(worker, note):
    if worker.rank == 0:
        await worker.receive(1)
    note("agreed", worker._state.fabric.decide("key", worker.rank == 1))
    if worker.rank == 1:
        await worker.send(None, 0)


def test_the_first_to_ask_decides_for_all(bench):
    assert bench.run(decides).all("agreed") == [[True], [True]]


def test_seconds_end_all_ranks_at_the_same_step(tmp_path):
    outcome = run(job(AllReduce(), tmp_path, budget=Budget(seconds=0.3)), tmp_path)
    assert outcome.status == "done"
    assert len({len(trace.updates) for trace in outcome.traces}) == 1
    assert len(outcome.traces[0].updates) >= 1


def test_a_launcher_that_has_computed_can_launch(tmp_path):
    x = torch.randn(300, 300, requires_grad=True)
    (x @ x).sum().backward()
    assert run(job(AllReduce(), tmp_path), tmp_path).status == "done"


def test_a_rank_that_starts_when_it_is_interrupted_ends(tmp_path, monkeypatch):
    begin = ForkServerProcess.start

    def begin_and_interrupt(process):
        begin(process)
        started.append(process.pid)
        os.kill(os.getpid(), signal.SIGINT)

    started = []
    monkeypatch.setattr(ForkServerProcess, "start", begin_and_interrupt)
    with pytest.raises(Interrupted):
        run(job(Endless(), tmp_path), tmp_path)
    (rank,) = started
    assert process_state(rank)[0] in "XZ"


def test_an_interrupted_run_leaves_no_results(tmp_path, monkeypatch):
    watched = Watch.run

    def interrupted(watch):
        watched(watch)
        raise KeyboardInterrupt

    monkeypatch.setattr(Watch, "run", interrupted)
    with pytest.raises(Interrupted):
        run(job(AllReduce(), tmp_path), tmp_path)
    assert list(tmp_path.rglob("*.results")) == []


def test_ranks_whose_end_is_cut_short_end_with_the_command(tmp_path):
    program = f"""if True:
        from multiprocessing.context import ForkServerProcess
        from pathlib import Path
        from distsim.strategies.all_reduce import AllReduce
        from real.faults import job, run
        end = ForkServerProcess.kill
        def cut_short(process):
            ForkServerProcess.kill = end
            raise KeyboardInterrupt
        if __name__ == "__main__":
            ForkServerProcess.kill = cut_short
            folder = Path({str(tmp_path)!r})
            run(job(AllReduce(), folder), folder)"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    found = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=90.0)
    assert "Interrupted" in found.stderr


def test_the_server_that_starts_ranks_hears_no_ctrl_c():
    program = """if True:
        from multiprocessing import forkserver
        from pathlib import Path
        from distsim.backends.real.starting import _deaf
        with _deaf():
            forkserver.ensure_running()
            print(Path(f"/proc/{forkserver._forkserver._forkserver_pid}/status").read_text())"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    (blocked,) = [int(line.split()[1], 16) for line in said.splitlines() if line.startswith("SigBlk:")]
    assert all(blocked >> number - 1 & 1 for number in (signal.SIGINT, signal.SIGTERM))


def test_cuda_without_a_gpu_is_refused(tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(BadInput, match=r"backend.device='cuda': torch sees no GPU on this machine; use backend.device=cpu"):
        launch(job(Endless(), tmp_path), RealOptions(device="cuda"), tmp_path)


def test_all_problems_of_the_options_are_found_at_once(monkeypatch):
    wrong = RealOptions(device="tpu", messages="nccl", hang_seconds=0.0, limit_seconds=float("nan"), threads=0)
    keys = [p.key.removeprefix("backend.") for p in problems(wrong)]
    assert keys == ["device", "messages", "hang_seconds", "limit_seconds", "threads"]
    monkeypatch.setattr(sys, "platform", "darwin")
    (problem,) = problems(RealOptions())
    assert "Linux" in str(problem)
    assert "backend=modeled and backend=cosimulated work here" in str(problem)


def test_a_job_that_no_other_process_can_import_is_refused(tmp_path):
    made = dataclasses.replace(job(Endless(), tmp_path), numerics=lambda rank: None)
    with pytest.raises(BadInput, match="importable by name"):
        launch(made, RealOptions(), tmp_path)


SCRIPT = """
import sys
from pathlib import Path
from real.faults import job, run
from distsim.strategies.all_reduce import AllReduce
print("script")
print(run(job(AllReduce(), Path(sys.argv[1])), Path(sys.argv[1])).status)
"""


def test_a_script_needs_no_guard(tmp_path):
    """It is not run again in every rank, as multiprocessing would."""
    (tmp_path / "script.py").write_text(SCRIPT)
    path = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parents[2])])
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path)]
    ended = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert (ended.stdout, ended.stderr) == ("script\ndone\n", "")


UNGUARDED = """
from dataclasses import dataclass
import distsim
from distsim.interface import BadInput, Strategy

@dataclass(frozen=True)
class Mine(Strategy):
    async def run(self, worker):
        await worker.all_reduce(worker.read())

print("script")
try:
    result = distsim.run(strategy=Mine(), backend="real", budget={"updates": 1}, **{"cluster.workers": 2})
    print(result.status, result.summary["message"])
except BadInput as error:
    print(error)
"""


def said(script, folder):
    """What a script prints that is run in `folder`."""
    (folder / "script.py").write_text(script)
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    ended = subprocess.run(
        [sys.executable, "script.py"], cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=60.0
    )
    return [*ended.stdout.splitlines(), *ended.stderr.splitlines()]


def test_a_script_that_would_launch_in_every_rank_is_refused(tmp_path):
    assert said(UNGUARDED, tmp_path) == [
        "script",
        "job='script.py': would be run again in every rank, to import what the job is made of; "
        'put the call under `if __name__ == "__main__":`, or the strategy into a module of its own',
    ]
    assert not (tmp_path / "runs").exists()


def test_a_script_with_a_guard_may_hold_its_strategy(tmp_path):
    top, _, call = UNGUARDED.partition('print("script")')
    guarded = top + 'if __name__ == "__main__":' + call.replace("\n", "\n    ")
    assert said(guarded, tmp_path) == ["done "]


def test_a_rank_launches_nothing(tmp_path):
    """Should a script without a guard be started all the same, from a thread say, it ends."""
    hidden = UNGUARDED.replace('print("script")\n', "import threading\ndef call():\n    ")
    head, _, body = hidden.partition("def call():\n    ")
    threaded = f"{head}def call():\n    " + body.replace("\n", "\n    ")
    lines = said(threaded + "\nthread = threading.Thread(target=call)\nthread.start()\nthread.join()\n", tmp_path)
    # The first rank that says so ends the run, so how many others still get to say it is chance.
    assert any("launches again in every rank, which runs it to import the job" in line for line in lines)
