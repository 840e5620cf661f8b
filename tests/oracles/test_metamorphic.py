"""What must hold between two runs, whatever one of them takes: for every strategy, over networks of several shapes.

Sharper statements about single strategies are in test_time, test_network and test_pipelines; about bare flows in
tests/simulated. Monotonicity is asserted only where times are maxima and sums of others: of strategies that wait for a
fixed set of others, where no two transfers share a link.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from contract.runs import OTHER_WORKERS, STRATEGIES, WORKERS, WORKLOAD

from distsim.backends.simulated import SimulatedOptions
from distsim.interface import Budget, Cluster, Job, Outcome, Straggler, Strategy, Switch, Topology
from distsim.numerics.sizes import SizesFactory
from distsim.results.summary import summarize
from distsim.strategies.hybrid import Hybrid
from distsim.strategies.local_sgd import LocalSGD
from distsim.strategies.parameter_server import SSP, KBatchAsync, KSync
from distsim.strategies.pipedream import PipeDream, PipeDream2BW
from distsim.strategies.tensor_parallel import TensorParallel
from distsim.strategies.zero import Zero
from distsim.topologies import FatTree, FullyConnected, HalfDuplex, Torus, TwoLevel, ring

from .jobs import Times, chain, done, job

NETWORKS: dict[str, Callable[[float, float], Topology]] = {
    "switch": Switch,
    "half duplex": lambda bandwidth, latency: HalfDuplex(Switch(bandwidth, latency)),
    "fully connected": lambda bandwidth, latency: FullyConnected(8, bandwidth, latency),
    "ring": lambda bandwidth, latency: ring(8, bandwidth, latency),
    "torus": lambda bandwidth, latency: Torus((4, 2), bandwidth, latency),
    "two level": lambda bandwidth, latency: TwoLevel(2, 4 * bandwidth, latency, 1, bandwidth, latency),
    "fat tree": lambda bandwidth, latency: FatTree(2, 1, bandwidth, bandwidth, latency),
}
"""By bandwidth and latency of a link; for 8 hosts or more."""
DEVICE = Times(1.0, 2.0, 0.25, 1e-5, halves=(1.25, 0.75))


def made(strategy: str, network: Topology, device: Any, straggler: Straggler | None = None) -> Job:
    """Five updates of three workers, or of so many as the strategy needs."""
    chosen, workers = STRATEGIES[strategy], OTHER_WORKERS.get(strategy, WORKERS)
    model = WORKLOAD.model()
    servers = chosen.server_count(workers)
    cluster = Cluster(workers, servers, device, network, beside=chosen.servers_beside())
    budget = Budget(samples=5 * workers * model.batch)
    return Job(chosen, model, cluster, budget, SizesFactory(model, workers), straggler or Straggler(), 7)


def seconds(strategy: str, network: Topology, device: Any, straggler: Straggler | None = None) -> float:
    return done(made(strategy, network, device, straggler), SimulatedOptions()).seconds


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_twice_the_bandwidth_is_half_of_a_pure_transfer(strategy: str) -> None:
    for name, network in NETWORKS.items():
        slow, fast = (seconds(strategy, network(bandwidth, 0.0), Times()) for bandwidth in (1e3, 2e3))
        assert fast == pytest.approx(slow / 2, rel=1e-9), name
        assert fast > 0.0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_all_times_times_four_are_four_times_the_seconds(strategy: str) -> None:
    straggler = Straggler("lognormal", slow={1: 1.5})
    slower = Times(4.0, 8.0, 1.0, 4e-5, halves=(5.0, 3.0))
    for name in ("switch", "ring", "fat tree"):
        network = NETWORKS[name]
        base = seconds(strategy, network(1e4, 0.01), DEVICE, straggler)
        assert seconds(strategy, network(2.5e3, 0.04), slower, straggler) == pytest.approx(4 * base, rel=1e-9), name


SYNCHRONOUS = [
    name
    for name in STRATEGIES
    if name.split()[0] in ("all_reduce", "sync_ps", "local_sgd", "slowmo", "diloco", "streaming_diloco", "gossip")
    or name.split()[0] in ("zero", "hsdp", "model_parallel", "gpipe", "one_f_one_b", "interleaved", "zero_bubble")
    or name.split()[0] in ("tensor_parallel", "hybrid")
]


@pytest.mark.parametrize("strategy", SYNCHRONOUS)
def test_a_straggler_never_speeds_a_synchronous_run_up(strategy: str) -> None:
    network = Switch(math.inf, 0.05)
    for jitter in ("none", "exponential"):
        for worker in (0, OTHER_WORKERS.get(strategy, WORKERS) - 1):
            found = [
                seconds(strategy, network, DEVICE, Straggler(jitter, slow={worker: factor})) for factor in (1.0, 1.2, 6.0)
            ]
            assert found == sorted(found), (jitter, worker)
            assert found[-1] > found[0]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_zero_variance_is_no_straggler(strategy: str) -> None:
    for network in (Switch(1e4, 0.01), FatTree(2, 1, 1e4, 1e4, 0.01)):
        expected = done(made(strategy, network, DEVICE)).traces
        for still in (
            Straggler("lognormal", sigma=0.0),
            Straggler("shifted_exponential", scale=0.0),
            Straggler("bernoulli", probability=0.5, multiple=1.0),
            Straggler(slow={0: 1.0, 1: 1.0}),
        ):
            assert done(made(strategy, network, DEVICE, still)).traces == expected


ALIKE = [
    name
    for name in STRATEGIES
    if name.split()[0] not in ("ad_psgd", "easgd", "hybrid", "hsdp", "pipedream", "pipedream_2bw")
    and not hasattr(STRATEGIES[name], "schedule")
    and name not in ("all_reduce powersgd",)
]
"""Whose workers all do the same."""


@pytest.mark.parametrize("strategy", ALIKE)
def test_relabeling_workers_changes_no_table(strategy: str) -> None:
    def row(slow: dict[int, float]) -> dict[str, Any]:
        work = made(strategy, Switch(1e4, 0.01), DEVICE, Straggler(slow=slow))
        found = summarize(work, done(work), [])
        return {
            key: found[key] for key in ("updates", "samples", "seconds", "samples_per_second", "breakdown", "staleness")
        }

    expected = row({0: 3.0817, 1: 1.7133})
    for slow in ({1: 3.0817, 2: 1.7133}, {2: 3.0817, 1: 1.7133}, {1: 3.0817, 0: 1.7133}):
        found = row(slow)
        shares, before = found.pop("breakdown"), dict(expected["breakdown"])
        if (
            strategy == "sync_ps beside"
        ):  # models are awaited server by server: what it waits for meanwhile goes by their order
            shares, before = ({key: each[key] for key in ("compute", "other")} for each in (shares, before))
        assert shares == pytest.approx(before, rel=1e-9, abs=1e-12)
        assert found.pop("staleness") == expected["staleness"]
        assert found == pytest.approx({key: expected[key] for key in found}, rel=1e-9)


ALONE: list[tuple[Strategy, int]] = [
    (PipeDream(), 1),
    (PipeDream2BW(4), 4),
    (Hybrid(tensor=1, stages=1, microbatches=4), 4),
    (TensorParallel(), 1),
    (Zero(1), 1),
    (Zero(3), 1),
    (LocalSGD(2), 1),
    (KSync(1), 1),
    (KBatchAsync(1), 1),
    (SSP(3), 1),
]


@pytest.mark.parametrize(("strategy", "microbatches"), ALONE, ids=lambda value: type(value).__name__)
def test_one_stage_is_a_single_worker(strategy: Strategy, microbatches: int) -> None:
    device = Times(1.0, 2.0, 0.25, halves=(1.25, 0.75))
    outcome: Outcome = done(job(strategy, 1, 4, device, Switch(1.0, 1.0), chain(batch=microbatches)))
    waits = 0.0 if not strategy.server_count(1) else 4 * 2 * (1000.0 + 2.0)  # a model and a gradient of 1,000 bytes
    assert outcome.seconds == pytest.approx(4 * (3.0 * microbatches + 0.25) + waits, rel=1e-12)
