"""Random runs, folded and whole: the times of every rank are the same to the last digit, or nothing was folded.

Strategies with random parameters, and random programs that all ranks of a kind follow: messages to the rank so many places
on, collectives of the world, of blocks and of strides of it, computing, each begun early and awaited late. On random
networks, transports and options, with sizes that meet on links and sizes that do not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import pytest

from distsim.backends.simulated import SimulatedOptions, simulate
from distsim.backends.simulated.algorithms import ALGORITHMS
from distsim.interface import (
    Block,
    Budget,
    Checkpoint,
    Cluster,
    Failure,
    Job,
    Model,
    Outcome,
    Region,
    Roofline,
    Strategy,
    Switch,
    T,
    Topology,
    Transport,
    Worker,
)
from distsim.numerics.sizes import SizesFactory
from distsim.results.conservation import check_conservation
from distsim.strategies.all_reduce import AllReduce
from distsim.strategies.diloco import DiLoCo, SlowMo, StreamingDiLoCo
from distsim.strategies.gossip import Gossip
from distsim.strategies.hybrid import Hybrid
from distsim.strategies.local_sgd import LocalSGD
from distsim.strategies.tensor_parallel import TensorParallel
from distsim.strategies.zero import HSDP, Zero
from distsim.topologies import FatTree, HalfDuplex, Scaled, SwitchedNics, Torus, TwoLevel, ring
from distsim.workloads.digits_mlp import DigitsMLP
from simulated.test_folding import check_same, times

# ---- random programs

Operation = tuple[Any, ...]
"""("send", k, block), ("receive", k), ("compute", block), (kind, group, block) or ("await", how many may stay open)."""


@dataclass(frozen=True)
class Kinds(Strategy):
    """Rank r does what the list of its kind says, r mod as many as there are."""

    lists: tuple[tuple[Operation, ...], ...] = ()

    def alike_every(self, workers: int) -> int:
        return len(self.lists)

    async def run(self, worker: Worker[T]) -> None:
        for _ in worker.steps():
            open_: list[Any] = []
            for kind, *arguments in self.lists[worker.rank % len(self.lists)]:
                if kind == "await":
                    while len(open_) > arguments[0]:
                        await open_.pop(0)
                else:
                    open_.append(begin(worker, kind, *arguments))
            for work in open_:
                await work


def begin(worker: Worker[T], kind: str, where: Any, block: int = 0) -> Any:
    x = worker.read(Region((block,)))
    if kind == "compute":
        return worker.compute("compute", lambda x: x, x)
    if kind == "send":
        return worker.send(x, (worker.rank + where) % worker.world_size, "xy"[block % 2])
    if kind == "receive":
        return worker.receive((worker.rank - where) % worker.world_size, "xy"[block % 2])
    group = group_of(worker, *where)
    if kind == "barrier":
        return group.barrier()
    if kind in ("broadcast", "reduce"):
        return getattr(group, kind)(x, 0)
    return getattr(group, kind)(x)


def group_of(worker: Worker[T], how: str, size: int) -> Worker[T]:
    """The world, this rank's block of so many, or the ranks that lie so many apart; the last two in some other order."""
    n, rank = worker.world_size, worker.rank
    if how == "world":
        return worker
    if how == "block":
        return worker.within(range(rank - rank % size, rank - rank % size + size))
    ranks = list(range(rank % size, n, size))
    return worker.within(ranks if how == "stride" else ranks[::-1] if how == "back" else ranks[::2] + ranks[1::2])


KINDS = ["all_reduce", "all_reduce", "all_gather", "reduce_scatter", "all_to_all", "barrier", "broadcast", "reduce"]


