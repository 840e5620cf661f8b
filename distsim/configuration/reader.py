"""Reading a composed configuration: every problem is collected, none is raised before the end.

A section of the configuration fills a frozen dataclass: its fields are the keys, and a kind a field says what is allowed.
Where no kind is given it follows from the field: `*_bytes` is a size, `*_seconds` a time, the rest goes by the annotation,
narrowed by the field's metadata `at_least`, `above` and `at_most`.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from distsim import registry
from distsim.configuration import quantities
from distsim.configuration.quantities import Kind, Refused
from distsim.interface import Problem

D = TypeVar("D")

FAILED = object()
"""What reading a bad value gives: its problem is noted."""


class Reader:
    """Reads sections and keeps their problems.

    `known` gives every key of any configuration with the choices that have it; it is asked for suggestions only.
    """

    def __init__(self, values: Mapping[str, Any], known: Callable[[], Mapping[str, tuple[str, ...]]]) -> None:
        self.values = values
        self.problems: list[Problem] = []
        self._known = known

    def refuse(self, key: str, value: object, allowed: str, suggestion: str = "") -> None:
        """Note a problem, once."""
        problem = Problem(key, value, allowed, suggestion)
        if problem not in self.problems:
            self.problems.append(problem)

    def value(self, key: str, kind: Kind, value: Any) -> Any:
        """`value` as `kind` reads it, or FAILED."""
        try:
            return kind(value)
        except Refused as refused:
            self.refuse(key, value, refused.allowed, refused.suggestion)
            return FAILED

    def section(self, path: str) -> dict[str, Any]:
        """The values of a section; `path` "" is the top, and a dot leads into a section of a section."""
        values: Any = self.values
        for part in filter(None, path.split(".")):
            values = (
                values.get(part, {}) if isinstance(values, Mapping) else {}
            )  # the outer one is refused where it is read
        if not isinstance(values, Mapping):
            keys = [key for key in self._known() if key.startswith(f"{path}.")]
            self.refuse(path, values, "a group of keys", f"its keys are {', '.join(keys)}")
            return {}
        return {str(key): value for key, value in values.items()}

    def fill(self, path: str, cls: type[D], kinds: Mapping[str, Kind] | None = None, skip: Iterable[str] = ()) -> D | None:
        """An instance of the dataclass `cls` from a section; None after a problem. Keys in `skip` are read elsewhere."""
        values, found, good = self.section(path), {}, True
        kinds = {**kinds_of(cls), **(kinds or {})}
        for field in settable(cls):
            key = f"{path}.{field.name}"
            if field.name in values:
                found[field.name] = self.value(key, kinds[field.name], values[field.name])
            elif field.default is MISSING and field.default_factory is MISSING:
                self.refuse(key, None, "must be given")
                found[field.name] = FAILED
            good = good and found.get(field.name) is not FAILED
        good = self.close(path, values, {*found, *skip}, [*kinds, *skip]) and good
        return cls(**found) if good else None

    def component(self, kind: registry.Kind, kinds: Mapping[str, Kind] | None = None, skip: Iterable[str] = ()) -> Any:
        """An instance of the class that the section's name stands for, or None after a problem.

        `kinds` are allowed to hold more keys than the class has fields.
        """
        name = self.section(kind).get("name")
        try:
            cls = registry.load(kind, str(name))
        except KeyError:
            names = registry.names(kind)
            self.refuse(kind, name, "one of " + ", ".join(names), quantities.near(str(name), names))
            return None
        except ImportError as error:
            self.refuse(kind, name, f"cannot be imported ({error})", "install what it needs")
            return None
        own = {field.name for field in settable(cls)}
        return self.fill(kind, cls, {key: value for key, value in (kinds or {}).items() if key in own}, ("name", *skip))

    def close(self, path: str, values: Mapping[str, Any], read: Iterable[str], names: Iterable[str]) -> bool:
        """Refuse keys that nobody read; `names` are those that belong here. True if there was none."""
        unknown = [key for key in values if key not in set(read)]
        for key in unknown:
            where = f"{path}.{key}" if path else key
            self.refuse(where, values[key], "no such key", self._similar(path, key, list(names)))
        return not unknown

    def _similar(self, path: str, key: str, names: list[str]) -> str:
        known = self._known()
        if owners := known.get(f"{path}.{key}" if path else key):
            return f"a key of {' and '.join(owners)}"
        elsewhere = [k for k in known if k.rpartition(".")[2] == key]
        if elsewhere:
            nearby = [k for k in elsewhere if path and k.startswith(f"{path}.")]
            return f"did you mean {' or '.join(nearby or elsewhere)}?"
        inside = f"{path}." if path else ""
        leaves = {k.rpartition(".")[2]: k for k in known if k.startswith(inside)} | {name: inside + name for name in names}
        match = quantities.near(key, leaves).removeprefix("did you mean ").rstrip("?")
        return f"did you mean {leaves[match]}?" if match else f"keys here: {', '.join(names)}" if names else ""


def settable(cls: type[Any]) -> list[Field[Any]]:
    """The fields of a component that a configuration sets."""
    return [field for field in fields(cls) if field.init] if is_dataclass(cls) else []


def kinds_of(cls: Any) -> Mapping[str, Kind]:
    """The kind of each field of a dataclass."""
    return _kinds_of(cls)


@cache
def _kinds_of(cls: Any) -> Mapping[str, Kind]:
    hints = get_type_hints(cls)
    return {field.name: _kind(field.name, hints[field.name], field.metadata) for field in settable(cls)}


def _kind(name: str, hint: Any, limits: Mapping[str, Any]) -> Kind:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType) and type(None) in arguments:
        return quantities.optional(_kind(name, next(a for a in arguments if a is not type(None)), limits))
    if origin is Literal:
        return quantities.choice(*map(str, arguments))
    if origin is tuple:
        return _several(_kind(name, arguments[0], limits))
    if hint is bool:
        return quantities.boolean
    if hint is int:
        return quantities.integer(limits.get("at_least", -(2**63)), limits.get("at_most", 2**63 - 1))
    if hint is float and name.endswith("_bytes"):
        return quantities.size
    if hint is float and name.endswith("_seconds"):
        return quantities.seconds(above=limits.get("above", float("-inf")))
    if hint is float:
        return quantities.number(**{key: limits[key] for key in ("at_least", "above", "at_most", "below") if key in limits})
    return quantities.text


def _several(kind: Kind) -> Kind:
    def read(value: Any) -> tuple[Any, ...]:
        if isinstance(value, str) or not isinstance(value, (list, tuple)):
            raise Refused("a list, like [64,32]")
        return tuple(kind(item) for item in value)

    return read
