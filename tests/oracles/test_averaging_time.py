"""How long rounds of averaging strategies take, against closed forms, recursions and hand calculations."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest

from distsim.interface import Outcome, Straggler, Strategy, Switch
from distsim.strategies.all_reduce import AllReduce
from distsim.strategies.diloco import DiLoCo, SlowMo, StreamingDiLoCo
from distsim.strategies.gossip import Gossip
from distsim.strategies.local_sgd import LocalSGD

from .jobs import Times, chain, done, job, mean_and_error

EXPONENTIAL = Straggler("exponential")


def times(outcome: Outcome, rank: int = 0) -> list[float]:
    return [update.time for update in outcome.traces[rank].updates]


# ---- local steps


def slowest(workers: int, steps: int) -> float:
    """E max of n sums of `steps` exponentials, over `steps`: the integral of 1 - F^n, F of Erlang, by the midpoint rule."""
    total, width = 0.0, 0.05
    for i in range(int((3 * steps + 40) / width)):
        t = (i + 0.5) * width
        beyond = math.fsum(math.exp(k * math.log(t) - t - math.lgamma(k + 1)) for k in range(steps))
        total += width * (1.0 - (1.0 - min(beyond, 1.0)) ** workers)
    return total / steps


@pytest.mark.parametrize("make", [LocalSGD, DiLoCo])
@pytest.mark.parametrize(
    ("workers", "every", "rounds", "expected"),
    [(8, 1, 600, 2.7179), (8, 4, 300, 1.8079), (8, 16, 120, 1.3826), (8, 64, 40, 1.1849), (3, 5, 300, None)],
)
def test_a_round_of_local_steps_waits_for_the_slowest_sum(
    make: Callable[[int], Strategy], workers: int, every: int, rounds: int, expected: float | None
) -> None:
    exact = slowest(workers, every)
    assert expected is None or exact == pytest.approx(expected, abs=6e-5)
    ends = times(done(job(make(every), workers, rounds * every, Times(forward=1.0), straggler=EXPONENTIAL)))
    ends = [0.0, *ends[every - 1 :: every]]
    mean, error = mean_and_error([(b - a) / every for a, b in pairwise(ends)])
    assert abs(mean - exact) < 3 * error


@pytest.mark.parametrize(
    ("strategy", "reductions"),
    [
        (LocalSGD(1), 12),
        (LocalSGD(4), 3),
        (LocalSGD(5), 2),
        (LocalSGD(4, after=5), 6),  # 5, and after 9: one of 4 steps
        (SlowMo(3), 4),
        (DiLoCo(6), 2),
        (StreamingDiLoCo(every=6, fragments=1, delay=0), 2),
    ],
)
def test_an_all_reduce_is_paid_for_once_a_round(strategy: Strategy, reductions: int) -> None:
    # A ring of 4 with 1,000 bytes at 1,000 bytes a second: 2 x 3/4 x 1 s.
    outcome = done(job(strategy, 4, 12, Times(forward=1.0), Switch(1000.0, 0.0)))
    assert outcome.seconds == 12 * 1.0 + reductions * 1.5


def test_local_steps_at_every_step_cost_an_all_reduce() -> None:
    device, network = Times(forward=1.0, apply=0.25), Switch(1e4, 1e-2)
    seconds = {done(job(s, 3, 7, device, network)).seconds for s in (LocalSGD(1), LocalSGD(9, after=7))}
    assert seconds == {done(job(AllReduce(), 3, 7, device, network)).seconds}


# ---- streaming: reductions under way while training goes on


@pytest.mark.parametrize(
    ("steps", "delay", "ends"),
    [
        # One fragment, sent at the end of steps 4 and 8; a reduction takes 1.5 s, a step 1 s.
        (10, 2, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),  # used after steps 6 and 10: hidden
        (10, 3, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),  # the second is over when it is used at the end of the run
        (10, 1, [1, 2, 3, 4, 5.5, 6.5, 7.5, 8.5, 10, 11]),  # used after steps 5 and 9: half a second short
        (10, 0, [1, 2, 3, 5.5, 6.5, 7.5, 8.5, 11, 12, 13]),
        (9, 2, [1, 2, 3, 4, 5, 6, 7, 8, 9.5]),  # the end of the run waits for what is under way
        (8, 2, [1, 2, 3, 4, 5, 6, 7, 9.5]),
    ],
)
def test_a_reduction_is_hidden_by_the_steps_that_it_may_take(steps: int, delay: int, ends: list[float]) -> None:
    strategy = StreamingDiLoCo(every=4, fragments=1, delay=delay)
    assert times(done(job(strategy, 4, steps, Times(forward=1.0), Switch(1000.0, 0.0)))) == ends


def test_fragments_travel_in_turn() -> None:
    # Two blocks of 500 bytes: each takes .75 s; block 1 is sent after steps 2, 6, ..., block 0 after steps 4, 8, ...
    model, network = chain(blocks=2, parameters=125), Switch(1000.0, 0.0)
    device = Times(forward=0.5)

    def ends(steps: int, delay: int) -> list[float]:
        return times(done(job(StreamingDiLoCo(every=4, delay=delay), 4, steps, device, network, model)))

    assert ends(9, 1) == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert ends(8, 1) == [1, 2, 3, 4, 5, 6, 7, 8.75]
    assert ends(8, 0) == [1, 2.75, 3.75, 5.5, 6.5, 8.25, 9.25, 11]
    outcome = done(job(StreamingDiLoCo(every=4, delay=1), 4, 9, device, network, model))
    reductions = sorted((t.posted, t.ended, t.nbytes) for t in outcome.traces[0].transfers)
    assert reductions == [(2 * k, 2 * k + 0.75, 500.0) for k in (1, 2, 3, 4)]


def test_mixing_and_outer_steps_take_time() -> None:
    # Block by block: .25 s for an update, 1/1,000 s for a byte of what payload arithmetic reads.
    device = Times(forward=1.0, apply=0.25, byte=1e-3)
    model = chain(blocks=1, parameters=250)  # 1,000 bytes: a difference or a mix of two reads 2,000
    assert done(job(LocalSGD(2), 2, 2, device, model=model)).seconds == 2 * 1.25
    assert done(job(DiLoCo(2), 2, 2, device, model=model)).seconds == 2 * 1.25 + 2.0 + 0.25
    streaming = StreamingDiLoCo(every=2, fragments=1, delay=0)
    assert done(job(streaming, 2, 2, device, model=model)).seconds == 2 * 1.25 + 2.0 + 0.25 + 2.0
    assert done(job(Gossip(), 4, 2, device, model=model)).seconds == 2 * (1.25 + 3.0)


# ---- gossip: a max-plus recursion


HOPS = {
    ("ring", 2): [1],
    ("ring", 3): [1, 2],
    ("ring", 7): [1, 6],
    ("exponential", 8): [1, 7, 2, 6, 4],
    ("complete", 5): [1, 2, 3, 4],
}


@pytest.mark.parametrize(("topology", "workers"), list(HOPS))
@pytest.mark.parametrize("hop", [0.0, 0.3, 2.5])
@pytest.mark.parametrize("straggler", [EXPONENTIAL, Straggler("lognormal", sigma=1.0, slow={1: 3.0})])
def test_gossip_follows_its_recursion(topology: str, workers: int, hop: float, straggler: Straggler) -> None:
    steps, seed = 40, 11
    network = Switch(math.inf, hop / 2)  # up to the switch and down
    outcome = done(job(Gossip(topology), workers, steps, Times(forward=1.0), network, straggler=straggler, seed=seed))
    begun = [0.0] * workers
    for step in range(steps):
        computed = [begun[w] + straggler.factor(seed, w, step) for w in range(workers)]
        begun = [
            max(
                computed[w],
                *(max(begun[w], begun[(w + h) % workers]) + hop for h in HOPS[topology, workers]),
            )
            for w in range(workers)
        ]
        assert [times(outcome, w)[step] for w in range(workers)] == pytest.approx(begun, rel=1e-9)


class Late(Straggler):
    """Worker 0 takes 10 s for its first step; of a jitter that draws its factors so."""

    def factor(self, seed: int, worker: int, step: int | None) -> float:
        return 10.0 if (worker, step) == (0, 0) else 1.0


def test_a_delay_travels_one_neighbour_a_step() -> None:
    outcome = done(job(Gossip(), 9, 5, Times(forward=1.0), straggler=Late("exponential")))
    for worker in range(9):
        distance = min(worker, 9 - worker)
        # In step d it waits for the model that a neighbour sends when that one begins its step d, 10 s into the run.
        expected = [10.0 + step - distance if step >= distance else step + 1.0 for step in range(5)]
        assert times(outcome, worker) == expected
