"""What do stale gradients cost, and from how many workers on is waiting the better road?

    .venv/bin/python experiments/03_staleness/run.py        (about 8 minutes on two cores)

1.  tune: for each number of workers every contender's learning rate from one grid, on seeds that nothing else uses;
2.  compare: five repeats of each, with steady workers and with exponential ones; and two controls, asynchronous at the
    synchronous rate and at that rate divided by P (a gradient then weighs what it weighs in a synchronous update);
3.  report: one page; a table of synchronous against asynchronous, with intervals; and where the order changes.

Everything is cosimulated: gradients and staleness are real, the cluster is described below. The target, the budget and the
grid were fixed before any run that is compared (after a first try on other seeds, in which 32 workers met no target).
Killed, it goes on where it was. No library code lives here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # runs fill the cores side by side, a thread each

from distsim import Result
from distsim.report.page import write_report
from distsim.results.statistics import Estimate, paired_ratio, reached
from distsim.study import Progress, best_rates, cores, minutes, script, side_by_side

ROOT = Path(__file__).resolve().parents[2]
NAME = Path(__file__).resolve().parent.name
RUNS, PAGE = f"runs/{NAME}", Path(f"reports/{NAME}/index.html")

WORKERS = (2, 8, 16, 32)
CONTENDERS: dict[str, dict[str, Any]] = {
    "sync_ps": {"strategy": "sync_ps"},
    "async_ps": {"strategy": "async_ps"},
    "async_ps inverse": {"strategy": "async_ps", "strategy.weight": "inverse"},
}
STRAGGLERS = ("none", "exponential")
WORKLOAD = {"workload": "digits_mlp", "workload.depth": 4, "workload.width": 128}
CLUSTER = {
    "cluster": "switch",
    "cluster.bandwidth": "100Gbit/s",
    "cluster.latency": "5us",
    "cluster.device": "roofline",
    "cluster.flops": "2Gflop/s",
    "cluster.memory_bandwidth": "20GB/s",
}
TARGET = 0.3
"""Validation loss that all race to."""
SAMPLES, EVALUATE_EVERY = 25_600, 512
"""Of all workers together, whatever their number: 50 synchronous updates of 32 x 16, or 800 of 2 x 16."""
GRID = (0.4, 0.2, 0.1, 0.05, 0.025, 0.0125)
SEED, TUNING_SEED, TUNING_REPEATS = 3, 1000, 2
REPEATS = 5
EXPECTED = {"cosimulated": 3.5}
"""Seconds of a run, for the estimate only."""


def settings(contender: str, workers: int, straggler: str, rate: float, repeat: int, **more: Any) -> dict[str, Any]:
    """One run's settings, as `distsim.run` takes them."""
    return {
        **CONTENDERS[contender],
        **CLUSTER,
        "cluster.workers": workers,
        "backend": "cosimulated",
        **WORKLOAD,
        "straggler": straggler,
        "optimizer.learning_rate": rate,
        "budget.samples": SAMPLES,
        "evaluation.samples": EVALUATE_EVERY,
        "repeat": repeat,
        "runs": RUNS,
        **more,
    }


def tuning_runs() -> list[dict[str, Any]]:
    """Every contender at every rate, for every number of workers, steady ones."""
    return [
        settings(name, workers, "none", rate, repeat, seed=TUNING_SEED, label=f"tuning {workers} {name}")
        for workers in WORKERS
        for name in CONTENDERS
        for rate in GRID
        for repeat in range(TUNING_REPEATS)
    ]


def compared_runs(rates: dict[str, float]) -> list[dict[str, Any]]:
    """Every contender at its rate, and the controls."""
    runs = []
    for workers in WORKERS:
        synchronous = rates[f"{workers} sync_ps"]
        roads: list[tuple[str, float, dict[str, Any]]] = [(name, rates[f"{workers} {name}"], {}) for name in CONTENDERS]
        roads += [
            ("async_ps", synchronous, {"label": "control rate"}),
            ("async_ps", synchronous / workers, {"label": "control"}),
        ]
        runs += [
            settings(name, workers, straggler, rate, repeat, seed=SEED, **more)
            for straggler in STRAGGLERS
            for name, rate, more in roads
            for repeat in range(REPEATS)
        ]
    return runs


