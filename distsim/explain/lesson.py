"""A lesson: the modeled run that is drawn, with what there is to know about its strategy and what came out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distsim import catalogue
from distsim.backends.simulated import simulate
from distsim.catalogue import Entry
from distsim.explain import bench
from distsim.explain.settings import Settings
from distsim.explain.spans import Lane, lanes
from distsim.interface import AdamW, Budget, Job
from distsim.numerics.sizes import SizesFactory
from distsim.results.summary import summarize


@dataclass(frozen=True)
class Lesson:
    """What a picture is drawn from."""

    entry: Entry
    fields: Mapping[str, Any]
    """The strategy's settings as they were run."""
    lanes: tuple[Lane, ...]
    seconds: float
    """What is drawn: until the last update, or where the run ended."""
    summary: Mapping[str, Any]
    assumed: tuple[str, ...]
    """The bench, and what else was chosen for the picture."""

    @property
    def is_done(self) -> bool:
        """False for a run that failed: what it did until then is drawn."""
        return bool(self.summary["status"] == "done")


def lesson(settings: Settings) -> Lesson:
    """Run what is to be drawn."""
    strategy, workers, model = settings.strategy, settings.workers, bench.model()
    job = Job(
        strategy=strategy,
        model=model,
        cluster=bench.cluster(strategy, workers),
        budget=Budget(updates=settings.updates),
        numerics=SizesFactory(model, workers, AdamW()),  # the optimizer whose state is worth cutting
        straggler=settings.straggler,
    )
    outcome = simulate(job)
    paces = [job.pace(rank) for rank in range(job.cluster.world_size)]
    microbatches = getattr(strategy, "microbatches", 1)
    drawn = lanes(
        outcome.traces,
        workers,
        outcome.seconds,
        microbatches if isinstance(microbatches, int) and microbatches > 0 else 1,
        lambda rank, step, begun: paces[rank].take(step)[0] * paces[rank].episode(begun),
    )
    fields = {name: getattr(strategy, name) for name, _ in catalogue.settings(type(strategy))}
    assumed = (bench.assumptions(strategy, workers), *settings.chosen)
    entry = catalogue.describe(settings.name, type(strategy))
    return Lesson(entry, fields, tuple(drawn), outcome.seconds, summarize(job, outcome, []), assumed)
