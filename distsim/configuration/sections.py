"""The sections of a configuration that no component fills and that have no file of their own; and all keys there are."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from typing import Any

from distsim import registry
from distsim.configuration import quantities
from distsim.configuration.cluster import ClusterSection, Corrections
from distsim.configuration.quantities import Kind
from distsim.configuration.reader import Reader, settable
from distsim.configuration.stragglers import PARTS
from distsim.interface import Budget, Failure, Schedule, Straggler
from distsim.interface.precision import NAMES

GROUPS = ("strategy", "backend", "workload", "cluster", "straggler", "failure", "optimizer")
"""The sections that are chosen by name: a folder of conf/ each."""

BUDGET: Mapping[str, Kind] = {
    "updates": quantities.optional(quantities.integer(1)),
    "samples": quantities.optional(quantities.integer(1)),
    "seconds": quantities.optional(quantities.seconds(above=0.0)),
}

RUN: Mapping[str, Kind] = {
    "seed": quantities.integer(0),
    "repeat": quantities.integer(0),
    "precision": quantities.choice(*NAMES),
    "runs": quantities.path,
    "label": quantities.name,
}

_DEFAULTS: Mapping[str, Any] = {"seed": 0, "repeat": 0, "precision": "float32", "runs": "runs", "label": ""}
_TOP = (*GROUPS, "budget", "evaluation", "checkpoint", *RUN)

DEFAULT_SAMPLES = 20_000
"""What `budget.samples: auto` means where nothing else limits the run."""


@cache
def known_keys() -> Mapping[str, tuple[str, ...]]:
    """Every key that some configuration has, and the choices that it belongs to. Imports the built-in components."""
    own = {
        "cluster": settable(ClusterSection),
        "cluster.transport": settable(Corrections),
        "optimizer.schedule": settable(Schedule),
        "budget": settable(Budget),
        "straggler": settable(Straggler),
        "failure": [field for field in settable(Failure) if field.name != "checkpoint"],
        **{f"straggler.{part}": settable(cls) for part, cls in PARTS.items()},
    }
    keys: dict[str, tuple[str, ...]] = dict.fromkeys(
        (*GROUPS, "optimizer.scaling", "evaluation.samples", "checkpoint.every", "checkpoint.cost", *RUN), ()
    )
    keys |= {f"{section}.{field.name}": () for section, entries in own.items() for field in entries}
    kinds: tuple[registry.Kind, ...] = ("strategy", "workload", "backend", "optimizer")
    for kind in kinds:
        for name in registry.BUILT_IN[kind]:
            with suppress(ImportError):
                for field in settable(registry.load(kind, name)):
                    key = f"{kind}.{field.name}"
                    keys[key] = (*keys.get(key, ()), f"{kind}={name}")
    return keys


def read_budget(reader: Reader) -> Budget | None:
    """The section `budget`; at least one limit. `samples: auto` gives way to any other limit."""
    values = reader.section("budget")
    if values.get("samples") == "auto":
        limited = values.get("updates") is not None or values.get("seconds") is not None
        samples = None if limited else DEFAULT_SAMPLES
        reader.values = {**reader.values, "budget": {**values, "samples": samples}}
    budget = reader.fill("budget", Budget, BUDGET)
    if not isinstance(reader.values.get("budget", {}), Mapping):
        return None
    if budget == Budget():
        reader.refuse(
            "budget.samples",
            None,
            "a run needs a limit: budget.updates, budget.samples or budget.seconds",
            "for example budget.updates=200",
        )
        return None
    return budget


def read_evaluation(reader: Reader) -> Any:
    """`evaluation.samples`: after how many the model is evaluated, 0 for never."""
    values = reader.section("evaluation")
    samples = reader.value("evaluation.samples", quantities.integer(0), values.get("samples", 0))
    reader.close("evaluation", values, ["samples"], ["samples"])
    return samples


def read_run(reader: Reader) -> dict[str, Any]:
    """The keys that are in no section."""
    values = reader.section("")
    run = {key: reader.value(key, kind, values.get(key, _DEFAULTS[key])) for key, kind in RUN.items()}
    reader.close("", values, _TOP, _TOP)
    return run
