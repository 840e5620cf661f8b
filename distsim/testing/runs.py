"""The small runs that a strategy is checked by: few uneven workers, a small model in float64, two networks.

Everything here is modeled or cosimulated, in this process, and ends: a program that goes on and on is stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import zip_longest
from math import inf, isfinite
from typing import Any

from distsim.backends.simulated import SimulatedOptions, simulate
from distsim.interface import (
    ALL,
    SGD,
    Batch,
    Budget,
    Checkpoint,
    Cluster,
    Curve,
    Failure,
    Job,
    Loopback,
    OnLoss,
    Outcome,
    Roofline,
    Straggler,
    Strategy,
    StrategyError,
    Switch,
    T,
    Trace,
    Worker,
)
from distsim.numerics.sizes import SizesFactory
from distsim.workloads.digits_mlp import DigitsMLP

WORKLOAD = DigitsMLP(batch=8, depth=6, width=24, dtype="float64")
WORKERS = (3, 4, 2, 6, 8, 1)
"""Numbers of workers in the order in which they are tried: odd ones find most."""
SEED = 7
OPTIMIZER = SGD(0.05, momentum=0.5)
DEVICE = Roofline(3.1e7, 1.7e9, 2e-6)
NETWORKS: dict[str, Switch | Loopback] = {
    "switch": Switch(bandwidth=3.3e6, latency=1.1e-3),
    "loopback": Loopback(
        cores=Curve(((1.0, 1.0), (2.0, 1.9), (4.0, 2.1))),
        message=Curve(((0.0, 3e-5), (1e6, 7e-4))),
        all_reduce={2: Curve(((0.0, 8e-5), (1e6, 1.1e-3))), 3: Curve(((0.0, 1.3e-4), (1e6, 1.9e-3)))},
    ),
}
EVEN, UNEVEN = Straggler(), Straggler("lognormal", sigma=0.4, slow={0: 3.0})
STRAGGLERS = (EVEN, UNEVEN, Straggler(slow={1: 3.0}))
"""Under which weights are compared, to see whether they depend on who is slow."""
LEAST = 8
"""Updates of a run that half its seconds must cut: rounds that are under way at its end are fewer."""
MOST_CALLS = 500
"""Of one rank's numerics for every gradient of the run, before its program counts as endless."""


