"""Which of the given runs a page is about: a folder may hold runs of several versions, calibrations and days.

Rules, applied one after the other; each keeps what agrees with the newest run of its group and counts what it leaves out:
1.  One version of distsim on the whole page: runs of different source are not compared.
2.  One set of other inputs in a case: the same profile, data, machine and versions of libraries for all its contenders.
3.  One version of a user's own strategy for a contender.
4.  One placement of a contender's ranks on hosts: strategies with servers have more ranks than others.
5.  One run for each (case, contender, seed, repeat).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from distsim.results.keys import canonical, case_key, contender_key, pair_key


class Described(Protocol):
    """A run as far as its choice depends on it."""

    @property
    def config(self) -> Mapping[str, Any]: ...
    @property
    def summary(self) -> Mapping[str, Any]: ...


AnyRun = TypeVar("AnyRun", bound=Described)


@dataclass(frozen=True)
class Rule:
    """Of the runs of one group, those of the newest one's version stay."""

    group: Callable[[Described], Hashable]
    version: Callable[[Described], Hashable]
    left_out: str
    """Why the others do not."""


def select(runs: Iterable[AnyRun]) -> tuple[list[AnyRun], list[str]]:
    """The runs that stay, in their order, and a note for each rule that left some out."""
    kept = list(runs)
    notes = []
    for rule in RULES:
        newest = _newest(kept, rule.group)
        staying = [run for run in kept if rule.version(run) == rule.version(newest[rule.group(run)])]
        count = len(kept) - len(staying)
        if count:
            notes.append(f"{count} older {'run is' if count == 1 else 'runs are'} left out: {rule.left_out}")
        kept = staying
    return kept, notes


def _newest(runs: Sequence[AnyRun], group: Callable[[Described], Hashable]) -> dict[Hashable, AnyRun]:
    """The run of each group that started last; of those that started at once, the one that is given last."""
    newest: dict[Hashable, AnyRun] = {}
    for run in sorted(runs, key=lambda run: str(run.summary.get("started") or "")):
        newest[group(run)] = run
    return newest


def _inputs(run: Described) -> Mapping[str, str]:
    return run.summary.get("inputs") or {}


def _shared(run: Described) -> str:
    return canonical({key: value for key, value in _inputs(run).items() if key not in ("source", "strategy", "world")})


RULES = (
    Rule(
        lambda run: None,
        lambda run: _inputs(run).get("source"),
        "made by another version of distsim, and versions are not compared",
    ),
    Rule(
        lambda run: case_key(run.config),
        _shared,
        "made with another calibration, other data, on another machine or with other library versions",
    ),
    Rule(
        lambda run: (case_key(run.config), contender_key(run.config)),
        lambda run: _inputs(run).get("strategy"),
        "made by another version of their strategy",
    ),
    Rule(
        lambda run: (case_key(run.config), contender_key(run.config)),
        lambda run: _inputs(run).get("world"),
        "made with other numbers of ranks on a host",
    ),
    Rule(
        lambda run: (case_key(run.config), contender_key(run.config), pair_key(run.config)),
        id,
        "run again since, with the same seed and repeat",
    ),
)
