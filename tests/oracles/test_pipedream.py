"""PipeDream: the published rule over torch's own modules, and what a pipeline that never drains is known to cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from distsim.interface import SGD, Budget, Outcome, Straggler, Strategy, Switch, Trace
from distsim.strategies.pipedream import PipeDream, PipeDream2BW

from .jobs import ITEMSIZE, SAVED, Times, chain, done, job
from .test_equal_weights import OPTIMIZERS, SEED, TOLERANCE, batches, one_process, run, workload

PARAMETERS = 250  # of a block of `chain`
BOTH = [PipeDream(), PipeDream2BW(8)]


def delay(strategy: Strategy, stage: int, stages: int) -> int:
    """How many updates the weights of a gradient are old."""
    return stages - 1 - stage if isinstance(strategy, PipeDream) else 1


# ---- the published rule


def by_the_rule(optimizer: SGD, age: Callable[[int], int]) -> tuple[list[Tensor], list[Tensor]]:
    """The weights of every block before and after 20 updates, each by the gradient at old weights.

    w_{t+1} = w_t - rate grad f(w^0_{t - age 0}, w^1_{t - age 1}, ...; batch t), with block b as it was `age(b)` updates ago
    (or at the start) in the forward and in the backward pass. Narayanan et al., SOSP 2019, section 3.3, and ICML 2021,
    section 3.1.
    """
    task = workload(1, "float64").task(SEED)
    model = nn.Sequential(*task.blocks)
    history = [[parameters_to_vector(block.parameters()).detach().clone() for block in model]]
    velocity = [torch.zeros_like(w) for w in history[0]]
    for step, (inputs, targets) in enumerate(batches(task)):
        for b, block in enumerate(model):
            vector_to_parameters(history[max(0, step - age(b))][b].clone(), block.parameters())
        model.zero_grad()
        nn.functional.cross_entropy(model(inputs), targets).backward()
        for b, block in enumerate(model):
            g = torch.cat([p.grad.reshape(-1) for p in block.parameters() if p.grad is not None])
            velocity[b] = optimizer.momentum * velocity[b] + g
        history.append([w - optimizer.learning_rate * v for w, v in zip(history[-1], velocity, strict=True)])
    return history[0], history[-1]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("stages", [2, 4])
@pytest.mark.parametrize("strategy", BOTH)
def test_weights_are_those_of_the_published_rule(strategy: Strategy, stages: int, optimizer: SGD) -> None:
    outcome = run(strategy, stages, "float64", optimizer)
    assert_weights(strategy, outcome, optimizer)


def assert_weights(strategy: Strategy, outcome: Outcome, optimizer: SGD) -> None:
    """Within 1e-12 of the way that the updates went."""
    stages = len(outcome.weights)
    home = {block: stage for stage, weights in enumerate(outcome.weights) for block in weights}
    assert sorted(home) == list(range(6))
    before, after = by_the_rule(optimizer, lambda block: delay(strategy, home[block], stages))
    for block, stage in home.items():
        moved = (after[block] - before[block]).abs().max()
        assert (outcome.weights[stage][block] - after[block]).abs().max() <= TOLERANCE["float64"] * moved


def test_the_rule_without_delay_is_the_one_process() -> None:
    for optimizer in OPTIMIZERS:
        _, after = by_the_rule(optimizer, lambda block: 0)
        for ours, its in zip(after, one_process("float64", optimizer)[1], strict=True):
            assert torch.allclose(ours, its, rtol=0, atol=1e-14)


def test_one_stage_is_a_single_worker() -> None:
    (weights,) = run(PipeDream(), 1, "float64", OPTIMIZERS[1]).weights
    before, after = one_process("float64", OPTIMIZERS[1])
    for block, value in weights.items():
        moved = (after[block] - before[block]).abs().max()
        assert (value - after[block]).abs().max() <= TOLERANCE["float64"] * moved


@pytest.mark.parametrize("stages", [1, 2, 4])
@pytest.mark.parametrize("strategy", BOTH)
def test_modeled_time_and_memory_are_cosimulated_to_the_last_bit(strategy: Strategy, stages: int) -> None:
    modeled, cosimulated = (run(strategy, stages, "float32", OPTIMIZERS[0], is_modeled) for is_modeled in (True, False))
    assert modeled.seconds == cosimulated.seconds
    for a, b in zip(modeled.traces, cosimulated.traces, strict=True):
        assert (a.compute, a.transfers, a.updates, a.peak) == (b.compute, b.transfers, b.updates, b.peak)


# ---- staleness, from what ran when


def staleness(trace: Trace, block: int) -> list[int]:
    """Of each forward pass, by step: updates between it and the update that its gradient goes into."""
    applied = sorted(c.begun for c in trace.compute if c.name == "apply")
    newest = dict[int, int]()
    for c in trace.compute:
        if c.name == f"F{block}":  # updates that were over; all micro-batches of a step see the same
            assert newest.setdefault(c.step, sum(end <= c.begun for end in applied)) == sum(
                end <= c.begun for end in applied
            )
    return [step - newest[step] for step in range(len(applied))]


@pytest.mark.parametrize("stages", [1, 2, 4, 5])
@pytest.mark.parametrize("strategy", BOTH)
def test_staleness_grows_to_that_of_the_rule_and_stays(strategy: Strategy, stages: int) -> None:
    """Whatever delays there are: it is the order on each stage that makes it."""
    straggler = Straggler("lognormal", slow={0: 3.0})
    model = chain(blocks=stages, batch=8)
    outcome = done(job(strategy, stages, 12, Times(1.0, 2.0, 0.125), Switch(1e3, 0.25), model, straggler))
    for stage, trace in enumerate(outcome.traces):
        expected = delay(strategy, stage, stages)
        assert staleness(trace, stage) == [min(step, expected) for step in range(12)]


# ---- time and memory


@pytest.mark.parametrize("slow", [(1.0, 1.0, 1.0, 1.0), (1.0, 1.5, 1.0, 1.0), (2.0, 1.0, 1.0, 1.0), (1.0, 1.25, 1.0, 3.0)])
@pytest.mark.parametrize(("strategy", "m"), [(PipeDream(), 1), (PipeDream2BW(8), 8)])
def test_a_full_pipeline_has_no_bubble(strategy: Strategy, m: int, slow: tuple[float, ...]) -> None:
    """An update takes its micro-batches through the slowest stage, and one update of its weights."""
    device = Times(1.0, 2.0, 0.0, factors=slow)
    at = {n: done(job(strategy, 4, n, device, model=chain(blocks=4, batch=8))).seconds for n in (10, 30)}
    assert at[30] - at[10] == pytest.approx(20 * m * 3.0 * max(slow), rel=1e-12)


@pytest.mark.parametrize(("stages", "updates"), [(4, 9), (2, 5), (1, 3), (6, 6)])
def test_filling_and_draining_take_what_they_take_in_1f1b(stages: int, updates: int) -> None:
    seconds = done(job(PipeDream(), stages, updates, Times(1.0, 2.0), model=chain(blocks=stages))).seconds
    assert seconds == (updates + stages - 1) * 3.0


@pytest.mark.parametrize("stages", [1, 2, 4, 6])
def test_pipedream_keeps_as_many_versions_as_batches_are_under_way(stages: int) -> None:
    """p - s, the newest among the parameters and the others counted as versions; as many batches' activations."""
    outcome = done(job(PipeDream(), stages, 20, Times(1.0, 2.0, 0.25), model=chain(blocks=stages)))
    for stage, trace in enumerate(outcome.traces):
        assert trace.peak.parameters == PARAMETERS * ITEMSIZE
        assert trace.peak.versions == (stages - stage - 1) * PARAMETERS * ITEMSIZE
        assert trace.peak_activations == (stages - stage) * SAVED * ITEMSIZE * stages  # a batch has a sample a stage


