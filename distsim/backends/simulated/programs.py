"""The programs of one incarnation: every rank runs the strategy's, and the incarnation is over when all have ended."""

from __future__ import annotations

from functools import partial
from typing import Any

from distsim.backends.simulated.fabric import Simulation
from distsim.interface import Rank, Worker, finish


class Programs:
    """Which ranks' programs have not ended."""

    def __init__(self, simulation: Simulation, everyone: tuple[int, ...]) -> None:
        self._simulation = simulation
        self._everyone = everyone  # one tuple for all ranks: as many of them as ranks would be a square
        self._late: set[int] = set()  # only membership is asked
        self.left: dict[int, Rank[Any]] = {}
        """By the number of a rank."""

    def begin(self, rank: Rank[Any], is_late: bool = False) -> None:
        """Run a rank's program; `is_late`: of a rank that has come back."""
        engine, strategy = self._simulation.engine, self._simulation.job.strategy
        self.left[rank.rank] = rank
        if is_late:
            self._late.add(rank.rank)
        program = engine.process(rank.rank, finish(strategy, Worker(rank, self._everyone)))
        engine.when(program, partial(self.drop, rank.rank))

    def drop(self, rank: int) -> None:
        """A rank's program has ended, or the rank is lost."""
        self.left.pop(rank, None)

    @property
    def is_over(self) -> bool:
        """All have ended but ranks that came back too late for a server to hear of them."""
        return set(self.left) <= self._late
