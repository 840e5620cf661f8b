"""Pipelines against closed forms: F forward and B backward seconds of a micro-batch on a rank, p ranks, m micro-batches."""

import math
from collections.abc import Callable
from functools import partial

import pytest

from distsim.backends.simulated import SimulatedOptions
from distsim.interface import Block, Cost, Curve, Measured, Model, Outcome, Roofline, Straggler, Switch
from distsim.strategies.all_reduce import AllReduce
from distsim.strategies.parameter_server import SyncPS
from distsim.strategies.pipeline import GPipe, Interleaved, ModelParallel, OneFOneB, Pipeline, ZeroBubble

from .jobs import IDEAL, ITEMSIZE, SAVED, Times, chain, done, job

INSTANT = 1e308  # bytes a second: all that a hop costs is latency


def run(
    strategy: Pipeline,
    ranks: int,
    forward: float = 1.0,
    backward: float = 2.0,
    updates: int = 1,
    hop: float = 0.0,
    slow: tuple[float, ...] = (),
    straggler: Straggler | None = None,
    halves: tuple[float, float] | None = None,
) -> Outcome:
    """A run of one block a chunk in which a micro-batch is one sample a worker's share: b = m, so P b / m = P samples.

    `forward`, `backward` and its `halves` (each half of it, unless given) are seconds of a micro-batch on all of a rank.
    """
    chunks = strategy.schedule.chunks
    both = halves or (backward / 2, backward / 2)
    device = Times(forward / chunks, backward / chunks, factors=slow, halves=(both[0] / chunks, both[1] / chunks))
    network = Switch(INSTANT, hop / 2) if hop else IDEAL
    model = chain(blocks=ranks * chunks, batch=strategy.microbatches)
    return done(job(strategy, ranks, updates, device, network, model, straggler))


def peaks(outcome: Outcome) -> list[float]:
    """Most activations of a micro-batch in one chunk that a rank held at once; a micro-batch has a sample a rank."""
    ranks = len(outcome.traces)
    return [trace.peak_activations / (SAVED * ITEMSIZE * ranks) for trace in outcome.traces]


@pytest.mark.parametrize("kind", [OneFOneB, GPipe])
@pytest.mark.parametrize(
    ("p", "m", "forward", "backward", "expected"),
    [
        (4, 8, 1.0, 2.0, 33.0),
        (4, 16, 1.0, 2.0, 57.0),
        (2, 3, 0.5, 0.75, 5.0),
        (8, 8, 1.0, 1.0, 30.0),
        (1, 5, 1.0, 2.0, 15.0),
        (4, 2, 1.0, 2.0, 15.0),
    ],
)
def test_makespan_is_m_plus_p_minus_1_micro_batches(
    kind: type[OneFOneB | GPipe], p: int, m: int, forward: float, backward: float, expected: float
) -> None:
    assert (m + p - 1) * (forward + backward) == expected
    assert run(kind(m), p, forward, backward).seconds == expected
    assert run(kind(m), p, forward, backward, updates=3).seconds == 3 * expected  # stage 0 ends every step


@pytest.mark.parametrize(
    ("p", "m", "held"),
    [(4, 8, [4, 3, 2, 1]), (4, 2, [2, 2, 2, 1]), (2, 8, [2, 1]), (6, 6, [6, 5, 4, 3, 2, 1]), (1, 4, [1])],
)
def test_1f1b_holds_at_most_as_many_micro_batches_as_stages_follow(p: int, m: int, held: list[int]) -> None:
    assert peaks(run(OneFOneB(m), p, updates=2)) == held  # min(m, p - s)


@pytest.mark.parametrize(("p", "m"), [(4, 8), (3, 5)])
def test_gpipe_holds_all_micro_batches(p: int, m: int) -> None:
    assert peaks(run(GPipe(m), p)) == [m] * p


@pytest.mark.parametrize("p", [1, 2, 4, 7])
def test_layer_wise_model_parallelism_leaves_p_minus_1_of_p_idle(p: int) -> None:
    outcome = run(ModelParallel(), p, updates=5)
    assert outcome.seconds == 5 * p * 3.0
    for trace in outcome.traces:
        assert sum(c.ended - c.begun for c in trace.compute) / outcome.seconds == pytest.approx(1 / p, rel=1e-12)
    assert peaks(outcome) == [1] * p


# ---- several chunks, split backward passes


def bubble(strategy: Pipeline, ranks: int, forward: float, halves: tuple[float, float]) -> tuple[float, float]:
    """Seconds beyond computing of a step alone, and of a step in a long run, whose neighbours fill its ends."""
    work = strategy.microbatches * (forward + sum(halves))
    one, two, five = (run(strategy, ranks, forward, sum(halves), n, halves=halves).seconds for n in (1, 2, 5))
    return one - work, (five - two) / 3 - work


