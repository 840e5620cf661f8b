"""What may be set in a lesson, and what is changed of a strategy's defaults so that a picture has room for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from distsim.configuration import quantities
from distsim.configuration.reader import Reader, settable
from distsim.configuration.sections import known_keys
from distsim.configuration.stragglers import read_straggler
from distsim.explain import bench
from distsim.interface import Problem, Straggler, Strategy
from distsim.results.naming import field_in_words

KEYS = ("straggler", "cluster.workers", "budget.updates")
"""What can be set besides the keys of the strategy and of the straggler."""
MOST_WORKERS = 64
MOST_UPDATES = 1000

BETWEEN = ("every", "period")
"""Fields that say how many steps a worker takes between two exchanges."""
DRAWN: Mapping[str, Any] = {"every": 2, "period": 2, "bucket_bytes": 2.0 * bench.SCALARS * bench.ITEMSIZE}
"""By name of the field: two steps between exchanges, two blocks a bucket."""
DRAWN_OF: Mapping[str, Mapping[str, Any]] = {"streaming_diloco": {"every": 4}}
UPDATES: Mapping[str, int] = {"pipedream": 6, "pipedream_2bw": 4}
"""Updates until a pipeline that never drains has shown how it goes on."""
SLOW = 1.5
"""How many times longer the last worker computes, where a strategy is about not waiting for it."""


@dataclass(frozen=True)
class Settings:
    """What is to be drawn, and what of it was chosen here."""

    name: str
    strategy: Strategy
    workers: int
    straggler: Straggler
    updates: int
    chosen: tuple[str, ...]
    """In words."""


def foreign(settings: Iterable[tuple[str, Any]]) -> list[Problem]:
    """The settings that a lesson has no use for."""
    known = [key for key in known_keys() if key.startswith(("strategy.", "straggler."))]
    return [
        Problem(
            key,
            value,
            f"a lesson has a model and a cluster of its own: only strategy.*, straggler.*, {', '.join(KEYS)} can be set",
            quantities.near(key, [*KEYS, *known]),
        )
        for key, value in settings
        if key not in KEYS and not key.startswith(("strategy.", "straggler."))
    ]


def read(values: Mapping[str, Any], given: Iterable[str]) -> tuple[Settings | None, list[Problem]]:
    """The lesson that a composed configuration describes, of which `given` keys are the user's, or its problems."""
    given = set(given)
    reader = Reader(values, known_keys)
    name = str(reader.section("strategy").get("name"))
    workers = reader.value("cluster.workers", quantities.integer(1, MOST_WORKERS), _given(reader, given, "cluster.workers"))
    updates = reader.value("budget.updates", quantities.integer(1, MOST_UPDATES), _given(reader, given, "budget.updates"))
    strategy = reader.component("strategy")
    told: list[str] = []
    if strategy is not None:
        strategy, told = _drawn(reader, name, strategy, given)
    straggler, _ = read_straggler(reader, workers if isinstance(workers, int) else None)
    if strategy is not None and isinstance(workers, int):
        reader.problems += strategy.problems(workers, bench.model())
    if reader.problems or strategy is None or straggler is None:
        return None, reader.problems
    gradients = strategy.gradients_an_update(workers)
    if gradients < workers > 1 and not any(key.startswith("straggler") for key in given):
        straggler = Straggler(slow={workers - 1: SLOW})
        told.append(f"worker {workers - 1} computes {SLOW:g} times as long (straggler=none makes all alike)")
    if "budget.updates" not in given:
        updates = _updates(name, strategy, workers, gradients)
    return Settings(name, strategy, workers, straggler, updates, tuple(told)), []


def _given(reader: Reader, given: Iterable[str], key: str) -> Any:
    section, _, leaf = key.partition(".")
    return reader.section(section).get(leaf) if key in given else {"cluster.workers": bench.WORKERS}.get(key, 1)


def _drawn(reader: Reader, name: str, strategy: Any, given: Iterable[str]) -> tuple[Any, list[str]]:
    """The strategy with what `DRAWN` says, but for what the user set; and what was changed, in words."""
    wanted = {**DRAWN, **DRAWN_OF.get(name, {})}
    own = {field.name for field in settable(type(strategy))}
    changed = {
        key: value
        for key, value in wanted.items()
        if key in own and f"strategy.{key}" not in given and getattr(strategy, key) != value
    }
    if not changed:
        return strategy, []
    told = [
        f"strategy.{key}={value:g} (its default: {field_in_words(key, getattr(strategy, key))})"
        for key, value in changed.items()
    ]
    return replace(strategy, **changed), told


def _updates(name: str, strategy: Any, workers: int, gradients: int) -> int:
    """Two gradients of every worker, or two exchanges; one step of a pipeline that is cut into micro-batches."""
    if name in UPDATES:
        return UPDATES[name]
    between = next((value for key in BETWEEN if isinstance(value := getattr(strategy, key, None), int)), 1)
    pieces = getattr(strategy, "microbatches", 1)
    if gradients == workers and between == 1 and not strategy.server_count(workers) and pieces > 1:
        return 1
    return max(1, -(-2 * workers * between // gradients))