def a_program(random: Random, workers: int, blocks: int) -> Kinds:
    """What is dealt out would end if all did it in that order, and each waits only for what it has begun in it."""
    period = random.choice([n for n in (1, 1, 2, 3, 4, 6, 8) if workers % n == 0 and n < workers])
    lists: list[list[Operation]] = [[] for _ in range(period)]
    divisors = [n for n in range(2, workers) if workers % n == 0]
    for _ in range(random.randint(1, 10)):
        block, drawn = random.randrange(blocks), random.random()
        if drawn < 0.4:
            k, kind = random.choice([1, -1, 2, random.randrange(1, workers)]) % workers, random.randrange(period)
            lists[kind].append(("send", k, block))
            lists[(kind + k) % period].append(("receive", k, block))
        elif drawn < 0.6:
            lists[random.randrange(period)].append(("compute", 0, block))
        else:
            how, size = (
                random.choice(["world", "block", "stride", "stride", "back", "mixed"]),
                random.choice(divisors or [1]),
            )
            if size == 1:
                how = "world"
            if how == "block" and period % size and random.random() < 0.8:
                how = "world"
            operation = random.choice(KINDS), (how, size), block
            for each in lists:
                each.append(operation)
        for each in lists:
            if random.random() < 0.3:
                each.append(("await", random.randrange(3)))
    return Kinds(tuple(map(tuple, lists)))


# ---- random runs


