"""How long the members of the parameter-server family take for an update, against closed forms.

Where the workers' times are memoryless, the times between updates are independent draws of one distribution: their mean is
held within three standard errors of as many draws as there are updates after the first.
"""

from __future__ import annotations

import math
from functools import cache
from itertools import pairwise

import pytest

from distsim.interface import Straggler, Strategy
from distsim.strategies.parameter_server import SSP, AsyncPS, BackupWorkers, KAsync, KBatchAsync, KBatchSync, KSync, SyncPS

from .jobs import Times, done, harmonic, job, mean_and_error

EXPONENTIAL = Straggler("exponential")
SHIFTED = Straggler("shifted_exponential")


def update_times(strategy: Strategy, workers: int, updates: int, straggler: Straggler, seed: int = 0) -> list[float]:
    """When the server had made each update; a gradient takes 1 s times the straggler's factor."""
    run = done(job(strategy, workers, updates, Times(forward=1.0), straggler=straggler, seed=seed))
    return [update.time for update in run.traces[workers].updates]


def check_mean(strategy: Strategy, workers: int, updates: int, expected: float, straggler: Straggler = EXPONENTIAL) -> None:
    """The mean time between updates, all but the first, is the expected one."""
    times = update_times(strategy, workers, updates, straggler)
    mean, error = mean_and_error([b - a for a, b in pairwise(times)])
    assert abs(mean - expected) < 3 * error


# ---- the first K of P


@pytest.mark.parametrize(
    ("workers", "k", "straggler", "expected"),
    [(8, 4, EXPONENTIAL, 0.6345), (8, 4, SHIFTED, 1.6345), (5, 1, EXPONENTIAL, 0.2), (6, 5, SHIFTED, 2.45)],
)
def test_k_sync_waits_for_the_kth_of_p(workers: int, k: int, straggler: Straggler, expected: float) -> None:
    step = harmonic(workers) - harmonic(workers - k) + (straggler == SHIFTED)  # (H_P - H_{P-K}) / mu + D
    assert step == pytest.approx(expected, abs=5e-5)
    check_mean(KSync(k), workers, 400, step, straggler)


@pytest.mark.parametrize(("workers", "backups", "updates", "expected"), [(100, 4, 100, 3.104), (8, 4, 400, 0.6345)])
def test_backup_workers_save_the_wait_for_the_slowest(workers: int, backups: int, updates: int, expected: float) -> None:
    step = harmonic(workers) - harmonic(backups)  # (H_{N+b} - H_b) / mu
    assert step == pytest.approx(expected, abs=5e-4)
    check_mean(BackupWorkers(backups), workers, updates, step)


@cache
def dropped(fresh: int, late: int, missing: int, waits: bool) -> float:
    """Expected time until `missing` more gradients of the newest model, where the late finish theirs before they get it.

    A Markov chain: `fresh` workers compute on the newest model and `late` on an older one, each at rate 1. A contributor
    leaves the fresh if it waits for the update, and starts again if not.
    """
    if not missing:
        return 0.0
    rate = fresh + late
    time = 1.0
    if fresh:
        time += fresh * dropped(fresh - waits, late, missing - 1, waits)
    if late:
        time += late * dropped(fresh + 1, late - 1, missing, waits)
    return time / rate


@pytest.mark.parametrize(("workers", "backups", "expected"), [(8, 4, 1.03), (2, 1, 0.75), (10, 2, None)])
def test_late_workers_that_finish_make_a_step_longer(workers: int, backups: int, expected: float | None) -> None:
    # After an update its N contributors have the newest model, the b others an older one. By hand for 1 + 1: half of the
    # time the fresh one is first, in 1/2; else the late one is, and both are fresh: 1/2 more.
    step = dropped(workers - backups, backups, workers - backups, waits=True)
    assert expected is None or step == pytest.approx(expected, abs=5e-3)
    assert step > harmonic(workers) - harmonic(backups)
    check_mean(BackupWorkers(backups, late="drop"), workers, 400, step)
    check_mean(KSync(workers - backups, late="drop"), workers, 400, step)


@pytest.mark.parametrize(("workers", "k"), [(8, 4), (4, 4), (3, 1), (2, 2)])
def test_k_batch_sync_takes_gradients_from_whoever_has_one(workers: int, k: int) -> None:
    check_mean(KBatchSync(k), workers, 400, k / workers)  # K / (P mu)
    # Dropped instead, only the last contributor starts on the newest model.
    check_mean(KBatchSync(k, late="drop"), workers, 400, dropped(1, workers - 1, k, waits=False))


# ---- any version


@pytest.mark.parametrize(("workers", "k"), [(8, 4), (5, 5), (6, 1), (5, 2)])
def test_k_async_of_exponential_workers_takes_as_long_as_k_sync(workers: int, k: int) -> None:
    check_mean(KAsync(k), workers, 400, harmonic(workers) - harmonic(workers - k))


