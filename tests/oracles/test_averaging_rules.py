"""Averaging strategies give the weights that their papers' rules give in one process, written out here over torch's own
modules and optimizers, and strategies that must agree do.
"""

from __future__ import annotations

from collections import deque

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from distsim.interface import SGD, AdamW, Optimizer, Strategy
from distsim.strategies.all_reduce import AllReduce
from distsim.strategies.diloco import DiLoCo, SlowMo, StreamingDiLoCo
from distsim.strategies.gossip import Gossip
from distsim.strategies.local_sgd import LocalSGD
from distsim.strategies.parameter_server import SyncPS

from .replicas import Replica, assert_equal, assert_equal_runs, mean, model, replicas, run, torch_optimizer

PLAIN, MOMENTUM = SGD(0.1), SGD(0.05, momentum=0.9)


# ---- references


@pytest.mark.parametrize(("every", "after", "optimizer"), [(3, 0, MOMENTUM), (4, 5, PLAIN), (5, 2, AdamW(0.003))])
@pytest.mark.parametrize("workers", [2, 3])
def test_local_sgd(every: int, after: int, optimizer: Optimizer, workers: int) -> None:
    copies = replicas(workers, optimizer)
    averages = [*range(1, after + 1), *range(after + every, 20, every)]
    for step in range(20):
        for copy in copies:
            copy.train(step)
        if step + 1 in averages:
            average = mean(copies)
            for copy in copies:
                copy.weights = average
    assert_equal(run(LocalSGD(every, after), workers, 20, optimizer), copies)


def outer_steps(workers: int, every: int, inner: Optimizer, outer: SGD, updates: int) -> list[Replica]:
    """DiLoCo, algorithm 1: theta is a parameter of torch whose gradient is the mean of theta - theta_i."""
    copies = replicas(workers, inner)
    theta = nn.Parameter(copies[0].weights)
    optimizer = torch_optimizer([theta], outer)
    for step in range(updates):
        for copy in copies:
            copy.train(step)
        if (step + 1) % every == 0:
            theta.grad = theta.detach() - mean(copies)
            optimizer.step()
            for copy in copies:
                copy.weights = theta.detach()
    return copies


@pytest.mark.parametrize(
    ("workers", "every", "inner", "strategy"),
    [
        (2, 4, AdamW(0.003), DiLoCo(4)),
        (3, 5, PLAIN, DiLoCo(5, 0.4, 0.8)),
        (4, 3, MOMENTUM, DiLoCo(3, 0.5, 0.6, nesterov=False)),
        (2, 3, PLAIN, DiLoCo(3, 0.9, 0.0)),
    ],
)
def test_diloco(workers: int, every: int, inner: Optimizer, strategy: DiLoCo) -> None:
    momentum = strategy.outer_momentum
    outer = SGD(strategy.outer_learning_rate, momentum, strategy.nesterov and momentum > 0)
    assert_equal(run(strategy, workers, 17, inner), outer_steps(workers, every, inner, outer, 17))


@pytest.mark.parametrize(("alpha", "beta", "optimizer"), [(1.0, 0.5, PLAIN), (0.7, 0.6, MOMENTUM)])
def test_slowmo(alpha: float, beta: float, optimizer: SGD) -> None:
    # Wang et al., ICLR 2020, algorithm 1: u = beta u + (x_0 - x_tau) / gamma; x = x_0 - alpha gamma u.
    copies, gamma = replicas(3, optimizer), optimizer.learning_rate
    start = copies[0].weights
    slow = torch.zeros_like(start)
    for step in range(16):
        for copy in copies:
            copy.train(step)
        if (step + 1) % 4 == 0:
            slow = beta * slow + (start - mean(copies)) / gamma
            start = start - alpha * gamma * slow
            for copy in copies:
                copy.weights = start
    assert_equal(run(SlowMo(4, alpha, beta), 3, 16, optimizer), copies)


@pytest.mark.parametrize(
    ("workers", "inner", "strategy", "offsets"),
    [
        (2, AdamW(0.003), StreamingDiLoCo(every=6, fragments=2, delay=2, alpha=0.5), [0, 3]),
        (3, PLAIN, StreamingDiLoCo(every=4, fragments=3, delay=3, alpha=0.25), [0, 1, 2]),
        (2, MOMENTUM, StreamingDiLoCo(5, 0.5, 0.8, fragments=5, delay=1, alpha=0.0), [0, 1, 2, 3, 4]),
        (2, MOMENTUM, StreamingDiLoCo(3, 0.9, 0.0, fragments=1, delay=0, alpha=0.75), [0]),
    ],
)
@pytest.mark.parametrize("updates", [18, 19])
def test_streaming_diloco(
    workers: int, inner: Optimizer, strategy: StreamingDiLoCo, offsets: list[int], updates: int
) -> None:
    # Douillard et al., 2025, algorithm 2, over copies of single parameters; block b belongs to fragment b mod fragments.
    copies = replicas(workers, inner)
    fragments = [
        [[p for b in range(i, 5, strategy.fragments) for p in copy.network[b].parameters()] for copy in copies]
        for i in range(strategy.fragments)
    ]
    momentum = strategy.outer_momentum
    thetas = [nn.Parameter(parameters_to_vector(fragment[0]).detach().clone()) for fragment in fragments]
    outer = [
        torch_optimizer([theta], SGD(strategy.outer_learning_rate, momentum, strategy.nesterov and momentum > 0))
        for theta in thetas
    ]
    flying = deque[tuple[int, int, Tensor]]()

    def land() -> None:
        _, i, thetas[i].grad = flying.popleft()
        outer[i].step()
        for own in fragments[i]:
            flat = parameters_to_vector(own).detach()
            nn.utils.vector_to_parameters(strategy.alpha * flat + (1 - strategy.alpha) * thetas[i].detach(), own)

    for step in range(1, updates + 1):
        for copy in copies:
            copy.train(step - 1)
        for i, offset in enumerate(offsets):
            if step % strategy.every == offset:
                average = sum(parameters_to_vector(own).detach() for own in fragments[i]) / workers
                flying.append((step + strategy.delay, i, thetas[i].detach() - average))
        while flying and flying[0][0] == step:
            land()
    while flying:  # those still under way at the end
        land()
    assert_equal(run(strategy, workers, updates, inner), copies)


