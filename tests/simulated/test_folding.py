"""Identical ranks, folded: the times of every rank are those of the run that simulates them all, to the last digit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from contract.runs import STRATEGIES

from distsim.backends.simulated import SimulatedOptions, simulate
from distsim.backends.simulated.algorithms import make_plan
from distsim.backends.simulated.folding import APART, Fold, SetApart, find_fold, members
from distsim.backends.simulated.quotient import quotient
from distsim.backends.simulated.routes import Routes
from distsim.interface import ALL as EVERYTHING
from distsim.interface import (
    Batch,
    Block,
    Budget,
    Checkpoint,
    Cluster,
    Failure,
    Job,
    Model,
    Outage,
    Outcome,
    Region,
    Roofline,
    Straggler,
    Strategy,
    Switch,
    T,
    Topology,
    Trace,
    Transport,
    Worker,
)
from distsim.numerics.sizes import SizesFactory
from distsim.registry import BUILT_IN, load
from distsim.results.breakdown import breakdown
from distsim.results.conservation import check_conservation
from distsim.strategies.all_reduce import AllReduce
from distsim.strategies.diloco import DiLoCo
from distsim.strategies.gossip import Gossip
from distsim.strategies.hybrid import Hybrid
from distsim.strategies.zero import HSDP, Zero
from distsim.topologies import FatTree, HalfDuplex, Scaled, SwitchedNics, Torus, TwoLevel, ring
from distsim.workloads.digits_mlp import DigitsMLP

WORKLOAD = DigitsMLP(batch=8, depth=5, width=32)
DEVICE = Roofline(3.1e7, 1.7e9, 2e-6)
ALL, NONE = SimulatedOptions(fold_ranks=0), SimulatedOptions(fold_ranks=1)

NETWORKS: dict[str, Callable[[int], Topology]] = {
    "switch": lambda n: Switch(1.25e9 / 7, 5e-6),
    "slow switch": lambda n: Switch(3.3e6, 1.1e-3),
    "half duplex": lambda n: HalfDuplex(Switch(1.25e9 / 7, 5e-6)),
    "two cards": lambda n: SwitchedNics(1e8, 1e-6, 2),
    "ring": lambda n: ring(n, 1e8, 1e-6),
    "torus": lambda n: Torus((4, n // 4), 1e8, 1e-6),
    "two level": lambda n: TwoLevel(8, 1e10, 1e-7, 2, 1e8, 1e-6),
    "fat tree": lambda n: FatTree(8, 2, 1e9 / 3, 1e9, 1e-6),
}
STAGES = {"gpipe", "interleaved", "model_parallel", "one_f_one_b", "pipedream", "pipedream_2bw", "tensor_parallel"}


def job(strategy: Strategy, network: str, workers: int, updates: int = 3) -> Job:
    model = WORKLOAD.model()
    servers, beside = strategy.server_count(workers), strategy.servers_beside()
    topology = NETWORKS[network](workers + (0 if beside else servers))
    cluster = Cluster(workers, servers, DEVICE, topology, beside=beside)
    return Job(strategy, model, cluster, Budget(updates=updates), SizesFactory(model, workers))


def times(trace: Trace) -> list[Any]:
    """Everything that a rank records but who it is: whom it met, and which part of the batch was its own."""
    computed = [span[:4] for span in trace.compute]
    moved = sorted((t.kind, t.nbytes, t.posted, t.awaited, t.ended) for t in trace.transfers)
    return [computed, moved, trace.updates, trace.ended, trace.gradients, trace.peak_activations]


def check_same(folded: Outcome, whole: Outcome) -> None:
    assert (folded.status, folded.message) == (whole.status, whole.message)
    assert whole.copies == 1
    assert len(folded.traces) * folded.copies == len(whole.traces)
    assert folded.seconds == whole.seconds
    for trace in whole.traces:
        assert times(folded.traces[trace.rank % len(folded.traces)]) == times(trace), f"rank {trace.rank}"


@pytest.mark.parametrize("network", ["switch", "two level"])
@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_has_the_times_of_the_whole_run(name: str, network: str) -> None:
    strategy = STRATEGIES[name]
    workers = 4 if strategy_name(strategy) in STAGES | {"zero_bubble"} else 16
    if name in ("interleaved", "zero_bubble v"):
        workers = 2
    given = job(strategy, network, workers)
    assert not list(strategy.problems(workers, given.model))
    check_same(simulate(given, NONE), simulate(given, ALL))


def strategy_name(strategy: Strategy) -> str:
    return next(name for name in BUILT_IN["strategy"] if load("strategy", name) is type(strategy))


def test_every_strategy_is_compared() -> None:
    assert {strategy_name(strategy) for strategy in STRATEGIES.values()} == set(BUILT_IN["strategy"])


ALIKE = {
    "all_reduce": AllReduce(bucket_bytes=3000.0),
    "diloco": DiLoCo(every=2),
    "gossip": Gossip(),
    "zero": Zero(3),
    "zero stage 2": Zero(2, bucket_bytes=3000.0, microbatches=2),
    "hsdp": HSDP(8),
    "hybrid": Hybrid(tensor=2, stages=2, microbatches=4),
    "hybrid sharded": Hybrid(tensor=1, stages=2, microbatches=4, sharded=True),
}


@pytest.mark.parametrize("mode", ["auto", "flows"])
@pytest.mark.parametrize("name", ALIKE)
@pytest.mark.parametrize(
    "network", [pytest.param(name, marks=[pytest.mark.slow] * (name == "slow switch")) for name in NETWORKS]
)
def test_networks_and_modes(network: str, name: str, mode: Any) -> None:
    given, options = job(ALIKE[name], network, 16, updates=2), replace(NONE, collectives=mode, algorithm="ring")
    check_same(simulate(given, options), simulate(given, replace(options, fold_ranks=0)))


@pytest.mark.parametrize("name", ALIKE)
@pytest.mark.parametrize(("network", "workers"), [("switch", 64), ("two level", 64), pytest.param("fat tree", 24)])
def test_more_ranks(network: str, workers: int, name: str) -> None:
    given = job(ALIKE[name], network, workers, updates=2)
    check_same(simulate(given, NONE), simulate(given, ALL))


@pytest.mark.slow
@pytest.mark.parametrize("name", ALIKE)
@pytest.mark.parametrize("workers", [128, 256])
@pytest.mark.parametrize("network", NETWORKS)
def test_up_to_256_ranks(network: str, workers: int, name: str) -> None:
    given = job(ALIKE[name], network, workers, updates=2)
    check_same(simulate(given, NONE), simulate(given, ALL))


@pytest.mark.parametrize(
    ("name", "network", "simulated"),
    [  # those of one replica, or of one block of the network, or of as many as both have in common
        ("all_reduce", "switch", 1),
        ("all_reduce", "two cards", 2),
        ("all_reduce", "two level", 8),
        ("all_reduce", "fat tree", 8),
        ("gossip", "ring", 1),
        ("gossip", "torus", 4),
        ("zero", "switch", 1),
        ("hsdp", "switch", 8),
        ("hsdp", "two level", 8),
        ("hybrid", "two level", 8),
    ],
)
def test_it_simulates_so_many_ranks(name: str, network: str, simulated: int) -> None:
    outcome = simulate(job(ALIKE[name], network, 64, updates=1), NONE)
    assert len(outcome.traces) == simulated
    assert outcome.copies == 64 // simulated
    assert outcome.notes == [
        f"of 64 ranks {simulated} were simulated, each for {64 // simulated} that do alike: "
        "backend.fold_ranks=0 simulates all, with the same times"
    ]


def test_a_ring_of_100_000_ranks_takes_its_closed_form() -> None:
    """2 (n - 1) (a + M / (n B)), Patarasuk and Yuan 2009; a path of two links of 5 us, 10 Gbit/s, 100 MB."""
    n, nbytes = 100_000, 100_000_000
    block = Block(0, "block", nbytes // 4, 1, 0, 0.0, 0.0, 0.0)
    model = Model((block,), 1, 1, 4)
    cluster = Cluster(n, 0, Roofline(1e30, 1e30), Switch(1.25e9, 5e-6))
    given = Job(AllReduce(), model, cluster, Budget(updates=1), SizesFactory(model, n))
    outcome = simulate(given, SimulatedOptions(algorithm="ring"))
    assert outcome.status == "done"
    assert outcome.copies == n
    assert outcome.seconds == pytest.approx(2 * (n - 1) * (10e-6 + nbytes / (n * 1.25e9)), rel=1e-12)


def test_few_bytes_take_100_000_ranks_34_rounds() -> None:
    """2 lg n a + 2 (n - 1)/n M / B with 17 for lg n, Traeff 2024; 4 kB over the same links."""
    n, nbytes = 100_000, 4000
    model = Model((Block(0, "block", nbytes // 4, 1, 0, 0.0, 0.0, 0.0),), 1, 1, 4)
    cluster = Cluster(n, 0, Roofline(1e30, 1e30), Switch(1.25e9, 5e-6))
    outcome = simulate(Job(AllReduce(), model, cluster, Budget(updates=1), SizesFactory(model, n)))
    assert outcome.copies == n
    assert outcome.seconds == pytest.approx(34 * 10e-6 + 2 * (n - 1) / n * nbytes / 1.25e9, rel=1e-12)


# ---- what sets ranks apart


@pytest.mark.parametrize(
    "change",
    [
        {"straggler": Straggler("lognormal")},
        {"straggler": Straggler(slow={3: 2.0})},
        {"cluster": Cluster(16, 0, DEVICE, Switch(1e8, 1e-6), placement=(*range(1, 16), 0))},
        {"cluster": Cluster(15, 0, DEVICE, TwoLevel(8, 1e10, 1e-7, 2, 1e8, 1e-6))},
    ],
)
def test_what_is_uneven_from_the_beginning_is_not_folded(change: dict[str, Any]) -> None:
    even = job(AllReduce(), "switch", 16)
    assert find_fold(even, 1) == Fold(16, 1)
    assert find_fold(replace(even, **change), 1) is APART


def test_few_ranks_are_not_folded() -> None:
    given = job(AllReduce(), "switch", 16)
    assert find_fold(given, 16) == Fold(16, 1)
    assert find_fold(given, 17) is APART
    assert find_fold(given, 0) is APART


@pytest.mark.parametrize("algorithm", ["tree", "halving_doubling", "hierarchical", "circulant"])
@pytest.mark.parametrize("workers", [16, 24])
def test_collectives_that_are_not_the_same_for_all_are_simulated_whole(algorithm: Any, workers: int) -> None:
    given, options = job(AllReduce(bucket_bytes=3000.0), "two level", workers), replace(NONE, algorithm=algorithm)
    folded, whole = simulate(given, options), simulate(given, replace(options, fold_ranks=0))
    check_same(folded, whole)
    alike = algorithm in ("hierarchical", "circulant") or (algorithm == "halving_doubling" and workers == 16)
    assert (folded.copies > 1) == alike


def test_a_slower_cable_sets_ranks_apart() -> None:
    given = job(AllReduce(bucket_bytes=3000.0), "switch", 16)
    slow = Scaled(Switch(1.25e9 / 7, 5e-6), (("host5", 0.5),))
    given = replace(given, cluster=replace(given.cluster, network=slow))
    folded, whole = simulate(given, NONE), simulate(given, ALL)
    assert folded.copies == 1
    check_same(folded, whole)
    slower = replace(given, cluster=replace(given.cluster, network=Scaled(slow.topology, (("all", 0.5),))))
    assert simulate(slower, NONE).copies == 16


@dataclass(frozen=True)
class FirstIsSlow(AllReduce):
    """Overrides the program, and has said nothing of whose programs are alike."""

    async def run(self, worker: Worker[T]) -> None:
        for step in worker.steps():
            gradient = await worker.gradient(Batch(step, worker.rank, worker.world_size))
            if worker.rank == 0:
                gradient = await worker.compute("more", lambda x: x, gradient)
            await worker.apply(await worker.all_reduce(gradient))


def test_a_program_that_overrides_another_has_to_say_itself_that_ranks_are_alike() -> None:
    assert find_fold(job(FirstIsSlow(), "switch", 16), 1) is APART


@dataclass(frozen=True)
class FirstIsSlower(DiLoCo):
    """Overrides a part of the program."""

    async def advance(self, worker: Worker[T], agreed: T, moved: T, region: Region = EVERYTHING) -> T:
        if worker.rank == 0:
            moved = await worker.compute("more", lambda x: x, moved)
        return await super().advance(worker, agreed, moved, region)


def test_so_has_one_that_overrides_what_it_calls() -> None:
    assert find_fold(job(DiLoCo(every=2), "switch", 16), 1) == Fold(16, 1)
    assert find_fold(job(FirstIsSlower(every=2), "switch", 16), 1) is APART


@dataclass(frozen=True)
class WhoIsFirst(Strategy):
    """All do the same, and what that is depends on which of two comes first: at one instant, on the order of ranks."""

    how: str

    def alike_every(self, workers: int) -> int:
        return 1

    async def run(self, worker: Worker[T]) -> None:
        rank, n = worker.rank, worker.world_size
        if self.how == "turns":
            for _ in worker.turns():
                await worker.compute("work", lambda x: x, worker.read())
            return
        sends = [worker.send(worker.read(Region((block,))), (rank + k) % n) for block, k in ((0, 1), (1, -1))]
        if self.how == "any":
            for _ in sends:
                await worker.compute("work", lambda x: x, (await worker.receive_any()).payload)
        elif self.how == "tasks":
            for task in [worker.task(self.take(worker, (rank + k) % n)) for k in (-1, 1)]:
                await task
        else:
            notice, other = worker.receive((rank - 1) % n), worker.receive((rank + 1) % n)
            await worker.gradient(Batch(0, rank, n), unless=notice)
            await notice
            await other
        for sent in sends:
            await sent

    async def take(self, worker: Worker[T], source: int) -> None:
        await worker.compute("work", lambda x: x, (await worker.receive(source)).payload)


@pytest.mark.parametrize("how", ["any", "tasks", "turns", "unless"])
def test_who_asks_which_of_two_is_first_is_set_apart(how: str) -> None:
    given = job(WhoIsFirst(how), "switch", 8, updates=4)
    folded, whole = simulate(given, NONE), simulate(given, ALL)
    assert folded.copies == 1
    check_same(folded, whole)


@dataclass(frozen=True)
class Stuck(Strategy):
    """Everyone waits for a message that nobody sends."""

    def alike_every(self, workers: int) -> int:
        return 1

    async def run(self, worker: Worker[T]) -> None:
        await worker.receive((worker.rank + 1) % worker.world_size)


def test_a_deadlock_is_told_of_all_ranks() -> None:
    folded, whole = (simulate(job(Stuck(), "switch", 4), options) for options in (NONE, ALL))
    assert folded.status == "deadlocked"
    assert folded.message == whole.message
    assert "cycle: 0 -> 1 -> 2 -> 3 -> 0" in folded.message


# ---- what is made of the records


@pytest.mark.parametrize("name", ALIKE)
def test_the_records_of_the_simulated_ranks_fit_together(name: str) -> None:
    given = job(ALIKE[name], "two level", 16)
    folded, whole = simulate(given, NONE), simulate(given, ALL)
    assert folded.copies == 2
    check_conservation(folded.traces)
    parts = breakdown(folded.traces, 16, folded.seconds)
    assert parts == pytest.approx(breakdown(whole.traces, 16, whole.seconds), abs=1e-12)


# ---- the pieces


def test_a_message_is_seen_from_the_rank_that_stands_for_its_destination() -> None:
    fold = Fold(12, 4)
    assert fold.seen_from(1, 6) == (9, 2)  # both moved back by 4: -3 is 9 of 12
    assert fold.seen_from(5, 2) == (5, 2)
    assert fold.seen_from(0, 11) == (4, 3)
    assert APART.seen_from(7, 3) == (7, 3)


def test_members_of_groups() -> None:
    fold = Fold(16, 4)
    replicas = members((1, 5, 9, 13), fold)
    assert (replicas.simulated, list(replicas.place), list(replicas.after)) == ((1,), [0, 0, 0, 0], [1, 2, 3, 0])
    assert replicas.step == 4
    assert members((0, 1, 2, 3), fold).is_whole
    assert members((2, 0, 8, 10), fold).simulated == (2, 0)
    for apart in ((0, 4), (4, 5), (0, 5, 8, 13), (1, 5, 9, 12)):
        with pytest.raises(SetApart):
            members(apart, fold)


def test_the_quotient_of_a_ring_is_one_rank_that_sends_to_itself() -> None:
    group = members(tuple(range(8)), Fold(8, 1))
    routes = Routes(Switch(1.0, 0.0), range(8), Transport(), Fold(8, 1))
    (phase,) = quotient(make_plan("ring", "all_reduce", 8, 0, []), group, routes).phases
    assert phase.transfers == ((0, 0, 1 / 8),)
    assert (phase.times, phase.rings, phase.members) == (14, ((0,),), ((0, 1),))


def test_the_quotient_of_halving_and_doubling_is_one_transfer_a_phase() -> None:
    group = members(tuple(range(8)), Fold(8, 2))
    routes = Routes(SwitchedNics(1.0, 0.0, 2), range(8), Transport(), Fold(8, 2))
    phases = quotient(make_plan("halving_doubling", "all_gather", 8, 0, []), group, routes).phases
    assert [phase.transfers for phase in phases] == [
        ((0, 1, 1.0), (1, 0, 1.0)),  # to the one beside it
        ((0, 0, 2.0), (1, 1, 2.0)),  # to the one two further, which is its image
        ((0, 0, 4.0), (1, 1, 4.0)),
    ]


def test_what_some_do_and_others_do_not_has_no_quotient() -> None:
    """Among six, two fold into others before, and unfold after all; a tree has a root."""
    group, routes = members(tuple(range(6)), Fold(6, 1)), Routes(Switch(1.0, 0.0), range(6), Transport(), Fold(6, 1))
    for algorithm, kind in (("halving_doubling", "all_gather"), ("tree", "all_reduce"), ("tree", "broadcast")):
        with pytest.raises(SetApart):
            quotient(make_plan(algorithm, kind, 6, 0, []), group, routes)


# ---- failures


def test_a_run_that_begins_again_at_a_checkpoint_is_folded() -> None:
    failure = Failure(ranks={5: (0.03,)}, restart=0.01, checkpoint=Checkpoint(updates=2, cost=0.001))
    given = replace(job(AllReduce(), "switch", 16, updates=6), failure=replace(failure, on_loss="restart"))
    folded, whole = simulate(given, NONE), simulate(given, ALL)
    assert (folded.copies, whole.copies) == (16, 1)
    assert folded.losses == whole.losses
    assert folded.losses is not None
    assert (folded.losses.failures, folded.losses.restarts) == (1, 1)
    check_same(folded, whole)


def test_a_run_that_a_loss_ends_is_folded() -> None:
    """Who was lost when is known without simulating the others."""
    given = replace(job(AllReduce(), "switch", 16, 10), failure=Failure(ranks={13: (0.03,)}, on_loss="abort"))
    folded, whole = simulate(given, NONE), simulate(given, ALL)
    assert folded.copies == 16
    check_same(folded, whole)
    assert folded.message == "rank 13 was lost at 0.03 s and failure.on_loss=abort"
    assert folded.losses == whole.losses


@pytest.mark.parametrize(
    "failure", [Failure(links={"host3": (Outage(0.0, 1.0),)}), Failure(ranks={3: (0.01,)}, on_loss="continue")]
)
def test_what_fails_for_some_and_not_for_others_sets_ranks_apart(failure: Failure) -> None:
    assert find_fold(replace(job(AllReduce(), "switch", 16), failure=failure), 1) is APART
