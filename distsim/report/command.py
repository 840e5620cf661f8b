"""The command that produces a run again; for a strategy that has no name on the command line, the call from Python.

Only what differs from conf/ is spelled out. The files are read as plain YAML, without composing them: a key too many does
no harm, and where a choice has no file every key is given. The folder of runs is left out: with it, the command would find
the stored run and do nothing, and the page would tell where its author keeps files.
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

from distsim import registry
from distsim.interface.straggler import Straggler
from distsim.interface.transport import Transport

_PACKAGE = Path(__file__).parent.parent
_GROUPS = ("strategy", "backend", "workload", "cluster", "straggler", "failure", "optimizer")
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "straggler": asdict(Straggler()),
    "cluster": {"slow": {}, "background": {}, "transport": {"preset": "none", **asdict(Transport())}},
}
"""What holds where a choice does not spell a key out."""
_SECTIONS = ("schedule", "transport", "spread", "episodes", "lengths", "experts")
"""Keys that are groups of keys."""


def reproduce(configs: Sequence[Mapping[str, Any]]) -> str:
    """The command for runs that differ in seed and repeat only; repeats are swept over."""
    first = configs[0]
    swept = {key: [*dict.fromkeys(config[key] for config in configs)] for key in ("seed", "repeat")}
    swept = {key: values for key, values in swept.items() if values != [0]}
    if first["strategy"]["name"] not in registry.installed("strategy"):
        return _call(first, swept)
    words = ["distsim", "run", *(["-m"] if any(len(values) > 1 for values in swept.values()) else [])]
    words += [f"{key}={_spelled(value)}" for key, value in _settings(first)]
    words += [f"{key}={','.join(map(str, values))}" for key, values in swept.items()]
    return " ".join(map(shlex.quote, words))


def _call(config: Mapping[str, Any], swept: Mapping[str, Sequence[int]]) -> str:
    """The call for a strategy that was given as an object: its class is known where it was run only."""
    name = config["strategy"]["name"]
    fields = ", ".join(f"{key}={value!r}" for key, value in config["strategy"].items() if key != "name")
    own = {key: value for key, value in _settings(config) if key.partition(".")[0] != "strategy"}
    settings = [f"{key!r}: {value!r}" for key, value in own.items()]
    settings += [f"{key!r}: {key if len(values) > 1 else values[0]}" for key, values in swept.items()]
    call = f"distsim.run({name}({fields}), **{{{', '.join(settings)}}})"
    loops = [f"for {key} in {values!r}" for key, values in swept.items() if len(values) > 1]
    return (f"[{' '.join([call, *loops])}]" if loops else call) + f"  # in Python, with your own class {name}"


def _settings(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    run = _choice("", "run")
    for group in _GROUPS:
        section = config.get(group) or {"name": "none"}  # runs of before failures were there
        yield group, section["name"]
        known = _laid_over(_laid_over(_DEFAULTS.get(group, {}), run.get(group) or {}), _choice(group, str(section["name"])))
        yield from _differing(group, section, known)
    yield from _differing("evaluation", config.get("evaluation") or {}, run["evaluation"])
    yield from _differing("checkpoint", config.get("checkpoint") or {}, run["checkpoint"])
    yield from ((f"budget.{key}", value) for key, value in (config.get("budget") or {}).items() if value is not None)
    if config.get("label"):
        yield "label", config["label"]


def _differing(group: str, section: Mapping[str, Any], known: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    for key, value in section.items():
        default = known.get(key)
        if key in _SECTIONS:
            yield from _differing(f"{group}.{key}", value, default or {})
        elif key != "name" and value is not None and _spelled(value) != _spelled(default):
            yield f"{group}.{key}", value


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


def _laid_over(values: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Nested values with those of `others` in place of their own."""
    result = dict(values)
    for key, value in others.items():
        here = result.get(key)
        result[key] = _laid_over(here, value) if isinstance(here, Mapping) and isinstance(value, Mapping) else value
    return result


@cache
def _choice(group: str, name: str) -> Mapping[str, Any]:
    """What the file of a choice says, or those of several that are joined."""
    joined: Mapping[str, Any] = {}
    for part in name.split("+"):
        joined = _laid_over(joined, _file(group, part))
    return joined


def _file(group: str, name: str) -> Mapping[str, Any]:
    for conf in (_PACKAGE / "conf", _PACKAGE.parent / "conf"):
        path = conf / group / f"{name}.yaml"
        if path.is_file() and path.parent.resolve() == (conf / group).resolve():
            return yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    return {}
