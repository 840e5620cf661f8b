"""How far off is the model where bytes cross a real network? Links of 200 Mbit/s between network namespaces.

    sudo .venv/bin/python experiments/05_real_network/run.py        (about 10 minutes on two quiet cores)

Three parts, each resumed where it was when killed:
1.  calibrate what this machine's blocks cost, for the devices of the model;
2.  train for real: a host a rank (a server beside a worker shares its host), started as any engine starts ranks on hosts;
    in a random order, a repeat after the other;
3.  model the very same configurations, and write the page.

The links are slow and the model computes little for its bytes: the ranks share this machine's cores, which the model of a
host a rank knows nothing of, and the table says how small a share that is. No library code lives here.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import distsim
from distsim import Result, api
from distsim.calibration.host import Others
from distsim.calibration.profile import Profile
from distsim.report.page import write_report
from distsim.results.matching import begins, sides
from distsim.results.statistics import mean_interval
from distsim.study import Progress, Settings, minutes, script
from distsim.testing.namespaces import PAYLOAD, Network, obstacle
from distsim.workloads.digits_mlp import DigitsMLP

ROOT = Path(__file__).resolve().parents[2]
NAME = Path(__file__).resolve().parent.name
RUNS, PAGE = f"runs/{NAME}", Path(f"reports/{NAME}/index.html")
PROFILE = Path(f"{RUNS}/.profile.json")

WORKERS = 4
CONTENDERS: Mapping[str, Mapping[str, Any]] = {
    "all_reduce": {"strategy": "all_reduce"},
    "a server beside each worker": {"strategy": "sync_ps", "strategy.servers": WORKERS, "strategy.beside": True},
    "two servers": {"strategy": "sync_ps", "strategy.servers": 2},
    "one server": {"strategy": "sync_ps", "strategy.servers": 1},
}
"""Quickest first, as the model says."""
RATE = 200e6
"""Bits a second, of frames."""
WORKLOAD = DigitsMLP(batch=4, width=512)
MODEL = WORKLOAD.model().parameter_bytes
LINK = RATE / 8.0 * PAYLOAD
"""Bytes of payload a second."""
CLUSTER = {
    "cluster": "switch",
    "cluster.workers": WORKERS,
    "cluster.bandwidth": f"{RATE / 1e6:.0f}Mbit/s",
    "cluster.latency": "0us",  # a link's own; what the kernel takes is small beside the milliseconds of any message here
    "cluster.transport.bandwidth_factor": round(PAYLOAD, 6),
}
UPDATES, REPEATS = 8, 5
FIRST_PORT = 29500
PATIENCE = 300.0
"""Seconds that a run may take, start included."""


def settings(contender: str, backend: str, repeat: int, updates: int = UPDATES, **more: Any) -> dict[str, Any]:
    """One run's settings, as `distsim.run` takes them."""
    real = {"backend.interface": "eth0"} if backend == "real" else {}
    return {
        **CONTENDERS[contender],
        **CLUSTER,
        "workload": WORKLOAD.name,
        "workload.batch": WORKLOAD.batch,
        "workload.width": WORKLOAD.width,
        "backend": backend,
        **real,
        "budget.updates": updates,
        "evaluation.samples": 0,
        "repeat": repeat,
        "runs": RUNS,
        **more,
    }


def payload(contender: str) -> tuple[float, float]:
    """Bytes of an update on the busiest link: those of one direction, and those that follow each other.

    The ranks of a ring send and take 2 (P - 1) / P M at once. A server takes P gradients and then gives P models, of which
    S servers have 1 / S each; beside a worker its host needs no link for that worker, and takes models and gradients alike.
    """
    own = CONTENDERS[contender]
    if own["strategy"] == "all_reduce":
        return (2 * (WORKERS - 1) / WORKERS * MODEL,) * 2
    share = MODEL / own["strategy.servers"]
    return (2 * (WORKERS - 1) * share,) * 2 if own.get("strategy.beside") else (WORKERS * share, 2 * WORKERS * share)


def hosts(contender: str) -> list[int]:
    """The host of each rank: workers, then servers."""
    own = CONTENDERS[contender]
    servers = range(own.get("strategy.servers", 0))
    return [*range(WORKERS), *(s if own.get("strategy.beside") else WORKERS + s for s in servers)]


def train(network: Network, one: Settings, places: Sequence[int], port: int) -> Result:
    """Run one configuration for real: a launcher for each rank, on its host, with what an engine tells it. That of rank 0
    watches all and writes the row."""
    command = [sys.executable, "-m", "distsim", "run", *(f"{key}={_spelled(value)}" for key, value in one.items())]
    with tempfile.TemporaryDirectory() as folder:
        programs = []
        for rank, host in enumerate(places):
            told = {
                "RANK": rank,
                "WORLD_SIZE": len(places),
                "LOCAL_RANK": places[:rank].count(host),
                "LOCAL_WORLD_SIZE": places.count(host),
                "MASTER_ADDR": network.address(places[0]),
                "MASTER_PORT": port,
            }
            environment = {**os.environ, **{key: str(value) for key, value in told.items()}}
            with Path(folder, f"{rank}").open("wb") as output:
                programs.append(network.start(host, command, env=environment, output=output))
        with suppress(subprocess.TimeoutExpired):
            for program in programs:
                program.wait(PATIENCE)
        said = [Path(folder, f"{rank}").read_text() for rank in range(len(places))]
    found = [line for line in said[0].splitlines() if Path(line).name.startswith(f"{one['strategy']}-real-")]
    if not found:
        raise RuntimeError("\n".join(f"rank {rank} said:\n{text}" for rank, text in enumerate(said)))
    return distsim.load(found[-1])


