"""From settings to a configuration: the groups of conf/ composed by Hydra, then every setting put in its place.

The one place that knows Hydra's composition; grammar.py reads its overrides, sweeping.py has its multirun. A setting is a
dotted key and a plain value; a group is set by the name of a choice (`strategy=async_ps`). Keys and values are checked
afterwards, in distsim.configuration, which knows what they mean; here only what cannot be composed is refused.

Stragglers are made of parts, so several choices make one: `straggler=lognormal+one_slow`. Their files must not set the same
key. In whatever order they are named, it is one straggler of one name.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import Any

from distsim import registry
from distsim.configuration.quantities import near
from distsim.configuration.sections import GROUPS
from distsim.interface import BadInput, Problem

JOINED = ("straggler",)
"""Groups of which several choices make one."""

Setting = tuple[str, Any]
Composed = Mapping[tuple[Setting, ...], dict[str, Any]]
"""Configurations by the choices that they are composed of."""

_PACKAGE = Path(__file__).resolve().parent


def conf() -> Path:
    """The folder of configurations: inside an installed package, beside it in a source checkout."""
    inside = _PACKAGE / "conf"
    return inside if inside.is_dir() else _PACKAGE.parent / "conf"


def choices(group: str) -> list[str]:
    """The names that a group offers."""
    files = sorted(path.stem for path in (conf() / group).glob("*.yaml"))
    if group == "strategy":  # in the registry's order, with those of other packages
        return list(dict.fromkeys([*(n for n in registry.BUILT_IN["strategy"] if n in files), *registry.names("strategy")]))
    return files


def together(group: str, name: str) -> tuple[dict[str, Any], list[Problem]]:
    """What the files of choices say that `name` joins by `+`, as one choice, and what is wrong with that."""
    import yaml  # type: ignore[import-untyped]

    parts, known, problems = name.split("+"), choices(group), []
    for part in dict.fromkeys(parts):
        if part not in known:
            problems.append(Problem(group, name, "joined by +, each one of " + ", ".join(known), near(part, known)))
        elif parts.count(part) > 1:
            problems.append(Problem(group, name, "every choice once", f"remove one {part}"))
    joined: dict[str, Any] = {}
    for part in [] if problems else sorted(parts):
        said = yaml.safe_load((conf() / group / f"{part}.yaml").read_text(encoding="utf-8"))
        for key in _join(joined, {key: value for key, value in said.items() if key != "name"}):
            problems.append(Problem(group, name, f"two of them set {group}.{key}: a straggler has one", "leave one out"))
    return {"name": "+".join(sorted(parts)), **joined}, problems


def _join(into: dict[str, Any], values: Mapping[str, Any]) -> list[str]:
    """Put what is new into a nested dict; the keys that are there already."""
    twice = []
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(into.setdefault(key, {}), dict):
            twice += [f"{key}.{inner}" for inner in _join(into[key], value)]
        elif key in into:
            twice.append(str(key))
        else:
            into[key] = value
    return twice


def compose(settings: Iterable[Setting], composed: Composed = MappingProxyType({})) -> tuple[dict[str, Any], list[Problem]]:
    """The configuration that `settings` describe, its values unchecked, and the choices that do not exist.

    Of a group with such a choice the settings are left out: nobody knows what they should be. What is in `composed` is not
    composed again.
    """
    settings = list(settings)
    problems = [problem for key, value in settings if key in GROUPS for problem in _bad_choice(key, value)]
    bad = {problem.key for problem in problems}
    problems += _said_twice(settings)
    settings = [setting for setting in settings if setting[0].partition(".")[0] not in bad]
    chosen = tuple(setting for setting in settings if setting[0] in GROUPS)
    result = copy.deepcopy(composed.get(chosen) or _compose_groups(chosen))
    for key, value in settings:
        if key not in GROUPS:
            _put(result, key, value)
    return result, problems


def _said_twice(settings: Iterable[Setting]) -> list[Problem]:
    """What two settings set, one of them as a dict around it: Hydra takes the last, and nobody hears of the other."""
    said: dict[tuple[str, ...], Setting] = {}
    problems = []
    for key, value in settings:
        paths = [] if key in GROUPS else list(_paths(tuple(key.split(".")), value))
        for path in paths:
            before = next((there for there in said if there[: len(path)] == path[: len(there)]), None)
            if before is not None and said[before][0] != key:
                other, its = said[before]
                again = f"{other}={its} sets {'.'.join(path)}, too: remove one"
                problems.append(Problem(key, value, "every key once", again))
        said |= dict.fromkeys(paths, (key, value))
    return problems


def _paths(path: tuple[str, ...], value: Any) -> Iterator[tuple[str, ...]]:
    """What a setting sets."""
    if isinstance(value, Mapping):
        for name, entry in value.items():
            yield from _paths((*path, str(name)), entry)
    else:
        yield path


def put_together(runs: Iterable[Iterable[Setting]]) -> Composed:
    """The choices that the runs of a sweep combine, put together from each choice composed alone; nothing if to compose
    every combination is less work, or if some file reaches beyond its own group, so that only Hydra knows what it means."""
    chosen = {tuple((key, value) for key, value in run if key in GROUPS and isinstance(value, str)) for run in runs}
    alone = {choice for choices_made in chosen for choice in choices_made}
    if len(alone) + 1 >= len(chosen) or any(_bad_choice(*choice) for choice in alone):
        return {}
    plain = _compose_groups(())
    parts = {choice: _compose_groups((choice,)) for choice in alone}
    if any({**part, group: plain[group]} != plain for (group, _), part in parts.items()):
        return {}
    return {choices_made: {**plain, **{c[0]: parts[c][c[0]] for c in choices_made}} for choices_made in chosen}


def bad_launcher(overrides: Sequence[str]) -> list[Problem]:
    """A launcher that is not installed."""
    from hydra import compose as hydra_compose
    from hydra.errors import HydraException

    problems = []
    for text in overrides:
        key, _, value = text.partition("=")
        if key == "hydra/launcher":
            try:
                with _hydra():
                    hydra_compose("run", [text])
            except HydraException as error:
                package = value.partition("_")[0]  # submitit_slurm is one of two that it has
                there = ", ".join(getattr(error, "options", None) or []) or "a launcher that Hydra finds"
                problems.append(Problem(key, value, f"one of {there}", f"install hydra-{package}-launcher"))
    return problems


def _bad_choice(group: str, value: Any) -> list[Problem]:
    names = choices(group)
    if value in names:
        return []
    if group in JOINED and isinstance(value, str) and "+" in value:
        return together(group, value)[1]
    if group in JOINED and isinstance(value, (list, tuple)) and value:
        return [Problem(group, value, "choices joined by +", f"write {group}={'+'.join(map(str, value))}")]
    keys = isinstance(value, Mapping) and next(iter(value), None)
    remedy = f"set its keys one by one: {group}.{keys}=..." if keys else near(str(value), names)
    return [Problem(group, value, "one of " + ", ".join(names), remedy)]


_ONE = Lock()
"""Hydra is one for a process, whichever thread asks."""


@contextmanager
def _hydra() -> Iterator[None]:
    """Hydra over conf/. One that the program has set up for itself is as it was afterwards."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    with _ONE:
        theirs, GlobalHydra.instance().hydra = GlobalHydra.instance().hydra, None
        try:
            with initialize_config_dir(str(conf()), version_base="1.3"):
                yield
        finally:
            GlobalHydra.instance().hydra = theirs


