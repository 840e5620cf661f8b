"""The weights that members of the server family give: those of one process, of each other, and of recursions by hand."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch

from distsim.interface import SGD, AdamW, Budget, Cluster, Job, Optimizer, Outcome, Straggler, Strategy, Switch
from distsim.numerics.tensors import TensorsFactory
from distsim.strategies.parameter_server import (
    DCASGD,
    SSP,
    AsyncPS,
    BackupWorkers,
    KAsync,
    KBatchAsync,
    KSync,
    SyncPS,
)
from distsim.strategies.parameter_server_program import ParameterServer

from . import replicas
from .jobs import IDEAL, Times, done
from .quadratic import Loss, path
from .test_equal_weights import OPTIMIZERS, SEED, STEPS, one_process, workload

TOLERANCE = 1e-12
STRAGGLER = Straggler("lognormal", slow={1: 3.0})


def run(strategy: Strategy, workers: int, updates: int, optimizer: SGD, network: Switch) -> Outcome:
    """In float64; snapshots of the last update."""
    task = workload(workers, "float64")
    cluster = Cluster(workers, strategy.server_count(workers), Times(1e-3, 2e-3, 1e-4), network)
    numerics = TensorsFactory(task, workers, optimizer, SEED)
    job = Job(strategy, task.model(), cluster, Budget(updates=updates), numerics, STRAGGLER, SEED)
    return done(replace(job, samples_between_snapshots=10**9))


def model(outcome: Outcome) -> torch.Tensor:
    """What the servers hold together after the last update, as one vector."""
    return torch.cat([snapshot.pieces[0].values for snapshot in outcome.snapshots])


# ---- known members at the ends of each scale


@pytest.mark.parametrize("workers", [2, 4])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(
    "strategy",
    [
        KSync(99),
        KSync(99, late="drop"),
        BackupWorkers(0),
        BackupWorkers(0, late="drop"),
        KAsync(99),
        SyncPS(servers=2),
        SyncPS(servers=3, beside=True),
        KSync(99, servers=4),
        SSP(0),
        SSP(0, servers=2),
    ],
)
def test_those_that_wait_for_all_give_the_weights_of_one_process(strategy: Strategy, workers: int, optimizer: SGD) -> None:
    updates = STEPS
    if isinstance(strategy, SSP):
        if optimizer.momentum:
            pytest.skip("its updates are of one gradient each")
        updates *= workers
    if isinstance(strategy, KSync | KAsync):
        strategy = replace(strategy, k=workers)
    before, after = (torch.cat(list(blocks)) for blocks in one_process("float64", optimizer))
    ours = model(run(strategy, workers, updates, optimizer, Switch(1e8, 1e-5)))[: len(after)]
    assert (ours - after).abs().max() <= TOLERANCE * (after - before).abs().max()


@pytest.mark.parametrize("network", [IDEAL, Switch(1e8, 1e-4)])
@pytest.mark.parametrize(
    ("strategy", "rate"),
    [
        (SSP(10**9), 0.4),  # each of four gradients weighs a quarter
        (DCASGD(0.0), 0.1),
        (DCASGD(0.0, adaptive=True), 0.1),
        (KAsync(1), 0.1),
        (KBatchAsync(1), 0.1),
        (AsyncPS("polynomial", exponent=0.0), 0.1),
    ],
)
def test_those_that_wait_for_nobody_give_the_weights_of_asynchronous_updates(
    strategy: Strategy, rate: float, network: Switch
) -> None:
    plain = model(run(AsyncPS(), 4, 60, SGD(0.1), network))
    ours = model(run(strategy, 4, 60, SGD(rate), network))[: len(plain)]
    start = torch.cat(list(one_process("float64", OPTIMIZERS[0])[0]))
    assert (ours - plain).abs().max() <= TOLERANCE * (plain - start).abs().max()


def test_other_settings_give_other_weights() -> None:
    plain = model(run(AsyncPS(), 4, 60, SGD(0.1), IDEAL))
    for strategy in (SSP(1), DCASGD(2.0), KBatchAsync(2), KAsync(2), AsyncPS("polynomial"), AsyncPS("inverse")):
        assert (model(run(strategy, 4, 60, SGD(0.1), IDEAL)) - plain).abs().max() > 1e-4


# ---- recursions by hand: steady workers on h x^2 / 2, where a gradient is h times what was read


@pytest.mark.parametrize(("workers", "k"), [(4, 2), (6, 3), (5, 5), (3, 1), (2, 2)])
def test_k_batch_async_of_steady_workers(workers: int, k: int) -> None:
    h, rate, x = 1.5, 0.1, [1.0]
    for u in range(
        30
    ):  # gradient number a of all follows its worker's number a - P, and a read of version (a - P + 1) // K
        reads = [max(0, (a - workers + 1) // k) for a in range(u * k, u * k + k)]
        x.append(x[-1] - rate * sum(h * x[read] for read in reads) / k)
    assert path(KBatchAsync(k), workers, 30, Loss(h, rate)) == pytest.approx(x, rel=1e-12)


@dataclass(frozen=True)
class Weighed(KBatchAsync):
    """Gradients of one update that count differently."""

    def weigh(self, staleness: int, workers: int) -> float:
        return 1.0 / (1 + staleness)


@pytest.mark.parametrize(("workers", "k"), [(4, 2), (6, 4), (3, 1)])
def test_in_an_update_of_several_each_counts_by_its_own_staleness(workers: int, k: int) -> None:
    h, rate, x = 1.5, 0.1, [1.0]
    for u in range(30):
        reads = [max(0, (a - workers + 1) // k) for a in range(u * k, u * k + k)]  # as above
        x.append(x[-1] - rate * sum(h * x[read] / (1 + u - read) for read in reads) / k)
    assert path(Weighed(k), workers, 30, Loss(h, rate)) == pytest.approx(x, rel=1e-12)


@pytest.mark.parametrize(("workers", "k"), [(4, 2), (6, 3), (6, 2), (5, 5)])
def test_k_async_of_steady_workers(workers: int, k: int) -> None:
    h, rate, x = 1.5, 0.1, [1.0]
    for u in range(30):  # groups of K take turns, and each has read after its own last update
        x.append(x[-1] - rate * h * x[max(0, u + 1 - workers // k)])
    assert path(KAsync(k), workers, 30, Loss(h, rate)) == pytest.approx(x, rel=1e-12)


@pytest.mark.parametrize(("workers", "exponent"), [(1, 0.5), (3, 0.5), (6, 1.0), (4, 2.0)])
def test_polynomial_weight_of_steady_workers(workers: int, exponent: float) -> None:
    x = [1.0]
    for t in range(30):
        staleness = min(t, workers - 1)
        x.append(x[-1] - 0.3 * (1 + staleness) ** -exponent * x[t - staleness])
    assert path(AsyncPS("polynomial", exponent), workers, 30, Loss(rate=0.3)) == pytest.approx(x, rel=1e-12)


STATEFUL = [AdamW(0.003, weight_decay=0.1), SGD(0.05, 0.9), SGD(0.05, 0.5, weight_decay=0.1)]


@pytest.mark.parametrize("optimizer", STATEFUL)
@pytest.mark.parametrize("strategy", [AsyncPS("inverse"), AsyncPS("polynomial", 0.7), SSP(10**9)])
def test_a_weight_is_a_factor_on_the_rate(strategy: ParameterServer, optimizer: Optimizer) -> None:
    """Zhang et al., IJCAI 2016: of steady workers, over torch's optimizers, whose rate is set for each update."""
    workers, updates = 4, 24
    numerics = TensorsFactory(replicas.workload(), workers, optimizer, replicas.SEED)
    cluster = Cluster(workers, 1, Times(1e-3), IDEAL)
    job = Job(strategy, replicas.model(), cluster, Budget(updates=updates), numerics, seed=replicas.SEED)
    found = done(job).weights[workers]
    server, copies = replicas.Replica(0, workers, optimizer), replicas.replicas(workers, optimizer)
    models = [server.weights]
    (group,) = server.optimizer.param_groups
    for update in range(updates):  # workers take turns; each has read after its own last update
        staleness, copy = min(update, workers - 1), copies[update % workers]
        copy.weights = models[update - staleness]
        copy.backward(update // workers)
        group["lr"] = optimizer.learning_rate * strategy.weigh(staleness, workers)
        for ours, its in zip(server.network.parameters(), copy.network.parameters(), strict=True):
            ours.grad = its.grad
        server.optimizer.step()
        models.append(server.weights)
    start = replicas.Replica(0, workers, optimizer).blocks()
    for block, expected in server.blocks().items():
        moved = (expected - start[block]).abs().max()
        assert moved > 1e-3
        assert (found[block] - expected).abs().max() <= TOLERANCE * moved


@pytest.mark.parametrize("workers", [2, 5])
def test_bounded_staleness_weighs_a_gradient_by_the_number_of_workers(workers: int) -> None:
    x = [1.0]
    for round_ in range(10):  # s = 0: all read after the last of the round before
        read = x[-1]
        x += [read - 0.3 / workers * read * (i + 1) for i in range(workers)]
        assert len(x) == (round_ + 1) * workers + 1
    assert path(SSP(0), workers, 10 * workers, Loss(rate=0.3), STRAGGLER) == pytest.approx(x, rel=1e-12)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize(("workers", "strength", "decay"), [(4, 0.5, 0.9), (2, 2.0, 0.0), (1, 1.0, 0.5)])
def test_delay_compensation_of_steady_workers(workers: int, strength: float, decay: float, adaptive: bool) -> None:
    # Zheng et al., ICML 2017: g + lambda g g (w - w_bak), with lambda / sqrt(MeanSquare + 1e-7) where adaptive.
    h, rate, x, mean_square = 1.2, 0.2, [1.0], 0.0
    for t in range(30):
        read = x[max(0, t - workers + 1)]
        g = h * read
        mean_square = decay * mean_square + (1 - decay) * g * g
        lam = strength / math.sqrt(mean_square + 1e-7) if adaptive else strength
        x.append(x[-1] - rate * (g + lam * g * g * (x[-1] - read)))
    strategy = DCASGD(strength, adaptive=adaptive, decay=decay)
    assert path(strategy, workers, 30, Loss(h, rate)) == pytest.approx(x, rel=1e-12)
    if workers == 1:
        assert path(AsyncPS(), 1, 30, Loss(h, rate)) == pytest.approx(x, rel=1e-12)  # nothing to compensate
