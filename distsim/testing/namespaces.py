"""Hosts with a real network between them, on one machine: network namespaces behind a bridge, over links of a known rate.

    with Network(hosts=4, bits_per_second=200e6) as network:
        program = network.start(0, ["python", "program.py"])

Each host is a namespace of its own whose `eth0` is joined to a bridge in one more; `tc tbf` lets so many bits a second
through at both ends of its cable, one for each direction. TCP, its headers and its acknowledgements are the kernel's, so
programs that run in such hosts exchange bytes as over a switch; there is no delay but what the kernel takes. Congestion
control is cubic, the kernel's default, whatever this machine prefers: another fills the same links otherwise.

Needs root and the programs of iproute2 and util-linux (Linux). Nothing has a name or lies on disk. The processes of a host
have a namespace, too: the kernel kills all of them with its first, and that one with this process, however it ends. So
nothing is left, whatever was started there; and no process is killed by a number that may be another's by now.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from distsim.interface import DistsimError

PAYLOAD = 1448 / 1514
"""The share of a frame that is payload, as tbf counts frames: 1500 bytes of IPv4 less its header of 20, TCP's of 20 and its
time stamps of 12; and Ethernet's header of 14 besides."""
BURST = 131_072
"""Bytes that may pass at once after a pause, faster than the link: what is measured must be far larger. The kernel hands
over up to 64 KiB at a time; a bucket that holds little more loses time whenever a program is scheduled late."""
QUEUE_SECONDS = 0.1
"""What a queue holds before frames are dropped, as the time that it takes to send."""
_PROGRAMS = ("ip", "tc", "unshare", "nsenter", "setpriv")
_DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL")
_UNSHARE = ("unshare", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
_FILES = {"net": "net", "mount": "mnt", "pid": "pid_for_children"}
_TRIAL = "ip link add one type veth peer name two && ip link add three type bridge && tc qdisc add dev one root tbf {}"


class NoNamespaces(DistsimError):
    """This machine, or this user, cannot make such a network."""


def obstacle() -> str | None:
    """Why no such network can be made here; None if one can, which is tried."""
    if sys.platform != "linux":
        return "network namespaces are Linux's"
    if os.geteuid() != 0:
        return "only root makes network namespaces and shapes their traffic"
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"{', '.join(missing)} not found (iproute2, util-linux)"
    trial = [*_UNSHARE, "sh", "-c", _TRIAL.format(_shaped(200e6))]
    tried = subprocess.run(trial, capture_output=True, text=True, check=False)
    return None if tried.returncode == 0 else f"the kernel allows none here: {tried.stderr.strip()}"


class Network:
    """Some hosts behind one switch, each at its end of a link of `bits_per_second` in either direction.

    Entering makes it, or raises `NoNamespaces`; leaving kills what was started in it, and it is gone.
    """

    def __init__(self, hosts: int, bits_per_second: float) -> None:
        self.hosts = range(hosts)
        self.bits_per_second = bits_per_second
        self._namespaces: list[subprocess.Popen[bytes]] = []  # of the hosts, and the switch's; a process holds each
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        if reason := obstacle():
            raise NoNamespaces(reason)
        try:
            for _ in (*self.hosts, "switch"):
                self._namespaces.append(_namespace())
            switch = self._namespaces[-1]
            _configure(switch, ["ip link add bridge type bridge", "ip link set bridge up"])
            for host in self.hosts:
                self._connect(host, switch)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        self._end()

    def address(self, host: int) -> str:
        """The IPv4 address of a host; nothing outside of this network knows it."""
        return f"10.0.{host // 250}.{host % 250 + 1}"

    def start(
        self,
        host: int,
        command: Sequence[str],
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        output: IO[bytes] | int | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a program on a host, in `cwd` or where we are; `output` takes what it prints and its errors. It is killed
        when the network is left, with all that it has started."""
        inside = [*_entered(self._namespaces[host], *_FILES), "env", f"--chdir={cwd or Path.cwd()}", *command]
        errors = None if output is None else subprocess.STDOUT
        program = subprocess.Popen(
            inside, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, start_new_session=True
        )
        self._started.append(program)
        return program

    def _connect(self, host: int, switch: subprocess.Popen[bytes]) -> None:
        port, shaped = f"port{host}", _shaped(self.bits_per_second)
        namespace = self._namespaces[host]
        _configure(
            switch,
            [
                f"ip link add {port} type veth peer name eth0 netns {namespace.pid}",
                f"ip link set {port} master bridge up",
                f"tc qdisc add dev {port} root tbf {shaped}",
            ],
        )
        _configure(
            namespace,
            [
                "ip link set lo up",
                f"ip address add {self.address(host)}/16 dev eth0 noprefixroute",
                "ip link set eth0 up",
                "ip route add 10.0.0.0/16 dev eth0 congctl cubic",
                f"tc qdisc add dev eth0 root tbf {shaped}",
            ],
        )

    def _end(self) -> None:
        for namespace in self._namespaces:
            namespace.kill()
        for process in (*self._started, *self._namespaces):
            process.wait()
            if process.stdout:
                process.stdout.close()
        self._started.clear()
        self._namespaces.clear()


def _namespace() -> subprocess.Popen[bytes]:
    """The parent of a process that does nothing but being the first in namespaces of its own."""
    command = [*_DIES_WITH_US, *_UNSHARE, "sh", "-c", "echo; exec sleep infinity"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    process.stdout.readline()  # it is there
    return process


def _configure(namespace: subprocess.Popen[bytes], commands: Sequence[str]) -> None:
    """Run commands in a namespace. Raises `NoNamespaces` with what the first that fails said."""
    inside = [*_entered(namespace, "net"), "sh", "-c", " && ".join(commands)]
    ran = subprocess.run(inside, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise NoNamespaces(f"`{' && '.join(commands)}` failed: {ran.stderr.strip()}")


def _entered(namespace: subprocess.Popen[bytes], *kinds: str) -> list[str]:
    """What runs the command behind it in these of the namespaces."""
    return ["nsenter", *(f"--{kind}=/proc/{namespace.pid}/ns/{_FILES[kind]}" for kind in kinds)]


def _shaped(bits_per_second: float) -> str:
    """What tbf is told."""
    limit = BURST + bits_per_second / 8.0 * QUEUE_SECONDS
    return f"rate {bits_per_second:.0f}bit burst {BURST} limit {limit:.0f}"
