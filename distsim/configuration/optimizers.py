"""The section `optimizer`: the algorithm, chosen by name, and the course of its rate, which all of them share.

`optimizer.scaling` multiplies the rate by the number of gradients that an update averages, or its square root.
`optimizer.schedule` warms it up over `warmup` updates and then lets it decay to the share `final` by the last update that
the budget counts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from distsim.configuration import quantities
from distsim.configuration.quantities import Kind
from distsim.configuration.reader import FAILED, Reader
from distsim.interface import SGD, Budget, Optimizer, Scaling, Schedule

OPTIMIZER: Mapping[str, Kind] = {
    "learning_rate": quantities.number(above=0.0),
    "momentum": quantities.number(at_least=0.0, below=1.0),
    "weight_decay": quantities.number(at_least=0.0),
    "beta1": quantities.number(at_least=0.0, below=1.0),
    "beta2": quantities.number(at_least=0.0, below=1.0),
    "epsilon": quantities.number(above=0.0),
}
"""What is allowed, of whichever optimizer has the key."""

SCHEDULE: Mapping[str, Kind] = {
    "warmup": quantities.integer(0),
    "decay": quantities.choice("constant", "linear", "cosine"),
    "final": quantities.number(at_least=0.0, at_most=1.0),
}

SCALING = quantities.choice("none", "linear", "square_root")
SHARED = ("scaling", "schedule")
"""Keys that every optimizer has."""


@dataclass(frozen=True)
class OptimizerSection:
    """The run's own optimizer and the course of its rate."""

    name: str
    optimizer: Optimizer
    schedule: Schedule
    scaling: Scaling

    def plain(self) -> dict[str, Any]:
        """The keys as a configuration writes them."""
        return {
            "name": self.name,
            **asdict(self.optimizer),
            "scaling": self.scaling,
            "schedule": asdict(self.schedule),
        }

    def warnings(self, updates: float) -> Iterator[str]:
        """What deserves a warning in a run of so many updates."""
        schedule = self.schedule
        if schedule.warmup >= updates:
            yield f"optimizer.schedule.warmup={schedule.warmup}: the run has {updates:.0f} updates, and all of them warm up"
        if schedule.final and schedule.decay == "constant":
            yield f"optimizer.schedule.final={schedule.final:g} changes nothing: the rate decays to nowhere"


def read_optimizer(reader: Reader) -> OptimizerSection | None:
    """The section `optimizer`, its keys agreeing with each other."""
    values = reader.section("optimizer")
    optimizer = reader.component("optimizer", OPTIMIZER, SHARED)
    schedule = reader.fill("optimizer.schedule", Schedule, SCHEDULE)
    scaling = reader.value("optimizer.scaling", SCALING, values.get("scaling", "none"))
    if optimizer is None or schedule is None or scaling is FAILED:
        return None
    if isinstance(optimizer, SGD) and optimizer.nesterov and not optimizer.momentum:
        reader.refuse("optimizer.nesterov", True, "needs momentum", "for example optimizer.momentum=0.9")
        return None
    return OptimizerSection(str(values["name"]), optimizer, schedule, scaling)


def check_course(reader: Reader, section: OptimizerSection, budget: Budget) -> None:
    """A decay ends with the run, so the run's end must be known in updates."""
    decay = section.schedule.decay
    if decay != "constant" and budget.updates is None and budget.samples is None:
        allowed = "a decay ends with the last update, so it needs a budget that counts updates or samples"
        reader.refuse("optimizer.schedule.decay", decay, allowed, "for example budget.updates=200")
