"""distsim from Python, equal to the command line: the same settings, the same checks, the same folder of runs.

result = distsim.run("async_ps", backend="modeled", cluster="local4", **{"budget.updates": 200})
table = distsim.sweep({"strategy": ["all_reduce", "sync_ps"], "backend": "modeled", "repeat": [0, 1, 2]})
result = distsim.load("runs/async_ps-modeled-0123456789ab")
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path, PurePath
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from distsim import composition, execution, grammar, registry
from distsim.composition import Composed, Setting
from distsim.execution import Prepared
from distsim.interface import BadInput, Problem, Strategy
from distsim.interface.errors import DistsimError
from distsim.results import store
from distsim.results.store import Result

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["Result", "load", "prepare", "prepare_all", "run", "sweep"]


def run(strategy: str | Strategy | None = None, **settings: Any) -> Result:
    """Run one configuration, or give the stored run if it is finished.

    `strategy` is a name or an object (your own class, say; for real runs one that another process can import). `settings`
    are those of the command line: `backend="modeled"`, `budget={"updates": 200}` or `**{"budget.updates": 200}`. Raises
    `BadInput` with every problem before anything runs; a run that goes wrong is a result with a status.
    """
    chosen = {} if strategy is None else {"strategy": strategy}
    prepared = prepare([(key, plain(value)) for key, value in {**chosen, **settings}.items()])
    _refuse_engines([prepared])
    return execution.run(prepared)


def sweep(grid: Mapping[str, Any] | None = None, *, yes: bool = False, jobs: int = 1, **settings: Any) -> DataFrame:
    """Run every combination of a grid; one row each, failed ones too.

    The grid is given as a mapping, as keywords, or both. A list (or an array of numpy) is swept over, anything else is the
    same for all. Raises
    `BadInput`, before anything runs, with every problem of every combination; `yes` allows more than 1,000 runs. `jobs` of
    them go at once, real ones one after the other; 1 means in this process.
    """
    from distsim.jobs import run_all
    from distsim.results.table import table

    problems = [] if isinstance(jobs, int) and jobs >= 1 else [Problem("jobs", jobs, "a whole number 1 or more")]
    if grid is not None and not isinstance(grid, Mapping):
        problems.append(
            Problem("grid", grid, "a mapping from keys to values", "for example strategy=['all_reduce', 'sync_ps']")
        )
    if problems:
        raise BadInput(problems)
    every = {key: plain(value) for key, value in {**(grid or {}), **settings}.items()}
    prepared = prepare_all(grammar.expand_grid(every, yes))
    _refuse_engines(prepared)
    rows: dict[int, Result | str] = {}
    run_all(prepared, jobs, rows.__setitem__)
    if lost := [f"{prepared[number].name}: {row}" for number, row in rows.items() if isinstance(row, str)]:
        raise DistsimError(f"{len(lost)} of {len(prepared)} runs left no row, the first: {lost[0]}")
    return table([row for _, row in sorted(rows.items()) if isinstance(row, Result)])


def plain(value: Any) -> Any:
    """A value as configurations write it: numpy's numbers and arrays as Python's, a path as text."""
    if isinstance(value, PurePath):
        return str(value)
    if hasattr(value, "dtype") and hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [*map(plain, value)] if isinstance(value, list) else (*map(plain, value),)
    return value


def load(folder: Path | str) -> Result:
    """The stored run in `folder`. Raises `BadInput` if there is none."""
    return store.load(folder)


def prepare(
    settings: Iterable[Setting], problems: Iterable[Problem] = (), composed: Composed = MappingProxyType({})
) -> Prepared:
    """The run that `settings` describe. Raises `BadInput` with what is wrong with it, `problems` included."""
    values, bad_choices = composition.compose((named for setting in settings for named in _named(setting)), composed)
    prepared, bad_values = execution.prepare(values)
    found = [*problems, *bad_choices, *bad_values]
    if found or prepared is None:
        raise BadInput(found)
    return prepared


def prepare_all(runs: Iterable[Iterable[Setting]]) -> list[Prepared]:
    """Every run of a sweep. Raises `BadInput` with what is wrong with any of them, each problem once."""
    problems: dict[str, Problem] = {}
    prepared: dict[str, Prepared] = {}
    every = [list(settings) for settings in runs]
    composed = composition.put_together(every)
    for settings in every:
        try:
            one = prepare(settings, composed=composed)
        except BadInput as error:
            problems |= {str(problem): problem for problem in error.problems}
            continue
        if one.name in prepared:
            shown = " ".join(f"{key}={value}" for key, value in settings)
            again = Problem("-m", shown, "every run once: this one is in the sweep twice", "remove one of the equal values")
            problems[str(again)] = again
        prepared[one.name] = one
    if problems:
        raise BadInput(problems.values())
    return list(prepared.values())


def _refuse_engines(prepared: Iterable[Prepared]) -> None:
    """Raise `BadInput` for a real run in one of many processes that an engine has started: each would launch all ranks."""
    if any("world" in each.inputs for each in prepared):
        allowed = "an engine has started many processes of this program, and each would start all ranks"
        raise BadInput([Problem("backend", "real", allowed, "give the engine `-m distsim run ...` to start")])


def _named(setting: Setting) -> list[Setting]:
    """A strategy object as the settings of a configuration; any other setting as it is."""
    key, value = setting
    if not isinstance(value, Strategy):
        return [setting]
    if not is_dataclass(value):
        allowed = "a strategy is a frozen dataclass: its fields are its configuration"
        raise BadInput([Problem(key, type(value).__name__, allowed, "decorate it with @dataclass(frozen=True)")])
    given = [(f"{key}.{field.name}", getattr(value, field.name)) for field in fields(value) if field.init]
    return [(key, registry.offer(type(value))), *given]