def a_network(random: Random, workers: int) -> Topology:
    fast, slow = random.choice([(1e9, 1e8), (1e9 / 3, 1e8 / 7), (1e7, 1e7)])
    latency = random.choice([0.0, 1e-6, 1e-6 / 3, 1e-3])
    inner = random.choice([latency, latency / 10, latency * 3])
    rows = [n for n in (3, 4, 5, 6, 8) if workers % n == 0 and workers // n > 2]
    networks: list[Topology] = [
        Switch(slow, latency),
        SwitchedNics(slow, latency, random.choice([2, 4])),
        ring(workers, slow, latency),
        TwoLevel(random.choice([2, 4, 8]), fast, inner, 1, slow, latency),
        TwoLevel(4, fast, inner, random.choice([2, 4]), slow, latency),
        TwoLevel(4, slow, latency, 2, fast, inner),
        FatTree(random.choice([2, 4]), random.choice([1, 2]), slow, random.choice([slow, fast]), latency),
        FatTree(4, random.choice([2, 3, 4]), fast, slow, latency),
    ]
    networks += [Torus((n, workers // n), slow, latency) for n in rows]
    network = random.choice(networks)
    if random.random() < 0.2:
        network = HalfDuplex(network)
    return Scaled(network, (("all", 0.7),)) if random.random() < 0.1 else network


def a_transport(random: Random) -> Transport:
    if random.random() < 0.5:
        return Transport()
    return Transport(
        bandwidth_factor=random.choice([1.0, 0.97]),
        latency_factor=random.choice([1.0, 13.01]),
        message_seconds=random.choice([0.0, 2e-6]),
        window_bytes=random.choice([float("inf"), 100.0, 65536.0]),
        eager_bytes=random.choice([0.0, 1000.0, 1e9]),
        one_at_a_time=random.random() < 0.5,
    )


def some_options(random: Random) -> SimulatedOptions:
    return SimulatedOptions(
        collectives=random.choice(["auto", "auto", "flows", "flows", "price"]),
        algorithm=random.choice(["auto", "auto", "ring", *ALGORITHMS]),
        ring_bytes=random.choice([0.0, 2000.0, 524288.0]),
        node_ranks=random.choice([0, 0, 2, 4, 8]),
        fold_ranks=1,
    )


def a_strategy(random: Random, workers: int) -> Strategy:
    bucket, compression = random.choice([0.0, 3000.0, 1e9]), random.choice(["none", "none", "top_k", "fp16", "powersgd"])
    more: dict[str, Any] = {"compression": compression, "compression_rank": 2, "density": 0.07}
    micro = random.choice([1, 2])
    found: list[Strategy] = [
        AllReduce(bucket, micro, **more),
        LocalSGD(random.choice([1, 2])),
        DiLoCo(random.choice([1, 2])),
        SlowMo(2),
        StreamingDiLoCo(3, fragments=2, delay=1),
        Gossip(random.choice(["ring", "exponential", "complete"])),
        Zero(random.choice([1, 2, 3]), bucket, micro),
        HSDP(random.choice([2, 4, 8]), micro),
        TensorParallel(),
    ]
    for schedule, chunks in (("gpipe", 1), ("one_f_one_b", 1), ("interleaved", 2), ("zb_h1", 1), ("zb_h2", 1)):
        tensor, sharded = random.choice([1, 1, 2, 4]), random.random() < 0.3
        codes = {**more, "compression": "none"} if sharded or tensor > 1 else more
        found.append(Hybrid(tensor, 2, 4, schedule, chunks, sharded, **codes))  # type: ignore[arg-type]
    return random.choice(found)


DEVICES = [Roofline(3.1e7, 1.7e9, 2e-6), Roofline(1e9, 1e9, 1e-6), Roofline(3.1e9, 1e7)]


def a_job(random: Random) -> Job | None:
    """None if the strategy drawn cannot run."""
    workers = random.choice([8, 12, 16, 16, 18, 24, 32, 32, 40, 48, 64])
    if random.random() < 0.5:
        blocks = random.randint(1, 4)
        each = [workers * random.choice([1, 7, 64, 1000, 3333]) for _ in range(blocks)]
        model = Model(tuple(Block(i, "block", n, 1, 0, 0.0, 0.0, 0.0) for i, n in enumerate(each)), 1, 1, 4)
        strategy: Strategy = a_program(random, workers, blocks)
    else:
        workload = DigitsMLP(batch=8, depth=random.choice([3, 5]), width=random.choice([8, 32]))
        model, strategy = workload.model(), a_strategy(random, workers)
    network = a_network(random, workers)
    if list(strategy.problems(workers, model)):
        return None
    budget = Budget(updates=random.randint(1, 3))
    if random.random() < 0.2 and not isinstance(strategy, Kinds):
        budget = Budget(updates=6, seconds=random.choice([1e-3, 1e-2, 1e-1]))
    failure = Failure()
    if random.random() < 0.1 and isinstance(strategy, AllReduce):
        at = tuple(sorted(random.uniform(0.0, 0.1) for _ in range(2)))
        saves = Checkpoint(updates=random.choice([1, 2]), cost=random.choice([0.0, 1e-3]))
        failure = Failure(ranks={random.randrange(workers): at}, restart=0.01, checkpoint=saves, on_loss="restart")
    cluster = Cluster(workers, 0, random.choice(DEVICES), network, transport=a_transport(random))
    return Job(strategy, model, cluster, budget, SizesFactory(model, workers), failure=failure)


def compare(seed: int) -> str:
    """How a run ended."""
    random = Random(seed)
    job = a_job(random)
    if job is None:
        return "cannot run"
    options = some_options(random)
    folded, whole = simulate(job, options), simulate(job, replace(options, fold_ranks=0))
    said = f"run {seed}: {job.strategy} on {job.cluster}, {options}"
    try:
        check = check_close if isinstance(inner(job.cluster.network), FatTree) else check_same
        check(folded, whole)
        check_conservation(folded.traces)
    except Exception as error:
        raise AssertionError(f"{said}: {error}") from error
    return end_of(folded)


def inner(network: Any) -> Any:
    """What half duplex and slower cables wrap."""
    return inner(network.topology) if isinstance(network, HalfDuplex | Scaled) else network


def check_close(folded: Outcome, whole: Outcome) -> None:
    """Where hosts share up-links, rates are found in another order, and equal as the sharing of links knows rates: to
    1e-12 (flows.EQUAL)."""
    assert (folded.status, folded.message) == (whole.status, whole.message)
    assert folded.seconds == pytest.approx(whole.seconds, rel=1e-12)
    for trace in whole.traces:
        found, expected = times(folded.traces[trace.rank % len(folded.traces)]), times(trace)
        assert words(found) == words(expected)
        assert numbers(found) == pytest.approx(numbers(expected), rel=1e-12), f"rank {trace.rank}"


def numbers(record: Any) -> list[float]:
    """All numbers of nested records, in order."""
    if isinstance(record, str):
        return []
    return [number for each in record for number in numbers(each)] if isinstance(record, Sequence) else [record]


def words(record: Any) -> list[str]:
    """All texts of nested records, in order."""
    if isinstance(record, str):
        return [record]
    return [word for each in record for word in words(each)] if isinstance(record, Sequence) else []


def end_of(folded: Outcome) -> str:
    return "folded" if folded.copies > 1 else folded.status


def test_folded_runs_are_those_of_all_ranks() -> None:
    ends = Counter(compare(seed) for seed in range(14))
    assert ends["folded"] > 2, ends
    assert ends["done"], ends  # of ranks that were set apart


@pytest.mark.slow
@pytest.mark.parametrize("first", range(5000, 5700, 100))
def test_many_folded_runs_are_those_of_all_ranks(first: int) -> None:
    for seed in range(first, first + 100):
        compare(seed)