@pytest.mark.parametrize(("p", "m"), [(4, 8), (4, 16), (2, 6), (8, 8), (3, 3)])
@pytest.mark.parametrize(("forward", "backward"), [(1.0, 2.0), (0.5, 0.75)])
@pytest.mark.parametrize("v", [2, 3, 4])
def test_bubble_of_interleaved_is_that_of_1f1b_divided_by_the_chunks(
    p: int, m: int, forward: float, backward: float, v: int
) -> None:
    expected = (p - 1) * (forward + backward) / v
    both = (backward / 2, backward / 2)
    assert bubble(Interleaved(m, v), p, forward, both) == pytest.approx((expected, expected), rel=1e-9)


def test_zb_h1_of_four_ranks_and_eight_micro_batches_takes_27() -> None:
    outcome = run(ZeroBubble(8), 4, 1.0, halves=(1.0, 1.0))
    assert outcome.seconds == 27.0
    assert peaks(outcome) == [4, 4, 4, 4]  # until W a micro-batch is held


SPLITS = [(1.0, (1.0, 1.0)), (1.0, (1.0, 0.5)), (2.0, (1.5, 1.0)), (1.0, (1.25, 0.0))]
"""F and (B, W) with W no longer than the others."""


@pytest.mark.parametrize(("p", "m"), [(4, 8), (4, 16), (2, 4), (8, 24), (5, 9)])
@pytest.mark.parametrize(("forward", "halves"), SPLITS)
def test_bubble_of_zb_h1(p: int, m: int, forward: float, halves: tuple[float, float]) -> None:
    expected = (p - 1) * (forward + halves[0] - halves[1])
    assert bubble(ZeroBubble(m), p, forward, halves) == pytest.approx((expected, expected), rel=1e-9)


@pytest.mark.parametrize(("p", "m"), [(4, 8), (4, 16), (2, 4), (8, 24), (5, 9)])
@pytest.mark.parametrize(("forward", "halves"), SPLITS)
def test_bubble_of_zb_h2(p: int, m: int, forward: float, halves: tuple[float, float]) -> None:
    """The last rank starts p-1 forwards after the first and ends as much later: only the steps that follow hide that."""
    _, steady = bubble(ZeroBubble(m, "h2"), p, forward, halves)
    assert steady == pytest.approx((p - 1) * (forward + halves[0] - 2 * halves[1]), rel=1e-9)


@pytest.mark.parametrize(("p", "m"), [(4, 8), (4, 16), (2, 4), (8, 24), (5, 9)])
def test_zb_v_has_no_bubble_where_all_passes_take_equally_long(p: int, m: int) -> None:
    one, steady = bubble(ZeroBubble(m, "v"), p, 1.0, (1.0, 1.0))
    assert steady == pytest.approx(0.0, abs=1e-9)
    assert one == pytest.approx((p - 1) / 2)  # the last rank waits for p-1 forwards of half a rank's blocks


@pytest.mark.parametrize(("p", "m"), [(4, 8), (4, 16), (8, 24), (3, 6)])
def test_memory_of_split_and_interleaved_schedules(p: int, m: int) -> None:
    """Qi et al., ICLR 2024, table 2: p, 2p-1; ZB-V p of two half chunks. Interleaved: the warm-up and one more."""
    assert peaks(run(ZeroBubble(m), p)) == [p] * p
    assert peaks(run(ZeroBubble(m, "h2"), p)) == [2 * p - 1] * p
    assert peaks(run(ZeroBubble(m, "v"), p)) == [2 * p] * p
    assert peaks(run(Interleaved(m, 2), p)) == [min(2 * m, p + 2 * (p - 1 - rank) + 1) for rank in range(p)]


@pytest.mark.parametrize(
    ("strategy", "messages"),
    [
        (OneFOneB(8), 2 * 8 * 3),
        (ModelParallel(), 2 * 3),
        (Interleaved(8, 2), 2 * 8 * 7),
        (Interleaved(8, 3), 2 * 8 * 11),
        (ZeroBubble(8, "v"), 2 * 8 * 6),  # one of seven boundaries lies within a rank
    ],
)
def test_messages_of_a_step(strategy: Pipeline, messages: int) -> None:
    outcome = run(strategy, 4, updates=2)
    assert sum(t.kind == "send" for trace in outcome.traces for t in trace.transfers) == 2 * messages


# ---- unequal stages


