"""When a run ends. A budget is global: it counts what all workers did together, never what one of them did."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Budget:
    """The run ends at whichever of the given limits is met first; at least one must be given.

    `updates` counts updates of the model, `samples` the training samples whose gradients went into them, `seconds` the
    run's own clock (simulated seconds in modeled and cosimulated runs).
    """

    updates: int | None = None
    samples: int | None = None
    seconds: float | None = None

    def updates_allowed(self, samples_an_update: int) -> float:
        """How many updates the counted limits allow; infinite if only seconds limit the run."""
        by_updates = float("inf") if self.updates is None else self.updates
        by_samples = float("inf") if self.samples is None else self.samples // samples_an_update
        return min(by_updates, by_samples)
