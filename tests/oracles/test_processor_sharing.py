"""A fair-shared link is a processor-sharing queue (T12); what does one thing after another is not.

Poisson arrivals at a load of rho, services of mean 1. The mean sojourn of processor sharing is 1 / (1 - rho) whatever the
sizes are (Kleinrock, "Queueing Systems" II, 1976, section 4.4); a queue in order of arrival has 1 / (1 - rho) for
exponential sizes, and 1 + rho / (2 (1 - rho)) for fixed ones (Pollaczek and Khinchine).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from random import Random
from statistics import fmean, stdev

import pytest

from distsim.backends.simulated.engine import Engine
from distsim.backends.simulated.network import Network
from distsim.interface import Strategy, T, Worker
from distsim.numerics.sizes import Size

from .jobs import Times, done, job
from .jobs import mean_and_error as mean_and_error_of

RUNS, FLOWS, WARM = 24, 3000, 500
"""Independent runs, and flows in each; the first ones find the link too empty."""
RATE = 1e9
"""Bytes a second: a size of 1 is so many bytes."""


def arrivals(draw: Random, load: float, sizes: str) -> list[tuple[float, float]]:
    """When flows start, and their sizes."""
    time, found = 0.0, []
    for _ in range(FLOWS):
        time += draw.expovariate(load)
        found.append((time, draw.expovariate(1.0) if sizes == "exponential" else 1.0))
    return found


def fair(flows: list[tuple[float, float]]) -> list[float]:
    """Seconds from each flow's start to its end; every other one has links of its own before and after."""
    engine = Engine()
    network = Network(engine, [RATE, 3.0 * RATE, RATE])
    sojourns = [math.nan] * len(flows)

    def start(i: int, began: float, size: float) -> None:
        path = [0] if i % 2 else [1, 0]
        network.start(path, size * RATE, 0.0, lambda: sojourns.__setitem__(i, engine.now - began))

    for i, (time, size) in enumerate(flows):
        engine.after(time, lambda i=i, time=time, size=size: start(i, time, size))
    engine.env.run()
    assert abs(network.unaccounted()) <= 1e-12
    return sojourns


def in_order(flows: list[tuple[float, float]]) -> list[float]:
    """The same on a link that carries one after another."""
    free, sojourns = 0.0, []
    for time, size in flows:
        free = max(free, time) + size
        sojourns.append(free - time)
    return sojourns


@cache
def mean_and_error(queue, load: float, sizes: str) -> tuple[float, float]:
    means = [fmean(queue(arrivals(Random(f"{sizes} {load} {run}"), load, sizes))[WARM:]) for run in range(RUNS)]
    return fmean(means), stdev(means) / math.sqrt(RUNS)


@pytest.mark.parametrize("sizes", ["exponential", "fixed"])
@pytest.mark.parametrize("load", [0.5, 0.8])
def test_a_link_is_a_processor_sharing_queue(load: float, sizes: str) -> None:
    mean, error = mean_and_error(fair, load, sizes)
    assert error < 0.05 / (1.0 - load)
    assert mean == pytest.approx(1.0 / (1.0 - load), abs=3.0 * error)


@pytest.mark.parametrize(("sizes", "wait"), [("exponential", 4.0), ("fixed", 2.0)])
def test_a_link_in_order_of_arrival_is_another(sizes: str, wait: float) -> None:
    mean, error = mean_and_error(in_order, 0.8, sizes)
    assert mean == pytest.approx(1.0 + wait, abs=3.0 * error)
    if sizes == "fixed":
        shared, shared_error = mean_and_error(fair, 0.8, sizes)
        assert shared - mean > 6.0 * math.hypot(error, shared_error)


# ---- a rank computes one thing after another


CUSTOMERS = 1000


@dataclass(frozen=True)
class Queue(Strategy):
    """Rank 0 sends word at random times; rank 1 computes for each in order of arrival, as long as it says."""

    load: float = 0.8
    sizes: str = "exponential"

    async def run(self, worker: Worker[T]) -> None:
        await (self.serve(worker) if worker.rank else self.arrive(worker))

    async def arrive(self, worker: Worker[T]) -> None:
        for i in range(CUSTOMERS):
            draw = worker.random(i)
            await worker.compute("gap", lambda size: size, Size(1e9 * draw.expovariate(self.load)))
            service = draw.expovariate(1.0) if self.sizes == "exponential" else 1.0
            worker.post(Size(1e9 * service), 1)

    async def serve(self, worker: Worker[T]) -> None:
        arrivals, services = [worker.receive(0) for _ in range(CUSTOMERS)], []
        for arrival in arrivals:
            services.append(worker.compute("serve", lambda size: size, (await arrival).payload))
        for service in services:
            await service


@pytest.mark.parametrize("load", [0.5, 0.8])
@pytest.mark.parametrize("sizes", ["exponential", "fixed"])
def test_a_rank_that_computes_is_a_queue_in_order_of_arrival(load: float, sizes: str) -> None:
    """M/M/1 and M/D/1: of a load of .8 the mean waits are 4.00 and 2.00 services."""
    wait = load / (1.0 - load) * (1.0 if sizes == "exponential" else 0.5)
    means = []
    for seed in range(16):
        trace = done(job(Queue(load, sizes), 2, 1, Times(byte=1e-9), seed=seed)).traces[1]
        sojourns = [span.ended - word.ended for span, word in zip(trace.compute, trace.transfers, strict=True)]
        means.append(fmean(sojourns[CUSTOMERS // 4 :]))
    mean, error = mean_and_error_of(means)
    assert abs(mean - (1.0 + wait)) < 3.0 * error
    assert error < 0.15 * (1.0 + wait)
