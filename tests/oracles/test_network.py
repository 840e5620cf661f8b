"""Transfers against closed forms, and whole runs against SimGrid's numbers on the same workload.

SimGrid 3.32, model CM02 with all factors 1 and no cross-traffic: hosts with one full-duplex 10 Gbit/s link of 5 us to a
switch, 100 MB a message. `SimGridServer` is the program of its S4U actors, operation for operation.
"""

import math
from dataclasses import dataclass
from random import Random

import numpy as np
import pytest

from distsim.backends.simulated import SimulatedOptions
from distsim.backends.simulated.engine import Engine
from distsim.backends.simulated.network import Network
from distsim.interface import Batch, Straggler, Strategy, Switch, T, Work, Worker
from distsim.numerics.sizes import Size
from distsim.strategies.all_reduce import AllReduce
from distsim.strategies.parameter_server import AsyncPS, SyncPS

from .jobs import Times, chain, done, job

FLOWS = SimulatedOptions(collectives="flows", algorithm="ring")
PRICE = SimulatedOptions(collectives="price", algorithm="ring")
TEN_GBIT = Switch(1.25e9, 5e-6)
STILL = Times()
HUNDRED_MB = chain(parameters=25_000_000)


# ---- closed forms: n ranks, message of M bytes, path latency a, link bandwidth B


@pytest.mark.parametrize("options", [FLOWS, PRICE, None])
@pytest.mark.parametrize("n", [1, 2, 3, 8, 13])
@pytest.mark.parametrize(
    ("parameters", "bandwidth", "latency"), [(25_000_000, 25e9, 2.5e-6), (77, 1e3, 0.5), (77, 1e3, 0.0)]
)
def test_ring_all_reduce(
    options: SimulatedOptions | None, n: int, parameters: int, bandwidth: float, latency: float
) -> None:
    run = job(AllReduce(), n, 3, STILL, Switch(bandwidth, latency), chain(parameters=parameters))
    expected = 2 * (n - 1) * 2 * latency + 2 * (n - 1) / n * 4 * parameters / bandwidth
    assert done(run, options).seconds == pytest.approx(3 * expected, rel=1e-12)


@pytest.mark.parametrize("options", [FLOWS, PRICE])
def test_ring_all_reduce_in_milliseconds(options: SimulatedOptions) -> None:
    run = job(AllReduce(), 8, 1, STILL, Switch(25e9, 2.5e-6), HUNDRED_MB)
    assert done(run, options).seconds == pytest.approx(7.070e-3, rel=1e-12)


@pytest.mark.parametrize("options", [FLOWS, PRICE])
@pytest.mark.parametrize("skew", [{0: 1.5}, {3: 1.02, 5: 1.01}, {1: 40.0, 2: 1.3}])
def test_ring_all_reduce_counts_from_its_last_rank(options: SimulatedOptions, skew: dict[int, float]) -> None:
    run = job(AllReduce(), 8, 1, Times(forward=0.01), Switch(25e9, 2.5e-6), HUNDRED_MB, Straggler(slow=skew))
    assert done(run, options).seconds == pytest.approx(0.01 * max(skew.values()) + 7.070e-3, rel=1e-12)


@pytest.mark.parametrize("options", [FLOWS, PRICE])
@pytest.mark.parametrize(
    ("bucket_bytes", "bandwidth", "expected"),
    [
        (0.0, 1000 / 3, 18.0),  # ready at 6, 8, 10, 12; reduced from 6 to 9, 12, 15, 18
        (1001.0, 1000 / 3, 20.0),  # two blocks a bucket, ready at 8 and 12; reduced to 14, 20
        (1e9, 1000 / 3, 24.0),  # nothing overlaps
        (0.0, 1000.0, 13.0),  # only the last reduction is exposed
        (1001.0, 1000.0, 14.0),
        (1e9, 1000.0, 16.0),
    ],
)
def test_buckets_are_reduced_during_the_backward_pass(
    options: SimulatedOptions, bucket_bytes: float, bandwidth: float, expected: float
) -> None:
    # Four blocks of 1,000 bytes: forward 1 s and backward 2 s each. Two ranks reduce M bytes in M / B.
    run = job(AllReduce(bucket_bytes), 2, 3, Times(1.0, 2.0), Switch(bandwidth, 0.0), chain(blocks=4, parameters=250))
    assert done(run, options).seconds == pytest.approx(3 * expected, rel=1e-12)


