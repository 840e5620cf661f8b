"""`distsim bench fabric`: what simulating costs, workload by workload, and what SimGrid needs for the same.

Every measurement is a process of its own, start-up included; both sides take turns, and the median counts. The SimGrid
program (tests/benchmarks/simgrid) reads the same compute times, and its simulated seconds are put beside ours.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from distsim.bench.workloads import ROUNDS, compute_file, names, problem
from distsim.durable import refusal
from distsim.interface.errors import BadInput, DistsimError, Problem

DEFAULT_WORKERS = "64,256,1024"
REPEATS = 3
_TOP = 12
"""Functions that a profile names, of each part of the code."""
_REFERENCE = {"sync_ps": "ps", "async_ps": "aps", "ring": "ring", "fat_tree_ring": "ftstride"}
"""The workloads' names in the SimGrid program."""
_FLAGS = (
    "--cfg=network/model:CM02",
    "--cfg=network/latency-factor:1",
    "--cfg=network/bandwidth-factor:1",
    "--cfg=network/weight-S:0",
    "--cfg=network/TCP-gamma:0",
    "--cfg=network/crosstraffic:0",
    "--log=root.thres:critical",
)


class BenchError(DistsimError):
    """A program that was to be measured failed."""


@dataclass(frozen=True)
class Options:
    """What to measure."""

    workers: tuple[int, ...]
    simgrid: Path | None = None
    repeats: int = REPEATS


def read(workers: str, simgrid: Path | None, output: Path | None) -> Options:
    """The options. Raises `BadInput` with all that is wrong with them."""
    problems, counts = [], []
    for word in workers.split(","):
        count = int(word) if word.strip().isdecimal() and len(word) < 9 else 0
        if why := problem(count):
            problems.append(Problem("--workers", word, f"must be {why}", f"for example --workers {DEFAULT_WORKERS}"))
        counts.append(count)
    if simgrid is not None and not (simgrid.is_file() and os.access(simgrid, os.X_OK)):
        allowed = "must be the compiled SimGrid program"
        problems.append(
            Problem("--simgrid", str(simgrid), allowed, "tests/benchmarks/simgrid/README.md says how to build it")
        )
    problems += unwritable(output)
    if problems:
        raise BadInput(problems)
    return Options(tuple(dict.fromkeys(counts)), None if simgrid is None else simgrid.absolute())


def unwritable(output: Path | None) -> list[Problem]:
    """Why the rows cannot be written there."""
    if output is None:
        return []
    if not output.absolute().parent.is_dir():
        return [Problem("--json", str(output), "a file in a folder that is there")]
    why = refusal(output)
    return [Problem("--json", str(output), f"a file that can be written ({why})")] if why else []


def bench(options: Options) -> list[dict[str, Any]]:
    """A row for each workload and number of workers; says on stderr what it is at. Raises `BenchError`."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="distsim-bench-") as name:
        folder = Path(name)
        for workers in options.workers:
            write_times(folder, workers)
            for workload in names(workers):
                print(f"{workload}, {workers} workers", file=sys.stderr)
                rows.append(_row(options, workload, workers, folder))
    return rows


def profiles(options: Options) -> list[str]:
    """For each workload and number of workers, where the simulation's time goes. Raises `BenchError`."""
    texts = []
    with tempfile.TemporaryDirectory(prefix="distsim-bench-") as name:
        folder = Path(name)
        for workers in options.workers:
            write_times(folder, workers)
            for workload in names(workers):
                top = _ours(workload, workers, folder, profile=True)["profile"]
                texts.append(f"{workload}, {workers} workers\n{_grouped(top)}")
    return texts


