"""Sorts runs into cases, in which contenders compete; `distsim.results.keys` says what makes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol

from distsim.interface.trace import Trace
from distsim.results.keys import CaseKey, Config, case_key, contender_key, is_control, is_random, pair_key
from distsim.results.naming import Places, labels, network_in_words
from distsim.results.summary import OUT_OF_MEMORY

BADGES = {"real": "measured", "modeled": "modeled", "cosimulated": "cosimulated"}
"""Backend -> what its numbers are called."""
MODES = ("real", "cosimulated", "modeled")
"""Backends, the strongest evidence first."""


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
        return all(is_control(run.config) for run in self.runs.values())

    @property
    def fits(self) -> bool:
        """False if it needs more memory than there is: an answer, and no time to rank it by."""
        return bool(self.done) or all(run.summary["status"] != OUT_OF_MEMORY for run in self.runs.values())

    @property
    def done(self) -> list[Run]:
        """The runs that ended as planned."""
        return [run for run in self.runs.values() if run.summary["status"] == "done"]

    def typical(self, key: str) -> float | None:
        """The median over its done runs of a number of the summary; None where no run has it."""
        values = [run.summary[key] for run in self.done if run.summary.get(key) is not None]
        return float(median(values)) if values else None

    @property
    def memory(self) -> float | None:
        """The bytes of the rank that held most, in the run that needed most; None where nobody weighed."""
        found = [run.summary["memory"]["bytes"] for run in self.runs.values() if run.summary.get("memory")]
        return max(found, default=None)

    def breakdown(self) -> dict[str, float] | None:
        """The mean division of the workers' time over its done runs."""
        found = [run.summary["breakdown"] for run in self.done if run.summary.get("breakdown")]
        return {kind: sum(b[kind] for b in found) / len(found) for kind in found[0]} if found else None


@dataclass(frozen=True)
class Case:
    """One setting and its contenders, in order of their labels."""

    key: CaseKey
    cluster: str
    """In words, like those below."""
    model: str
    """What tells its model from others on the page; empty if there is one only."""
    options: str
    """The options and the label that tell it from other cases of its mode; empty without any."""
    jitters: bool
    """True if compute times are drawn at random."""
    contenders: tuple[Contender, ...]

    @property
    def mode(self) -> str:
        """The backend."""
        return self.key.mode

    @property
    def workload(self) -> str:
        """Every field of the workload: what makes losses comparable."""
        return self.key.workload

    @property
    def workers(self) -> int:
        """How many train."""
        return self.key.workers

    @property
    def straggler(self) -> str:
        """In words; empty without any."""
        return self.key.straggler

    @property
    def badge(self) -> str:
        """measured, modeled or cosimulated."""
        return BADGES[self.mode]

    @property
    def site(self) -> tuple[str, str]:
        """Every field of workload and network: two switches of different bandwidth are two clusters."""
        return self.key.workload, self.key.cluster

    @property
    def setting(self) -> tuple[tuple[str, str], int, str]:
        """The case without its mode: what a prediction and a measurement share."""
        return self.site, self.workers, self.straggler

    @property
    def where(self) -> str:
        """The cluster, with what tells it from other cases on the page."""
        return ", ".join(filter(None, (self.cluster, self.model, self.options)))

    @property
    def network(self) -> str:
        """What its bytes cross, in words."""
        return network_in_words(self.contenders[0].config)

    @property
    def slowness(self) -> str:
        """The straggler, or that there is none."""
        return self.straggler or "no straggler"

    def __str__(self) -> str:
        return ", ".join(filter(None, (self.cluster, f"{self.workers} workers", self.model, self.options, self.slowness)))

    def contender(self, label: str) -> Contender | None:
        """The contender with this label, if it takes part."""
        return next((c for c in self.contenders if c.label == label), None)


def cases(runs: Iterable[Run]) -> list[Case]:
    """Sort runs into cases and contenders; the strongest evidence first, then fewer workers, then without stragglers.

    There is one run of a contender for each (seed, repeat), as `distsim.results.selection` leaves them.
    """
    runs = list(runs)
    named = labels([run.config for run in runs])
    places = Places([run.config for run in runs])
    grouped: dict[CaseKey, dict[str, dict[tuple[int, int], Run]]] = {}
    for run in runs:
        repeats = grouped.setdefault(case_key(run.config), {}).setdefault(named[contender_key(run.config)], {})
        assert pair_key(run.config) not in repeats, f"two runs of {named[contender_key(run.config)]} are one pair"
        repeats[pair_key(run.config)] = run
    found = [_case(key, contenders, places) for key, contenders in grouped.items()]
    return sorted(found, key=lambda c: (MODES.index(c.mode), c.cluster, c.workers, c.model, c.straggler, c.key))


def _case(key: CaseKey, contenders: Mapping[str, Mapping[tuple[int, int], Run]], places: Places) -> Case:
    ordered = tuple(Contender(label, contenders[label]) for label in sorted(contenders))
    config: Config = ordered[0].config
    by_rate = (config.get("failure") or {}).get("mtbf") is not None
    jitters = by_rate or is_random(config.get("straggler") or {})
    return Case(key, places.cluster(config), places.model(config), places.options(config), jitters, ordered)