def test_server_carries_all_models_and_all_gradients() -> None:
    assert done(job(SyncPS(), 8, 1, STILL, Switch(25e9, 0.0), HUNDRED_MB)).seconds == pytest.approx(64e-3, rel=1e-12)


@pytest.mark.parametrize(
    ("workers", "parameters", "bandwidth", "latency"), [(8, 250, 1e3, 0.0), (5, 33, 7.0, 0.25), (1, 250, 1e3, 0.1)]
)
def test_incast_at_one_server(workers: int, parameters: int, bandwidth: float, latency: float) -> None:
    run = done(job(SyncPS(), workers, 2, STILL, Switch(bandwidth, latency), chain(parameters=parameters)))
    way = workers * 4 * parameters / bandwidth + 2 * latency
    assert run.seconds == pytest.approx(2 * 2 * way, rel=1e-12)
    ends = [round(t.ended / way, 9) for t in run.traces[0].transfers if t.nbytes]
    assert ends == [1, 2, 3, 4]  # model, gradient, model, gradient: all workers' at once


@pytest.mark.parametrize("strategy", [AllReduce(), SyncPS(), AsyncPS()])
def test_twice_the_bandwidth_is_half_of_a_pure_transfer(strategy: Strategy) -> None:
    slow, fast = (done(job(strategy, 6, 12, STILL, Switch(bandwidth, 0.0))).seconds for bandwidth in (1e3, 2e3))
    assert fast == pytest.approx(slow / 2, rel=1e-12)


@pytest.mark.parametrize("strategy", [AllReduce(), SyncPS(), AsyncPS()])
def test_all_times_times_eight_are_eight_times_the_seconds(strategy: Strategy) -> None:
    straggler = Straggler("lognormal", slow={0: 2.0})
    base = job(strategy, 6, 20, Times(forward=1.0, apply=0.25), Switch(1e3, 0.125), straggler=straggler)
    times_8 = job(strategy, 6, 20, Times(forward=8.0, apply=2.0), Switch(125.0, 1.0), straggler=straggler)
    assert done(times_8).seconds == pytest.approx(8 * done(base).seconds, rel=1e-12)


def test_two_links_in_series_without_latency_are_one_link() -> None:
    def ends(split: bool) -> list[float]:
        draw, engine = Random(7), Engine()
        capacities = [draw.uniform(1.0, 9.0) for _ in range(4)]
        network, ended = Network(engine, capacities * 2), [math.nan] * 40
        for flow in range(40):
            links = draw.sample(range(4), draw.randint(1, 3))
            path = [*links, *(4 + link for link in links)] if split else links

            def start(flow: int = flow, path: list[int] = path, nbytes: float = draw.expovariate(1.0)) -> None:
                network.start(path, nbytes, 0.01, lambda: ended.__setitem__(flow, engine.now))

            engine.after(draw.uniform(0.0, 20.0), start)
        engine.env.run()
        return ended

    assert ends(split=True) == pytest.approx(ends(split=False), rel=1e-12)


@dataclass(frozen=True)
class Flows(Strategy):
    """Messages of so many bytes from rank to rank, all at once."""

    nbytes: tuple[tuple[int, int, int], ...]

    async def run(self, worker: Worker[T]) -> None:
        receives = [worker.receive(source) for source, to, _ in self.nbytes if to == worker.rank]
        sends = [worker.send(Size(n), to) for source, to, n in self.nbytes if source == worker.rank]
        for work in [*receives, *sends]:
            await work