def write_times(folder: Path, workers: int) -> None:
    """Compute times of rounds x workers, as doubles: lognormal with median 50 ms and sigma 0.2, seed 1234 + N."""
    import numpy as np

    generator = np.random.default_rng(1234 + workers)
    times = generator.lognormal(np.log(0.05), 0.2, size=(ROUNDS, workers))
    times.astype("<f8").tofile(compute_file(folder, workers))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows for a terminal."""
    compared = any("ratio" in row for row in rows)
    head = ["workload", "workers", "simulated s", "CPU s", "start-up s", "peak MB"]
    head += ["SimGrid: simulated s", "CPU s", "ratio"] if compared else []
    lines = [head]
    for row in rows:
        line = [row["workload"], str(row["workers"]), f"{row['simulated_seconds']:.9f}", f"{row['cpu_seconds']:.2f}"]
        line += [f"{row['startup_cpu_seconds']:.2f}", f"{row['peak_mb']:.0f}"]
        if "ratio" in row:
            line += [f"{row['reference_simulated_seconds']:.9f}", f"{row['reference_cpu_seconds']:.2f}"]
            line += [f"{row['ratio']:.2f}"]
        line += [""] * (len(head) - len(line))
        lines.append(line)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = [[cell.rjust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    for text, line in zip(texts, lines, strict=True):
        text[0] = line[0].ljust(widths[0])
    return "\n".join("  ".join(text).rstrip() for text in texts)


# ---- one measurement


def _row(options: Options, workload: str, workers: int, folder: Path) -> dict[str, Any]:
    ours, theirs = [], []
    for _ in range(options.repeats):
        ours.append(_ours(workload, workers, folder))
        if options.simgrid is not None and workload in _REFERENCE:
            theirs.append(_reference(options.simgrid, workload, workers, folder))
    row: dict[str, Any] = {
        "workload": workload,
        "workers": workers,
        "simulated_seconds": ours[0]["simulated_seconds"],
        "cpu_seconds": median(each["cpu_seconds"] for each in ours),
        "startup_cpu_seconds": median(each["startup_cpu_seconds"] for each in ours),
        "peak_mb": median(each["peak_mb"] for each in ours),
    }
    if theirs:
        row["reference_simulated_seconds"] = theirs[0][0]
        row["reference_cpu_seconds"] = median(cpu for _, cpu in theirs)
        row["ratio"] = row["reference_cpu_seconds"] / row["cpu_seconds"]
    return row


def _ours(workload: str, workers: int, folder: Path, profile: bool = False) -> dict[str, Any]:
    command = [sys.executable, "-m", "distsim.bench.measure", workload, str(workers), str(folder)]
    text, cpu = _run(command + ["--profile"] * profile, folder)
    found: dict[str, Any] = json.loads(text)
    found["cpu_seconds"] = cpu
    return found


def _reference(program: Path, workload: str, workers: int, folder: Path) -> tuple[float, float]:
    """Simulated and CPU seconds of the SimGrid program."""
    text, cpu = _run([str(program), _REFERENCE[workload], str(workers), *_FLAGS], folder)
    try:
        return float(json.loads(text)["sim"]), cpu
    except (ValueError, KeyError, TypeError):
        raise BenchError(f"{program} printed no JSON with the key sim: {text.strip()[:200]!r}") from None


def _run(command: Sequence[str], folder: Path) -> tuple[str, float]:
    """What a program printed, and all CPU seconds of its process."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=errors)
        except OSError as error:
            raise BenchError(f"{command[0]} cannot be run: {error}") from None
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.kill()
            process.wait()
            raise
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        errors.seek(0)
        if process.returncode:
            lines = errors.read().decode(errors="replace").strip().splitlines()
            raise BenchError(f"{' '.join(command)} ended with {process.returncode}: {lines[-1] if lines else 'no message'}")
        return output.read().decode(errors="replace"), usage.ru_utime + usage.ru_stime


# ---- profiles


def _grouped(top: Sequence[tuple[str, int, float]]) -> str:
    """Own seconds of functions, by the file that they are in."""
    total = sum(seconds for _, _, seconds in top)
    groups: defaultdict[str, list[tuple[str, int, float]]] = defaultdict(list)
    for name, calls, seconds in top:
        place, _, function = name.partition(":")
        groups[place if function else "built-in"].append((name, calls, seconds))
    shares = {place: sum(seconds for _, _, seconds in rows) for place, rows in groups.items()}
    lines = []
    for place in sorted(groups, key=lambda place: -shares[place])[:_TOP]:
        lines.append(f"{shares[place]:8.3f} s {shares[place] / total:4.0%}  {place}")
        for name, calls, seconds in groups[place][:_TOP]:
            if seconds >= 0.01 * total:
                lines.append(f"{seconds:10.3f} s {calls:10,d} calls  {name.partition(':')[2] or name}")
    return "\n".join(lines)
