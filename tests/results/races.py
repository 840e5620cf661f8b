"""Invented runs that race to a loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from distsim.interface.trace import Trace


@dataclass
class MadeUp:
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    traces: list[Trace] = field(default_factory=list)

    def trace(self) -> list[Trace]:
        return self.traces


def run(
    strategy: str,
    repeat: int,
    seconds: float | None,
    *,
    mode: str = "real",
    slow: Mapping[str, float] | None = None,
    rate: float = 0.1,
    workers: int = 4,
    step: float = 0.01,
    best: float = 0.2,
    samples: int = 6400,
    status: str = "done",
    waiting: float = 0.0,
    fields: Mapping[str, Any] | None = None,
    label: str = "",
    model: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    budget: Mapping[str, Any] | None = None,
    evaluation: int = 320,
    snapshots: Sequence[tuple[int, float, float]] = (),
) -> MadeUp:
    """A run that is at loss `best` after `seconds`, and was at 1.0 before; None: it stayed at 1.0.

    `snapshots` are (samples, seconds, loss) instead.
    """
    losses = [(10, samples // 2, 0.1, 1.0)]
    losses += [] if seconds is None else [(20, samples, seconds, best)]
    losses = [(n // 64, n, t, loss) for n, t, loss in snapshots] or losses
    curve = [{"update": u, "samples": n, "seconds": t, "loss": loss, "accuracy": None} for u, n, t, loss in losses]
    config = {
        "strategy": {"name": strategy, **(fields or {})},
        "backend": {"name": mode, **(options or {})},
        "workload": {"name": "digits_mlp", **(model or {})},
        "cluster": {"name": "local4", "workers": workers, "network": "loopback"},
        "straggler": {"name": "x", "jitter": "none", "scale": 1.0, "sigma": 0.2, "slow": slow or {}},
        "optimizer": {"name": "sgd", "learning_rate": rate, "momentum": 0.0},
        "budget": {"updates": None, "samples": samples, "seconds": None} if budget is None else budget,
        "evaluation": {"samples": evaluation},
        "seed": 0,
        "repeat": repeat,
        "label": label,
    }
    summary = {
        "status": status,
        "updates": samples // 64,
        "samples": samples,
        "seconds_per_update": step,
        "samples_per_second": 128 / step,
        "breakdown": {"compute": 0.9 - waiting, "communication": 0.1, "waiting": waiting, "other": 0.0},
        "curve": [] if mode == "modeled" else curve,
    }
    return MadeUp(config, summary)


FAST = (1.0, 1.1, 0.9, 1.05, 0.95)
SLOW = (2.0, 2.1, 1.9, 2.2, 1.8)


def race(a: Sequence[float | None], b: Sequence[float | None], **more: Any) -> list[MadeUp]:
    runs = [run("async_ps", i, s, **more) for i, s in enumerate(a)]
    return runs + [run("sync_ps", i, s, waiting=0.5, step=0.02, **more) for i, s in enumerate(b)]
