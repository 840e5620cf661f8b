"""What an engine (torchrun, Slurm's srun) has started: a process a rank, over hosts. Read from the environment it sets.

Each of these processes launches its one rank; the one of rank 0 leads. A single process is no world: it launches all ranks
itself. Nothing here connects to anything; standard library only.

|                | torchrun, and whoever sets the same | srun                                   |
|----------------|-------------------------------------|----------------------------------------|
| rank, size     | RANK, WORLD_SIZE                    | SLURM_PROCID, SLURM_STEP_NUM_TASKS     |
| on this host   | LOCAL_RANK, LOCAL_WORLD_SIZE        | SLURM_LOCALID, SLURM_STEP_TASKS_PER_NODE |
| where all meet | MASTER_ADDR, MASTER_PORT            | these if set, else the first node      |
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from distsim.interface import BadInput, Problem

_SIOCGIFADDR = 0x8915
_PORTS = range(12_000, 30_000)  # below those that the kernel gives to clients


@dataclass(frozen=True)
class World:
    """This process among those that one engine started for one run."""

    engine: str
    rank: int
    size: int
    local_rank: int
    """Among the ranks of this host."""
    local_size: int
    """Ranks of this host."""
    address: str
    """Where all meet, as the engine says it."""
    port: int
    hosted: bool
    """The engine listens there itself, as torchrun does; otherwise rank 0 does."""
    start: str
    """Tells this run from others that meet at the same place; of one that is started again it is the same."""
    size_key: str
    """The variable that says `size`."""

    @property
    def leads(self) -> bool:
        """This process composes the message and writes the row."""
        return self.rank == 0

    @property
    def spans_hosts(self) -> bool:
        """Some ranks are on other hosts."""
        return self.local_size < self.size


def world(environment: Mapping[str, str] = os.environ) -> World | None:
    """The world that this process is part of; None if it launches all ranks itself. Raises `BadInput`."""
    if "RANK" in environment and "WORLD_SIZE" in environment:
        found = _by_rank(environment)
    elif "SLURM_PROCID" in environment and "SLURM_STEP_NUM_TASKS" in environment and "SLURM_STEP_ID" in environment:
        found = _by_slurm(environment)
    else:
        return None
    return found if found.size > 1 else None


def problems(world: World, ranks: int, interface: str | None) -> Iterable[Problem]:
    """What keeps a job of so many ranks from running in this world, and this world from meeting."""
    if ranks != world.size:
        allowed = f"the job has {ranks} ranks (cluster.workers and servers), {world.engine} started {world.size} processes"
        yield Problem(world.size_key, world.size, allowed, f"start {ranks} processes, or set cluster.workers to fit")
    if interface is None and not is_loopback(world.address) and (world.spans_hosts or not world.hosted):
        allowed = "is not loopback, and nothing else is listened on unless an interface is named"
        yield Problem("MASTER_ADDR", world.address, allowed, f"set backend.interface=NAME; {_here()}")


def interface_problems(interface: str | None) -> Iterable[Problem]:
    """What keeps ranks from listening there."""
    if interface is not None and address_of(interface) is None:
        yield Problem("backend.interface", interface, "no interface of this name has an IPv4 address here", _here())


def address_of(interface: str) -> str | None:
    """The IPv4 address of an interface of this host."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            found = fcntl.ioctl(asking, _SIOCGIFADDR, struct.pack("256s", interface.encode()[:15]))
        except OSError:
            return None
    return socket.inet_ntoa(found[20:24])


def resolve(name: str) -> str | None:
    """The IPv4 address of a host, or None if nobody knows it."""
    try:
        return socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)[0][4][0]  # type: ignore[return-value]
    except OSError:
        return None


