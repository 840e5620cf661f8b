"""Slurm on this machine: Debian's munged, slurmctld and two slurmd, as root, without systemd, on loopback alone.

Everything lies in one folder, and nothing of it is left when it ends: the daemons are children in the foreground. A job
that is queued again begins after 10 s (cred_expire), where it is two minutes by default.
"""

from __future__ import annotations

import os
import platform
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Self

DAEMONS = ("munged", "slurmctld", "slurmd")
CLIENTS = ("sbatch", "srun", "sinfo", "scontrol")
NODES = ("n1", "n2")
START = 60.0  # seconds until both nodes must be idle; 10 are enough on an idle machine

CONFIGURATION = """
ClusterName=distsim
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=10
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
SchedulerParameters=sched_interval=1,sched_min_interval=0
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={first} CPUs=2 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str:
    """Why there can be no Slurm here, if so."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    lacks = [name for name in (*DAEMONS, *CLIENTS) if shutil.which(name, path=path) is None]
    if lacks:
        return f"{', '.join(lacks)} missing: `make test-slurm` installs Debian's"
    return "" if os.geteuid() == 0 else "its daemons run as root"


class Slurm:
    """A cluster of two nodes while it is entered."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        for daemon in reversed(self._daemons):
            daemon.send_signal(signal.SIGTERM)
        for daemon in reversed(self._daemons):
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()

    def environment(self, **more: str) -> Mapping[str, str]:
        """In which commands of Slurm speak to this cluster, as if no other job were around them."""
        outside = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SBATCH_"))}
        path = f"{outside['PATH']}:/usr/sbin:/sbin"
        return {**outside, "PATH": path, "SLURM_CONF": str(self.folder / "slurm.conf"), **more}

    def run(self, *command: str, **more: str) -> str:
        """What a command says on its standard output; it must end well."""
        ended = subprocess.run(command, env=self.environment(**more), cwd=self.folder, capture_output=True, text=True)
        assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}\n{self.logs()}"
        return ended.stdout

    def logs(self) -> str:
        """The ends of the daemons' logs."""
        return "\n".join(f"{log.name}:\n{log.read_text()[-1500:]}" for log in sorted(self.folder.glob("*.log")))

    def _start(self) -> None:
        folder = self.folder
        folder.chmod(0o755)
        (folder / "state").mkdir()
        (folder / "munge.key").write_bytes(os.urandom(128))
        (folder / "munge.key").chmod(0o400)
        munge = [f"--{name}-file={folder}/munge.{name}" for name in ("key", "pid", "log", "seed")]
        self._daemon("munged", "--foreground", "--force", f"--socket={folder}/munge.socket", *munge)
        ports = dict(zip(("controller", "first", "second"), _free_ports(3), strict=True))
        text = CONFIGURATION.format(folder=folder, host=platform.node().partition(".")[0], **ports)
        (folder / "slurm.conf").write_text(text)
        self.until(lambda: (folder / "munge.socket").exists(), "munged")
        self._daemon("slurmctld", "-D", "-c")
        for node in NODES:
            (folder / f"spool-{node}").mkdir()
            self._daemon("slurmd", "-D", "-N", node)
        self.until(lambda: self._states() == ["idle"] * len(NODES), "both nodes are not idle")

    def _daemon(self, name: str, *arguments: str) -> None:
        with (self.folder / f"{name}-{len(self._daemons)}.out").open("wb") as out:
            started = subprocess.Popen([name, *arguments], env=self.environment(), stdout=out, stderr=out)
        self._daemons.append(started)

    def _states(self) -> list[str]:
        said = subprocess.run(["sinfo", "-N", "-h", "-o", "%t"], env=self.environment(), capture_output=True, text=True)
        return said.stdout.split()

    def until(self, holds: Callable[[], bool], what: str, seconds: float = START) -> None:
        """Wait until that is so."""
        until = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < until, f"{what}\n{self.logs()}"
            time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