@dataclass(frozen=True)
class Case:
    """A strategy on so many workers, for so many updates of the model."""

    strategy: Strategy
    workers: int
    rounds: int
    """Gradients that each worker gives, if all give as many."""

    @property
    def updates(self) -> int:
        """Updates that take so many rounds: an asynchronous server makes one of every gradient."""
        return max(1, -(-self.rounds * self.workers // self.strategy.gradients_an_update(self.workers)))

    def job(
        self, has_values: bool, network: str = "switch", straggler: Straggler = EVEN, budget: Budget | None = None
    ) -> Job:
        """A run of `updates` updates, unless another budget is given."""
        model, strategy, workers = WORKLOAD.model(), self.strategy, self.workers
        servers, beside = strategy.server_count(workers), strategy.servers_beside()
        return Job(
            strategy=strategy,
            model=model,
            cluster=Cluster(workers, servers, DEVICE, NETWORKS[network], beside=beside),
            budget=budget or Budget(updates=self.updates),
            numerics=tensors(workers) if has_values else SizesFactory(model, workers, OPTIMIZER),
            straggler=straggler,
            seed=SEED,
            samples_between_snapshots=1 if has_values else 0,
        )

    def run(
        self, has_values: bool, network: str = "switch", straggler: Straggler = EVEN, budget: Budget | None = None
    ) -> Outcome:
        """That run under the simulated clock, every rank simulated."""
        return self.simulate(self.job(has_values, network, straggler, budget), fold_ranks=0)

    def lossy(self, has_values: bool, on_loss: OnLoss) -> Outcome:
        """The run of uneven workers on the switch that loses its last worker after 40 % of its time, for 20 % of it; a
        checkpoint is due after every update."""
        seconds = self.modeled["switch"].seconds
        failure = Failure(
            {self.workers - 1: (0.4 * seconds,)}, restart=0.2 * seconds, on_loss=on_loss, checkpoint=Checkpoint(updates=1)
        )
        return self.simulate(replace(self.job(has_values, "switch", UNEVEN), failure=failure), fold_ranks=0)

    def simulate(self, job: Job, fold_ranks: int) -> Outcome:
        """Any run of this case; of ranks that do alike one is simulated from so many workers on."""
        gradients = self.workers * (self.rounds + 1) + LEAST * self.strategy.gradients_an_update(self.workers)
        limit = MOST_CALLS * gradients
        bounded = replace(job, numerics=_Bounded(job.numerics, limit))
        with _one_thread() if job.samples_between_snapshots else nullcontext():
            return simulate(bounded, SimulatedOptions(fold_ranks=fold_ranks))

    @cached_property
    def modeled(self) -> dict[str, Outcome]:
        """The modeled runs of uneven workers by network."""
        return {network: self.run(False, network, UNEVEN) for network in NETWORKS}

    @cached_property
    def cosimulated(self) -> dict[str, Outcome]:
        """The cosimulated runs of uneven workers by network."""
        return {network: self.run(True, network, UNEVEN) for network in NETWORKS}


def tensors(workers: int, batch: int = WORKLOAD.batch) -> Callable[[int], Any]:
    """Rank -> its tensors."""
    from distsim.numerics.tensors import TensorsFactory

    return TensorsFactory(replace(WORKLOAD, batch=batch), workers, OPTIMIZER, SEED)


def _one_thread() -> Any:
    from distsim.numerics.tensors import one_thread

    return one_thread()


@dataclass(frozen=True)
class _Bounded:
    """Rank -> numerics that refuse a program which does not end."""

    numerics: Callable[[int], Any]
    limit: int

    def __call__(self, rank: int) -> Any:
        return _Counted(self.numerics(rank), self.limit)


class _Counted:
    def __init__(self, inner: Any, limit: int) -> None:
        self._inner, self._left, self._limit = inner, limit, limit

    def __getattr__(self, name: str) -> Any:
        self._left -= 1
        if self._left < 0:
            raise StrategyError(
                f"after {self._limit:,} operations on values it still goes on: let `for step in worker.steps()` end the run"
            )
        return getattr(self._inner, name)


# ---- weights


def weights(outcome: Outcome) -> dict[int, Any] | None:
    """The flat parameters of every block as they were published last; None if some block's were not."""
    from distsim.numerics.tensors_assemble import assemble

    last = max((snapshot.number for snapshot in outcome.snapshots), default=0)
    pieces = [piece for snapshot in outcome.snapshots if snapshot.number == last for piece in snapshot.pieces]
    return assemble(WORKLOAD.model(), WORKLOAD.task(SEED).blocks, pieces)


@dataclass(frozen=True)
class _OneProcess(Strategy):
    """One worker updates with its own gradient."""

    async def run(self, worker: Worker[T]) -> None:
        for step in worker.steps():
            await worker.apply(await worker.gradient(Batch(step)))
            worker.publish()


def one_process(workers: int, updates: int) -> dict[int, Any]:
    """The weights after so many updates by one process, each with the samples of all `workers`."""
    case = Case(_OneProcess(), 1, updates)
    job = case.job(True)
    batch = WORKLOAD.batch * workers
    job = replace(job, model=replace(job.model, batch=batch), numerics=tensors(1, batch))
    found = weights(case.simulate(job, fold_ranks=0))
    assert found is not None
    return found


def is_finite(found: dict[int, Any]) -> bool:
    """Whether all of a model's parameters are numbers."""
    return all(bool(value.isfinite().all()) for value in found.values())


def distance(found: dict[int, Any], expected: dict[int, Any]) -> tuple[float, int]:
    """The largest difference of two models relative to how far training moved that block, and the block."""
    start = tensors(1)(0).read(ALL)
    begun, largest = 0, (0.0, 0)
    for block, value in sorted(expected.items()):
        moved = float((value - start[begun : begun + len(value)]).abs().max())
        apart = float((found[block] - value).abs().max())
        if apart != 0.0:
            share = apart / moved if moved else inf
            largest = max(largest, (share if isfinite(share) else inf, block))
        begun += len(value)
    return largest


# ---- records


def difference(a: Outcome, b: Outcome, names: tuple[str, str], has_losses: bool = False) -> str:
    """The first record in which two runs differ, with both values; empty if there is none. Losses may count."""
    pairs: list[tuple[tuple[str, list[Any]], tuple[str, list[Any]]]] = []
    for one, other in zip(a.traces, b.traces, strict=True):
        pairs += zip(_records(one, has_losses), _records(other, has_losses), strict=True)
    pairs.append((("the outcome's part", [a.seconds, a.notes]), ("", [b.seconds, b.notes])))
    return next(filter(None, (_first(where, mine, its, names) for (where, mine), (_, its) in pairs)), "")


def _records(trace: Trace, has_losses: bool) -> Iterator[tuple[str, list[Any]]]:
    where = f"rank {trace.rank}, "
    yield where + "computing", trace.compute
    yield where + "transfer", trace.transfers
    yield where + "update", trace.updates
    yield where + "loss", trace.losses if has_losses else [loss._replace(value=0.0) for loss in trace.losses]
    yield where + "gradient taken", trace.arrivals
    yield where + "end, gradients sent and memory", [trace.ended, trace.gradients, trace.peak, trace.peak_activations]


def _first(where: str, mine: list[Any], its: list[Any], names: tuple[str, str]) -> str:
    for number, (one, other) in enumerate(zip_longest(mine, its)):
        if one != other:
            return f"{where} {number}: {names[0]} {one}, {names[1]} {other}"
    return ""


def times(trace: Trace) -> list[Any]:
    """What a rank records but who it is: whom it met, and which part of the batch was its own."""
    moved = sorted((t.kind, t.nbytes, t.posted, t.awaited, t.ended) for t in trace.transfers)
    return [[span[:4] for span in trace.compute], moved, trace.updates, trace.ended, trace.gradients]
