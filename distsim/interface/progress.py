"""How far a run has come, as one rank sees it: its updates, when the budget ends, the rate's course, what is shown when."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import inf

from distsim.interface.budget import Budget
from distsim.interface.fabric import Fabric
from distsim.interface.optimizer import Optimizer, Scaling, Schedule, scaled
from distsim.interface.outcome import Piece, Snapshot
from distsim.interface.trace import Trace, Update
from distsim.interface.values import Region


@dataclass(frozen=True)
class Course:
    """What the updates of a run are, and how many there are to be."""

    budget: Budget
    batch: int
    """Samples of one gradient."""
    gradients_an_update: int = 1
    first: int = 0
    """The update that it begins with: a run may go on from a checkpoint."""
    before: int = 0
    """Samples of the updates before that."""
    publish_every: int = 0
    """Updates between snapshots; 0 publishes nothing."""
    schedule: Schedule = field(default_factory=Schedule)
    scaling: Scaling = "none"

    @property
    def samples_an_update(self) -> int:
        """Samples of all workers together that one update consumes."""
        return self.gradients_an_update * self.batch

    @cached_property
    def updates_allowed(self) -> float:
        """How many updates the counted limits of the budget allow; infinite if only seconds limit the run."""
        budget = self.budget
        if self.first and budget.samples is not None:
            budget = replace(budget, samples=budget.samples - self.before + self.first * self.samples_an_update)
        return budget.updates_allowed(self.samples_an_update)

    def samples(self, updates: int) -> int:
        """Samples of so many updates of the run."""
        return self.before + (updates - self.first) * self.samples_an_update


@dataclass
class Progress:
    """One rank's place on the course."""

    course: Course
    fabric: Fabric
    trace: Trace
    pieces: Callable[[tuple[Region, ...]], list[Piece]]
    """The parameters of these regions, as they are on this rank now."""
    updates: int = 0
    arrive: Callable[[int], bool] | None = None
    """Told before each update; False ends the loop there. A backend's, for checkpoints."""
    makes_updates: bool = False
    """Its loop has begun."""
    is_cut: bool = False
    """It has ended here, but goes on in another incarnation."""
    is_over: bool = False
    """Its loop has ended."""
    takes_turns: bool = False
    """Updates are made by one rank each."""
    shown: tuple[Region, ...] = ()
    """What this rank publishes, once it has."""
    snapshots: list[Snapshot] = field(default_factory=list)

    def goes_on(self, step: int) -> bool:
        """Whether update `step` belongs to the run; every rank gets the same answer, and those who ask again too."""
        seconds = self.course.budget.seconds
        return step < self.course.updates_allowed and not (
            seconds is not None and self.fabric.decide(f"stop before step {step}", self.fabric.now() >= seconds)
        )

    def steps(self) -> Iterator[int]:
        """Global updates until the budget is spent, each recorded when its body is over."""
        step, arrive = self.course.first, self.arrive
        self.makes_updates = True
        while self.goes_on(step) and (arrive is None or arrive(step)):
            yield step
            step += 1
            self.updates = step
            self.trace.updates.append(Update(step, self.course.samples(step), self.fabric.now()))
        self.is_over = not self.is_cut

    def turns(self) -> Iterator[int]:
        """Updates of this rank alone until all ranks together have begun what the budget allows; recorded as `steps` does.

        Evaluation sees each rank's model as it is when that rank next ends an update.
        """
        self.makes_updates = True
        self.takes_turns, ended, every = True, self.course.first, self.course.publish_every
        while self.goes_on(turn := self.fabric.count("updates begun")):
            self.updates = turn
            yield turn
            before, ended = ended, self.fabric.count("updates ended") + 1
            self.updates, now = ended, self.fabric.now()
            self.trace.updates.append(Update(ended, self.course.samples(ended), now))
            if every and self.shown and ended // every > before // every:
                self._snapshot(ended // every * every, now)
        self.is_over = True

    def rate(self, optimizer: Optimizer | None, scale: float) -> float:
        """What the learning rate is multiplied by now: scaling and schedule are the run's own optimizer's."""
        if optimizer is not None:
            return scale
        course = self.course
        factor = course.schedule.factor(self.updates, course.updates_allowed)
        return scale * scaled(course.scaling, course.gradients_an_update) * factor

    def publish(self, regions: tuple[Region, ...]) -> None:
        """Keep the parameters for the evaluation, if a snapshot is due after the update under way."""
        self.shown = regions
        if self.takes_turns:
            return
        number = self.updates + 1
        last = number >= self.course.updates_allowed
        if self.course.publish_every and (number % self.course.publish_every == 0 or last):
            self._snapshot(number, self.fabric.now())

    def publish_last(self) -> None:
        """Keep the model of the last update, if this rank shows any: a budget of seconds says too late which it is."""
        known = self.snapshots[-1].number if self.snapshots else 0
        number = self.updates
        if self.takes_turns:  # this rank's last update is not the run's
            number = 0 if self.course.updates_allowed == inf else int(self.course.updates_allowed)
        if self.course.publish_every and self.shown and known < number and not self.is_cut:
            self._snapshot(number, self.trace.updates[-1].time)

    def _snapshot(self, number: int, time: float) -> None:
        self.snapshots.append(Snapshot(number, self.course.samples(number), time, self.pieces(self.shown)))