def times(runs: Iterable[Result], contender: str, workers: int, straggler: str, label: str = "") -> list[float | None]:
    """Seconds to the target of each repeat, None where it was never met."""
    wanted = CONTENDERS[contender]
    found = [
        run
        for run in runs
        if run.config["strategy"]["name"] == wanted["strategy"]
        and run.config["strategy"].get("weight", "constant") == wanted.get("strategy.weight", "constant")
        and (run.config["cluster"]["workers"], run.config["straggler"]["name"]) == (workers, straggler)
        and run.config["label"] == label
    ]
    return [reached(run.summary["curve"], TARGET).seconds for run in sorted(found, key=lambda run: run.config["repeat"])]


def ratio(a: list[float | None], b: list[float | None]) -> Estimate | None:
    """How many times longer `a` takes than `b`, by pairs that both met the target; None unless all did."""
    pairs = [(x, y) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    return paired_ratio(*zip(*pairs, strict=True)) if len(pairs) == REPEATS else None


def findings(runs: list[Result]) -> Iterable[str]:
    """One line for each number of workers: the time of asynchronous over that of synchronous, and of the controls."""
    for straggler in STRAGGLERS:
        yield f"\nSeconds to loss {TARGET:g}, over those of sync_ps ({REPEATS} pairs, 95 %); straggler: {straggler}"
        for workers in WORKERS:
            base = times(runs, "sync_ps", workers, straggler)
            rows = {
                "async_ps": times(runs, "async_ps", workers, straggler),
                "inverse": times(runs, "async_ps inverse", workers, straggler),
                "at sync's rate": times(runs, "async_ps", workers, straggler, "control rate"),
                "at rate/P": times(runs, "async_ps", workers, straggler, "control"),
            }
            said = [f"{name} {_say(ratio(row, base), row)}" for name, row in rows.items()]
            yield f"  P = {workers:2}: " + ", ".join(said)
        yield f"  {_crossing(runs, straggler)}"


def _say(estimate: Estimate | None, row: list[float | None]) -> str:
    if estimate is None:
        return f"met it in {sum(t is not None for t in row)} of {len(row)}"
    return f"{estimate.value:.2f} ({estimate.low:.2f} to {estimate.high:.2f})"


def _crossing(runs: list[Result], straggler: str) -> str:
    """The numbers of workers at which one of the two is surely ahead."""
    ahead: dict[str, list[int]] = {"sync_ps": [], "async_ps": []}
    for workers in WORKERS:
        synchronous, stale = times(runs, "sync_ps", workers, straggler), times(runs, "async_ps", workers, straggler)
        estimate = ratio(stale, synchronous)
        if estimate is not None and estimate.excludes(1.0):
            ahead["async_ps" if estimate.value < 1.0 else "sync_ps"].append(workers)
        elif estimate is None and None not in synchronous:
            ahead["sync_ps"].append(workers)
    return "surely ahead: " + "; ".join(f"{name} at P = {', '.join(map(str, at)) or 'none'}" for name, at in ahead.items())


def main() -> int:
    """Run everything and write the page; the exit status says whether some run failed."""
    os.chdir(ROOT)
    any_rates = {f"{workers} {name}": 0.1 for workers in WORKERS for name in CONTENDERS}
    expected = (len(tuning_runs()) + len(compared_runs(any_rates))) * EXPECTED["cosimulated"] / cores()
    print(f"What does staleness cost? About {minutes(expected)} on this machine, less for what was run before.")
    progress = Progress(expected)
    progress.part(
        f"tuning: {len(WORKERS)} sizes x {len(CONTENDERS)} contenders x {len(GRID)} rates x {TUNING_REPEATS} seeds"
    )
    tuned = side_by_side(tuning_runs(), progress, EXPECTED)
    rates = best_rates(tuned, TARGET)
    print("\n  rates: " + ", ".join(f"{contender} {rate:g}" for contender, rate in rates.items()))
    planned = compared_runs(rates)
    progress.part(f"comparing: {len(planned)} runs")
    runs = side_by_side(planned, progress, EXPECTED)
    progress.part("the report")
    print(write_report(runs, PAGE, title="What staleness costs", target=TARGET, tuning=tuned))
    failed = [run for run in runs if run.status not in ("done", "diverged")]
    for run in failed:
        print(f"  {run.id} {run.status}: {run.summary['message'].splitlines()[0]}")
    print(f"  {len(runs)} runs in {minutes(progress.elapsed())}: {PAGE}")
    print("\n".join(findings(runs)))
    return 1 if failed else 0


if __name__ == "__main__":
    script(main)
