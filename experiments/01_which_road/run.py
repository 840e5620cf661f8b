"""Which road to take: split the model, or the data; and if the data, in step or not?

    .venv/bin/python experiments/01_which_road/run.py        (`make report` sets up and runs it)

Five parts, each resumed where it was when killed, for a finished run is never done again:
1.  calibrate this machine, unless a profile of it is fresh;
2.  tune: every strategy's learning rate from one grid, cosimulated, on seeds that nothing else uses;
3.  measure: the strategies really trained by four local processes, with and without a slow worker, in a random order;
4.  predict: the same runs cosimulated and modeled, and modeled on 4 to 64 hosts behind a switch;
5.  report: one page, and the verdict in one sentence.

The target, the budget and the grid below were fixed before any run that is compared. No library code lives here.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # cosimulated runs fill the cores side by side, a thread each

import distsim
from distsim import Result
from distsim.calibration.host import hardware
from distsim.calibration.profile import DEFAULT, Profile
from distsim.report.page import write_report
from distsim.study import Progress, Settings, best_rates, cores, in_turn, minutes, script, side_by_side

ROOT = Path(__file__).resolve().parents[2]
NAME = Path(__file__).resolve().parent.name
RUNS, PAGE = f"runs/{NAME}", Path(f"reports/{NAME}/index.html")

WORKERS = 4
STRATEGIES = ("model_parallel", "one_f_one_b", "all_reduce", "sync_ps", "async_ps")
STRAGGLERS = ("none", "one_slow")  # one_slow: worker 0 is three times slower
TARGET = 0.15
"""Validation loss that all race to."""
SAMPLES, EVALUATE_EVERY = 6400, 320
"""The budget of a run, whatever the strategy: 100 synchronous updates of 4 x 16 samples, or 400 asynchronous ones."""
GRID = (0.4, 0.2, 0.1, 0.05, 0.025)
TUNING_SEED, TUNING_REPEATS = 1000, 2
REPEATS = 5
SWITCH_WORKERS = (4, 8, 16, 32, 64)
SWITCH_DEPTH, SWITCH_STEPS = 64, 5
"""As many blocks as the longest pipeline has stages, for every strategy; steps of all workers that are modeled."""
FRESH = timedelta(hours=24)
EXPECTED = {"calibration": 24.0, "real": 2.6, "cosimulated": 2.0, "modeled": 0.4}
"""Seconds on two quiet cores, for the estimate only."""


def settings(strategy: str, backend: str, straggler: str, rate: float, repeat: int = 0, **more: Any) -> dict[str, Any]:
    """One run's settings, as `distsim.run` takes them."""
    return {
        "strategy": strategy,
        "backend": backend,
        "workload": "digits_mlp",
        "cluster": "local4",
        "straggler": straggler,
        "optimizer.learning_rate": rate,
        "budget.samples": SAMPLES,
        "evaluation.samples": EVALUATE_EVERY,
        "repeat": repeat,
        "runs": RUNS,
        **more,
    }


def tuning_runs() -> list[Settings]:
    """Every strategy at every rate, without stragglers."""
    more = {"seed": TUNING_SEED, "label": "tuning"}
    return [
        settings(strategy, "cosimulated", "none", rate, repeat, **more)
        for strategy in STRATEGIES
        for rate in GRID
        for repeat in range(TUNING_REPEATS)
    ]


def local_runs(backend: str, roads: Sequence[tuple[str, float]], repeats: int) -> list[Settings]:
    """The strategies at their rates on this machine, with and without a slow worker. In a random order, a repeat after the
    other: what disturbs the machine for a while disturbs all strategies alike. A strategy's second rate is the control:
    shown and not ranked."""
    tuned = dict(reversed(roads))
    labels = {(s, rate): {} if tuned[s] == rate else {"label": "control"} for s, rate in roads}
    runs = []
    for repeat in range(repeats):
        one = [settings(s, backend, slow, rate, repeat, **labels[s, rate]) for s, rate in roads for slow in STRAGGLERS]
        Random(repeat).shuffle(one)
        runs += one
    return runs


