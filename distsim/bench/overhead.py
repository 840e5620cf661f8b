"""`distsim bench overhead`: what a step of a real run costs against what people write by hand with torch.

Our strategies run as they always do (`distsim.backends.real.launch`, one process a rank); each stands against hand-written
programs over torch's engines (overhead_reference.py) that train the same blocks on the same samples to the same weights.
The programs of a comparison stay up side by side (overhead_stage.py), a copy of the baseline among them (A/A): its ratio to
itself must be 1. They take turns in blocks of steps, in random order (overhead_gate.py), until the ratios are resolved or
the time is up (overhead_blocks.py). CPUs and gloo only; evaluation and snapshots are off.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from random import Random
from statistics import median
from typing import TYPE_CHECKING, Any

from distsim.bench.fabric import unwritable
from distsim.bench.overhead_blocks import AGAIN, OTHERS, Block, cores_of_the_machine, row
from distsim.bench.overhead_stage import Stage
from distsim.interface import SGD, AdamW, BadInput, Optimizer, Problem
from distsim.workloads.char_gpt import CharGPT
from distsim.workloads.digits_mlp import DigitsMLP
from distsim.workloads.workload import Workload

if TYPE_CHECKING:
    from distsim.bench.overhead_reference import Setting

WORKLOADS: dict[str, tuple[Workload, Optimizer]] = {
    "mlp_5m": (DigitsMLP(batch=32, depth=7, width=992), SGD(0.01, 0.9)),
    "char_gpt_10m": (CharGPT(batch=4, layers=6, heads=6, width=384, context=32), AdamW(0.0003)),
    "tiny": (DigitsMLP(batch=8, depth=4, width=32), SGD(0.01, 0.9)),
}
"""5.0 million parameters, 10.7 million, and one for a first look. What it is trained with goes with it."""
ARMS = {
    "all_reduce": ("ddp_tuned", "ddp_default"),
    "zero": ("fsdp2",),
    "gpipe": ("torch_gpipe",),
    "one_f_one_b": ("torch_1f1b",),
}
"""Our strategies, and what each stands against; the first runs twice. `zero` is stage 3: FSDP2's, which reshards."""
_WARM = 5
"""Steps that nobody counts, at the beginning."""
_LEAST, _MOST, _BLOCK = 5, 50, 1.0
"""Steps of a block: as many as take a second, within these bounds."""
_AGREEING = 3
"""Rounds in a row after which all ratios are resolved: to stop at the first would be to wait for a lucky one."""


@dataclass(frozen=True)
class Options:
    """What to measure."""

    workloads: tuple[str, ...]
    ranks: tuple[int, ...]
    arms: tuple[str, ...]
    limit_seconds: float
    others: float = OTHERS
    seed: int = 0
    output: Path | None = field(default=None, compare=False)


def read(
    workloads: str, ranks: str, arms: str, limit_seconds: float, others: float, seed: int, output: Path | None
) -> Options:
    """The options. Raises `BadInput` with all that is wrong with them."""
    problems = []
    for key, text, known in (("--workloads", workloads, list(WORKLOADS)), ("--strategies", arms, list(ARMS))):
        for word in text.split(","):
            if word not in known:
                problems.append(Problem(key, word, f"must be of {', '.join(known)}"))
    for word in ranks.split(","):
        if word not in ("2", "3", "4"):
            problems.append(Problem("--ranks", word, "must be 2, 3 or 4", "for example --ranks 2,4"))
    if not limit_seconds > 0.0:
        problems.append(Problem("--limit-seconds", limit_seconds, "must be more than 0"))
    if not 0.0 < others <= 1.0:
        problems.append(Problem("--others", others, "must be above 0 and at most 1", f"for example {OTHERS}"))
    problems += unwritable(output)
    if sys.platform != "linux":
        problems.append(Problem("bench", "overhead", "real runs need Linux"))
    if problems:
        raise BadInput(problems)
    chosen = (tuple(dict.fromkeys(text.split(","))) for text in (workloads, arms))
    names, strategies = chosen
    return Options(names, tuple(dict.fromkeys(map(int, ranks.split(",")))), strategies, limit_seconds, others, seed, output)