@cache
def _compose_groups(chosen: tuple[Setting, ...]) -> dict[str, Any]:
    from hydra import compose as hydra_compose
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    register()
    for group, name in chosen:
        if group in JOINED and "+" in name:
            ConfigStore.instance().store(group=group, name=name, node=together(group, name)[0])
    try:
        with _hydra():
            composed = hydra_compose("run", [f"{group}={name}" for group, name in chosen])
        plain = OmegaConf.to_container(composed, resolve=False)
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        line = " ".join(str(error).split())
        raise BadInput([Problem("conf", str(conf()), f"cannot be composed: {line}")]) from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def register() -> None:
    """Tell Hydra the strategies of other packages, which have no file in conf/."""
    from hydra.core.config_store import ConfigStore

    for name in choices("strategy"):
        if not (conf() / "strategy" / f"{name}.yaml").exists():
            ConfigStore.instance().store(group="strategy", name=name, node={"name": name})


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key, making the dicts on its way; a dict joins the dict that is there, as in Hydra."""
    *path, last = key.split(".")
    for part in path:
        inner = values.get(part)
        if not isinstance(inner, dict):
            inner = values[part] = {}
        values = inner
    here = values.get(last)
    if isinstance(value, Mapping) and isinstance(here, dict):
        for name, entry in value.items():
            here[name] = entry
    else:
        values[last] = copy.deepcopy(value)
