"""Stored runs as a table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from distsim.results.store import Result

if TYPE_CHECKING:
    from pandas import DataFrame

_NUMBERS = (
    "seconds",
    "updates",
    "samples",
    "seconds_per_update",
    "samples_per_second",
    "final_loss",
    "final_accuracy",
    "wall_seconds",
)
_LOSSES = ("failures", "restarts", "checkpoints", "lost_seconds")
_MEMORY = ("parameters", "gradients", "optimizer", "activations", "versions")
"""What the largest rank's bytes were for."""


def table(results: Iterable[Result]) -> DataFrame:
    """One row a run: what was chosen and what came out. Numbers that a run does not have are NaN."""
    from pandas import DataFrame

    return DataFrame([row(result) for result in results])


def row(result: Result) -> dict[str, Any]:
    """The row of one run."""
    config, summary = result.config, result.summary
    staleness = summary["staleness"] or {}
    memory = summary.get("memory") or {}
    return {
        "id": result.id,
        "status": result.status,
        **{group: config[group]["name"] for group in ("strategy", "backend", "workload", "cluster", "straggler")},
        "failure": (config.get("failure") or {}).get("name"),
        "workers": summary["workers"],
        "optimizer": config["optimizer"].get("name"),
        "learning_rate": config["optimizer"]["learning_rate"],
        "seed": config["seed"],
        "repeat": config["repeat"],
        "label": config["label"],
        **{key: summary[key] for key in _NUMBERS},
        "staleness": staleness.get("mean"),
        **{key: (summary.get("losses") or {}).get(key) for key in _LOSSES},
        "memory_rank": memory.get("rank"),
        "memory_bytes": memory.get("bytes"),
        **{f"{kind}_bytes": memory.get(kind) for kind in _MEMORY},
        "message": summary["message"],
    }