def _by_rank(environment: Mapping[str, str]) -> World:
    torchrun = "TORCHELASTIC_RUN_ID" in environment
    number = _Numbers(environment)
    size = number("WORLD_SIZE", None, 1)
    address = environment.get("MASTER_ADDR", "127.0.0.1")
    alone = is_loopback(address)  # then who does not say how many ranks are on this host means all of them
    found = World(
        engine="torchrun" if torchrun else "the environment",
        rank=number("RANK", None, 0, size),
        size=size,
        local_rank=number("LOCAL_RANK", int(environment["RANK"]) if alone and environment["RANK"].isdecimal() else 0, 0),
        local_size=number("LOCAL_WORLD_SIZE", size if alone else 1, 1),
        address=address,
        port=number("MASTER_PORT", None if size > 1 else 1, 1, 65_536),
        hosted=environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        start=environment.get("TORCHELASTIC_RUN_ID", ""),
        size_key="WORLD_SIZE",
    )
    number.check()
    return found


def _by_slurm(environment: Mapping[str, str]) -> World:
    number = _Numbers(environment)
    size = number("SLURM_STEP_NUM_TASKS", None, 1)
    job, step = environment.get("SLURM_JOB_ID", "0"), environment["SLURM_STEP_ID"]
    tasks = _tasks(environment.get("SLURM_STEP_TASKS_PER_NODE", ""))
    node = number("SLURM_NODEID", 0, 0)
    found = World(
        engine="Slurm",
        rank=number("SLURM_PROCID", None, 0, size),
        size=size,
        local_rank=number("SLURM_LOCALID", 0, 0),
        local_size=tasks[node] if node < len(tasks) else 1,
        address=environment.get("MASTER_ADDR") or _first_node(environment, len(tasks)),
        port=number("MASTER_PORT", _PORTS[(int(job) + 101 * int(step)) % len(_PORTS)], 1, 65_536),
        hosted=False,
        start=f"{job}.{step}",
        size_key="SLURM_STEP_NUM_TASKS",
    )
    number.check()
    return found


class _Numbers:
    """Whole numbers of an environment; what is wrong with them is collected."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self._problems: list[Problem] = []

    def __call__(self, name: str, missing: int | None, least: int, below: int | None = None) -> int:
        text = self._environment.get(name)
        if text is None and missing is not None:
            return missing
        if text is not None and text.isdecimal() and int(text) >= least and (below is None or int(text) < below):
            return int(text)
        most = "" if below is None else f" and at most {below - 1}"
        suggestion = "started by torchrun or srun, it is set" if text is None else ""
        self._problems.append(Problem(name, text, f"a whole number of at least {least}{most}", suggestion))
        return least

    def check(self) -> None:
        """Raise `BadInput` if one was wrong."""
        if self._problems:
            raise BadInput(self._problems)


def _tasks(text: str) -> list[int]:
    """Tasks a node, from Slurm's `2(x3),1`."""
    found: list[int] = []
    for tasks, nodes in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        found += [int(tasks)] * int(nodes or 1)
    return found


def _first_node(environment: Mapping[str, str], nodes: int) -> str:
    """Where rank 0 of a step is: loopback if all are; the address that Slurm knows if nobody else knows the node's name."""
    if nodes == 1:
        return "127.0.0.1"
    name = first_host(environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", ""))
    if resolve(name) is None and shutil.which("scontrol"):
        said = subprocess.run(["scontrol", "show", "node", name], capture_output=True, text=True, check=False).stdout
        known = re.search(r"NodeAddr=(\S+)", said)
        return known[1] if known else name
    return name


def first_host(nodes: str) -> str:
    """The first of Slurm's list of nodes: `n01` of `n[01-04,7],m3`."""
    found = re.match(r"([^\[,]*)(?:\[(\d+)[^\]]*\]([^,]*))?", nodes)
    return "".join(part or "" for part in found.groups()) if found else ""


def is_loopback(name: str) -> bool:
    """This host, by this name, is reached from itself alone."""
    return (resolve(name) or "").startswith("127.")


def _here() -> str:
    known = [f"{name} ({address})" for _, name in socket.if_nameindex() if (address := address_of(name))]
    return f"this host has {', '.join(known)}"