def bench(options: Options, profiled: Callable[[str], None] | None = None) -> Iterator[list[dict[str, Any]]]:
    """The rows of each comparison, as soon as it is over; says on stderr what it is at. Raises `BenchError`.

    `profiled` is given a text for each: where our steps' time went, rank by rank.
    """
    _say(f"order of blocks: seed {options.seed}; a block is rejected if others use over {options.others:.0%} of all cores")
    ends = time.monotonic() + options.limit_seconds
    cases = [(w, n, arm) for n in options.ranks for w in options.workloads for arm in options.arms]
    for number, (name, ranks, arm) in enumerate(cases):
        until = time.monotonic() + (ends - time.monotonic()) / (len(cases) - number)
        yield _compare(options, name, ranks, arm, until, profiled)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows for a terminal."""
    lines = [["workload", "ranks", "program", "baseline", "ratio", "95 % interval", "CPU ratio", "pairs", "rejected", ""]]
    for found in rows:
        known = found["ratio"] is not None
        low, high = (f"{found[key]:.3f}" if found[key] is not None else "?" for key in ("low", "high"))
        line = [found["workload"], str(found["ranks"]), found["arm"], found["baseline"]]
        line += [f"{found['ratio']:.3f}", f"{low} to {high}", f"{found['cpu_ratio']:.3f}"] if known else ["?"] * 3
        line += [str(found["blocks"]), str(found["rejected"]), "" if found["resolved"] else "not resolved: time was up"]
        lines.append(line)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


# ---- one comparison


def _compare(
    options: Options, workload: str, ranks: int, arm: str, until: float, profiled: Callable[[str], None] | None
) -> list[dict[str, Any]]:
    baselines = ARMS[arm]
    names = [arm, *baselines, baselines[0] + AGAIN]
    where = f"{workload}, {ranks} ranks, {arm}"
    rounds: list[list[Block]] = []

    def rows() -> list[dict[str, Any]]:
        pairs = [*((arm, baseline) for baseline in baselines), (names[-1], baselines[0])]
        return [row(workload, ranks, a, b, rounds, options.others) for a, b in pairs]

    if time.monotonic() >= until:
        _say(f"{where}: no time is left")
        return rows()
    _say(f"{where}: {', '.join(names)} start")
    with Stage(_setting(workload, ranks), arm, names[1:]) as stage:
        cores = cores_of_the_machine()
        for name in names:
            stage.block(name, _WARM, cores)
        first = median(stage.block(name, _LEAST, cores).seconds for name in names)
        steps = min(_MOST, max(_LEAST, ceil(_BLOCK / first)))
        shuffle = Random(repr((options.seed, workload, ranks, arm))).shuffle
        took, resolved = 0.0, 0
        while not rounds or time.monotonic() + took < until:
            begun, order = time.monotonic(), list(names)
            shuffle(order)
            rounds.append([stage.block(name, steps, cores) for name in order])
            _say(f"{where}, round {len(rounds)} of {steps} steps: {_so_far(rounds[-1], options.others)}")
            resolved = resolved + 1 if all(found["resolved"] for found in rows()) else 0
            if resolved == _AGREEING:
                break
            took = time.monotonic() - begun
        outcome = stage.end()
    if profiled is not None:
        from distsim.bench.overhead_profile import profile

        profiled(f"{where}: milliseconds a step\n{profile(outcome.traces, [_WARM, _LEAST, *[steps] * len(rounds)])}")
    return rows()


def _so_far(blocks: Sequence[Block], others: float) -> str:
    said = []
    for block in blocks:
        rejected = f" (rejected: others used {block.others:.0%})" if block.others > others else ""
        said.append(f"{block.program} {1e3 * block.seconds:.1f} ms{rejected}")
    return ", ".join(said)


def _setting(workload: str, ranks: int) -> Setting:
    from distsim.bench.overhead_reference import Setting

    model, optimizer = WORKLOADS[workload]
    return Setting(model, ranks, optimizer, microbatches=2 * ranks)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
