"""Which pipeline schedule: what does each leave idle, hold in memory, and pay for a slow network?

    .venv/bin/python experiments/04_pipelines/run.py        (about 2 minutes on two cores)

A transformer of 16 layers is cut over 4 stages, by cost, so that the stages are as unequal as a real model's. Modeled on
four hosts; jitter of every pass gives the intervals. One table a hop latency: seconds of a step over those of 1F1B, share
of the time in which a rank does not compute, most bytes of activations and of weight versions that a rank holds.

No library code lives here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from distsim import Result
from distsim.report.page import write_report
from distsim.results.statistics import Estimate, mean_interval, paired_ratio
from distsim.study import Progress, cores, minutes, script, side_by_side

ROOT = Path(__file__).resolve().parents[2]
NAME = Path(__file__).resolve().parent.name
RUNS, PAGE = f"runs/{NAME}", Path(f"reports/{NAME}/index.html")

STAGES = 4
CONTENDERS: dict[str, dict[str, Any]] = {
    "1F1B": {"strategy": "one_f_one_b"},
    "GPipe": {"strategy": "gpipe"},
    "interleaved": {"strategy": "interleaved", "strategy.chunks": 2},
    "zero bubble H1": {"strategy": "zero_bubble", "strategy.variant": "h1"},
    "zero bubble H2": {"strategy": "zero_bubble", "strategy.variant": "h2"},
    "zero bubble V": {"strategy": "zero_bubble", "strategy.variant": "v"},
    "PipeDream": {"strategy": "pipedream"},
    "one batch": {"strategy": "model_parallel"},
}
MICROBATCHES = (8, 32)
LATENCIES = ("5us", "1ms", "10ms")
WORKLOAD = {
    "workload": "char_gpt",
    "workload.layers": 16,
    "workload.width": 512,
    "workload.heads": 8,
    "workload.context": 256,
    "workload.batch": 8,
}
CLUSTER = {
    "cluster": "switch",
    "cluster.workers": STAGES,
    "cluster.bandwidth": "100Gbit/s",
    "cluster.device": "roofline",
    "cluster.flops": "5Tflop/s",
    "cluster.memory_bandwidth": "500GB/s",
}
STRAGGLER = {"straggler": "lognormal", "straggler.sigma": 0.05}
UPDATES, REPEATS = 10, 5
EXPECTED = {"modeled": 0.6}
"""Seconds of a run, for the estimate only."""


def settings(contender: str, microbatches: int, latency: str, repeat: int) -> dict[str, Any]:
    """One run's settings, as `distsim.run` takes them."""
    own = dict(CONTENDERS[contender])
    if own["strategy"] not in ("pipedream", "model_parallel"):
        own["strategy.microbatches"] = microbatches
    return {
        **own,
        **WORKLOAD,
        **CLUSTER,
        **STRAGGLER,
        "cluster.latency": latency,
        "backend": "modeled",
        "budget.updates": UPDATES,
        "repeat": repeat,
        "runs": RUNS,
    }


def key(contender: str, microbatches: int, latency: str) -> tuple[str, int, str]:
    """What the runs of a row of a table share; m says nothing to those without micro-batches."""
    has = CONTENDERS[contender]["strategy"] not in ("pipedream", "model_parallel")
    return contender, microbatches if has else MICROBATCHES[0], latency


def planned() -> dict[tuple[str, int, str], list[dict[str, Any]]]:
    """All runs, by row."""
    rows = {key(c, m, latency) for c in CONTENDERS for m in MICROBATCHES for latency in LATENCIES}
    return {row: [settings(*row, repeat) for repeat in range(REPEATS)] for row in sorted(rows)}


def step(run: Result) -> float:
    """Seconds of an update."""
    return float(run.summary["seconds"]) / UPDATES


def idle(run: Result) -> float:
    """The share of the ranks' time in which they do not compute."""
    makespan = float(run.summary["seconds"])
    return 1.0 - fmean(sum(span.ended - span.begun for span in trace.compute) / makespan for trace in run.trace())


def peaks(run: Result) -> tuple[float, float]:
    """Most bytes of activations, and of weight versions, on the rank that holds most."""
    traces = run.trace()
    return max(trace.peak_activations for trace in traces), max(trace.peak.versions for trace in traces)


def tables(found: dict[tuple[str, int, str], list[Result]]) -> Iterable[str]:
    """A table a latency, and the sentence of what came out."""
    for latency in LATENCIES:
        for m in MICROBATCHES:
            base = [step(run) for run in found[key("1F1B", m, latency)]]
            yield f"\nlatency {latency} a link, two a hop; m = {m}: 1F1B takes {1e3 * fmean(base):.1f} ms a step"
            yield f"  {'schedule':<16}{'step / 1F1B (95 %)':>26}{'idle':>18}{'activations':>14}{'versions':>12}"
            for contender in CONTENDERS:
                runs = found[key(contender, m, latency)]
                ratio = paired_ratio([step(run) for run in runs], base)
                share = mean_interval([idle(run) for run in runs])
                held, versions = peaks(runs[0])
                said = f"{share.value:.1%} +-{share.high - share.value:.1%}"
                yield f"  {contender:<16}{_say(ratio):>26}{said:>18}{held / 1e6:>11.1f} MB{versions / 1e6:>9.1f} MB"
            yield f"  {_shortest(found, m, latency)}"


def _shortest(found: dict[tuple[str, int, str], list[Result]], m: int, latency: str) -> str:
    """Which of the schedules that give the weights of one process is shortest, and by how much."""
    times = {
        name: [step(run) for run in found[key(name, m, latency)]]
        for name, own in CONTENDERS.items()
        if own["strategy"] != "pipedream"
    }
    first, second, *_ = sorted(times, key=lambda name: fmean(times[name]))
    return (
        f"shortest without staleness: {first}, {_say(paired_ratio(times[second], times[first]))} times as fast as {second}"
    )


def _say(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


def main() -> int:
    """Run everything and write the page; the exit status says whether some run failed."""
    os.chdir(ROOT)
    plan = planned()
    runs: Sequence[dict[str, Any]] = [one for row in plan.values() for one in row]
    expected = len(runs) * EXPECTED["modeled"] / cores()
    print(f"Which pipeline schedule? {len(runs)} runs, about {minutes(expected)}, less for what was run before.")
    progress = Progress(expected)
    progress.part("modeling")
    results = iter(side_by_side(runs, progress, EXPECTED))
    found = {row: [next(results) for _ in planned_runs] for row, planned_runs in plan.items()}
    done = [run for row in found.values() for run in row]
    if failed := [run for run in done if run.status != "done"]:
        for run in failed:
            print(f"  {run.id} {run.status}: {run.summary['message'].splitlines()[0]}")
        return 1
    write_report(done, PAGE, title="Which pipeline schedule")
    print(f"  {len(done)} runs in {minutes(progress.elapsed())}: {PAGE}")
    print("\n".join(tables(found)))
    return 0


if __name__ == "__main__":
    script(main)
