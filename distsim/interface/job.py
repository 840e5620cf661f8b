"""A run, ready to be handed to a backend: everything that both kinds of fabric need to know, and nothing of either."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import ceil
from typing import Any

from distsim.interface.budget import Budget
from distsim.interface.cluster import Cluster
from distsim.interface.fabric import Fabric
from distsim.interface.failure import Failure, OnLoss
from distsim.interface.model import Model
from distsim.interface.numerics import Numerics
from distsim.interface.optimizer import Scaling, Schedule
from distsim.interface.pace import Pace
from distsim.interface.progress import Course
from distsim.interface.rank import Rank
from distsim.interface.straggler import Straggler
from distsim.interface.strategy import Strategy


@dataclass(frozen=True)
class Start:
    """Where an incarnation of a run starts: the first of all by default."""

    number: int = 0
    """Of the incarnation."""
    update: int = 0
    """The first update that it makes."""
    samples: int = 0
    """Of the updates before."""
    life: int = 0
    """How often this rank was lost in this incarnation."""
    before: Mapping[int, Rank[Any]] = field(default_factory=dict)
    """The ranks of the incarnation before, whose records go on."""


BEGINNING = Start()


@dataclass(frozen=True)
class Job:
    """One run of one strategy. A real backend pickles it, so `numerics` must be importable by name or a plain object."""

    strategy: Strategy
    model: Model
    cluster: Cluster
    budget: Budget
    numerics: Callable[[int], Numerics[Any]]
    """Rank -> its numerics, called in the process of that rank."""
    straggler: Straggler = field(default_factory=Straggler)
    seed: int = 0
    schedule: Schedule = field(default_factory=Schedule)
    scaling: Scaling = "none"
    failure: Failure = field(default_factory=Failure)
    samples_between_snapshots: int = 0
    """Publish the model for evaluation at least every so many samples; 0 never."""

    def resized(self, workers: int) -> Job:
        """The same job for so many workers: those that are left when some are lost."""
        if workers == self.cluster.workers:
            return self
        numerics: Any = self.numerics
        return replace(
            self,
            cluster=replace(self.cluster, workers=workers),
            numerics=replace(numerics, workers=workers) if hasattr(numerics, "workers") else numerics,
        )

    def rank(self, rank: int, fabric: Fabric, start: Start = BEGINNING) -> Rank[Any]:
        """The state of one rank on its fabric, at the beginning of the run or where an incarnation of it starts."""
        gradients = self.strategy.gradients_an_update(self.cluster.workers)
        samples = gradients * self.model.batch
        every = max(1, ceil(self.samples_between_snapshots / samples)) if self.samples_between_snapshots else 0
        return Rank(
            rank=rank,
            workers=self.cluster.workers,
            world_size=self.cluster.world_size,
            model=self.model,
            numerics=self.numerics(rank),
            fabric=fabric,
            course=Course(
                self.budget, self.model.batch, gradients, start.update, start.samples, every, self.schedule, self.scaling
            ),
            seed=self.seed,
            numbered_from=start.number << 32,
            life=start.life,
            before=start.before.get(rank),
        )

    def factor(self, rank: int, step: int | None) -> float:
        """The straggler's factor of this rank, but for its episodes; parameter servers have none."""
        return self.straggler.factor(self.seed, rank, step) if rank < self.cluster.workers else 1.0

    def pace(self, rank: int) -> Pace:
        """What slows the operations of this rank down, for the one fabric that it is asked by."""
        return Pace(self.straggler if rank < self.cluster.workers else Straggler(), self.seed, rank)

    @property
    def on_loss(self) -> OnLoss:
        """What the run does when a rank is lost."""
        wanted = self.failure.on_loss
        return self.strategy.on_loss(self.cluster.workers)[0] if wanted == "auto" else wanted
