"""Which runs may be compared with which.

    case        one setting in which strategies compete: workload, cluster, P, stragglers, and the mode it was run in
    contender   one strategy with its fields and its optimizer, and all its repeats in a case
    pair        two runs of two contenders with equal (seed, repeat): they saw the same data and the same stragglers

A run whose label starts with "control" is shown and not ranked: a strategy at a learning rate that its tuning did not
choose.

Budgets and snapshots are no part of a case: the time until a loss does not depend on how long a run went on. If a contender
has one (seed, repeat) twice, the run with more samples stands.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol

from distsim.interface.trace import Trace

BADGES = {"real": "measured", "modeled": "modeled", "cosimulated": "cosimulated"}
"""Backend -> what its numbers are called."""
MODES = ("real", "cosimulated", "modeled")
"""Backends, the strongest evidence first."""


CONTROL = "control"

_Key = tuple[str, str, str, int, str, bool, str]


class Run(Protocol):
    """What is needed of a stored run; results/store.py says what its fields hold."""

    @property
    def config(self) -> Mapping[str, Any]: ...
    @property
    def summary(self) -> Mapping[str, Any]: ...
    def trace(self) -> list[Trace]: ...


@dataclass(frozen=True)
class Contender:
    """One strategy in one case: its label, the same on the whole page, and its repeats by (seed, repeat)."""

    label: str
    runs: Mapping[tuple[int, int], Run]

    @property
    def config(self) -> Mapping[str, Any]:
        """The configuration of its first run."""
        return next(iter(self.runs.values())).config

    @property
    def is_control(self) -> bool:
        """True if it is shown for comparison and takes no place in the ranking."""
        return all(_is_control(run.config) for run in self.runs.values())

    @property
    def done(self) -> list[Run]:
        """The runs that ended as planned."""
        return [run for run in self.runs.values() if run.summary["status"] == "done"]

    def typical(self, key: str) -> float | None:
        """The median over its done runs of a number of the summary; None where no run has it."""
        values = [run.summary[key] for run in self.done if run.summary.get(key) is not None]
        return float(median(values)) if values else None

    def breakdown(self) -> dict[str, float] | None:
        """The mean division of the workers' time over its done runs."""
        found = [run.summary["breakdown"] for run in self.done if run.summary.get("breakdown")]
        return {kind: sum(b[kind] for b in found) / len(found) for kind in found[0]} if found else None


@dataclass(frozen=True)
class Case:
    """One setting and its contenders, in order of their labels."""

    mode: str
    workload: str
    cluster: str
    workers: int
    straggler: str
    """In words; empty without any."""
    jitters: bool
    """True if compute times are drawn at random."""
    identity: str
    """Every field of workload and network: two switches of different bandwidth are two clusters."""
    contenders: tuple[Contender, ...]

    @property
    def badge(self) -> str:
        """measured, modeled or cosimulated."""
        return BADGES[self.mode]

    @property
    def setting(self) -> tuple[str, int, str]:
        """The case without its mode: what a prediction and a measurement share."""
        return self.identity, self.workers, self.straggler

    def __str__(self) -> str:
        return f"{self.cluster}, {self.workers} workers, {self.straggler or 'no straggler'}"

    def contender(self, label: str) -> Contender | None:
        """The contender with this label, if it takes part."""
        return next((c for c in self.contenders if c.label == label), None)


def cases(runs: Iterable[Run]) -> list[Case]:
    """Sort runs into cases and contenders; the strongest evidence first, then fewer workers, then without stragglers."""
    runs = list(runs)
    labels = _labels(runs)
    grouped: dict[_Key, dict[str, dict[tuple[int, int], Run]]] = {}
    for run in runs:
        repeats = grouped.setdefault(_case(run.config), {}).setdefault(labels[_contender(run.config)], {})
        pair = (int(run.config["seed"]), int(run.config["repeat"]))
        if pair not in repeats or _samples(run) > _samples(repeats[pair]):
            repeats[pair] = run
    found = [Case(*key, _ordered(contenders)) for key, contenders in grouped.items()]
    return sorted(found, key=lambda c: (c.workload, MODES.index(c.mode), c.cluster, c.workers, c.straggler, c.identity))


def _ordered(contenders: Mapping[str, Mapping[tuple[int, int], Run]]) -> tuple[Contender, ...]:
    return tuple(Contender(label, contenders[label]) for label in sorted(contenders))


def _samples(run: Run) -> float:
    return float(run.summary.get("samples") or 0.0)


def _case(config: Mapping[str, Any]) -> _Key:
    workload, cluster, straggler = config["workload"], config["cluster"], config.get("straggler") or {}
    name = f"{cluster['name']} {cluster['bandwidth']}" if cluster.get("network") == "switch" else f"{cluster['name']}"
    return (
        config["backend"]["name"],
        workload["name"],
        name,
        int(cluster["workers"]),
        straggler_in_words(straggler),
        straggler.get("jitter", "none") != "none",
        _canonical([workload, {key: value for key, value in cluster.items() if key not in ("workers", "profile")}]),
    )


def straggler_in_words(straggler: Mapping[str, Any]) -> str:
    """What slows workers down, in words; empty if nothing does."""
    slow = [(int(worker), float(factor)) for worker, factor in (straggler.get("slow") or {}).items()]
    words = [f"worker {worker} slowed {factor:g}x" for worker, factor in sorted(slow) if factor != 1.0]
    jitter = straggler.get("jitter", "none")
    if jitter != "none":
        scale = {"lognormal": f" (sigma {straggler.get('sigma', 0):g})", "exponential": ""}
        words.append(f"{jitter.replace('_', ' ')} jitter" + scale.get(jitter, f" (scale {straggler.get('scale', 0):g})"))
    return ", ".join(words)


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _contender(config: Mapping[str, Any]) -> str:
    return _canonical([config["strategy"], config["optimizer"]])


def _is_control(config: Mapping[str, Any]) -> bool:
    return str(config.get("label") or "").startswith(CONTROL)


def _labels(runs: Sequence[Run]) -> dict[str, str]:
    """A short name for every (strategy, optimizer): the strategy's, with the fields in which namesakes differ.

    The learning rate is told of controls, and where a strategy competes with several rates in one case: tuned rates may
    differ between cases.
    """
    namesakes: dict[str, list[Mapping[str, Any]]] = {}
    optimizers: dict[tuple[Any, ...], set[str]] = {}
    for run in runs:
        strategy = run.config["strategy"]
        known = namesakes.setdefault(strategy["name"], [])
        if strategy not in known:
            known.append(strategy)
        if not _is_control(run.config):
            rates = optimizers.setdefault((_canonical(strategy), _case(run.config)), set())
            rates.add(_canonical(run.config["optimizer"]))
    several = {strategy for (strategy, _), found in optimizers.items() if len(found) > 1}
    labels = {}
    for run in sorted(runs, key=lambda run: not _is_control(run.config)):  # who also competes is named as that
        strategy, optimizer = run.config["strategy"], run.config["optimizer"]
        told = [
            f"{key.replace('_', ' ')} {value}"
            for key, value in strategy.items()
            if key != "name" and any(other.get(key) != value for other in namesakes[strategy["name"]])
        ]
        if _canonical(strategy) in several or _is_control(run.config):
            told += [f"{key.replace('_', ' ')} {value:g}" for key, value in optimizer.items() if value]
        labels[_contender(run.config)] = ", ".join([strategy["name"], *told])
    return labels