def _spelled(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def calibrated() -> None:
    """Measure what the blocks of the workload cost, once: the same costs for whatever goes on from here."""
    if PROFILE.exists():
        print(f"  the profile of {Profile.load(PROFILE).created} is taken")
        return
    from distsim.calibration.measure import calibrate

    profile = calibrate(WORKLOAD, WORKERS, quick=True, progress=lambda line: print(f"  {line}", flush=True))
    profile.save(PROFILE)


def trained(progress: Progress) -> dict[str, list[Result]]:
    """Every contender's real runs, by repeat. In a random order, a repeat after the other: what disturbs the machine
    disturbs all alike."""
    order = [(contender, repeat) for repeat in range(REPEATS) for contender in _shuffled(repeat)]
    done: dict[str, list[Result]] = {contender: [] for contender in CONTENDERS}
    meter = Others(os.getpid())
    meter()
    with Network(1 + max(host for contender in CONTENDERS for host in hosts(contender)), RATE) as network:
        for i, (contender, repeat) in enumerate(order):
            one = settings(contender, "real", repeat, **COSTS)
            run = train(network, one, hosts(contender), FIRST_PORT + i)
            done[contender].append(run)
            progress.step(f"{i + 1}/{len(order)} {contender}, repeat {repeat}: {run.status}", expected(contender))
    print(f"  other processes used {meter():.0%} of the CPU meanwhile")
    return done


def _shuffled(repeat: int) -> list[str]:
    names = list(CONTENDERS)
    Random(repeat).shuffle(names)
    return names


COSTS = {"cluster.profile": str(PROFILE)}
START = 8.0
"""Seconds from starting the launchers to the first step and from the last to their end, for the estimate only."""


def expected(contender: str) -> float:
    """Seconds of a real run."""
    return START + UPDATES * payload(contender)[1] / LINK


def step(run: Result) -> float:
    """Seconds of an update."""
    return float(run.summary["seconds_per_update"])


def exchanges(run: Result) -> dict[str, float]:
    """Of all-reduces, models and gradients: seconds from when the first of an update can move until all have arrived, the
    median over the updates."""
    traces = run.trace()
    ready, times = begins(traces), defaultdict(list)
    for (channel, number), found in sides(traces).items():
        if found[0].transfer.nbytes:
            kind = channel.split()[-1 if channel.startswith("message") else 0]
            arrived = max(transfer.ended for _, transfer in found if transfer.kind != "send")
            times[kind, number].append((ready[channel, number], arrived))
    spans = defaultdict(list)
    for (kind, _), each in times.items():
        spans[kind].append(max(arrived for _, arrived in each) - min(begun for begun, _ in each))
    return {kind: median(found) for kind, found in spans.items()}


def table(real: Mapping[str, Sequence[Result]], modeled: Mapping[str, Result]) -> str:
    """A row a contender: what the links need, and what was modeled and measured of the exchanges and of the whole step."""
    lines = [
        "| | a link carries | by hand | exchanges: modeled | measured | off by "
        "| step: modeled | measured (95 %) | off by | computing: modeled | measured |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for contender, prediction in modeled.items():
        one_way, in_turn = payload(contender)
        runs = real[contender]
        moved, predicted = [sum(exchanges(run).values()) for run in runs], sum(exchanges(prediction).values())
        found = mean_interval([step(run) for run in runs])
        computing = [run.summary["breakdown"]["compute"] for run in runs]
        lines.append(
            f"| {contender} | {one_way / 1e6:.1f} MB | {_ms(in_turn / LINK)} "
            f"| {_ms(predicted)} | {_ms(median(moved))} | {_off(predicted, moved)} "
            f"| {_ms(step(prediction))} | {_ms(found.value)} ({_ms(found.low)} to {_ms(found.high)}) "
            f"| {_off(step(prediction), [step(run) for run in runs])} "
            f"| {prediction.summary['breakdown']['compute']:.0%} | {median(computing):.0%} |"
        )
    return "\n".join(lines)


def _off(predicted: float, measured: Sequence[float]) -> str:
    errors = [100.0 * (predicted / seconds - 1.0) for seconds in measured]
    return f"{median(errors):+.1f} % ({min(errors):+.1f} to {max(errors):+.1f})"


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:,.0f} ms"


def main() -> int:
    """Run everything and write the page; the exit status says whether some run failed."""
    os.chdir(ROOT)
    if reason := obstacle():
        print(f"no network of namespaces can be made: {reason}", file=sys.stderr)
        return 2
    whole = 30.0 + REPEATS * sum(map(expected, CONTENDERS))
    print(f"How far off is the model on a real network? About {minutes(whole)}, less for what was run before.")
    progress = Progress(whole)
    progress.part("calibrating this machine")
    calibrated()
    progress.step("calibrated", 30.0, now=True)
    progress.part(f"training for real over links of {RATE / 1e6:.0f} Mbit/s")
    real = trained(progress)
    progress.part("the same, modeled")
    modeled = {c: [api.run(**settings(c, "modeled", repeat, **COSTS)) for repeat in range(REPEATS)] for c in CONTENDERS}
    runs = [run for each in (real, modeled) for found in each.values() for run in found]
    for run in [run for run in runs if run.status != "done"]:
        print(f"  {run.id} {run.status}: {run.summary['message'].splitlines()[0]}")
        return 1
    write_report(runs, PAGE, title="A real network")
    print(f"  {len(runs)} runs in {minutes(progress.elapsed())}: {PAGE}\n")
    print(
        f"a model of {MODEL / 1e6:.2f} MB, {WORKERS} workers, {UPDATES} updates, {REPEATS} repeats; seconds of an update\n"
    )
    print(table(real, {c: found[0] for c, found in modeled.items()}))
    return 0


if __name__ == "__main__":
    script(main)