def switch_runs(roads: Sequence[tuple[str, float]]) -> list[Settings]:
    """The strategies on 4 to 64 hosts; byte counts only, so the rate changes nothing."""
    runs = []
    for workers in SWITCH_WORKERS:
        more = {
            "cluster": "switch",
            "cluster.workers": workers,
            "workload.depth": SWITCH_DEPTH,
            "budget.samples": SWITCH_STEPS * workers * 16,
        }
        runs += [settings(s, "modeled", straggler, rate, **more) for s, rate in roads for straggler in STRAGGLERS]
    return runs


def roads_of(rates: dict[str, float]) -> list[tuple[str, float]]:
    """The strategies at their rates, and the control: asynchronous at the synchronous rate / P."""
    control = ("async_ps", rates["all_reduce"] / WORKERS)
    return list(dict.fromkeys([*rates.items(), control]))


def calibrated() -> Profile:
    """The profile of this machine, measured now unless there is a fresh one."""
    if DEFAULT.exists():
        profile = Profile.load(DEFAULT)
        age = datetime.now(UTC) - datetime.fromisoformat(profile.created)
        same = profile.hardware == hardware() and profile.versions["distsim"] == distsim.__version__
        if same and age < FRESH:
            print(f"  the profile of {profile.created} is fresh")
            return profile
    from distsim.calibration.measure import calibrate
    from distsim.workloads.digits_mlp import DigitsMLP

    profile = calibrate(DigitsMLP(), WORKERS, quick=True, progress=lambda line: print(f"  {line}", flush=True))
    profile.save(DEFAULT)
    return profile


def parts(progress: Progress) -> Iterator[tuple[str, list[Result]]]:
    """Everything that is run, as (role, results)."""
    progress.part(f"tuning: {len(STRATEGIES)} strategies x {len(GRID)} rates x {TUNING_REPEATS} seeds, cosimulated")
    tuned = side_by_side(tuning_runs(), progress, EXPECTED)
    yield "tuning", tuned
    rates = best_rates(tuned, TARGET)
    roads = roads_of(rates)
    print("\n  rates: " + ", ".join(f"{strategy} {rate:g}" for strategy, rate in roads))
    progress.part(f"training for real: {len(roads)} strategies x 2 x {REPEATS} repeats, one after the other")
    yield "runs", in_turn(local_runs("real", roads, REPEATS), progress, EXPECTED)
    progress.part("the same, cosimulated and modeled; and modeled from 4 to 64 workers on a switch")
    predicted = [*local_runs("cosimulated", roads, REPEATS), *local_runs("modeled", roads, REPEATS)]
    yield "runs", side_by_side([*predicted, *switch_runs(list(rates.items()))], progress, EXPECTED)


def estimate() -> float:
    """Seconds that a first run takes on two quiet cores."""
    n = len(STRATEGIES) + 1
    real = n * 2 * REPEATS * EXPECTED["real"]
    cosimulated = (len(tuning_runs()) + n * 2 * REPEATS) * EXPECTED["cosimulated"] / cores()
    modeled = n * 2 * (REPEATS + len(SWITCH_WORKERS)) * EXPECTED["modeled"] / cores()
    return EXPECTED["calibration"] + real + cosimulated + modeled


def main() -> int:
    """Run everything and write the page; the exit status says whether some run failed."""
    os.chdir(ROOT)
    expected = estimate()
    print(f"Which road to take? About {minutes(expected)} on this machine, less for what was run before.")
    progress = Progress(expected)
    progress.part("calibrating this machine")
    profile = calibrated()
    progress.step("calibrated", EXPECTED["calibration"], now=True)
    found: dict[str, list[Result]] = {"tuning": [], "runs": []}
    for role, results in parts(progress):
        found[role] += results
    progress.part("the report")
    verdict = write_report(
        found["runs"], PAGE, title="Which road to take", target=TARGET, tuning=found["tuning"], floor=profile.noise
    )
    failed = [run for run in found["runs"] if run.status != "done"]
    for run in failed:
        print(f"  {run.id} {run.status}: {run.summary['message'].splitlines()[0]}")
    print(f"  {len(found['runs'])} runs in {minutes(progress.elapsed())}: {PAGE}\n\n{verdict}")
    return 1 if failed else 0


if __name__ == "__main__":
    script(main)
