"""How a real run is to be run on this machine, and what of it cannot be. Imports torch only to count GPUs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from distsim.backends.real.worlds.world import interface_problems
from distsim.interface import BadInput, Problem

_POSITIVE = {"above": 0.0}


@dataclass(frozen=True)
class RealOptions:
    """Options of the real backend; durations are seconds of wall-clock time."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes CUDA where every rank has a GPU of its own, the CPU elsewhere."""
    hang_seconds: float = field(default=10.0, metadata=_POSITIVE)
    """A run in which nothing completed for this long, and for 20 times its slowest operation so far, is deadlocked."""
    limit_seconds: float | None = field(default=None, metadata=_POSITIVE)
    """A run that takes longer, start included, is timed out."""
    start_seconds: float = field(default=120.0, metadata=_POSITIVE)
    """Every rank must have imported, built its numerics and met the others within this time."""
    on_worker_loss: Literal["stop", "continue", "restart"] = "stop"
    """What a run does if a process dies that is not to be lost: end, failed; work on without it, if the strategy can, as
    servers without a worker or as a smaller group; or begin again from the last checkpoint."""
    threads: int = field(default=1, metadata={"at_least": 1, "at_most": 4096})
    """torch threads a rank; the calibration measures one."""
    deterministic: bool = False
    """Take only algorithms that give the same bits in every run; an operation that has none raises. See devices.py."""
    messages: Literal["auto", "gloo", "shared"] = "auto"
    """How large payloads of messages travel: by gloo, or through memory that ranks share (see shelves.py). `auto` shares
    GPUs' memory where it can, and takes gloo on CPUs."""
    interface: str | None = None
    """The network interface (`eth0`) that ranks and the place where they meet listen on; None is loopback alone."""


def problems(options: RealOptions) -> Iterable[Problem]:
    """What keeps these options from running here; asks torch only if `device` is cuda."""
    if sys.platform != "linux":
        allowed = "real runs need Linux (process states, parent-death signals)"
        yield Problem("backend", "real", allowed, "backend=modeled and backend=cosimulated work here")
        return
    if options.device not in ("auto", "cpu", "cuda"):
        yield Problem("backend.device", options.device, "one of auto, cpu, cuda")
    if options.messages not in ("auto", "gloo", "shared"):
        yield Problem("backend.messages", options.messages, "one of auto, gloo, shared")
    for key in ("hang_seconds", "limit_seconds", "start_seconds"):
        value = getattr(options, key)
        if value is not None and not value > 0:
            yield Problem(f"backend.{key}", value, "more than 0 seconds")
    if options.threads < 1:
        yield Problem("backend.threads", options.threads, "at least 1")
    yield from interface_problems(options.interface)
    if options.device == "cuda" and gpus() == 0:
        yield Problem("backend.device", "cuda", "torch sees no GPU on this machine", "use backend.device=cpu")


def check(options: RealOptions) -> None:
    """Raise `BadInput` with every problem of these options on this machine."""
    found = list(problems(options))
    if found:
        raise BadInput(found)


def device_of(options: RealOptions, ranks: int) -> Literal["cpu", "cuda"]:
    """Where the ranks of a host compute, so many of them; numerics are built for this device (on cuda, each rank's current
    device is its own GPU)."""
    if options.device == "auto":
        return "cuda" if gpus() >= ranks else "cpu"
    return options.device


def no_shared_memory(options: RealOptions, works_on: bool, engine: str = "") -> Iterable[Problem]:
    """What keeps ranks from sharing memory, if they must: some work on without others, or an engine starts them."""
    if options.messages == "shared" and engine:
        yield Problem("backend.messages", "shared", f"ranks that {engine} starts send by gloo", "take auto")
    elif options.messages == "shared" and works_on:
        allowed = "what a lost worker has sent goes with its memory: servers that work on receive by gloo"
        yield Problem("backend.messages", "shared", allowed, "take auto")


def gpus() -> int:
    """GPUs that torch can use; 0, without importing torch, where the driver shows none."""
    if not any(Path("/dev").glob("nvidia[0-9]*")) and not any(Path("/dev", name).exists() for name in ("kfd", "dxg")):
        return 0
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))