@pytest.mark.parametrize(
    ("slow", "one_f_one_b", "gpipe"),
    [
        ((1.0, 1.0, 1.0, 1.0), 57.0, 57.0),
        ((1.0, 1.2, 1.0, 1.0), 65.4, 66.6),
        ((1.0, 1.5, 1.0, 1.0), 78.0, 81.0),
        ((1.0, 2.0, 1.0, 1.0), 101.0, 105.0),
        ((1.5, 1.0, 1.0, 1.0), 76.5, 81.0),
        ((1.0, 1.0, 1.5, 1.0), 79.5, 81.0),
        ((1.0, 1.0, 1.0, 1.5), 81.0, 81.0),
    ],
)
@pytest.mark.parametrize("by", ["device", "straggler"])
def test_one_slow_stage_of_four(slow: tuple[float, ...], one_f_one_b: float, gpipe: float, by: str) -> None:
    def seconds(strategy: Pipeline) -> float:
        if by == "device":
            return run(strategy, 4, slow=slow).seconds
        return run(strategy, 4, straggler=Straggler(slow=dict(enumerate(slow)))).seconds

    assert seconds(OneFOneB(16)) == pytest.approx(one_f_one_b, rel=1e-12)
    assert seconds(GPipe(16)) == pytest.approx(gpipe, rel=1e-12)


@pytest.mark.parametrize("slow", [(1.0, 3.0, 2.0), (2.5, 1.0, 1.0, 1.3), (1.0, 1.0)])
@pytest.mark.parametrize("m", [1, 4, 9])
def test_unequal_stages_of_gpipe_in_closed_form(slow: tuple[float, ...], m: int) -> None:
    forward = [1.0 * f for f in slow]
    backward = [2.0 * f for f in slow]
    expected = sum(forward) + (m - 1) * max(forward) + sum(backward) + (m - 1) * max(backward)
    assert run(GPipe(m), len(slow), slow=slow).seconds == pytest.approx(expected, rel=1e-12)


# ---- a hop that takes time


@pytest.mark.parametrize(("p", "m", "hops"), [(4, 16, 28), (4, 8, 16), (2, 8, 8), (8, 16, 40), (8, 8, 26)])
def test_hop_latency_of_1f1b(p: int, m: int, hops: int) -> None:
    hop = 0.01
    assert 2 * (p - 1) * m // p + 2 * (p - 2) == hops
    assert run(OneFOneB(m), p, hop=hop).seconds == pytest.approx((m + p - 1) * 3.0 + hops * hop, rel=1e-12)


@pytest.mark.parametrize("hop", [0.01, 4.0])  # also where it is longer than a stage's work: several are under way at once
@pytest.mark.parametrize(("p", "m", "hops"), [(4, 16, 6), (4, 5, 6), (2, 8, 2), (8, 16, 14)])
def test_hop_latency_of_gpipe(p: int, m: int, hops: int, hop: float) -> None:
    assert 2 * (p - 1) == hops
    assert run(GPipe(m), p, hop=hop).seconds == pytest.approx((m + p - 1) * 3.0 + hops * hop, rel=1e-12)


@pytest.mark.parametrize("p", [2, 4, 7])
def test_hop_latency_of_model_parallelism(p: int) -> None:
    expected = p * 3.0 + 2 * (p - 1) * 0.25
    assert run(ModelParallel(), p, hop=0.25, updates=3).seconds == pytest.approx(3 * expected, rel=1e-12)


@pytest.mark.parametrize("p", [2, 4])
def test_model_parallelism_moves_activations_and_their_gradients(p: int) -> None:
    # A step's p samples of 10 scalars of 4 bytes cross each of the p-1 boundaries forth and back, one after another.
    outcome = done(job(ModelParallel(), p, 1, Times(), Switch(100.0, 0.0), chain(blocks=p)))
    assert outcome.seconds == pytest.approx(2 * (p - 1) * 40 * p / 100.0, rel=1e-12)


# ---- metamorphic

PIPELINES = [ModelParallel(), OneFOneB(6), GPipe(6), Interleaved(8, 2), ZeroBubble(6), ZeroBubble(9, "h2")]
PIPELINES += [ZeroBubble(5, "v")]


@pytest.mark.parametrize("strategy", PIPELINES)
def test_one_stage_is_a_single_worker(strategy: Pipeline) -> None:
    m, device = strategy.microbatches, Times(forward=1.0, backward=2.0, apply=0.25, halves=(1.25, 0.75))
    v = strategy.schedule.chunks
    alone = done(job(AllReduce(), 1, 4, device)).seconds
    assert alone == 4 * 3.25 == done(job(SyncPS(), 1, 4, device)).seconds
    seconds = done(job(strategy, 1, 4, device, model=chain(blocks=v, batch=m))).seconds
    assert seconds == 4 * (3.0 * m + 0.25) * v  # this device's times are of a micro-batch and block


