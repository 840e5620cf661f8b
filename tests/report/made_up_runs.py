"""Stored runs of invented strategies on an invented clock: what a page is made of, without training anything."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from distsim.interface.trace import Compute, Trace, Transfer
from distsim.results.breakdown import breakdown
from distsim.results.store import Result, claim

SAMPLES = 16
STEPS = 60


def synchronous(workers: int, slow: Mapping[int, float], random: Random, gap: float) -> tuple[list[Trace], float]:
    """Workers that compute, then join an all-reduce of 2 ms; everyone waits for the slowest."""
    traces = [Trace(rank) for rank in range(workers)]
    channel = "all_reduce " + ",".join(map(str, range(workers)))
    free = 0.0
    for step in range(STEPS):
        times = [random.uniform(0.009, 0.011) * slow.get(rank, 1.0) for rank in range(workers)]
        ended = free + max(times) + 0.002
        for trace, seconds in zip(traces, times, strict=True):
            done = free + seconds
            trace.compute += [
                Compute("F", free, free + seconds / 3, step, trace.rank),
                Compute("B", free + seconds / 3, done, step, trace.rank),
                Compute("apply", ended, ended + 0.0005, -1, -1),
            ]
            trace.transfers.append(Transfer("all_reduce", channel, step, 4e5, done, done, ended))
        free = ended + 0.0005 + gap
    return traces, free


def asynchronous(workers: int, slow: Mapping[int, float], random: Random) -> tuple[list[Trace], float]:
    """A server that answers every gradient with a model, after 0.3 ms."""
    traces = [Trace(rank) for rank in range(workers + 1)]
    ready = [0.0] * workers
    free, sequence = 0.0, [0] * workers
    for step in range(STEPS * workers):
        done = [ready[rank] + random.uniform(0.009, 0.011) * slow.get(rank, 1.0) for rank in range(workers)]
        rank = done.index(min(done))
        arrived = max(done[rank], free) + 0.001
        free = arrived + 0.0003
        answered = free + 0.001
        up, down, n = f"message {rank}>{workers} push", f"message {workers}>{rank} pull", sequence[rank]
        traces[rank].compute.append(Compute("gradient", ready[rank], done[rank], step, rank))
        traces[rank].transfers.append(Transfer("send", up, n, 4e5, done[rank], done[rank], arrived))
        traces[rank].transfers.append(Transfer("receive", down, n, 4e5, done[rank], arrived, answered))
        traces[-1].compute.append(Compute("apply", arrived, free, -1, -1))
        traces[-1].transfers.append(Transfer("receive", up, n, 4e5, arrived - 0.001, arrived - 0.001, arrived))
        traces[-1].transfers.append(Transfer("send", down, n, 4e5, free, answered, answered))
        ready[rank], free = answered, answered
        sequence[rank] += 1
    return traces, free


def store(
    runs: Path,
    strategy: str,
    mode: str = "real",
    repeat: int = 0,
    *,
    workers: int = 4,
    slow: Mapping[int, float] | None = None,
    rate: float = 0.1,
    seed: int = 0,
    cluster: str = "local4",
    label: str = "",
    status: str = "done",
    learning: float = 1.0,
    depth: int = 8,
    source: str = "s",
    started: str = "2030-01-01T00:00:00.000+00:00",
) -> Result:
    """Invent one run and store it."""
    slow = slow or {}
    random = Random(repr((seed, repeat, workers)))
    is_async = strategy == "async_ps"
    noise = Random(repr((strategy, mode, repeat))).uniform(0.0, 0.001) if mode == "real" else 0.0005
    traces, seconds = (
        asynchronous(workers, slow, random)
        if is_async
        else synchronous(workers, slow, random, noise + (0.004 if strategy == "sync_ps" else 0.0))
    )
    updates = STEPS * workers if is_async else STEPS
    samples = STEPS * workers * SAMPLES
    curve = [
        {
            "update": updates * i // 20,
            "samples": samples * i // 20,
            "seconds": seconds * i / 20,
            "loss": 0.12 + 2.2 * math.exp(-0.35 * i * learning * (0.85 if is_async else 1.0) * random.uniform(0.97, 1.03)),
            "accuracy": 1.0 - 0.9 * math.exp(-0.4 * i),
        }
        for i in range(1, 21)
    ]
    config = configuration(strategy, mode, repeat, workers, slow, rate, seed, cluster, label)
    config["workload"]["depth"] = depth
    summary = {
        "status": status,
        "message": "" if status == "done" else "rank 2: loss is not finite at step 20",
        "config": config,
        "inputs": {"source": source, "data": "d"},
        "workers": workers,
        "servers": int(strategy.endswith("_ps")),
        "world_size": workers + int(strategy.endswith("_ps")),
        "seconds": seconds,
        "updates": updates,
        "samples": samples,
        "seconds_per_update": seconds / updates,
        "samples_per_second": samples / seconds,
        "staleness": staleness(workers) if is_async else {"mean": 0.0, "max": 0, "histogram": {"0": updates}},
        "breakdown": breakdown(traces, workers, seconds),
        "curve": curve if mode != "modeled" else [],
        "final_loss": curve[-1]["loss"] if mode != "modeled" else None,
        "notes": ["more ranks than cores: contended"] if mode == "real" else [],
        "versions": {"distsim": "0.1.0", "python": "3.11", "torch": "2.13"},
        "host": "made up, 2 cores",
        "started": started,
        "wall_seconds": seconds,
    }
    name = f"{strategy}-{mode}-{abs(hash_of({**config, 'source': source})):012x}"[-60:]
    with claim(runs, name, config) as draft:
        if isinstance(draft, Result):
            return draft
        return draft.commit(summary, {}, traces if repeat == 0 else [])


def hash_of(config: Mapping[str, Any]) -> int:
    return int.from_bytes(Random(repr(config)).randbytes(6), "little")


def staleness(workers: int) -> dict[str, Any]:
    return {"mean": workers - 1.0, "max": workers + 1, "histogram": {"0": 2, str(workers - 1): 200, str(workers): 30}}


def configuration(
    strategy: str,
    mode: str,
    repeat: int,
    workers: int,
    slow: Mapping[int, float],
    rate: float,
    seed: int,
    cluster: str,
    label: str,
) -> dict[str, Any]:
    network = (
        {"network": "loopback"} if cluster == "local4" else {"network": "switch", "bandwidth": "10Gbit/s", "latency": 5e-6}
    )
    return {
        "strategy": {"name": strategy},
        "backend": {"name": mode},
        "workload": {"name": "digits_mlp", "batch": SAMPLES},
        "cluster": {"name": cluster, "workers": workers, "device": "profile", "profile": "auto", **network},
        "straggler": {
            "name": "one_slow" if slow else "none",
            "jitter": "none",
            "scale": 1.0,
            "sigma": 0.2,
            "slow": {str(worker): factor for worker, factor in slow.items()},
        },
        "optimizer": {"name": "sgd", "learning_rate": rate, "momentum": 0.0},
        "budget": {"updates": None, "samples": STEPS * workers * SAMPLES, "seconds": None},
        "evaluation": {"samples": 192},
        "seed": seed,
        "repeat": repeat,
        "runs": "runs",
        "label": label,
    }


def whole(
    runs: Path, strategies: Sequence[str] = ("all_reduce", "sync_ps", "async_ps")
) -> tuple[list[Result], list[Result]]:
    """Everything that a page can show: three modes, a straggler, a sweep over workers; and the tuning runs."""
    results = [
        store(runs, strategy, mode, repeat, slow=slow)
        for strategy in strategies
        for mode in ("real", "cosimulated", "modeled")
        for slow in ({}, {0: 3.0})
        for repeat in range(5)
    ]
    results += [
        store(runs, strategy, "modeled", workers=workers, slow=slow, cluster="switch", depth=64)
        for strategy in strategies
        for workers in (4, 8, 16, 32, 64)
        for slow in ({}, {0: 3.0})
    ]
    tuning = [
        store(runs, strategy, "cosimulated", repeat, rate=rate, seed=100, label="tuning", learning=learning)
        for strategy in strategies
        for rate, learning in ((0.025, 0.3), (0.05, 0.6), (0.1, 1.0), (0.2, 0.8))
        for repeat in range(2)
    ]
    return results, tuning
