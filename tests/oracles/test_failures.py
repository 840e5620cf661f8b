"""T21 and T22: what failures and checkpoints cost, by Young, Daly and exactly; what a restart may not change."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest

from distsim.backends.simulated import simulate
from distsim.interface import Budget, Checkpoint, Failure, Job, Straggler, Strategy, T, Worker
from distsim.interface.failure import daly, young
from distsim.results.conservation import check_conservation
from distsim.results.records import trace_hash
from distsim.strategies.all_reduce import AllReduce
from distsim.strategies.local_sgd import LocalSGD
from distsim.strategies.parameter_server import SyncPS

from .jobs import Times, chain, done, job, mean_and_error

HOUR, MINUTE = 3600.0, 60.0


def expected_seconds(work: float, interval: float, cost: float, restart: float, mtbf: float) -> float:
    """Mean seconds that `work` takes in equal intervals with a checkpoint after each, exactly, where failures are
    exponential and come during work, checkpoints and restarts alike (Daly 2006, equation 20)."""
    return mtbf * math.exp(restart / mtbf) * math.expm1((interval + cost) / mtbf) * work / interval


def test_t21_intervals_and_efficiency() -> None:
    mtbf, cost, restart = 3.09, 5 / 60, 10 / 60
    assert young(mtbf, cost) == pytest.approx(0.7176, abs=5e-5)
    assert daly(mtbf, cost) == pytest.approx(0.6632, abs=5e-5)
    assert 1.0 / expected_seconds(1.0, daly(mtbf, cost), cost, restart, mtbf) == pytest.approx(0.7441, abs=5e-5)
    assert daly(1.0, 2.0) == 1.0
    for interval in (0.5, 0.66, 0.8):  # Daly's is not worse than others by the exact formula
        best = expected_seconds(1.0, daly(mtbf, cost), cost, restart, mtbf)
        assert expected_seconds(1.0, interval, cost, restart, mtbf) >= best * (1 - 1e-3)


def test_t22_the_mttf_of_a_fleet() -> None:
    assert pytest.approx(3.09, abs=5e-3) == 54 * 24 / 419
    ranks, mtbf, horizon, seeds = 16, 100.0, 50.0, 400
    counts = []
    for seed in range(seeds):
        losses = Failure(mtbf=mtbf).losses(seed, ranks)
        counts.append(sum(1 for _ in iter(lambda losses=losses: next(losses).at < horizon, False)))
    mean, _ = mean_and_error(counts)  # Poisson: as many as in 16 x 50 s of one rank
    assert abs(mean - 8.0) <= 3.0 * math.sqrt(8.0 / seeds)


def expected(intervals: int, work: float, cost: float, restart: float, mtbf: float) -> float:
    """A run does not save after its last update: one interval has no checkpoint."""
    whole = expected_seconds(work, work, cost, restart, mtbf)
    return (intervals - 1) * whole + expected_seconds(work, work, 0.0, restart, mtbf)


SETS = {
    "the numbers of Llama 3": (0.6632 * HOUR, 5 * MINUTE, 10 * MINUTE, 3.09 * HOUR),
    "cheap checkpoints": (10.0, 0.5, 2.0, 40.0),
    "failures as often as checkpoints": (10.0, 2.0, 5.0, 12.0),
    "no restart time": (10.0, 1.0, 0.0, 25.0),
}


QUICK = next(iter(SETS))


@pytest.mark.parametrize(
    ("name", "seeds"), [(QUICK, 100), *(pytest.param(name, 400, marks=pytest.mark.slow) for name in SETS)]
)
def test_t21_the_mean_of_simulated_runs(name: str, seeds: int) -> None:
    work, cost, restart, mtbf = SETS[name]
    ranks, updates, intervals = 2, 2, 5
    a_run = job(AllReduce(), ranks, intervals * updates, Times(forward=work / updates))
    failure = Failure(mtbf=mtbf * ranks, restart=restart, checkpoint=Checkpoint(updates=updates, cost=cost))
    outcomes = [done(replace(a_run, failure=failure, seed=seed)) for seed in range(seeds)]
    mean, error = mean_and_error([outcome.seconds for outcome in outcomes])
    assert abs(mean - expected(intervals, work, cost, restart, mtbf)) <= 3.0 * error
    for outcome in outcomes:  # every second is work, a checkpoint or lost
        losses = outcome.losses
        assert losses is not None
        assert losses.checkpoints == intervals - 1
        assert outcome.seconds == pytest.approx(intervals * (work + cost) - cost + losses.lost_seconds)


@pytest.mark.slow
def test_t21_checkpoints_by_time() -> None:
    work, cost, restart, mtbf = SETS["cheap checkpoints"]
    a_run = job(AllReduce(), 2, 50, Times(forward=1.0))  # one is due after each 10 s of work, by the clock
    failure = Failure(mtbf=2 * mtbf, restart=restart, checkpoint=Checkpoint(seconds=work, cost=cost))
    mean, error = mean_and_error([done(replace(a_run, failure=failure, seed=seed)).seconds for seed in range(300)])
    assert abs(mean - expected(5, work, cost, restart, mtbf)) <= 3.0 * error


# ---- one run by hand


def test_a_restart_by_hand() -> None:
    """Updates of 3 s, a checkpoint of 0.5 s after every second one: it is complete at 6.5 s. Rank 1 is lost at 11 s in the
    fourth update, and again at 13 s, in the 5 s that the restart takes. At 18 s the third update begins anew; later 4 s and
    the last two updates: 18 + 6 + 0.5 + 6."""
    failure = Failure(ranks={1: (11.0, 13.0)}, restart=5.0, checkpoint=Checkpoint(updates=2, cost=0.5))
    outcome = done(replace(job(AllReduce(), 3, 6, Times(1.0, 2.0)), failure=failure))
    assert outcome.seconds == 30.5
    assert outcome.losses == (2, 1, 2, 11.5)
    assert [update.number for update in outcome.traces[0].updates] == [1, 2, 3, 4, 5, 6]
    assert [update.time for update in outcome.traces[0].updates] == [3.0, 6.0, 21.0, 24.0, 27.5, 30.5]
    assert [trace.interruptions for trace in outcome.traces] == [[(11.0, 1, 18.0, 1, 0)]] * 3
    check_conservation(outcome.traces)


def test_without_a_checkpoint_a_run_begins_anew() -> None:
    failure = Failure(ranks={0: (8.0,)}, restart=1.0)
    outcome = done(replace(job(AllReduce(), 2, 3, Times(1.0, 2.0)), failure=failure))
    assert (outcome.seconds, outcome.losses) == (18.0, (1, 1, 0, 9.0))


def test_a_budget_of_seconds_counts_those_of_a_restart() -> None:
    """Rank 1 is lost at 7 s; from 12 s on updates of 3 s begin before 20 s: three of them."""
    a_run = replace(job(AllReduce(), 2, 1, Times(1.0, 2.0)), budget=Budget(seconds=20.0))
    outcome = done(replace(a_run, failure=Failure(ranks={1: (7.0,)}, restart=5.0)))
    assert [update.time for update in outcome.traces[0].updates] == [15.0, 18.0, 21.0]


def test_a_loss_that_aborts() -> None:
    outcome = simulate(
        replace(job(AllReduce(), 2, 3, Times(1.0, 2.0)), failure=Failure(ranks={1: (8.0,)}, on_loss="abort"))
    )
    assert (outcome.status, outcome.message) == ("failed", "rank 1 was lost at 8 s and failure.on_loss=abort")


def test_a_loss_after_the_end_changes_nothing_and_is_said() -> None:
    a_run = job(AllReduce(), 2, 3, Times(1.0, 2.0))
    outcome = done(replace(a_run, failure=Failure(ranks={1: (9.5,)})))
    assert outcome.notes == ["the failure of rank 1 at 9.5 s comes after the end of the run at 9 s"]
    assert trace_hash(outcome.traces) == trace_hash(done(a_run).traces)


def test_a_deadlock_is_found_though_failures_would_come() -> None:
    from distsim.backends.simulated import simulate

    @dataclass(frozen=True)
    class Waits(Strategy):
        async def run(self, worker: Worker[T]) -> None:
            for _ in worker.steps():
                await worker.receive(1 - worker.rank)

    outcome = simulate(replace(job(Waits(), 2, 3, Times(1.0)), failure=Failure(mtbf=5.0)))
    assert outcome.status == "deadlocked"


def test_a_run_that_cannot_get_on_ends() -> None:
    failure = Failure(mtbf=0.2, restart=0.01)
    outcome = simulate(replace(job(AllReduce(), 2, 3, Times(forward=10.0)), failure=failure))
    assert outcome.status == "failed"
    assert "loss in a row that undoes the updates after 0" in outcome.message


# ---- metamorphic

STRATEGIES: dict[str, Strategy] = {"all_reduce": AllReduce(), "sync_ps": SyncPS(), "local_sgd": LocalSGD(every=3)}


def uneven(strategy: Strategy) -> Job:
    return job(strategy, 3, 12, Times(1.0, 2.0, 0.1), model=chain(3), straggler=Straggler("lognormal"), seed=3)


@pytest.mark.parametrize("name", STRATEGIES)
def test_no_failure_is_failures_off(name: str) -> None:
    a_run = uneven(STRATEGIES[name])
    rare = replace(a_run, failure=Failure(mtbf=1e30, restart=5.0))
    assert trace_hash(done(rare).traces) == trace_hash(done(a_run).traces)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_failure_never_speeds_a_run_up(name: str) -> None:
    a_run = uneven(STRATEGIES[name])
    undisturbed = done(a_run).seconds
    for at in (0.0, 5.0, 17.3, 60.0, undisturbed - 1e-3):
        for every in (None, 1, 5):
            failure = Failure(ranks={2: (at,)}, restart=0.0, checkpoint=Checkpoint(updates=every))
            outcome = done(replace(a_run, failure=failure))
            assert outcome.seconds >= undisturbed - 1e-9
            check_conservation(outcome.traces)


def test_failures_scale_with_time() -> None:
    def seconds(c: float) -> float:
        failure = Failure(mtbf=64.0 * c, restart=4.0 * c, checkpoint=Checkpoint(seconds=8.0 * c, cost=0.5 * c))
        return done(replace(job(AllReduce(), 3, 20, Times(1.0 * c, 2.0 * c)), failure=failure, seed=1)).seconds

    assert seconds(1.0) > 60.0
    assert seconds(4.0) == 4.0 * seconds(1.0)


def test_the_same_ranks_fail_at_the_same_times_under_every_strategy() -> None:
    first = [next(Failure(mtbf=50.0).losses(seed, 4)) for seed in range(20)]
    for seed, (at, rank) in enumerate(first):
        for strategy in (AllReduce(), LocalSGD(every=3)):
            a_run = replace(job(strategy, 4, 1, Times(forward=at + 1.0)), seed=seed)
            outcome = simulate(replace(a_run, failure=Failure(mtbf=50.0, on_loss="abort")))
            assert outcome.message == f"rank {rank} was lost at {at:g} s and failure.on_loss=abort"
