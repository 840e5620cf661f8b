"""Wait for all, for most, or for nobody? Five ways to synchronise under five kinds of straggler.

    .venv/bin/python experiments/02_stragglers/run.py        (about 4 minutes on two cores)

1.  tune: every contender's learning rate from one grid, without stragglers, on seeds that nothing else uses;
2.  compare: five repeats of each under each kind of straggler, the same draws for all;
3.  report: one page, and a verdict a kind.

Everything is cosimulated: the gradients are real, the cluster is described below. The target, the budget and the grid were
fixed before any run that is compared. Killed, it goes on where it was. No library code lives here.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # runs fill the cores side by side, a thread each

from distsim.report.page import write_report
from distsim.report.page_data import gather
from distsim.results.explanation import sentence
from distsim.study import Progress, best_rates, cores, minutes, script, side_by_side

ROOT = Path(__file__).resolve().parents[2]
NAME = Path(__file__).resolve().parent.name
RUNS, PAGE = f"runs/{NAME}", Path(f"reports/{NAME}/index.html")

CONTENDERS: dict[str, dict[str, Any]] = {
    "sync_ps": {"strategy": "sync_ps"},
    "backup_workers": {"strategy": "backup_workers", "strategy.backups": 1},
    "k_sync": {"strategy": "k_sync", "strategy.k": 4},
    "ssp": {"strategy": "ssp", "strategy.bound": 3},
    "async_ps": {"strategy": "async_ps"},
}
STRAGGLERS: dict[str, dict[str, Any]] = {
    "none": {"straggler": "none"},
    "lognormal": {"straggler": "lognormal", "straggler.sigma": 0.3},
    "shifted_exponential": {"straggler": "shifted_exponential", "straggler.scale": 0.5},
    "pareto": {"straggler": "pareto", "straggler.shape": 2.0},
    "bernoulli": {"straggler": "bernoulli", "straggler.probability": 0.05, "straggler.multiple": 10.0},
    "one_slow": {"straggler": "one_slow"},
}
"""None, and five kinds: mild jitter, exponential tails, heavy tails, rare long steps, one worker that is always slow."""
WORKLOAD = {"workload": "digits_mlp", "workload.depth": 4, "workload.width": 128}
CLUSTER = {
    "cluster": "switch",
    "cluster.workers": 8,
    "cluster.bandwidth": "100Gbit/s",
    "cluster.latency": "5us",
    "cluster.device": "roofline",
    "cluster.flops": "2Gflop/s",
    "cluster.memory_bandwidth": "20GB/s",
}
"""A step computes for some 2 ms, and the server's link carries its models in 0.1 ms: waiting decides, not the network."""
TARGET = 0.15
"""Validation loss that all race to."""
SAMPLES, EVALUATE_EVERY = 12_800, 256
"""100 updates of 8 x 16 samples, or 800 of one worker's 16; two synchronous updates between evaluations."""
GRID = (0.4, 0.2, 0.1, 0.05, 0.025, 0.0125)
TUNING_SEED, TUNING_REPEATS = 1000, 2
REPEATS = 5
EXPECTED = {"cosimulated": 2.0}
"""Seconds of a run, for the estimate only."""


def settings(contender: str, straggler: str, rate: float, repeat: int, **more: Any) -> dict[str, Any]:
    """One run's settings, as `distsim.run` takes them."""
    return {
        **CONTENDERS[contender],
        **STRAGGLERS[straggler],
        **CLUSTER,
        "backend": "cosimulated",
        **WORKLOAD,
        "optimizer.learning_rate": rate,
        "budget.samples": SAMPLES,
        "evaluation.samples": EVALUATE_EVERY,
        "repeat": repeat,
        "runs": RUNS,
        **more,
    }


def tuning_runs() -> list[dict[str, Any]]:
    """Every contender at every rate, without stragglers."""
    return [
        settings(contender, "none", rate, repeat, seed=TUNING_SEED, label="tuning")
        for contender in CONTENDERS
        for rate in GRID
        for repeat in range(TUNING_REPEATS)
    ]


def compared_runs(rates: dict[str, float]) -> list[dict[str, Any]]:
    """Every contender at its rate under every straggler; and the control, asynchronous at the synchronous rate / P."""
    roads = [(contender, rates[contender], {}) for contender in CONTENDERS]
    roads.append(("async_ps", rates["sync_ps"] / CLUSTER["cluster.workers"], {"label": "control"}))
    return [
        settings(contender, straggler, rate, repeat, **more)
        for straggler in STRAGGLERS
        for contender, rate, more in roads
        for repeat in range(REPEATS)
    ]


def main() -> int:
    """Run everything and write the page; the exit status says whether some run failed."""
    os.chdir(ROOT)
    planned = len(tuning_runs()) + len(compared_runs(dict.fromkeys(CONTENDERS, 0.1)))
    expected = planned * EXPECTED["cosimulated"] / cores()
    print(
        f"Wait for all, for most, or for nobody? About {minutes(expected)} on this machine, less for what was run before."
    )
    progress = Progress(expected)
    progress.part(f"tuning: {len(CONTENDERS)} strategies x {len(GRID)} rates x {TUNING_REPEATS} seeds")
    tuned = side_by_side(tuning_runs(), progress, EXPECTED)
    rates = best_rates(tuned, TARGET)
    print("\n  rates: " + ", ".join(f"{contender} {rate:g}" for contender, rate in rates.items()))
    progress.part(f"{len(STRAGGLERS)} kinds of straggler x {len(CONTENDERS) + 1} contenders x {REPEATS} repeats")
    runs = side_by_side(compared_runs(rates), progress, EXPECTED)
    progress.part("the report")
    write_report(runs, PAGE, title="Wait for all, for most, or for nobody", target=TARGET, tuning=tuned)
    failed = [run for run in runs if run.status not in ("done", "diverged")]
    for run in failed:
        print(f"  {run.id} {run.status}: {run.summary['message'].splitlines()[0]}")
    print(f"  {len(runs)} runs in {minutes(progress.elapsed())}: {PAGE}\n")
    for verdict in gather(runs, "", TARGET, tuned).verdicts:
        print(sentence(verdict))
    return 1 if failed else 0


if __name__ == "__main__":
    script(main)