RING = {
    2: [[1 / 2, 1 / 2], [1 / 2, 1 / 2]],
    3: [[1 / 3] * 3] * 3,
    4: [[1 / 3, 1 / 3, 0, 1 / 3], [1 / 3, 1 / 3, 1 / 3, 0], [0, 1 / 3, 1 / 3, 1 / 3], [1 / 3, 0, 1 / 3, 1 / 3]],
}
MATRICES = [
    *[(Gossip(), matrix) for matrix in RING.values()],
    (Gossip("complete"), [[1 / 4] * 4] * 4),
    (Gossip("exponential"), [[1 / 4] * 4] * 4),  # 1 and 2 places to either side are all the others
    (Gossip("exponential"), [[0.2 if (i - j) % 6 != 3 else 0.0 for j in range(6)] for i in range(6)]),
]


@pytest.mark.parametrize("optimizer", [PLAIN, MOMENTUM])
@pytest.mark.parametrize(("strategy", "matrix"), MATRICES)
def test_gossip(strategy: Strategy, matrix: list[list[float]], optimizer: SGD) -> None:
    # Lian et al., NIPS 2017, algorithm 1.
    copies = replicas(len(matrix), optimizer)
    for step in range(12):
        for copy in copies:
            copy.backward(step)
        weights = [copy.weights for copy in copies]
        for copy, row in zip(copies, matrix, strict=True):
            copy.weights = sum((w * x for w, x in zip(row, weights, strict=True)), torch.zeros_like(weights[0]))
            copy.optimizer.step()
    assert_equal(run(strategy, len(matrix), 12, optimizer), copies)


# ---- strategies that must agree


@pytest.mark.parametrize("workers", [2, 4])
@pytest.mark.parametrize("strategy", [LocalSGD(1), LocalSGD(50, after=50), DiLoCo(1, 1.0, 0.0), SlowMo(1, 1.0, 0.0)])
def test_averaging_at_every_step_is_synchronous_sgd(strategy: Strategy, workers: int) -> None:
    expected = run(AllReduce(), workers, 20, PLAIN)
    assert_equal_runs(run(strategy, workers, 20, PLAIN), expected)
    server = run(SyncPS(), workers, 20, PLAIN)
    server.weights = server.weights[-1:] * workers
    assert_equal_runs(server, expected)


@pytest.mark.parametrize("workers", [2, 3])
def test_one_fragment_used_at_once_and_whole_is_diloco(workers: int) -> None:
    diloco, streaming = DiLoCo(4, 0.6, 0.7), StreamingDiLoCo(4, 0.6, 0.7, fragments=1, delay=0, alpha=0.0)
    a, b = run(diloco, workers, 18, MOMENTUM), run(streaming, workers, 18, MOMENTUM)
    assert_equal_runs(a, b, tolerance=0.0)
    assert (a.seconds, a.traces) == (b.seconds, b.traces)


def test_an_outer_step_of_rate_1_is_local_sgd() -> None:
    local = run(LocalSGD(5), 3, 20, MOMENTUM)
    for strategy in (DiLoCo(5, 1.0, 0.0), SlowMo(5, 1.0, 0.0)):
        assert_equal_runs(run(strategy, 3, 20, MOMENTUM), local)


def test_gossip_with_all_is_synchronous_sgd_but_for_the_last_gradients() -> None:
    # x_i = mean x - rate g_i: the mean over the workers walks as synchronous SGD would with gradients of the x_i.
    # From equal weights the first step's mean is synchronous SGD's.
    def average(strategy: Strategy) -> dict[int, Tensor]:
        weights = run(strategy, 4, 1, PLAIN).weights
        return {b: sum((each[b] for each in weights[1:]), weights[0][b]) / 4 for b in weights[0]}

    gossip, all_reduce, start = average(Gossip("complete")), average(AllReduce()), Replica(0, 1, PLAIN).blocks()
    for block, value in all_reduce.items():
        moved = (value - start[block]).abs().max()
        assert (gossip[block] - value).abs().max() <= 1e-12 * moved


@pytest.mark.parametrize(
    "strategy",
    [
        LocalSGD(3, after=2),
        SlowMo(3),
        DiLoCo(3),
        StreamingDiLoCo(every=4, fragments=2, delay=1),
        Gossip(),
        Gossip("complete"),
    ],
)
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_modeled_time_is_cosimulated_time_to_the_last_bit(strategy: Strategy, workers: int) -> None:
    if list(strategy.problems(workers, model())):
        pytest.skip("this strategy needs neighbours")
    modeled, cosimulated = (run(strategy, workers, 9, MOMENTUM, is_modeled) for is_modeled in (True, False))
    assert modeled.seconds == cosimulated.seconds
    for a, b in zip(modeled.traces, cosimulated.traces, strict=True):
        assert (a.compute, a.transfers, a.updates, a.peak) == (b.compute, b.transfers, b.updates, b.peak)