def test_what_a_full_link_leaves_goes_to_other_flows() -> None:
    # Links of 6 bytes a second. Three flows into rank 2 get 2 each, so 0 to 1 gets the 4 that 0's link has left. At 5 s two
    # end; 0 to 1 and 4 to 2 have 20 and 10 bytes left and a link each.
    strategy = Flows(((0, 1, 40), (0, 2, 10), (3, 2, 10), (4, 2, 20)))
    run = done(job(strategy, 5, 1, STILL, Switch(6.0, 0.0)))
    ends = {t.channel: t.ended for trace in run.traces for t in trace.transfers}
    assert ends == pytest.approx({"message 0>1 ": 25 / 3, "message 0>2 ": 5.0, "message 3>2 ": 5.0, "message 4>2 ": 20 / 3})


# ---- SimGrid


@pytest.mark.parametrize("options", [FLOWS, PRICE])
@pytest.mark.parametrize(("workers", "simgrid"), [(8, 0.140140000), (16, 0.150300000), (64, 0.158760000)])
def test_ring_is_simgrids(options: SimulatedOptions, workers: int, simgrid: float) -> None:
    assert done(job(AllReduce(), workers, 1, STILL, TEN_GBIT, HUNDRED_MB), options).seconds == pytest.approx(
        simgrid, rel=1e-9
    )


@dataclass(frozen=True)
class Recorded(Straggler):
    """Compute times from a table of rounds x workers, in units of the device's gradient."""

    table: np.ndarray | None = None

    @property
    def is_persistent(self) -> bool:
        return False

    def factor(self, seed: int, worker: int, step: int | None) -> float:
        assert self.table is not None
        return 1.0 if step is None else float(self.table[step][worker])


@dataclass(frozen=True)
class SimGridServer(Strategy):
    """Ten rounds of: compute, push, pull. With a barrier the server answers all at once, else each at its push."""

    barrier: bool = True

    def server_count(self, workers: int) -> int:
        return 1

    async def run(self, worker: Worker[T]) -> None:
        P = worker.workers
        if worker.rank == P:
            await (self.all_at_once(worker) if self.barrier else self.one_by_one(worker))
            return
        for step in range(10):
            await worker.send(await worker.gradient(Batch(step, worker.rank, P)), P, "push")
            await worker.receive(P, "pull")

    async def all_at_once(self, server: Worker[T]) -> None:
        for _ in range(10):
            pushes = [server.receive(w, "push") for w in range(server.workers)]
            for push in pushes:
                await push
            pulls = [server.send(server.read(), w, "pull") for w in range(server.workers)]
            for pull in pulls:
                await pull

    async def one_by_one(self, server: Worker[T]) -> None:
        pushes: list[Work] = [server.receive_any("push") for _ in range(10 * server.workers)]
        for push in pushes:  # a transfer meets a receive posted at the start
            message = await push
            server.post(server.read(), message.source, "pull")


@pytest.mark.parametrize(
    ("barrier", "workers", "simgrid"),
    [
        (True, 8, 13.187406282),
        (True, 16, 25.937734836),
        (True, 64, 102.728630500),
        (False, 8, 9.063532441),
        (False, 16, 20.247139876),
        (False, 64, 82.497646598),
    ],
)
def test_parameter_server_is_simgrids(barrier: bool, workers: int, simgrid: float) -> None:
    # median 50 ms, sigma 0.2: what SimGrid's actors slept
    seconds = np.random.default_rng(1234 + workers).lognormal(np.log(0.05), 0.2, size=(10, workers))
    strategy, straggler = SimGridServer(barrier), Recorded(table=seconds)
    run = job(strategy, workers, 10, Times(forward=1.0), TEN_GBIT, HUNDRED_MB, straggler)
    assert done(run).seconds == pytest.approx(simgrid, abs=1e-9)  # it prints nine decimals
