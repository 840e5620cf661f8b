"""What must hold between the sections of a configuration and on this machine, and what deserves a warning."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from distsim.configuration.cluster import ClusterSection
from distsim.configuration.networks import check_network
from distsim.configuration.reader import FAILED, Reader
from distsim.interface import Budget, Model, Straggler, Strategy

RANK_BYTES = {"real": 350e6, "modeled": 90e3, "cosimulated": 90e3}
"""About what one rank takes: a process with torch (its resident set, shared pages included), or a coroutine with some 2,000
records. Good for refusing what can never fit; runs that fit by it may still be too large."""
COPIES = 3
"""Of the parameters a rank with tensors holds: weights, gradient, momentum."""
GPU_FILES = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory() -> int:
    """Bytes of memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def needed(backend: str, ranks: int, model: Model | None) -> float:
    """About what a run with so many ranks takes of this machine's memory, in bytes."""
    parameters = COPIES * model.parameter_bytes if model is not None and backend != "modeled" else 0.0
    return ranks * (RANK_BYTES[backend] + parameters)


def together(
    reader: Reader, strategy: Strategy, backend: str, model: Model, cluster: ClusterSection, budget: Budget
) -> None:
    """The strategy fits the workers and the model, and the budget allows at least one update."""
    reader.problems += strategy.problems(cluster.workers, model)
    samples = strategy.gradients_an_update(cluster.workers) * model.batch
    if budget.samples is not None and budget.samples < samples:
        allowed = f"one update takes {samples} samples"
        reader.refuse("budget.samples", budget.samples, allowed, f"at least budget.samples={samples}")
    check_network(reader, strategy, cluster)


def network(reader: Reader, strategy: Strategy, backend: str, cluster: ClusterSection) -> None:
    """A real run that one machine runs all of has the network of that."""
    ranks = cluster.ranks(strategy)
    is_one_node = cluster.network == "two_level" and cluster.node_size is not None and ranks <= cluster.node_size
    if backend == "real" and cluster.network != "loopback" and not is_one_node:
        remedy = f"take cluster=local4 cluster.workers={cluster.workers}, or backend=modeled"
        reader.refuse(
            "cluster.network",
            cluster.network,
            "backend=real runs on this machine: loopback, or one node of two_level",
            remedy,
        )


def machine(
    reader: Reader, backend: str, options: Any, cluster: ClusterSection, model: Model | None, strategy: Strategy | None
) -> bool:
    """The run fits this machine's memory and devices; True if it fits the memory."""
    if getattr(options, "device", None) == "cuda" and not any(Path(file).exists() for file in GPU_FILES):
        reader.refuse("backend.device", "cuda", "this machine has no GPU", "take backend.device=auto or cpu")
    a_rank = needed(backend, 1, model)
    servers = strategy.server_count(cluster.workers) if strategy else 0
    ranks = cluster.workers + servers
    if ranks * a_rank <= memory():
        return True
    reader.refuse(
        "cluster.workers",
        cluster.workers,
        f"would take about {_gigabytes(ranks * a_rank)} of memory, and this machine has {_gigabytes(memory())}",
        f"at most {max(1, int(memory() / a_rank) - servers)}",
    )
    return False


def precision(
    reader: Reader, name: Any, model: Model | None, strategy: Strategy | None, cluster: ClusterSection | None
) -> None:
    """The parameters are float32 where blocks compute in less, and fp16 can skip updates."""
    if name in (FAILED, "float32"):
        return
    if model is not None and model.itemsize != 4:
        allowed = f"keeps parameters in float32, not in scalars of {model.itemsize} bytes"
        advice = "take workload.dtype=float32 with it (your own module: in build()), or precision=float32"
        reader.refuse("precision", name, allowed, advice)
    if name == "fp16" and strategy and cluster and not strategy.updates_whole(cluster.workers):
        allowed = "fp16 skips updates by their whole gradient, which no rank of this strategy has as it is"
        reader.refuse("precision", name, allowed, "take precision=bf16, which needs no loss scale")


def precision_warnings(name: str, backend: str, cluster: ClusterSection) -> Iterator[str]:
    """What is not known of computing in less than float32."""
    if name != "float32" and backend != "real" and cluster.device == "profile":
        yield f"precision={name}: the profile's costs are those of float32"


def runs_folder(reader: Reader, runs: Any) -> None:
    """Runs can be written there. Nothing is created."""
    if runs is FAILED:
        return
    folder = Path(runs).expanduser()
    try:
        existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    except OSError as error:
        reader.refuse("runs", runs, f"cannot be a folder ({error.strerror})")
        return
    if not existing.is_dir():
        what = "is a file" if existing == folder else f"{existing} is a file"
        reader.refuse("runs", runs, f"must be a folder, but {what}", "choose another, for example runs=runs")
    else:
        try:
            TemporaryFile(dir=existing).close()  # nameless; os.access would let root write anywhere
        except OSError as error:
            where = f"{existing} cannot be written ({error.strerror})"
            reader.refuse("runs", runs, where, "choose another, for example runs=/tmp/runs")


def warnings(
    strategy: Strategy, backend: str, model: Model, cluster: ClusterSection, straggler: Straggler, alone: bool
) -> Iterator[str]:
    """What runs all the same, and is said on the terminal and in the run's notes."""
    ranks = cluster.ranks(strategy)
    if alone and backend == "real" and ranks > cores():
        yield f"contended: {ranks} ranks share {cores()} cores, so times hold for this machine only"
    yield from strategy.warnings(cluster.workers, model)
    for worker, factor in straggler.slow.items():
        if factor < 1.0:
            yield f"straggler.slow.{worker}={factor}: a factor under 1 makes worker {worker} faster"
    if min(straggler.stages, default=1.0) < 1.0:
        yield f"straggler.stages={list(straggler.stages)}: a factor under 1 makes a stage faster"
    if straggler.spread.kind == "share" and straggler.spread.factor < 1.0:
        yield f"straggler.spread.factor={straggler.spread.factor}: a factor under 1 makes workers faster"
    for key, latency in (("latency", cluster.latency), ("node_latency", cluster.node_latency)):
        if latency is not None and (latency > 10e-3 or 0.0 < latency < 50e-9):
            yield f"cluster.{key}={latency:g} s is unusual for one link (0.5us to 1ms): is the unit right?"


def _gigabytes(nbytes: float) -> str:
    return f"{nbytes / 1e9:,.0f} GB" if nbytes >= 10e9 else f"{nbytes / 1e9:.1f} GB"