@pytest.mark.parametrize("strategy", PIPELINES)
@pytest.mark.parametrize("jitter", ["none", "lognormal", "exponential"])
def test_a_straggler_never_speeds_a_pipeline_up(strategy: Pipeline, jitter: str) -> None:
    for stage in range(4):
        seconds = [
            run(strategy, 4, updates=3, hop=0.1, straggler=Straggler(jitter, slow={stage: factor})).seconds
            for factor in (1.0, 1.1, 2.0, 9.0)
        ]
        assert seconds == sorted(seconds)


@pytest.mark.parametrize("strategy", PIPELINES)
def test_all_times_times_four_are_four_times_the_seconds(strategy: Pipeline) -> None:
    straggler = Straggler("lognormal", slow={1: 1.5})
    base = run(strategy, 4, 1.0, 2.0, 3, 0.25, straggler=straggler).seconds
    assert run(strategy, 4, 4.0, 8.0, 3, 1.0, straggler=straggler).seconds == pytest.approx(4 * base, rel=1e-12)


@pytest.mark.parametrize("strategy", PIPELINES)
def test_twice_the_bandwidth_is_half_of_a_pure_transfer(strategy: Pipeline) -> None:
    def seconds(bandwidth: float) -> float:
        model = chain(blocks=4 * strategy.schedule.chunks, batch=strategy.microbatches)
        return done(job(strategy, 4, 2, Times(), Switch(bandwidth, 0.0), model), SimulatedOptions()).seconds

    assert seconds(200.0) == pytest.approx(seconds(100.0) / 2, rel=1e-12)


@pytest.mark.parametrize("per_stage", [2, 3])
@pytest.mark.parametrize("strategy", PIPELINES)
def test_blocks_of_a_stage_are_one_block_of_their_sum(strategy: Pipeline, per_stage: int) -> None:
    blocks = per_stage * strategy.schedule.chunks  # of a rank
    model = chain(blocks=4 * blocks, batch=strategy.microbatches)
    device = Times(forward=1.0 / blocks, backward=2.0 / blocks, halves=(1.0 / blocks, 1.0 / blocks))
    split = done(job(strategy, 4, 2, device, Switch(INSTANT, 0.05), model)).seconds
    assert split == pytest.approx(run(strategy, 4, updates=2, hop=0.1).seconds, rel=1e-12)


# ---- all of it ends


@pytest.mark.parametrize("late", [0, 1, 3])
@pytest.mark.parametrize("m", [1, 2, 4])
@pytest.mark.parametrize(
    "kind",
    [GPipe, OneFOneB, ZeroBubble, partial(ZeroBubble, variant="h2"), partial(ZeroBubble, variant="v")]
    + [partial(Interleaved, chunks=v) for v in (2, 4)],
)
def test_no_deadlock_on_slow_links_with_a_late_rank_and_few_micro_batches(
    kind: Callable[[int], Pipeline], m: int, late: int
) -> None:
    strategy = kind(4 * m if kind(m).schedule.needs_rounds else m)
    straggler = Straggler("exponential", slow={late: 50.0})
    for network in (Switch(10.0, 3.0), Switch(1e9, 0.0)):
        model = chain(blocks=4 * strategy.schedule.chunks, batch=strategy.microbatches)
        done(job(strategy, 4, 2, Times(0.1, 0.2, 0.1, halves=(0.1, 0.1)), network, model, straggler))


@pytest.mark.parametrize(
    ("flops", "halves"), [((1.0, 3.0), (0.5, 1.5)), ((0.0, 2.0), (0.0, 2.0)), ((0.0, 0.0), (1.0, 1.0))]
)
def test_halves_that_were_not_measured_share_the_whole_backward_by_flops(
    flops: tuple[float, float], halves: tuple[float, float]
) -> None:
    table = {("forward", "block"): Curve(((0.0, 1.0),)), ("backward", "block"): Curve(((0.0, 2.0),))}
    device = Measured(table, Roofline(math.inf, math.inf))
    model = Model((Block(0, "block", 250, 10, SAVED, 1.0, *flops),), 4, 10, ITEMSIZE)
    for part, seconds in zip(("backward_input", "backward_weights"), halves, strict=True):
        assert device.seconds(model, Cost(((part, 0),), 1.0)) == seconds
    assert done(job(ZeroBubble(4), 1, 2, device, IDEAL, model)).seconds == 2 * 4 * 3.0