@pytest.mark.parametrize("stages", [1, 2, 4, 6])
def test_two_versions_are_enough_for_2bw(stages: int) -> None:
    outcome = done(job(PipeDream2BW(12), stages, 6, Times(1.0, 2.0, 0.25), model=chain(blocks=stages, batch=12)))
    for stage, trace in enumerate(outcome.traces):
        assert trace.peak.versions == (stage < stages - 1) * PARAMETERS * ITEMSIZE
        assert trace.peak_activations == (stages - stage) * SAVED * ITEMSIZE * stages


@pytest.mark.parametrize("updates", [1, 2, 3])
@pytest.mark.parametrize("strategy", BOTH)
def test_runs_shorter_than_the_pipeline_end(strategy: Strategy, updates: int) -> None:
    outcome = done(job(strategy, 6, updates, Times(1.0, 2.0), Switch(100.0, 1.0), chain(blocks=6, batch=8)))
    assert [len(trace.updates) for trace in outcome.traces] == [updates] * 6


@pytest.mark.parametrize("strategy", BOTH)
def test_all_stages_end_with_the_same_update_when_the_time_is_up(strategy: Strategy) -> None:
    timed = replace(job(strategy, 4, 1, Times(1.0, 2.0), model=chain(blocks=4, batch=8)), budget=Budget(seconds=100.0))
    (updates,) = {len(trace.updates) for trace in done(timed).traces}
    assert updates >= 3


@pytest.mark.parametrize("straggler", [Straggler(), Straggler("lognormal", slow={1: 2.0})])
@pytest.mark.parametrize("latency", [0.0, 0.4])
@pytest.mark.parametrize("stages", [1, 2, 4, 10])
@pytest.mark.parametrize("strategy", [PipeDream(), PipeDream2BW(10)])
def test_few_updates_follow_when_the_time_is_up(
    strategy: Strategy, stages: int, latency: float, straggler: Straggler
) -> None:
    """A full pipeline has as many batches under way as stages; no more are begun, but for one."""
    model, network = chain(blocks=stages, batch=10), Switch(1e9, latency)
    counted = job(strategy, stages, 1, Times(1.0, 2.0), network, model, straggler)
    for seconds in (0.5, 30.0, 61.0, 100.0, 142.5, 301.0):
        outcome = done(replace(counted, budget=Budget(seconds=seconds)))
        (updates,) = {len(trace.updates) for trace in outcome.traces}
        in_time = min(sum(update.time <= seconds for update in trace.updates) for trace in outcome.traces)
        assert in_time <= updates <= in_time + stages + 1


@pytest.mark.parametrize("latency", [0.0, 0.3, 5.0])
@pytest.mark.parametrize("stages", [2, 4, 10])
@pytest.mark.parametrize("strategy", [PipeDream(), PipeDream2BW(10)])
def test_every_receive_is_posted_before_its_message_is_sent(strategy: Strategy, stages: int, latency: float) -> None:
    model = chain(blocks=stages, batch=10)
    outcome = done(job(strategy, stages, 6, Times(1.0, 2.0), Switch(1e9, latency), model))
    transfers = [transfer for trace in outcome.traces for transfer in trace.transfers]
    sent = {(t.channel, t.sequence): t.posted for t in transfers if t.kind == "send"}
    received = {(t.channel, t.sequence): t.posted for t in transfers if t.kind == "receive"}
    assert sent.keys() == received.keys()
    assert all(received[message] <= sent[message] for message in sent)
