"""Staleness of asynchronous updates: an identity for any delays, and its distribution where it is known."""

import math
from collections import Counter
from dataclasses import dataclass
from itertools import product

import pytest

from distsim.interface import Curve, Loopback, Message, Straggler, Strategy, Switch, T, Worker
from distsim.strategies.all_reduce import AllReduce
from distsim.strategies.parameter_server import AsyncPS, SyncPS

from .jobs import IDEAL, Times, chain, done, job, mean_and_error

EXPONENTIAL = Straggler("exponential")
STRAGGLERS = [
    Straggler(),
    EXPONENTIAL,
    Straggler("shifted_exponential", scale=3.0),
    Straggler("lognormal", sigma=1.0),
    Straggler(slow={0: 30.0}),
    Straggler("exponential", slow={0: 0.1, 1: 8.0}),
]
NETWORKS = [
    IDEAL,
    Switch(math.inf, 0.4),  # latency of the order of a gradient
    Switch(2000.0, 0.05),  # a model of 1,000 bytes takes half of it, alone
    Loopback(Curve(((1, 1.0), (2, 2.0), (3, 2.0))), Curve(((0.0, 0.1), (1000.0, 0.3))), {}),
]


@pytest.mark.parametrize("workers", [1, 2, 5, 8])
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("weight", ["constant", "inverse"])
def test_applied_and_in_flight_staleness_is_t_times_p_minus_1(
    workers: int, network: Switch | Loopback, weight: str
) -> None:
    for straggler, server in product(STRAGGLERS, (0.0, 0.3)):
        strategy, updates = AsyncPS(weight), 40
        device = Times(forward=1.0, apply=server)
        arrivals = done(job(strategy, workers, updates, device, network, straggler=straggler)).traces[workers].arrivals
        assert [a.applied for a in arrivals] == [True] * updates + [False] * (workers - 1)
        assert sum(a.staleness for a in arrivals) == updates * (workers - 1)


@pytest.mark.parametrize("strategy", [SyncPS()])
def test_synchronous_updates_are_never_stale(strategy: Strategy) -> None:
    for straggler, network in product(STRAGGLERS, NETWORKS):
        run = done(job(strategy, 5, 10, Times(forward=1.0), network, straggler=straggler))
        assert [(a.staleness, a.applied) for a in run.traces[5].arrivals] == [(0, True)] * 50


def test_no_gradient_travels_to_a_server_in_an_all_reduce() -> None:
    assert [trace.arrivals for trace in done(job(AllReduce(), 4, 3, Times(forward=1.0))).traces] == [[]] * 4


@dataclass(frozen=True)
class LaterPull(Strategy):
    """Asynchronous, but a worker asks for the next model only `byte` seconds after its update, and it is read then."""

    def server_count(self, workers: int) -> int:
        return 1

    def gradients_an_update(self, workers: int) -> int:
        return 1

    async def run(self, worker: Worker[T]) -> None:
        await (self.train(worker) if worker.rank < worker.workers else self.serve(worker))

    async def train(self, worker: Worker[T]) -> None:
        server = worker.workers
        while True:
            await worker.send(None, server, "inbox", label="pull")
            model = await worker.receive(server, "model")
            if model.label == "stop":
                return
            gradient = await worker.gradient(worker.draw(worker.rank, worker.workers))
            await worker.send(gradient, server, "inbox", model.version, "gradient")
            await worker.compute("pause", lambda x: x, gradient)

    async def serve(self, server: Worker[T]) -> None:
        for _ in server.steps():
            await server.apply((message := await self.next_gradient(server)).payload, of=[message])
        stopped = 0
        while stopped < server.workers:
            message = await server.receive_any("inbox")
            if message.label == "pull":
                server.post(None, message.source, "model", label="stop")
                stopped += 1
            else:
                server.discard(message)

    async def next_gradient(self, server: Worker[T]) -> Message[T]:
        """The next gradient; whoever asks meanwhile gets the model of now."""
        while (message := await server.receive_any("inbox")).label == "pull":
            server.post(server.read(), message.source, "model", server.version)
        return message


@pytest.mark.parametrize(("workers", "later", "expected"), [(8, 0.3, 5.39), (8, 0.0, 7.0), (4, 0.5, 2.0)])
def test_a_pull_that_comes_later_lowers_staleness(workers: int, later: float, expected: float) -> None:
    # Another worker updates once in a cycle of E[X] + pause; this one computes on a model for E[X] of it.
    assert (workers - 1) / (1 + later) == pytest.approx(expected, abs=6e-3)  # 5.39 was itself a simulation's
    means, warm = [], 100
    for seed in range(20):  # runs are independent, arrivals within one are not
        device = Times(forward=1.0, byte=later / 1000)
        run = done(job(LaterPull(), workers, warm + 150, device, straggler=EXPONENTIAL, seed=seed, model=chain()))
        applied = [a.staleness for a in run.traces[workers].arrivals if a.applied][warm:]
        means.append(sum(applied) / len(applied))
    mean, error = mean_and_error(means)
    assert abs(mean - (workers - 1) / (1 + later)) < 3 * error


@pytest.mark.parametrize(("workers", "head"), [(8, [0.125, 0.1094, 0.0957, 0.0837]), (4, [0.25, 0.1875, 0.1406, 0.1055])])
def test_staleness_of_equal_memoryless_workers_is_geometric(workers: int, head: list[float]) -> None:
    warm, draws = 20 * workers, 6000
    run = done(job(AsyncPS(), workers, warm + draws, Times(forward=1.0), straggler=EXPONENTIAL))
    count = Counter(a.staleness for a in run.traces[workers].arrivals[warm : warm + draws])
    for staleness, published in enumerate(head):
        p = (1 - 1 / workers) ** staleness / workers
        assert p == pytest.approx(published, abs=5e-5)
        assert abs(count[staleness] / draws - p) < 3 * math.sqrt(p * (1 - p) / draws)


@pytest.mark.parametrize("workers", [1, 2, 8, 13])
def test_staleness_of_steady_workers_is_p_minus_1_after_the_first_round(workers: int) -> None:
    run = done(job(AsyncPS(), workers, 5 * workers, Times(forward=1.0)))
    applied = [a.staleness for a in run.traces[workers].arrivals if a.applied]
    assert applied == [*range(workers), *[workers - 1] * (4 * workers)]


@pytest.mark.parametrize(
    ("means", "expected"),
    [
        ((1, 1, 1, 1, 2, 2, 4, 8), (4.375, 4.375, 4.375, 4.375, 9.75, 9.75, 20.5, 42.0)),
        ((1, 3), (1 / 3, 3.0)),
        ((1, 2, 3), (5 / 6, 8 / 3, 4.5)),
    ],
)
def test_staleness_of_unequal_memoryless_workers(means: tuple[float, ...], expected: tuple[float, ...]) -> None:
    workers, total = len(means), sum(1 / m for m in means)
    straggler = Straggler("exponential", slow=dict(enumerate(means)))
    arrivals = done(job(AsyncPS(), workers, 5000, Times(forward=1.0), straggler=straggler)).traces[workers].arrivals
    for worker, m in enumerate(means):
        mean = (total - 1 / m) * m
        assert mean == pytest.approx(expected[worker], rel=1e-12)
        own = [a.staleness for a in arrivals if a.source == worker and a.applied]
        p = 1 / (m * total)  # the staleness is geometric: its variance is (1 - p) / p^2
        assert abs(sum(own) / len(own) - mean) < 3 * math.sqrt((1 - p) / len(own)) / p
