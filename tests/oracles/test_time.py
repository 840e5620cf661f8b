"""Step times of data-parallel strategies against closed forms.

Averages of random draws are held within three standard errors; the errors follow from the stated number of draws.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

from distsim.interface import Message, Straggler, Strategy, T, Worker
from distsim.numerics.sizes import Size
from distsim.strategies.all_reduce import AllReduce
from distsim.strategies.parameter_server import AsyncPS, SyncPS

from .jobs import Times, done, harmonic, job, mean_and_error

EXPONENTIAL = Straggler("exponential")


@pytest.mark.parametrize("strategy", [SyncPS(), AllReduce()])
@pytest.mark.parametrize(
    ("workers", "unit", "steps", "expected"),
    [(1, 1.0, 1000, 1.0), (2, 1.0, 1000, 1.5), (8, 1.0, 600, 2.7179), (64, 1.0, 120, 4.7439), (8, 0.05, 600, 0.135893)],
)
def test_synchronous_step_waits_for_the_slowest_of_n_exponential_workers(
    strategy: Strategy, workers: int, unit: float, steps: int, expected: float
) -> None:
    assert harmonic(workers) * unit == pytest.approx(expected, rel=4e-5)  # H_n / mu
    outcome = done(job(strategy, workers, steps, Times(forward=unit), straggler=EXPONENTIAL))
    error = unit * math.sqrt(harmonic(workers, 2) / steps)  # the maximum of n exponentials has variance sum 1/k^2
    assert abs(outcome.seconds / steps - harmonic(workers) * unit) < 3 * error


@pytest.mark.parametrize("strategy", [SyncPS(), AllReduce()])
def test_a_persistent_straggler_sets_the_pace_of_a_synchronous_step(strategy: Strategy) -> None:
    outcome = done(job(strategy, 4, 10, Times(forward=1.0, backward=2.0), straggler=Straggler(slow={2: 3.0})))
    assert outcome.seconds == 10 * 9.0


@pytest.mark.parametrize(
    ("straggler", "mean", "deviation"),
    [
        (Straggler("exponential"), 1.0, 1.0),
        (Straggler("shifted_exponential", scale=0.5), 1.5, 0.5),
        (Straggler("lognormal", sigma=0.5), math.exp(0.125), math.exp(0.125) * math.sqrt(math.exp(0.25) - 1.0)),
    ],
)
@pytest.mark.parametrize(("workers", "updates"), [(4, 1500), (8, 1500), (32, 2500)])
def test_asynchronous_update_takes_mean_compute_time_over_workers(
    straggler: Straggler, mean: float, deviation: float, workers: int, updates: int
) -> None:
    outcome = done(job(AsyncPS(), workers, updates, Times(forward=1.0), straggler=straggler))
    # The T-th event of P renewal processes: standard deviation s sqrt(T) / P. (Its bias, at most E[X]/2, is far below.)
    assert abs(outcome.seconds - updates * mean / workers) < 3 * deviation * math.sqrt(updates) / workers


@pytest.mark.parametrize("workers", [1, 3, 8])
def test_asynchronous_update_of_equal_steady_workers_is_exact(workers: int) -> None:
    assert done(job(AsyncPS(), workers, 7 * workers, Times(forward=1.0, backward=2.0))).seconds == 7 * 3.0


@pytest.mark.parametrize(
    ("means", "expected"), [((1, 1, 1, 1, 2, 2, 4, 8), 5.375), ((0.5, 5.0), 2.2), ((1, 2, 3, 4, 5), 2.28333)]
)
def test_asynchronous_rates_of_unequal_workers_add_up(means: tuple[float, ...], expected: float) -> None:
    updates, rate = 4000, sum(1.0 / mean for mean in means)
    assert rate == pytest.approx(expected, abs=5e-6)
    straggler = Straggler("exponential", slow=dict(enumerate(means)))
    outcome = done(job(AsyncPS(), len(means), updates, Times(forward=1.0), straggler=straggler))
    assert abs(outcome.seconds - updates / rate) < 3 * math.sqrt(updates) / rate


def test_nobody_waits_in_an_asynchronous_run() -> None:
    for straggler in (EXPONENTIAL, Straggler("lognormal", slow={0: 5.0})):
        outcome = done(job(AsyncPS(), 5, 200, Times(forward=1.0), straggler=straggler))
        end = outcome.seconds
        busy = [min(c.ended, end) - c.begun for trace in outcome.traces[:5] for c in trace.compute if c.begun < end]
        assert math.fsum(busy) == pytest.approx(5 * end, rel=1e-12)


# ---- one server that takes time: machine repair with P machines


@dataclass(frozen=True)
class Served(AsyncPS):
    """Asynchronous, and the server serves each gradient for an exponential time of mean 1e9 bytes."""

    async def combine(self, server: Worker[T], batch: Sequence[tuple[Message[T], T]]) -> T:
        nanoseconds = round(1e9 * server.random(server.version).expovariate(1.0))
        await server.compute("serve", lambda size: size, Size(nanoseconds))
        return await super().combine(server, batch)


def update_rate(strategy: Strategy, workers: int, device: Times, seed: int, updates: int = 200, warm: int = 50) -> float:
    run = done(job(strategy, workers, updates, device, straggler=EXPONENTIAL, seed=seed))
    times = [update.time for update in run.traces[workers].updates]
    return (updates - warm) / (times[-1] - times[warm - 1])


@pytest.mark.parametrize(
    ("workers", "service", "think", "expected"),
    [
        (4, 0.1, 1.0, 3.533),
        (8, 0.1, 1.0, 6.617),
        (16, 0.1, 1.0, 9.777),
        (1, 0.5, 2.0, 0.4),  # nobody else: one gradient in S + Z
        (2, 1.0, 1.0, 0.8),  # p0 = 1 / (1 + 2 + 2)
        (6, 0.5, 1.0, 1.9758),  # p0 = 1 / (1 + 3 + 7.5 + 15 + 22.5 + 22.5 + 11.25)
    ],
)
def test_server_of_exponential_service_is_mm1_with_finitely_many_customers(
    workers: int, service: float, think: float, expected: float
) -> None:
    empty = 1.0 / sum(math.perm(workers, k) * (service / think) ** k for k in range(workers + 1))
    assert (1.0 - empty) / service == pytest.approx(expected, abs=5e-4)
    device = Times(forward=think, byte=service / 1e9)
    mean, error = mean_and_error([update_rate(Served(), workers, device, seed) for seed in range(20)])
    assert abs(mean - (1.0 - empty) / service) < 3 * error


@pytest.mark.parametrize(("workers", "service", "think"), [(2, 1.0, 1.0), (8, 0.1, 1.0), (8, 0.5, 2.0)])
def test_server_of_fixed_service_is_md1_with_finitely_many_customers(workers: int, service: float, think: float) -> None:
    # Takacs, "Introduction to the Theory of Queues", 1962, chapter 5: with L(s) the service time's transform,
    # 1/p0 = 1 + P (S/Z) sum_k C(P-1, k) prod_{i<=k} (1/L(i/Z) - 1); exponential service gives the sum of the test above.
    total, product = 0.0, 1.0
    for k in range(workers):
        product *= math.expm1(k * service / think) if k else 1.0
        total += math.comb(workers - 1, k) * product
    busy = 1.0 - 1.0 / (1.0 + workers * service / think * total)
    device = Times(forward=think, apply=service)
    mean, error = mean_and_error([update_rate(AsyncPS(), workers, device, seed) for seed in range(20)])
    assert abs(mean - busy / service) < 3 * max(error, 1e-12)


# ---- metamorphic


SYNCHRONOUS = [SyncPS(), AllReduce()]


@pytest.mark.parametrize("strategy", [*SYNCHRONOUS, AsyncPS()])
@pytest.mark.parametrize("straggler", [Straggler(), Straggler("exponential", slow={1: 3.0}), Straggler("lognormal")])
def test_all_times_times_four_are_four_times_the_seconds(strategy: Strategy, straggler: Straggler) -> None:
    device = Times(forward=1.0, backward=0.5, apply=0.125)
    slower = Times(forward=4.0, backward=2.0, apply=0.5)
    base = done(job(strategy, 6, 20, device, straggler=straggler)).seconds
    assert done(job(strategy, 6, 20, slower, straggler=straggler)).seconds == 4 * base  # a power of two: to the last bit


@pytest.mark.parametrize("strategy", SYNCHRONOUS)
def test_a_straggler_never_speeds_a_synchronous_run_up(strategy: Strategy) -> None:
    for jitter in ("none", "exponential", "lognormal"):
        seconds = [
            done(job(strategy, 4, 20, Times(forward=1.0), straggler=Straggler(jitter, slow={3: factor}))).seconds
            for factor in (1.0, 1.01, 1.5, 3.0, 10.0)
        ]
        assert seconds == sorted(seconds)


@pytest.mark.parametrize("strategy", [*SYNCHRONOUS, AsyncPS()])
@pytest.mark.parametrize(
    "still", [Straggler("lognormal", sigma=0.0), Straggler("shifted_exponential", scale=0.0), Straggler(slow={0: 1.0})]
)
def test_zero_variance_is_no_straggler(strategy: Strategy, still: Straggler) -> None:
    base = job(strategy, 3, 9, Times(forward=1.0, backward=2.0, apply=0.1))
    assert done(replace(base, straggler=still)).traces == done(base).traces


@pytest.mark.parametrize("straggler", [EXPONENTIAL, Straggler("lognormal", slow={2: 1.5})])
def test_runs_of_synchronous_strategies_are_paired(straggler: Straggler) -> None:
    def times(strategy: Strategy, seed: int) -> list[float]:
        run = done(job(strategy, 5, 30, Times(forward=1.0), straggler=straggler, seed=seed))
        return [update.time for update in run.traces[-1].updates]

    assert times(SyncPS(), 1) == pytest.approx(times(AllReduce(), 1), rel=1e-12)  # the same workers slow at the same steps
    assert times(SyncPS(), 1) != times(SyncPS(), 2)


@pytest.mark.parametrize("strategy", [*SYNCHRONOUS, AsyncPS()])
def test_relabeling_workers_changes_no_time(strategy: Strategy) -> None:
    def times(slow: dict[int, float]) -> list[float]:
        run = done(job(strategy, 4, 25, Times(forward=1.0, apply=0.01), straggler=Straggler(slow=slow)))
        return sorted(update.time for trace in run.traces for update in trace.updates)

    assert times({0: 3.0, 1: 1.7}) == times({3: 3.0, 2: 1.7}) == times({2: 3.0, 0: 1.7})


@pytest.mark.parametrize("strategy", [SyncPS(), AllReduce(), AsyncPS()])
def test_one_worker_is_a_process_alone(strategy: Strategy) -> None:
    assert done(job(strategy, 1, 8, Times(forward=1.0, backward=2.0, apply=0.25))).seconds == 8 * 3.25
