"""What a GPU does with what is written here: step times against torch's own loop, and against what is modeled of the chip.

`python experiments/06_gpu/run.py` calibrates the GPU, runs everything, prints a table and writes results/CHIP.json beside
this file. `--device cpu --updates 6` tries the script without a GPU; its figures are of no use, and not written.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

import distsim
from distsim.calibration.measure import calibrate
from distsim.interface import Batch
from distsim.workloads.char_gpt import CharGPT

HERE = Path(__file__).parent
RATE, WARM_UP = 0.05, 3
LARGE = CharGPT(batch=16, layers=8, heads=8, width=512, context=256)
SMALL = CharGPT(batch=2, layers=4, heads=4, width=64, context=64)
TYPES = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def main() -> None:
    """Measure, print, write down."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--updates", type=int, default=100)
    options = parser.parse_args()
    chip = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    workload = LARGE if options.device == "cuda" else SMALL
    with TemporaryDirectory() as folder:
        rows = list(measured(workload, options.device, options.updates, Path(folder)))
    for row in rows:
        print(f"{row['what']:44} {row['milliseconds']:9.3f} ms a step")
    if options.device == "cpu":
        return
    results = HERE / "results" / f"{chip.replace(' ', '_')}.json"
    results.parent.mkdir(exist_ok=True)
    told = {
        "chip": chip,
        "gpus": torch.cuda.device_count(),
        "torch": torch.__version__,
        "distsim": distsim.__version__,
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "workload": repr(workload),
        "rows": rows,
    }
    results.write_text(json.dumps(told, indent=2) + "\n")
    print(results)


def measured(workload: CharGPT, device: str, updates: int, folder: Path) -> Iterator[dict[str, Any]]:
    """A row each: what, and the median of its steps."""
    for precision in TYPES:
        yield row(f"torch's loop, {precision}", loop(workload, device, precision, updates))
        yield row(f"torch's loop, {precision}, again", loop(workload, device, precision, updates))
        yield row(f"one rank, {precision}", run(workload, device, updates, folder, "all_reduce", 1, precision=precision))
    profile = folder / "profile.json"
    calibrate(workload, workers=2, quick=updates < 50, device=device).save(profile)
    modeled = {"backend": "modeled", "cluster.profile": str(profile)}
    for strategy, settings in {"all_reduce": {}, "gpipe": {"strategy.microbatches": 4}}.items():
        yield row(f"two ranks, {strategy}", run(workload, device, updates, folder, strategy, 2, **settings))
        yield row(
            f"two ranks, {strategy}, modeled", run(workload, device, updates, folder, strategy, 2, **settings, **modeled)
        )


def row(what: str, seconds: list[float]) -> dict[str, Any]:
    """A row, without the first steps."""
    return {"what": what, "milliseconds": 1e3 * statistics.median(seconds[WARM_UP:]), "steps": len(seconds) - WARM_UP}


def run(
    workload: CharGPT, device: str, updates: int, folder: Path, strategy: str, workers: int, **more: Any
) -> list[float]:
    """Seconds between the updates of a run."""
    settings: dict[str, Any] = {
        "backend": "real",
        "cluster": "local4",
        "cluster.workers": workers,
        "workload": "char_gpt",
        **{f"workload.{key}": getattr(workload, key) for key in ("batch", "layers", "heads", "width", "context")},
        "optimizer.learning_rate": RATE,
        "budget.updates": updates,
        "evaluation.samples": 0,
        "runs": str(folder / "runs"),
        **more,
    }
    if settings["backend"] == "real":
        settings["backend.device"] = device
    result = distsim.run(strategy, **settings)
    if result.status != "done":
        raise SystemExit(f"{strategy} with {workers} workers: {result.status}: {result.summary['message']}")
    by_update: dict[int, float] = {}
    for trace in result.trace():
        for update in trace.updates:
            by_update[update.number] = max(update.time, by_update.get(update.number, 0.0))
    times = [at for _, at in sorted(by_update.items())]
    return [after - before for before, after in zip([0.0, *times], times, strict=False)]


def loop(workload: CharGPT, device: str, precision: str, updates: int) -> list[float]:
    """Seconds of the steps of a loop of torch, which waits for the device after each."""
    task, low, seconds = workload.task(0), TYPES[precision], []
    blocks = torch.nn.Sequential(*task.blocks).to(device)
    optimizer = torch.optim.SGD(blocks.parameters(), RATE, fused=True)
    scaler = torch.amp.GradScaler(device, enabled=precision == "fp16")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as a rank does
    for step in range(updates):
        begun = time.perf_counter()
        optimizer.zero_grad()
        x, target = task.input(Batch(step), 1).to(device), task.target(Batch(step), 1).to(device)
        with torch.autocast(device, low, enabled=low is not None):
            loss = task.loss(blocks(x), target)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        loss.item()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begun)
    torch.set_num_threads(threads)
    return seconds


if __name__ == "__main__":
    main()
