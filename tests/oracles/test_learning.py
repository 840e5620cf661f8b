"""What asynchrony, delay and noise do to SGD on a quadratic, under the simulated clock, against theory."""

import math
from dataclasses import replace

import pytest

from distsim.interface import Batch, Straggler, Strategy
from distsim.strategies.all_reduce import AllReduce
from distsim.strategies.parameter_server import AsyncPS, SyncPS
from distsim.strategies.pipeline import ModelParallel, OneFOneB

from .jobs import mean_and_error
from .quadratic import Loss, path

EXPONENTIAL = Straggler("exponential")


# ---- a fixed delay


def fixed_delay(tau: int, rate: float, curvature: float, updates: int) -> list[float]:
    """x_{t+1} = x_t - rate h x_{t - tau}, x_0 before the first."""
    x = [1.0]
    for t in range(updates):
        x.append(x[-1] - rate * (curvature * x[max(t - tau, 0)]))
    return x


@pytest.mark.parametrize(("tau", "curvature"), [(0, 1.0), (1, 3.0), (3, 0.5), (7, 2.0)])
def test_steady_asynchronous_workers_are_a_fixed_delay(tau: int, curvature: float) -> None:
    loss = Loss(curvature, rate=0.15)
    assert path(AsyncPS(), tau + 1, 50, loss) == pytest.approx(fixed_delay(tau, 0.15, curvature, 50), rel=1e-12)


@pytest.mark.parametrize(("tau", "threshold"), [(0, 2.0), (1, 1.0), (2, 0.618), (4, 0.3473), (8, 0.1845)])
def test_a_fixed_delay_diverges_beyond_its_threshold(tau: int, threshold: float) -> None:
    exact = 2 * math.sin(math.pi / (2 * (2 * tau + 1)))
    assert exact == pytest.approx(threshold, abs=5e-5)
    curvature, updates = 2.0, 900

    def amplitude(share: float) -> float:
        run = path(AsyncPS(), tau + 1, updates, Loss(curvature, rate=share * exact / curvature))
        return max(map(abs, run[-50:]))

    assert amplitude(0.95) < 0.05
    assert amplitude(1.05) > 20.0


# ---- memoryless workers


@pytest.mark.parametrize(
    ("workers", "rate", "expected"),
    [(8, 0.2, {5: 0.089, 10: -0.420, 20: -0.296, 40: 0.085}), (4, 0.5, {2: 0.0625, 3: -0.2734})],
)
def test_memoryless_asynchrony_is_momentum_in_the_mean(workers: int, rate: float, expected: dict[int, float]) -> None:
    # E x_{t+1} = E x_t + (1 - 1/n)(E x_t - E x_{t-1}) - (eta h / n) E x_t. Mitliagkas et al., Allerton 2016. By hand for
    # n = 4: the second gradient is of x_1 = .5 with probability 1/4, else of x_0, so E x_2 = .5 - .5 (.125 + .75).
    x = [1.0, 1.0 - rate]
    for _ in range(1, max(expected)):
        x.append(x[-1] + (1 - 1 / workers) * (x[-1] - x[-2]) - rate / workers * x[-1])
    runs = [path(AsyncPS(), workers, max(expected), Loss(rate=rate, seed=seed), EXPONENTIAL) for seed in range(400)]
    for t, published in expected.items():
        assert x[t] == pytest.approx(published, abs=5.1e-4)
        mean, error = mean_and_error([run[t] for run in runs])
        assert abs(mean - x[t]) < 3 * error


# ---- noise


@pytest.mark.parametrize("strategy", [AllReduce(), SyncPS()])
@pytest.mark.parametrize(
    ("workers", "rate", "curvature", "sigma", "variance"), [(4, 0.1, 1.0, 1.0, 0.013158), (2, 0.5, 2.0, 0.5, 0.03125)]
)
def test_variance_of_synchronous_sgd(
    strategy: Strategy, workers: int, rate: float, curvature: float, sigma: float, variance: float
) -> None:
    exact = rate * sigma**2 / (workers * curvature * (2 - rate * curvature))
    assert exact == pytest.approx(variance, rel=5e-5)
    loss, updates = Loss(curvature, rate, sigma, start=0.0), 2500
    x = path(strategy, workers, updates, loss, EXPONENTIAL)
    for t in range(updates):
        noise = sum(loss.noise(Batch(t, w, workers)) for w in range(workers)) / workers
        assert x[t + 1] == pytest.approx((1 - rate * curvature) * x[t] - rate * noise, rel=1e-9, abs=1e-12)
    warm = x[100:]
    memory = (1 - rate * curvature) ** 2  # of x^2: neighbours are correlated by it
    error = exact * math.sqrt(2 / len(warm) * (1 + memory) / (1 - memory))
    assert abs(sum(value * value for value in warm) / len(warm) - exact) < 3 * error


# ---- strategies that must agree


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("straggler", [Straggler(), EXPONENTIAL, Straggler(slow={0: 9.0})])
def test_synchronous_strategies_walk_the_same_path(workers: int, straggler: Straggler) -> None:
    loss = Loss(sigma=1.0, rate=0.3)
    expected = [1.0]
    for t in range(30):
        noise = sum(loss.noise(Batch(t, w, workers)) for w in range(workers)) / workers
        expected.append(expected[-1] - 0.3 * (expected[-1] + noise))
    assert path(SyncPS(), workers, 30, loss, straggler) == pytest.approx(expected, rel=1e-12)
    assert path(AllReduce(), workers, 30, loss, straggler) == pytest.approx(expected, rel=1e-12)


def test_one_asynchronous_worker_is_a_process_alone() -> None:
    loss = Loss(sigma=1.0, rate=0.3)
    alone = path(AllReduce(), 1, 30, loss, EXPONENTIAL)
    for strategy in (AsyncPS(), AsyncPS("inverse"), SyncPS(), ModelParallel(), OneFOneB(1)):
        assert path(strategy, 1, 30, loss, EXPONENTIAL) == pytest.approx(alone, rel=1e-12)


def test_inverse_weight_of_two_steady_workers_is_constant_weight() -> None:  # no staleness above 1
    loss = Loss(sigma=1.0, rate=0.3)
    assert path(AsyncPS("inverse"), 2, 30, loss) == path(AsyncPS(), 2, 30, loss)


@pytest.mark.parametrize("workers", [3, 6])
def test_inverse_weight_of_steady_workers_is_a_smaller_rate(workers: int) -> None:
    loss, x = Loss(rate=0.3), [1.0]
    for t in range(30):  # staleness t in the first round, then P - 1
        staleness = min(t, workers - 1)
        x.append(x[-1] - 0.3 / max(1, staleness) * x[t - staleness])
    assert path(AsyncPS("inverse"), workers, 30, loss) == pytest.approx(x, rel=1e-12)


@pytest.mark.parametrize("strategy", [AsyncPS(), AsyncPS("inverse")])
def test_a_quadratic_scales(strategy: Strategy) -> None:
    loss = Loss(curvature=2.0, rate=0.1)
    base = path(strategy, 4, 40, loss, EXPONENTIAL)
    doubled = path(strategy, 4, 40, replace(loss, start=2.0), EXPONENTIAL)
    assert doubled == [2 * x for x in base]
    flatter = path(strategy, 4, 40, replace(loss, curvature=1.0, rate=0.2), EXPONENTIAL)
    assert flatter == pytest.approx(base, rel=1e-12)  # only eta h counts
