"""Measure this machine: run the probes on real processes and make a profile of what they recorded.

Everything is measured in one launch, interleaved (see probes.py). The ranks compute with one thread each, as those of a
real run on shared cores do.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Literal

import torch
from torch import Tensor

from distsim import __version__
from distsim.backends.real import RealOptions, launch
from distsim.calibration.analysis import Record, quiet_rounds, segments
from distsim.calibration.bench import COPY, MATMUL, BenchFactory, bench
from distsim.calibration.host import Others, hardware
from distsim.calibration.profile import Profile
from distsim.calibration.strategy import Calibration
from distsim.interface.budget import Budget
from distsim.interface.cluster import Cluster, Curve, Loopback, Roofline
from distsim.interface.errors import DistsimError
from distsim.interface.job import Job
from distsim.interface.model import Model
from distsim.interface.optimizer import SGD
from distsim.numerics.tensors import TensorsFactory
from distsim.workloads.workload import Workload, spelled

SIZES = (64, 4096, 65536, 524288, 2097152)
"""Bytes of messages and all-reduces; the parameters of the workload come on top."""
LARGEST = 512
"""Samples up to which blocks are measured; curves go on in a straight line."""
LARGEST_FLOPS = 2e10
"""FLOPs of one gradient up to which blocks are measured, if that is fewer samples: a round does tens of them."""
QUICK, FULL = 18.0, 110.0
"""Seconds of measuring, the launch not counted."""


def calibrate(
    workload: Workload,
    workers: int = 4,
    quick: bool = True,
    progress: Callable[[str], None] = print,
    seconds: float | None = None,
    device: Literal["cpu", "cuda"] = "cpu",
) -> Profile:
    """Measure the blocks of `workload`, and messages and all-reduces among `workers` local ranks.

    Takes some 25 s if `quick`, else some 2 min. On `cuda` the ranks share the GPUs that are there. Raises `DistsimError` if
    the ranks failed, `BadInput` where there is no such device.
    """
    seconds = seconds or (QUICK if quick else FULL)
    progress(f"calibrating {spelled(workload)} with {workers} workers: about {seconds + 4:.0f} s")
    profile = _profile(*_measured(workload, workers, seconds, device))
    again = ": calibrate again on a quiet machine" if profile.disturbance else ""
    progress(
        f"kept {profile.details['rounds_kept']} of {profile.details['rounds']} rounds, "
        f"others used {profile.details['others_cpu']:.0%} of the CPU, noise floor {profile.noise:.1%}{again}"
    )
    return profile


def _measured(
    workload: Workload, workers: int, seconds: float, device: Literal["cpu", "cuda"]
) -> tuple[Record, dict[str, str | int | float]]:
    model = workload.model()
    on_bench = bench(model, workers, _largest(model), sorted({*SIZES, model.parameter_bytes}))
    job = Job(
        strategy=Calibration(on_bench.probes(), on_bench.blocks, others=Others(os.getpid())),
        model=on_bench.model,
        cluster=_unknown_machine(workers),
        budget=Budget(seconds=seconds),
        numerics=BenchFactory(
            TensorsFactory(workload, on_bench.share, SGD(1e-3), seed=0, device=device),
            on_bench.first,
            partial(_payload, on_bench.model, device),
            partial(_work, on_bench.machine[0]),
        ),
    )
    folder = Path(tempfile.mkdtemp(prefix="distsim-calibration-"))
    begun = time.monotonic()
    try:
        outcome = launch(job, RealOptions(device=device, hang_seconds=60.0), folder)
    except BaseException:
        shutil.rmtree(folder)
        raise
    took = time.monotonic() - begun
    if outcome.status != "done":  # the message names files in it
        raise DistsimError(f"the calibration {outcome.status}: {outcome.message}\nlogs of all ranks: {folder}")
    shutil.rmtree(folder)
    traces = sorted(outcome.traces, key=lambda trace: trace.rank)
    kept, others = quiet_rounds(traces[0])
    details: dict[str, str | int | float] = {
        "workload": spelled(workload),
        "fingerprint": workload.fingerprint(),
        "workers": workers,
        "device": "cpu" if device == "cpu" else torch.cuda.get_device_name(),
        "seconds": round(took, 1),
        "rounds": len(others),
        "rounds_kept": len(kept),
        "others_cpu": round(sum(others.values()) / len(others), 4),
        "others_cpu_kept": round(sum(others[r] for r in kept) / len(kept), 4),
    }
    return Record(on_bench, [segments(trace) for trace in traces], kept), details


def _profile(record: Record, details: dict[str, str | int | float]) -> Profile:
    return Profile(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        hardware=hardware(),
        versions={"python": platform.python_version(), "torch": torch.__version__, "distsim": __version__},
        blocks=record.blocks(),
        overhead=record.overhead,
        pass_overhead=record.pass_overhead,
        message=record.message(),
        delay=record.delay(),
        all_reduce={size: record.all_reduce(size) for size in record.bench.groups},
        cores=record.cores(),
        fallback=record.fallback(),
        noise=record.noise(),
        details={**details, "step_seconds": median(record.steps())},
    )


def _largest(model: Model) -> int:
    """Samples up to which the blocks of `model` are measured."""
    a_sample = sum(block.flops + block.input_flops + block.weight_flops for block in model.blocks)
    return min(LARGEST, int(LARGEST_FLOPS / max(a_sample, 1.0)))


def _unknown_machine(workers: int) -> Cluster:
    """A real run needs the number of ranks only; nothing is modeled on this."""
    free = Curve(((0.0, 0.0),))
    return Cluster(workers, 1, Roofline(1e9, 1e9), Loopback(Curve(((1.0, 1.0),)), free, {}))


def _payload(model: Model, device: str, block: int) -> Tensor:
    dtype = torch.float64 if model.itemsize == 8 else torch.float32
    return torch.zeros(model.blocks[block].parameters, dtype=dtype, device=device)


def _work(matmul: int, block: int, x: Tensor) -> Tensor:
    if block == matmul:
        square = x.view(MATMUL, MATMUL)
        torch.mm(square, square)
    else:
        x[:COPY].copy_(x[COPY:])
    return x
