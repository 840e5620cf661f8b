"""The command that produces a run again.

Only what differs from conf/ is spelled out. The files are read as plain YAML, without composing them: a key too many does
no harm, and where a choice has no file every key is given.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from distsim.interface.straggler import Straggler

_PACKAGE = Path(__file__).parent.parent
_GROUPS = ("strategy", "backend", "workload", "cluster", "straggler")
_DEFAULTS = {"straggler": asdict(Straggler())}
"""What holds where a choice does not spell a key out."""


def reproduce(configs: Sequence[Mapping[str, Any]]) -> str:
    """The command for runs that differ in seed and repeat only; repeats are swept over."""
    first = configs[0]
    seeds, repeats = ([*dict.fromkeys(str(config[key]) for config in configs)] for key in ("seed", "repeat"))
    swept = len(seeds) > 1 or len(repeats) > 1
    words = ["distsim", "run", *(["-m"] if swept else []), *_overrides(first)]
    words += [f"seed={','.join(seeds)}"] if seeds != ["0"] else []
    words += [f"repeat={','.join(repeats)}"] if repeats != ["0"] else []
    return " ".join(map(shlex.quote, words))


def _overrides(config: Mapping[str, Any]) -> Iterator[str]:
    for group in _GROUPS:
        section = config[group]
        yield f"{group}={section['name']}"
        yield from _differing(group, section, {**_DEFAULTS.get(group, {}), **_choice(group, str(section["name"]))})
    run = _choice("", "run")
    for group in ("optimizer", "evaluation"):
        yield from _differing(group, config.get(group) or {}, run.get(group) or {})
    yield from (f"budget.{key}={value}" for key, value in (config.get("budget") or {}).items() if value is not None)
    if config.get("label"):
        yield f"label={_spelled(config['label'])}"


def _differing(group: str, section: Mapping[str, Any], known: Mapping[str, Any]) -> Iterable[str]:
    for key, value in section.items():
        default = known.get(key)
        if key != "name" and value is not None and _spelled(value) != _spelled(default):
            yield f"{group}.{key}={_spelled(value)}"


def _spelled(value: Any) -> str:
    """A value in Hydra's override grammar."""
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_spelled(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_spelled, value)) + "]"
    if isinstance(value, str):
        return value if value and all(c.isalnum() or c in "._/-:" for c in value) else json.dumps(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return f"{int(value)}"
    return "null" if value is None else json.dumps(value)


@cache
def _choice(group: str, name: str) -> Mapping[str, Any]:
    for conf in (_PACKAGE / "conf", _PACKAGE.parent / "conf"):
        path = conf / group / f"{name}.yaml"
        if path.is_file() and path.parent.resolve() == (conf / group).resolve():
            return yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    return {}
