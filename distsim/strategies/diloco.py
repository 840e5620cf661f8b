"""Local steps with an outer optimizer: how far the workers went, averaged, is a gradient that an optimizer follows.

theta = outer(theta, mean of (theta - theta_i)) every so many steps. The members differ in that optimizer, and in whether
training waits for the average. The inner optimizer is the run's own; its states stay local.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from math import inf

from distsim.interface import ALL, SGD, Batch, Model, Problem, Region, Strategy, T, Work, Worker
from distsim.strategies.local_sgd import at_least


class OuterSteps(Strategy):
    """The program of a worker that waits for each average."""

    every: int

    @property
    def outer(self) -> SGD:
        """The outer optimizer; every rank takes the same steps with it."""
        raise NotImplementedError

    def alike_every(self, workers: int) -> int:
        return 1

    async def run(self, worker: Worker[T]) -> None:
        agreed = worker.read()
        for step in worker.steps():
            await worker.apply(await worker.gradient(Batch(step, worker.rank, worker.world_size)))
            if (step + 1) % self.every == 0:
                moved = await worker.all_reduce(await worker.compute("delta", _difference, agreed, worker.read()))
                agreed = await self.advance(worker, agreed, moved)
            worker.publish()

    async def advance(self, worker: Worker[T], agreed: T, moved: T, region: Region = ALL) -> T:
        """Take the outer step from what was agreed on; what is agreed on now, which the parameters are too."""
        worker.load(agreed, region)
        await worker.apply(moved, region, optimizer=self.outer)
        return worker.read(region)

    def can_resume(self, step: int) -> bool:
        return step % self.every == 0  # then the parameters are what was agreed on

    def problems(self, workers: int, model: Model) -> Iterable[Problem]:
        yield from at_least("every", self.every, 1, "steps from one outer step to the next")


@dataclass(frozen=True)
class SlowMo(OuterSteps):
    """Every worker takes `every` local steps, then all take one step of slow momentum along the mean of how far they went.

    Staleness 0. Time as local SGD, which slow momentum 0 and slow rate 1 are. The paper divides how far they went by the
    inner rate and multiplies again: the same unless a schedule changes that rate. Wang et al., "SlowMo: Improving
    Communication-Efficient Distributed SGD with Slow Momentum", ICLR 2020.
    """

    every: int = 12
    """Steps from one average to the next; tau in the paper."""
    slow_learning_rate: float = 1.0
    """alpha in the paper."""
    slow_momentum: float = 0.5
    """beta in the paper."""

    @property
    def outer(self) -> SGD:
        return SGD(self.slow_learning_rate, self.slow_momentum)

    def problems(self, workers: int, model: Model) -> Iterable[Problem]:
        yield from super().problems(workers, model)
        yield from _optimizer_problems("slow", self.outer, SlowMo().outer)


@dataclass(frozen=True)
class DiLoCo(OuterSteps):
    """Every worker takes `every` local steps, then all take one outer Nesterov step along the mean of how far they went.

    Staleness 0. Time as local SGD: one all-reduce is paid for H steps. Outer rate 1 without momentum is local SGD; the
    paper has AdamW inside and H=500. Douillard et al., "DiLoCo: Distributed Low-Communication Training of Language Models",
    arXiv:2311.08105.
    """

    every: int = 20
    """H: steps from one outer step to the next."""
    outer_learning_rate: float = 0.7
    outer_momentum: float = 0.9
    nesterov: bool = True

    @property
    def outer(self) -> SGD:
        return SGD(self.outer_learning_rate, self.outer_momentum, self.nesterov and self.outer_momentum > 0.0)

    def problems(self, workers: int, model: Model) -> Iterable[Problem]:
        yield from super().problems(workers, model)
        yield from _optimizer_problems("outer", self.outer, DiLoCo().outer)


@dataclass(frozen=True)
class StreamingDiLoCo(DiLoCo):
    """DiLoCo a fragment of the model at a time: its average is under way while training goes on, and used `delay` later.

    Staleness of an outer gradient: `delay` steps. Nothing is waited for if a reduction takes no longer than that; the peak
    of traffic falls to 1/fragments. What is under way at the end of the run is used in its last update. Douillard et al.,
    "Streaming DiLoCo with overlapping communication", arXiv:2501.18512.
    """

    fragments: int = 2
    """Parts of the model, sent in turn, `every`/fragments steps apart. Part i holds blocks i, i + fragments, ..."""
    delay: int = 1
    """Steps from sending a fragment's outer gradient to using the average; tau in the paper."""
    alpha: float = 0.5
    """The share that a worker's own parameters keep when those agreed on arrive; 0 forgets the steps taken meanwhile."""

    def alike_every(self, workers: int) -> int:
        return 1

    async def run(self, worker: Worker[T]) -> None:
        fragments = [Region(tuple(range(i, len(worker.blocks), self.fragments))) for i in range(self.fragments)]
        agreed = {fragment: worker.read(fragment) for fragment in fragments}
        under_way = deque[tuple[int, Region, Work[T]]]()  # the step it is used at, what, its reduction
        for step in worker.steps():
            await worker.apply(await worker.gradient(Batch(step, worker.rank, worker.world_size)))
            for i, fragment in enumerate(fragments):
                if (step + 1) % self.every == i * self.every // self.fragments:
                    moved = await worker.compute("delta", _difference, agreed[fragment], worker.read(fragment))
                    under_way.append((step + self.delay, fragment, worker.all_reduce(moved)))
            is_last = not worker.continues(step + 1)
            while under_way and (is_last or under_way[0][0] == step):
                _, fragment, reduction = under_way.popleft()
                moved, own = await reduction, worker.read(fragment)
                agreed[fragment] = await self.advance(worker, agreed[fragment], moved, fragment)
                if self.alpha:
                    worker.load(await worker.compute("mix", self.mixed, agreed[fragment], own), fragment)
            worker.publish()

    def can_resume(self, step: int) -> bool:
        return step == 0  # what was agreed on is never all of the parameters

    def mixed(self, agreed: T, own: T) -> T:
        """What was agreed on and a worker's own parameters, by `alpha`."""
        return agreed * (1.0 - self.alpha) + own * self.alpha

    def problems(self, workers: int, model: Model) -> Iterable[Problem]:
        yield from super().problems(workers, model)
        blocks = len(model.blocks)
        if not 1 <= self.fragments <= blocks:
            allowed = f"a fragment holds blocks, of which this model has {blocks}: from 1 to {blocks}"
            yield Problem("strategy.fragments", self.fragments, allowed, f"take {max(1, min(self.fragments, blocks))}")
        most = self.every - 1
        if self.every >= 1 and not 0 <= self.delay <= most:
            allowed = f"an average is used before its fragment is sent again, every {self.every} steps: from 0 to {most}"
            yield Problem("strategy.delay", self.delay, allowed, f"take {max(0, min(self.delay, most))}")
        if not 0.0 <= self.alpha <= 1.0:
            yield Problem(
                "strategy.alpha", self.alpha, "the share of a worker's own parameters: from 0 to 1", "the paper: 0.5"
            )


def _difference(agreed: T, own: T) -> T:
    return agreed - own


def _optimizer_problems(name: str, outer: SGD, usual: SGD) -> Iterable[Problem]:
    if not 0.0 < outer.learning_rate < inf:
        allowed, near = "greater than 0 and finite", f"try {usual.learning_rate:g}"
        yield Problem(f"strategy.{name}_learning_rate", outer.learning_rate, allowed, near)
    if not 0.0 <= outer.momentum < 1.0:
        yield Problem(f"strategy.{name}_momentum", outer.momentum, "at least 0 and less than 1", f"try {usual.momentum:g}")
