"""Straggler draws: their distributions, and what they depend on."""

import math
from statistics import fmean, stdev

import pytest
from contract.kit import Program, numerics
from contract.tiny import DEVICE, Tiny

from distsim.interface import SGD, Budget, Cluster, Job, Straggler, Switch
from distsim.interface.draws import uniform

DRAWS = 20_000
WORKERS, STEPS = 8, DRAWS // 8
UNIFORM = 0.5832529460317668


def draws(straggler, seed=0):
    return [straggler.factor(seed, worker, step) for worker in range(WORKERS) for step in range(STEPS)]


@pytest.mark.parametrize(
    ("straggler", "mean", "deviation"),
    [
        (Straggler("exponential"), 1.0, 1.0),
        (Straggler("shifted_exponential", scale=1.0), 2.0, 1.0),
        (Straggler("shifted_exponential", scale=0.3), 1.3, 0.3),
        (Straggler("pareto", shape=6.0), 6.0 / 5.0, math.sqrt(6.0 / (5.0**2 * 4.0))),
        (Straggler("bernoulli", probability=0.05, multiple=10.0), 1.45, 9.0 * math.sqrt(0.05 * 0.95)),
        (Straggler("lognormal", sigma=0.2), math.exp(0.02), math.exp(0.02) * math.sqrt(math.exp(0.04) - 1.0)),
    ],
)
def test_means_and_deviations(straggler, mean, deviation):
    factors = draws(straggler)
    assert abs(fmean(factors) - mean) < 3.0 * deviation / math.sqrt(DRAWS)
    assert stdev(factors) == pytest.approx(deviation, rel=0.05)
    assert min(factors) >= (0.0 if straggler.jitter in ("exponential", "lognormal") else 1.0)


def test_the_logarithm_of_lognormal_jitter_is_normal_around_a_median_of_one():
    logs = [math.log(factor) for factor in draws(Straggler("lognormal", sigma=0.5))]
    assert abs(fmean(logs)) < 3.0 * 0.5 / math.sqrt(DRAWS)
    for deviations, share in ((1.0, 0.6827), (2.0, 0.9545)):
        within = fmean(abs(x) < deviations * 0.5 for x in logs)
        assert abs(within - share) < 3.0 * math.sqrt(share * (1.0 - share) / DRAWS)
    above = fmean(x > 0.0 for x in logs)
    assert abs(above - 0.5) < 3.0 * 0.5 / math.sqrt(DRAWS)


def test_the_median_of_exponential_jitter_is_log_two():
    below = fmean(factor < math.log(2.0) for factor in draws(Straggler("exponential")))
    assert abs(below - 0.5) < 3.0 * 0.5 / math.sqrt(DRAWS)


def test_draws_of_workers_steps_and_seeds_are_independent():
    def correlation(a, b):
        return fmean((x - 1.0) * (y - 1.0) for x, y in zip(a, b, strict=True))  # mean and variance are 1

    straggler = Straggler("exponential")
    factors, others = draws(straggler), draws(straggler, seed=1)
    bound = 3.0 / math.sqrt(DRAWS)
    assert abs(correlation(factors, others)) < bound
    assert abs(correlation(factors[:-1], factors[1:])) < bound  # successive steps
    assert abs(correlation(factors[:-STEPS], factors[STEPS:])) < bound  # neighbouring workers


def test_a_draw_depends_on_seed_worker_and_step_only():
    straggler = Straggler("lognormal", slow={3: 2.0})
    keys = [(seed, worker, step) for seed in range(3) for worker in range(4) for step in range(5)]
    forwards = {key: straggler.factor(*key) for key in keys}
    backwards = {key: Straggler("lognormal", slow={3: 2.0}).factor(*key) for key in reversed(keys)}
    assert forwards == backwards
    assert len(set(forwards.values())) == len(keys)


def test_draws_stay_what_they_are():
    """Literal values: a change of these would break the comparison with every run that was stored before."""
    assert uniform(0, "straggler", 1, 2) == UNIFORM
    assert Straggler("exponential").factor(0, 1, 2) == -math.log(UNIFORM)
    assert 0.0 < UNIFORM < 1.0


def test_the_persistent_factor_multiplies_the_jitter():
    jitter = Straggler("exponential").factor(0, 1, 2)
    slow = Straggler("exponential", slow={1: 3.0})
    assert slow.factor(0, 1, 2) == 3.0 * jitter
    assert slow.factor(0, 1, None) == 3.0  # no batch, no jitter
    assert slow.factor(0, 0, None) == 1.0
    assert Straggler(slow={1: 3.0}).factor(0, 1, 2) == 3.0


def test_it_is_off_if_every_factor_is_one():
    assert Straggler().is_off
    assert Straggler(slow={0: 1.0}).is_off
    assert not Straggler(slow={0: 0.5}).is_off
    assert not Straggler("exponential").is_off


def test_parameter_servers_are_no_stragglers():
    tiny = Tiny()
    job = Job(
        strategy=Program(test_parameter_servers_are_no_stragglers, "", servers=1),
        model=tiny.model(),
        cluster=Cluster(2, 1, DEVICE, Switch(1.0, 0.0)),
        budget=Budget(updates=1),
        numerics=numerics(False, tiny, 2, SGD()),
        straggler=Straggler("exponential", slow={1: 3.0, 2: 5.0}),
    )
    assert job.factor(1, None) == 3.0
    assert job.factor(2, 4) == job.factor(2, None) == 1.0


@pytest.mark.parametrize("workers", [2, 8])
@pytest.mark.parametrize(
    ("straggler", "slowest"),
    [  # the mean of the slowest of n: Bernoulli 1 + (s - 1)(1 - (1 - q)^n); Pareto G(n + 1) G(1 - 1/a) / G(n + 1 - 1/a)
        (Straggler("bernoulli", probability=0.1, multiple=5.0), lambda n: 1.0 + 4.0 * (1.0 - 0.9**n)),
        (Straggler("pareto", shape=5.0), lambda n: math.gamma(n + 1) * math.gamma(0.8) / math.gamma(n + 0.8)),
    ],
)
def test_the_slowest_of_n(straggler, slowest, workers):
    steps = 4000
    slow = [max(straggler.factor(1, worker, step) for worker in range(workers)) for step in range(steps)]
    assert abs(fmean(slow) - slowest(workers)) < 3.0 * stdev(slow) / math.sqrt(steps)