@pytest.mark.parametrize(("workers", "k", "expected"), [(8, 4, 1.239), (4, 2, None)])
def test_k_async_of_new_longer_than_used_workers_takes_less_than_k_sync(
    workers: int, k: int, expected: float | None
) -> None:
    means = []
    for seed in range(12):  # runs are independent; steps within one are not
        times = update_times(KAsync(k), workers, 250, SHIFTED, seed)
        means.append((times[-1] - times[49]) / 200)
    mean, error = mean_and_error(means)
    assert mean + 3 * error < harmonic(workers) - harmonic(workers - k) + 1.0  # E X_{K:P}
    if expected is not None:
        assert abs(mean - expected) < 3 * error + 5e-4


@pytest.mark.parametrize(
    ("straggler", "mean", "deviation"),
    [(EXPONENTIAL, 1.0, 1.0), (SHIFTED, 2.0, 1.0), (Straggler(slow={0: 3.0, 1: 1.0}), None, 0.0)],
)
@pytest.mark.parametrize(("workers", "k"), [(4, 2), (8, 3)])
def test_k_batch_async_takes_k_gradients_of_all_workers_together(
    straggler: Straggler, mean: float | None, deviation: float, workers: int, k: int
) -> None:
    updates = 600
    seconds = update_times(KBatchAsync(k), workers, updates, straggler)[-1]
    if mean is None:  # steady workers: rates add up, to within one gradient each
        assert seconds * (workers - 1 + 1 / 3) == pytest.approx(updates * k, abs=workers)
    else:  # the KT-th event of P renewal processes
        error = deviation * math.sqrt(updates * k) / workers
        assert abs(seconds - updates * k * mean / workers) < 3 * error


@pytest.mark.parametrize(("workers", "k"), [(1, 1), (4, 2), (6, 4), (3, 3)])
def test_steady_workers_give_k_batch_async_a_gradient_each_a_round(workers: int, k: int) -> None:
    rounds = 2 * k
    times = update_times(KBatchAsync(k), workers, rounds * workers // k, Straggler())
    assert times == [-(-k * (i + 1) // workers) for i in range(len(times))]  # the K-th, 2K-th, ... in rounds of P


# ---- bounded staleness


@pytest.mark.parametrize(("bound", "expected"), [(0, 1.3333), (1, 1.6), (2, 1.7143), (5, 1.8462)])
def test_two_exponential_workers_of_bounded_staleness(bound: int, expected: float) -> None:
    rate = 4 * (bound + 1) / (2 * bound + 3)  # gradients a second
    assert rate == pytest.approx(expected, abs=5e-5)
    rates = []
    for seed in range(12):
        times = update_times(SSP(bound), 2, 500, EXPONENTIAL, seed)
        rates.append(400 / (times[-1] - times[99]))
    mean, error = mean_and_error(rates)
    assert abs(mean - rate) < 3 * error


@pytest.mark.parametrize(("workers", "bound"), [(2, 0), (2, 3), (5, 1), (8, 4)])
@pytest.mark.parametrize("straggler", [EXPONENTIAL, Straggler("lognormal", slow={0: 4.0}), Straggler(slow={1: 0.1})])
def test_bounded_staleness_bounds_clocks_and_what_is_read(workers: int, bound: int, straggler: Straggler) -> None:
    run = done(job(SSP(bound), workers, 40 * workers, Times(forward=1.0, apply=0.02), straggler=straggler))
    arrivals = run.traces[workers].arrivals
    clocks, position, gap = [0] * workers, dict[tuple[int, int], int](), 0
    for i, arrival in enumerate(arrivals):
        position[arrival.source, clocks[arrival.source]] = i  # the update that holds this clock of this worker
        clocks[arrival.source] += 1
        gap = max(gap, max(clocks) - min(clocks))
    assert gap <= bound + 1  # the worker that finishes is one further than it was allowed to start
    if straggler.slow:
        assert gap == bound + 1
    for (source, clock), i in position.items():
        read = arrivals[i].version
        needed = [n for (_, c), n in position.items() if c <= clock - bound - 1]
        assert all(n < read for n in needed)
        assert source < workers


def test_bounded_staleness_absorbs_jitter_but_no_slow_worker() -> None:
    slow = Straggler(slow={2: 5.0})
    assert update_times(SSP(3), 4, 400, slow)[-1] == pytest.approx(
        400 / 4 * 5.0, rel=0.03
    )  # all at the pace of the slowest


@pytest.mark.parametrize("straggler", [Straggler(), EXPONENTIAL, Straggler("lognormal", slow={1: 2.0})])
def test_the_ends_of_each_scale_are_known_rules(straggler: Straggler) -> None:
    workers, steps = 4, 30
    synchronous = update_times(SyncPS(), workers, steps, straggler)
    for strategy in (KSync(workers), KSync(workers, late="drop"), BackupWorkers(0), BackupWorkers(0, late="drop")):
        assert update_times(strategy, workers, steps, straggler) == synchronous
    assert update_times(SSP(0), workers, workers * steps, straggler)[workers - 1 :: workers] == synchronous
    assert update_times(KAsync(workers), workers, steps, straggler) == synchronous
    asynchronous = update_times(AsyncPS(), workers, steps * workers, straggler)
    for strategy in (KAsync(1), KBatchAsync(1), SSP(10**9), AsyncPS("polynomial", 2.0)):
        assert update_times(strategy, workers, steps * workers, straggler) == asynchronous
    assert update_times(BackupWorkers(1), workers, steps, straggler) == update_times(KSync(3), workers, steps, straggler)
