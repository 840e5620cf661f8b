"""Several launchers, one run: as an engine starts them, a process a rank, each in a folder of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from distsim.backends.real.worlds import world
from distsim.results import store

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parent.parent.parent
TRAINING = ["strategy=all_reduce", "backend=real", "cluster.workers=2", "budget.updates=10"]
LONG = ["strategy=all_reduce", "backend=real", "cluster.workers=2", "budget.updates=1000000"]
WAIT = 120.0
Prefixes = Sequence[Sequence[str]]


class Launchers:
    """`python -m distsim run` once a rank."""

    def __init__(self, folder: Path, where: tuple[str, int], settings: list[str], prefixes: Prefixes) -> None:
        ranks, (address, port) = len(prefixes), where
        self.folders = [folder / f"host{rank}" for rank in range(ranks)]
        self.processes = []
        for rank, here in enumerate(self.folders):
            (here / "tmp").mkdir(parents=True)
            who = {"RANK": str(rank), "WORLD_SIZE": str(ranks), "MASTER_ADDR": address, "MASTER_PORT": str(port)}
            environment = {**os.environ, **who, "PYTHONPATH": str(ROOT), "TMPDIR": str(here / "tmp")}
            command = [*prefixes[rank], sys.executable, "-m", "distsim", "run", *settings]
            with (here / "out").open("w") as out, (here / "err").open("w") as err:
                self.processes.append(subprocess.Popen(command, cwd=here, env=environment, stdout=out, stderr=err))

    def codes(self) -> list[int]:
        """How all have ended."""
        return [process.wait(WAIT) for process in self.processes]

    def said(self, rank: int) -> str:
        """All that a launcher said."""
        return (self.folders[rank] / "out").read_text() + (self.folders[rank] / "err").read_text()

    def family(self, rank: int) -> list[int]:
        """The launcher of a rank and all processes that it has started."""
        parents = {int(path.name): _parent(path) for path in Path("/proc").iterdir() if path.name.isdecimal()}
        found = [self.processes[rank].pid]
        for pid in found:
            found += [child for child, parent in parents.items() if parent == pid]
        return found

    def rank(self, rank: int) -> int:
        """The process of a rank, once it trains."""
        until = time.monotonic() + WAIT
        while not list((self.folders[rank] / "tmp").glob("distsim-*/group-*")):
            assert time.monotonic() < until, self.said(0) + self.said(rank)
            time.sleep(0.1)
        launcher, *others = self.family(rank)
        (found,) = [pid for pid in others if _parent(Path(f"/proc/{pid}")) != launcher]
        return found

    def kill(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


def _parent(path: Path) -> int:
    try:
        return int((path / "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


@contextmanager
def launched(
    folder: Path, settings: list[str], address: str = "127.0.0.1", prefixes: Prefixes = ((), ())
) -> Iterator[Launchers]:
    """Launchers that meet at a free port of `address`, a rank for each prefix of their command; none is left."""
    with socket.socket() as free:
        free.bind((address, 0))
        port = free.getsockname()[1]
    launchers = Launchers(folder, (address, port), settings, prefixes)
    try:
        yield launchers
    finally:
        launchers.kill()


def listened_on(pids: list[int]) -> set[str]:
    """The addresses that processes listen on."""
    inodes = set()
    for pid in pids:
        links = [link.readlink() for link in Path(f"/proc/{pid}/fd").iterdir() if link.is_symlink()]
        inodes |= {str(link) for link in links}
    found = set()
    for family, table in ((socket.AF_INET, "tcp"), (socket.AF_INET6, "tcp6")):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                raw = bytes.fromhex(fields[1].split(":")[0])
                found.add(socket.inet_ntop(family, b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4))))
    return found


def row(launchers: Launchers) -> store.Result:
    (found,) = store.scan(launchers.folders[0] / "runs")
    return found


def test_two_launchers_give_the_run_that_one_gives(tmp_path: Path) -> None:
    with launched(tmp_path, TRAINING) as both:
        assert both.codes() == [0, 0], both.said(0) + both.said(1)
    assert not (both.folders[1] / "runs").exists()
    assert "started by the environment" in " ".join(row(both).summary["notes"])
    alone = [sys.executable, "-m", "distsim", "run", *TRAINING]
    said = subprocess.run(alone, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    (other,) = store.scan(tmp_path / "runs")
    assert row(both).summary["final_loss"] == other.summary["final_loss"], said.stderr
    assert len(row(both).trace()) == 2
    assert sorted(log.name for log in (row(both).folder / "logs").glob("rank*")) == ["rank0.log", "rank1.log"]


def kill_rank(launchers: Launchers, pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def stop_rank(launchers: Launchers, pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)


def kill_launcher(launchers: Launchers, pid: int) -> None:
    launchers.processes[1].kill()


def stop_launcher(launchers: Launchers, pid: int) -> None:
    launchers.processes[1].send_signal(signal.SIGSTOP)


@pytest.mark.parametrize(
    ("fault", "message", "code"),
    [
        (kill_rank, "rank 1 was killed by SIGKILL", 1),
        (stop_rank, "rank 1 was stopped (SIGSTOP)", 1),
        (kill_launcher, "was not heard of for 5 s: killed, stopped, or cut off", -9),
        (stop_launcher, "was not heard of for 5 s: killed, stopped, or cut off", None),
    ],
)
def test_what_happens_to_one_ends_all(
    fault: Callable[[Launchers, int], None], message: str, code: int | None, tmp_path: Path
) -> None:
    with launched(tmp_path, LONG) as both:
        rank = both.rank(1)
        family = both.family(0) + both.family(1)
        assert listened_on(family) == {"127.0.0.1"}
        fault(both, rank)
        assert both.processes[0].wait(WAIT) == 1
        if code is not None:
            assert both.processes[1].wait(WAIT) == code
        else:
            both.processes[1].kill()  # it is stopped, and would end at once
    assert row(both).status == "failed"
    assert row(both).summary["message"].startswith("rank 1 ")
    assert message in row(both).summary["message"]
    nobody_is_left(family)


def nobody_is_left(family: list[int]) -> None:
    until = time.monotonic() + WAIT
    while any(map(_is_alive, family)):  # fork servers take a moment
        assert time.monotonic() < until, family
        time.sleep(0.1)


def _is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return stat[0] not in "ZX" and str(ROOT).encode() in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return False


def test_without_its_leader_a_follower_ends(tmp_path: Path) -> None:
    with launched(tmp_path, LONG) as both:
        both.rank(1)
        both.processes[0].kill()
        assert both.processes[1].wait(WAIT) == 1
    assert "is gone" in both.said(1)
    assert not list((both.folders[0] / "runs").glob("*/summary.json"))


def test_interrupted_leader_leaves_a_row_and_nobody(tmp_path: Path) -> None:
    with launched(tmp_path, LONG) as both:
        both.rank(1)
        both.processes[0].send_signal(signal.SIGINT)
        assert both.codes() == [130, 130], both.said(0) + both.said(1)
    assert row(both).status == "interrupted"


def test_a_named_interface_is_listened_on_and_no_other(tmp_path: Path) -> None:
    others = [name for _, name in socket.if_nameindex() if name != "lo" and world.address_of(name)]
    if not others:
        pytest.skip("this machine has loopback alone")
    address = world.address_of(others[0])
    assert address is not None
    with launched(tmp_path, [*LONG, f"backend.interface={others[0]}"], address) as both:
        both.rank(1)
        assert listened_on(both.family(0) + both.family(1)) == {address}


@pytest.mark.parametrize(
    ("address", "port", "said"),
    [
        ("127.0.0.1", 9, "MASTER_ADDR='127.0.0.1': nothing answers at port 9 within 2 s"),
        ("no-such-host.invalid", 9, "MASTER_ADDR='no-such-host.invalid': is not loopback"),
    ],
)
def test_a_leader_that_is_not_there_is_one_line(address: str, port: int, said: str, tmp_path: Path) -> None:
    where = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": address, "MASTER_PORT": str(port), "LOCAL_RANK": "0"}
    command = [sys.executable, "-m", "distsim", "run", *LONG, "backend.start_seconds=2"]
    environment = {**os.environ, **where, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith(said)


@pytest.mark.parametrize("ranks", [[1], [0], [0, 1]], ids=str)
def test_a_process_that_refuses_lets_no_other_wait(ranks: list[int], tmp_path: Path) -> None:
    for rank in ranks:  # as of another version
        (tmp_path / f"host{rank}/runs").mkdir(parents=True)
        (tmp_path / f"host{rank}/runs/.distsim").write_text('{"schema": 0}')
    with launched(tmp_path, [*TRAINING, "backend.start_seconds=600"]) as both:
        assert both.codes() == [2, 2], both.said(0) + both.said(1)  # none has waited for 600 s
    refusal = "runs='runs': holds runs of another version (schema 0, this one writes 1); choose another"
    for rank in ranks:
        assert both.said(rank).startswith(refusal) or both.said(rank) == ""  # one process of a host says it
    if 0 not in ranks:
        assert both.said(0).startswith(f"rank=1: its process on {socket.gethostname()} refuses the run: {refusal}")
        assert len(both.said(0).splitlines()) == 1


def test_what_a_launcher_cannot_do_is_said_by_the_leader(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 100)  # for a socket
    long.mkdir()
    with launched(tmp_path, LONG, prefixes=((), ("env", f"TMPDIR={long}"))) as both:
        assert both.codes() == [1, 1], both.said(0) + both.said(1)
    why = f"the path of {long} is too long for the sockets of ranks: set TMPDIR to a shorter one"
    assert both.said(1).splitlines() == [f"distsim: {why}"]
    said = row(both).summary["message"]
    failed = f"its launcher on {socket.gethostname()} failed: {why}"
    assert said.startswith(f"rank 1 failed in its phase 'start': {failed}"), said


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        where = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        command = [sys.executable, "-m", "distsim", "run", *LONG]
        environment = {**os.environ, **where, "PYTHONPATH": str(ROOT)}
        ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr == f"MASTER_PORT={port}: is in use at 127.0.0.1; set another on every process\n"


def test_torchrun_starts_it(tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=3", "-m", "distsim", "run"]
    command = [*torchrun, "strategy=sync_ps", "backend=real", "cluster.workers=2", "budget.updates=5"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    (run,) = store.scan(tmp_path / "runs")
    assert "started by torchrun" in json.dumps(run.summary["notes"])
