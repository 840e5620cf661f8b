"""The parts of a straggler by hand calculation: averages of draws within three standard errors, identities exactly."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import fmean, stdev

import pytest

from distsim.interface import Episodes, Experts, Lengths, Spread, Straggler, Strategy
from distsim.strategies.all_reduce import AllReduce
from distsim.strategies.parameter_server import AsyncPS, KAsync, SyncPS
from distsim.strategies.pipeline import GPipe
from oracles.jobs import Times, chain, done, harmonic, job, mean_and_error

DRAWS = 20_000


def close(values: list[float], mean: float) -> bool:
    """The mean of independent draws is `mean`, within three standard errors."""
    found, error = mean_and_error(values)
    return abs(found - mean) < 3.0 * error


# ---- T19: the slowest of n


@pytest.mark.parametrize("workers", [2, 5, 16])
@pytest.mark.parametrize(("q", "s"), [(0.1, 5.0), (0.01, 100.0), (0.5, 1.5), (0.3, 0.25)])
def test_the_slowest_of_n_bernoulli_workers(q: float, s: float, workers: int) -> None:
    """1 + (s - 1)(1 - (1 - q)^n); with s < 1 all n must be fast: 1 + (s - 1) q^n."""
    steps = 3000
    straggler = Straggler("bernoulli", probability=q, multiple=s)
    slowest = [max(straggler.factor(3, worker, step) for worker in range(workers)) for step in range(steps)]
    share = 1.0 - (1.0 - q) ** workers if s > 1.0 else q**workers
    error = abs(s - 1.0) * math.sqrt(share * (1.0 - share) / steps)
    assert abs(fmean(slowest) - (1.0 + (s - 1.0) * share)) < max(3.0 * error, 1.0 / steps)


@pytest.mark.parametrize("workers", [2, 5, 16])
@pytest.mark.parametrize("a", [3.5, 5.0, 20.0])
def test_the_slowest_of_n_pareto_workers(a: float, workers: int) -> None:
    """G(n + 1) G(1 - 1/a) / G(n + 1 - 1/a), for a least factor of 1. The variance is finite for a > 2."""
    straggler = Straggler("pareto", shape=a)
    slowest = [max(straggler.factor(3, worker, step) for worker in range(workers)) for step in range(3000)]
    assert close(slowest, math.gamma(workers + 1) * math.gamma(1 - 1 / a) / math.gamma(workers + 1 - 1 / a))


def test_a_synchronous_run_waits_for_the_slowest() -> None:
    """Every step takes as long as the slowest of its workers: 1 + 4 (1 - 0.9^4) on average."""
    straggler = Straggler("bernoulli", probability=0.1, multiple=5.0)
    steps = 600
    outcome = done(job(AllReduce(), 4, steps, Times(forward=1.0), straggler=straggler))
    slow = [any(straggler.factor(0, worker, step) > 1.0 for worker in range(4)) for step in range(steps)]
    assert outcome.seconds == pytest.approx(steps + 4 * sum(slow), rel=1e-12)
    share = 1.0 - 0.9**4
    assert abs(fmean(slow) - share) < 3.0 * math.sqrt(share * (1.0 - share) / steps)


# ---- recorded histograms


def test_a_histogram_comes_out_as_it_went_in() -> None:
    weights = {1.5: 30.0, 1.0: 50.0, 7.0: 0.0, 4.0: 20.0}
    straggler = Straggler("histogram", histogram=weights)
    drawn = [straggler.factor(0, worker, step) for worker in range(8) for step in range(DRAWS // 8)]
    for factor, weight in weights.items():
        share = weight / 100.0
        assert abs(drawn.count(factor) / DRAWS - share) <= 3.0 * math.sqrt(share * (1.0 - share) / DRAWS)


def test_a_histogram_is_drawn_by_inversion_from_the_draw_of_every_jitter() -> None:
    """The slower a step is by one distribution, the slower by another: both are quantiles at one uniform draw."""
    straggler = Straggler("histogram", histogram={1.0: 1.0, 2.0: 1.0, 3.0: 2.0})
    exponential = Straggler("exponential")
    for step in range(1000):
        u = math.exp(-exponential.factor(5, 1, step))
        assert straggler.factor(5, 1, step) == (1.0 if u < 0.25 else 2.0 if u < 0.5 else 3.0)


# ---- persistent factors


def test_a_lognormal_spread_is_drawn_once_a_worker() -> None:
    straggler = Straggler(spread=Spread("lognormal", sigma=0.3))
    factors = [straggler.factor(0, worker, None) for worker in range(DRAWS)]
    assert close([math.log(factor) for factor in factors], 0.0)
    assert stdev(math.log(factor) for factor in factors) == pytest.approx(0.3, rel=0.02)  # 3 / sqrt(2 x 20,000) = 0.015
    assert all(straggler.factor(0, 7, step) == factors[7] for step in range(20))
    assert straggler.factor(1, 7, None) != factors[7]


def test_a_share_of_workers_is_slow() -> None:
    straggler = Straggler(spread=Spread("share", share=0.2, factor=3.0))
    factors = [straggler.factor(0, worker, None) for worker in range(DRAWS)]
    assert set(factors) == {1.0, 3.0}
    assert abs(factors.count(3.0) / DRAWS - 0.2) < 3.0 * math.sqrt(0.2 * 0.8 / DRAWS)


def test_stages_repeat_over_the_replicas_of_a_pipeline() -> None:
    straggler = Straggler(stages=(1.0, 1.5, 2.0), stage_width=2, slow={7: 10.0})
    factors = [straggler.factor(0, worker, None) for worker in range(12)]
    assert factors == [1.0, 1.0, 1.5, 1.5, 2.0, 2.0, 1.0, 10.0, 1.5, 1.5, 2.0, 2.0]


def test_a_slow_last_stage_sets_the_pace_of_a_pipeline() -> None:
    """GPipe whose last of p stages is 1.5 times slower: (p - 1 + 1.5 m) (F + B), F and B of a micro-batch."""
    strategy, times = GPipe(microbatches=4), Times(forward=1.0, backward=2.0)
    outcome = done(job(strategy, 3, 1, times, model=chain(3, batch=4), straggler=Straggler(stages=(1.0, 1.0, 1.5))))
    assert outcome.seconds == pytest.approx((2 + 1.5 * 4) * 3.0, rel=1e-12)


# ---- episodes

EPISODES = Episodes(share=0.25, mean_seconds=3.0, factor=4.0)


@pytest.mark.parametrize("episodes", [EPISODES, Episodes(share=0.6, mean_seconds=0.5), Episodes(share=0.05)])
@pytest.mark.parametrize("now", [0.0, 1.7, 15.0])
def test_at_any_time_a_share_of_workers_is_in_an_episode(episodes: Episodes, now: float) -> None:
    workers, share = 1500, episodes.share
    slow = fmean(slow_at(episodes, worker, now) for worker in range(workers))
    assert abs(slow - share) < 3.0 * math.sqrt(share * (1.0 - share) / workers)


@pytest.mark.parametrize("episodes", [EPISODES, Episodes(share=0.6, mean_seconds=0.5)])
def test_how_long_an_episode_goes_on(episodes: Episodes) -> None:
    """Of a chain with rates 1/on and 1/off: slow again t after being slow with share + (1 - share) exp(-t (1/on + 1/off)),
    where off = on (1 - share) / share."""
    workers, share, on = 4000, episodes.share, episodes.mean_seconds
    off = on * (1.0 - share) / share
    slow = [worker for worker in range(workers) if slow_at(episodes, worker, 5.0)]
    for later in (0.2 * on, on, 3.0 * on):
        expected = share + (1.0 - share) * math.exp(-later * (1.0 / on + 1.0 / off))
        again = fmean(slow_at(episodes, worker, 5.0 + later) for worker in slow)
        assert abs(again - expected) < 3.0 * math.sqrt(expected * (1.0 - expected) / len(slow))


def test_the_share_of_one_workers_time() -> None:
    """on / (on + off). Its variance over a time T is 2 share (1 - share) / ((1/on + 1/off) T) for T long: states that are t
    apart have the covariance share (1 - share) exp(-t (1/on + 1/off))."""
    on, share, samples, apart = EPISODES.mean_seconds, EPISODES.share, 100_000, 0.3
    timeline = EPISODES.timeline(11, 0)
    assert timeline is not None
    off = on * (1.0 - share) / share
    found = fmean(timeline.factor(apart * i) > 1.0 for i in range(samples))
    error = math.sqrt(2.0 * share * (1.0 - share) / ((1.0 / on + 1.0 / off) * samples * apart))
    assert abs(found - on / (on + off)) < 3.0 * error


def slow_at(episodes: Episodes, worker: int, now: float) -> bool:
    timeline = episodes.timeline(0, worker)
    assert timeline is not None
    return timeline.factor(now) > 1.0


def test_an_answer_does_not_depend_on_what_was_asked_before() -> None:
    forwards, backwards = EPISODES.timeline(2, 5), EPISODES.timeline(2, 5)
    assert forwards is not None
    assert backwards is not None
    times = [0.37 * i for i in range(400)]
    answers = [forwards.factor(now) for now in times]
    assert answers == [backwards.factor(now) for now in reversed(times)][::-1]
    assert set(answers) == {1.0, 4.0}


def test_only_who_is_named_has_episodes() -> None:
    always = Episodes(share=1.0, factor=3.0, who=(1, 2))
    assert always.timeline(0, 0) is None
    outcome = done(job(AllReduce(), 3, 2, Times(forward=1.0), straggler=Straggler(episodes=always)))
    assert [[record.ended - record.begun for record in of(trace)] for trace in outcome.traces] == [[1, 1], [3, 3], [3, 3]]


def of(trace):  # type: ignore[no-untyped-def]
    return [record for record in trace.compute if record.name.startswith("gradient")]


@pytest.mark.parametrize("strategy", [AllReduce(), AsyncPS(), KAsync(2)])
def test_an_operation_is_as_slow_as_the_time_says_at_which_it_starts(strategy: Strategy) -> None:
    """Whatever its strategy and its step: the turns of a worker go by the clock alone."""
    straggler = Straggler(episodes=EPISODES)
    outcome = done(job(strategy, 3, 60, Times(forward=1.0), straggler=straggler))
    seen = set()
    for worker in range(3):
        timeline = EPISODES.timeline(0, worker)
        assert timeline is not None
        for record in of(outcome.traces[worker]):
            factor = timeline.factor(record.begun)
            seen.add(factor)
            assert record.ended - record.begun == pytest.approx(factor, rel=1e-9)
    assert seen == {1.0, 4.0}


# ---- work that differs


@pytest.mark.parametrize(("sigma", "attention"), [(0.5, 0.0), (0.5, 0.4), (0.8, 1.0)])
def test_work_by_the_length_of_sequences(sigma: float, attention: float) -> None:
    """x is lognormal with E x = 1 and E x^2 = exp(sigma^2), so the mean of (1 - a) x + a x^2 is 1 - a + a exp(sigma^2)."""
    straggler = Straggler(lengths=Lengths(sigma, attention))
    factors = [straggler.factor(0, worker, step) for worker in range(8) for step in range(DRAWS // 8)]
    assert close(factors, 1.0 - attention + attention * math.exp(sigma**2))
    assert straggler.factor(0, 3, None) == 1.0


def test_the_hottest_expert_goes_round_and_no_token_is_lost() -> None:
    straggler = Straggler(experts=Experts(hottest=2.5, group=4, share=0.5))
    steps, hot = 4000, [0] * 8
    for step in range(steps):
        factors = [straggler.factor(0, worker, step) for worker in range(8)]
        for group in (factors[:4], factors[4:]):
            assert sorted(group) == [0.75, 0.75, 0.75, 1.75]  # 0.5 + 0.5 x 2.5, and 0.5 + 0.5 x (4 - 2.5) / 3
        for worker, factor in enumerate(factors):
            hot[worker] += factor > 1.0
    assert all(abs(count / steps - 0.25) < 3.0 * math.sqrt(0.25 * 0.75 / steps) for count in hot)


# ---- delays that do not scale with the work

DELAYS = Straggler("shifted_exponential", scale=0.5, scales_with_work=False, work_seconds=2.0)


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("work", [1.0, 5.0])
def test_a_delay_is_as_long_whatever_there_is_to_do(work: float, workers: int) -> None:
    """Exponential delays of mean 0.5 x 2 s: a synchronous step takes its work and H_n of them."""
    steps = 600
    outcome = done(job(AllReduce(), workers, steps, Times(forward=work), straggler=DELAYS))
    error = math.sqrt(harmonic(workers, 2) / steps)
    assert abs(outcome.seconds / steps - work - harmonic(workers)) < 3.0 * error
    slowest = [max(DELAYS.delay(0, worker, step) for worker in range(workers)) for step in range(steps)]
    assert outcome.seconds == pytest.approx(steps * work + sum(slowest), rel=1e-9)


@pytest.mark.parametrize("strategy", [AllReduce(microbatches=4), GPipe(microbatches=4)])
def test_a_step_is_delayed_once_in_its_first_operation(strategy: Strategy) -> None:
    always = Straggler("bernoulli", probability=1.0, multiple=3.0, scales_with_work=False, work_seconds=0.25)
    outcome = done(job(strategy, 1, 3, Times(forward=4.0), model=chain(batch=4), straggler=always))
    assert outcome.seconds == pytest.approx(3 * (4 * 4.0 + 2 * 0.25), rel=1e-12)
    late = [r for r in outcome.traces[0].compute if (r.ended - r.begun) % 1.0 == 0.5]
    first = {r.step: r for r in reversed(outcome.traces[0].compute) if r.step >= 0}
    assert late == [first[step] for step in range(3)]


def test_a_delay_below_nothing_is_none_and_no_factor_makes_it_longer() -> None:
    straggler = Straggler("lognormal", sigma=1.0, scales_with_work=False, work_seconds=1.0, slow={0: 3.0})
    jitter = Straggler("lognormal", sigma=1.0)
    drawn = [jitter.factor(0, 0, step) for step in range(200)]
    assert [straggler.delay(0, 0, step) for step in range(200)] == [max(0.0, x - 1.0) for x in drawn]
    assert {straggler.factor(0, 0, step) for step in range(200)} == {3.0}


# ---- whatever the part

OFF = [
    Straggler("lognormal", sigma=0.0),
    Straggler("shifted_exponential", scale=0.0),
    Straggler("bernoulli", probability=0.0),
    Straggler("bernoulli", multiple=1.0),
    Straggler("histogram", histogram={1.0: 3.0, 9.0: 0.0}),
    Straggler("lognormal", sigma=0.0, scales_with_work=False, work_seconds=5.0),
    Straggler("exponential", scales_with_work=False),
    Straggler("bernoulli", multiple=0.5, scales_with_work=False, work_seconds=5.0),
    Straggler("histogram", histogram={0.5: 3.0, 1.0: 1.0}, scales_with_work=False, work_seconds=5.0),
    Straggler(stages=(1.0, 1.0), slow={1: 1.0}),
    Straggler(spread=Spread("lognormal", sigma=0.0)),
    Straggler(spread=Spread("share", share=0.0)),
    Straggler(spread=Spread("share", factor=1.0)),
    Straggler(episodes=Episodes(share=0.0)),
    Straggler(episodes=Episodes(share=1.0, factor=1.0)),
    Straggler(lengths=Lengths(0.0, attention=0.5)),
    Straggler(experts=Experts(hottest=1.0)),
    Straggler(experts=Experts(hottest=2.0, share=0.0)),
]
SLOWER = {  # none of them makes an operation faster
    "jitter": Straggler("shifted_exponential", scale=0.3),
    "delay": DELAYS,
    "histogram": Straggler("histogram", histogram={1.0: 1.0, 2.0: 1.0}),
    "stages": Straggler(stages=(1.0, 1.5)),
    "spread": Straggler(spread=Spread("share", share=0.5)),
    "episodes": Straggler(episodes=EPISODES),
}
EVERYTHING = Straggler(
    "pareto",
    shape=4.0,
    slow={0: 1.5},
    stages=(1.0, 1.25),
    spread=Spread("lognormal", sigma=0.2),
    episodes=EPISODES,
    lengths=Lengths(0.4, attention=0.3),
    experts=Experts(hottest=1.5, group=2, share=0.5),
)


@pytest.mark.parametrize(
    "straggler",
    [
        Straggler("exponential"),
        Straggler("pareto", shape=100.0),
        Straggler("lognormal", sigma=0.01),
        Straggler("bernoulli", multiple=0.5),
        Straggler("histogram", histogram={0.5: 3.0, 1.0: 1.0}),
        Straggler("exponential", scales_with_work=False, work_seconds=1e-9),
        Straggler(stages=(1.0, 0.9)),
        Straggler(spread=Spread("share", share=0.01)),
        Straggler(episodes=Episodes(share=0.01, factor=1.01)),
        Straggler(lengths=Lengths(0.01)),
        Straggler(experts=Experts(hottest=1.01)),
    ],
    ids=str,
)
def test_a_part_that_can_be_drawn_is_on(straggler: Straggler) -> None:
    assert not straggler.is_off


@pytest.mark.parametrize("straggler", OFF, ids=str)
def test_zero_variance_is_no_straggler(straggler: Straggler) -> None:
    assert straggler.is_off
    base = job(AsyncPS(), 4, 40, Times(forward=1.0, backward=0.7, apply=0.1))
    assert done(replace(base, straggler=straggler)).traces == done(base).traces


@pytest.mark.parametrize("name", SLOWER)
@pytest.mark.parametrize("strategy", [AllReduce(), SyncPS(), GPipe(microbatches=2)])
def test_a_straggler_never_speeds_a_synchronous_run_up(strategy: Strategy, name: str) -> None:
    straggler = SLOWER[name]
    assert not straggler.is_off
    base = job(strategy, 4, 10, Times(forward=1.0, backward=2.0, apply=0.1), model=chain(4, batch=2))
    assert done(replace(base, straggler=straggler)).seconds > done(base).seconds


@pytest.mark.parametrize("strategy", [AllReduce(), AsyncPS()])
def test_all_times_times_eight_are_eight_times_the_seconds(strategy: Strategy) -> None:
    base = job(strategy, 4, 40, Times(forward=1.0, apply=0.125), straggler=EVERYTHING)
    slower = replace(EVERYTHING, episodes=replace(EPISODES, mean_seconds=8.0 * EPISODES.mean_seconds))
    times_8 = job(strategy, 4, 40, Times(forward=8.0, apply=1.0), straggler=slower)
    assert done(times_8).seconds == 8.0 * done(base).seconds  # a power of two: no rounding
    one, eight = (replace(DELAYS, work_seconds=2.0 * times) for times in (1.0, 8.0))
    assert done(replace(times_8, straggler=eight)).seconds == 8.0 * done(replace(base, straggler=one)).seconds


def test_a_step_is_as_slow_under_every_strategy() -> None:
    """But for episodes, which go by the clock."""
    straggler = replace(EVERYTHING, episodes=Episodes())
    taken = []
    for strategy in (AllReduce(), SyncPS(), AsyncPS()):
        outcome = done(job(strategy, 4, 80, Times(forward=1.0), straggler=straggler))
        taken.append({(t.rank, r.step): r.ended - r.begun for t in outcome.traces for r in of(t)})
    for others in taken[1:]:
        both = others.keys() & taken[0].keys()
        assert len(both) >= 4 * 15
        assert all(others[key] == pytest.approx(taken[0][key], rel=1e-9) for key in both)
    assert all(seconds == pytest.approx(straggler.factor(0, *key), rel=1e-9) for key, seconds in taken[0].items())


def test_parts_multiply() -> None:
    alone = [
        Straggler("pareto", shape=4.0),
        Straggler(slow={0: 1.5}),
        Straggler(stages=(1.0, 1.25)),
        *(Straggler(**{part: getattr(EVERYTHING, part)}) for part in ("spread", "lengths", "experts")),
    ]
    for worker, step in ((0, 0), (1, 5), (2, 9)):
        expected = math.prod(straggler.factor(6, worker, step) for straggler in alone)
        assert EVERYTHING.factor(6, worker, step) == pytest.approx(expected, rel=1e-12)
    assert len({round(part.factor(6, 1, 5), 9) for part in alone}) == len(alone)  # no two draw alike
