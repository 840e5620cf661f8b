"""The section `straggler`: its parts, each off unless it is asked for, and what must hold between them.

`histogram` is a map from factors to weights, or the path of a file with one: YAML or JSON, or CSV of lines `factor,weight`.
Its contents become part of the configuration.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from distsim.configuration import quantities
from distsim.configuration.graphs import load_yaml
from distsim.configuration.quantities import Kind, Refused
from distsim.configuration.reader import FAILED, Reader
from distsim.interface import Episodes, Experts, Lengths, Spread, Straggler

SLOWEST = 1e6
"""The largest factor of a straggler: more is a slip, and far more overflows."""
PARTS: Mapping[str, type[Any]] = {"spread": Spread, "episodes": Episodes, "lengths": Lengths, "experts": Experts}
"""Sections of the section."""

_FACTOR = quantities.number(above=0.0, at_most=SLOWEST)
_WEIGHT = quantities.number(at_least=0.0, at_most=1e12)


def _factors(value: Any) -> tuple[float, ...]:
    if isinstance(value, str) or not isinstance(value, (list, tuple)):
        raise Refused("a list of factors, one a stage, like [1,1,1,1.2]")
    return tuple(_FACTOR(factor) for factor in value)


STRAGGLER: Mapping[str, Kind] = {
    "scale": quantities.number(at_least=0.0, at_most=SLOWEST),
    "sigma": quantities.number(at_least=0.0, at_most=10.0),
    "shape": quantities.number(above=0.0, at_most=100.0),
    "probability": quantities.number(at_least=0.0, at_most=1.0),
    "multiple": _FACTOR,
    "stages": _factors,
}
_OF_PARTS: Mapping[str, Mapping[str, Kind]] = {"episodes": {"mean_seconds": quantities.seconds(at_least=1e-4)}}
"""A shorter episode would be over before an operation is, and take long to draw."""


def read_straggler(reader: Reader, workers: int | None) -> tuple[Straggler | None, str]:
    """The section `straggler` and the name of the choice it came from."""
    before = len(reader.problems)
    values = reader.section("straggler")
    slow = _slow(reader, values.get("slow") or {}, workers)
    histogram = _histogram(reader, values.get("histogram") or {})
    read = {key: reader.fill(f"straggler.{key}", cls, _OF_PARTS.get(key)) for key, cls in PARTS.items()}
    known = {"slow": slow, "histogram": histogram, **read}
    kinds = {**STRAGGLER, **{key: _as(value) for key, value in known.items()}}
    straggler = reader.fill("straggler", Straggler, kinds, skip=("name",))
    if straggler is None or len(reader.problems) > before:
        return None, ""
    _fits(reader, straggler, workers)
    return straggler if len(reader.problems) == before else None, str(values.get("name", ""))


def spelled_straggler(straggler: Straggler, name: str) -> dict[str, Any]:
    """A straggler as a configuration writes it."""
    plain = {"name": name, **asdict(straggler), "stages": list(straggler.stages)}
    plain["episodes"]["who"] = list(straggler.episodes.who)
    plain["slow"] = {str(worker): factor for worker, factor in straggler.slow.items()}
    plain["histogram"] = {str(factor): weight for factor, weight in straggler.histogram.items()}
    return plain


def _slow(reader: Reader, factors: Any, workers: int | None) -> dict[int, float]:
    if not isinstance(factors, Mapping):
        reader.refuse("straggler.slow", factors, "a map from workers to factors", "for example straggler.slow={0: 3.0}")
        return {}
    slow: dict[int, float] = {}
    for key, value in factors.items():
        worker = reader.value("straggler.slow", quantities.integer(0), key)
        factor = reader.value(f"straggler.slow.{key}", _FACTOR, value)
        if isinstance(worker, int) and workers is not None and worker >= workers:
            reader.refuse(f"straggler.slow.{key}", value, f"there are workers 0 to {workers - 1}")
        if isinstance(worker, int) and worker in slow:
            reader.refuse(f"straggler.slow.{key}", value, f"worker {worker} is named twice")
        if isinstance(worker, int) and isinstance(factor, float):
            slow[worker] = factor
    return dict(sorted(slow.items()))


def _histogram(reader: Reader, weights: Any) -> dict[float, float]:
    key = "straggler.histogram"
    if isinstance(weights, str):
        path, before = weights, len(reader.problems)
        weights = _load(reader, key, path)
        if not weights and len(reader.problems) == before:
            reader.refuse(key, path, "a file of factors and weights, but it is empty")
        if not weights:
            return {}
    if not isinstance(weights, Mapping):
        allowed = "a map from factors to weights, or the path of a file with one"
        reader.refuse(key, weights, allowed, f"for example {key}={{1.0: 95, 3.0: 5}}")
        return {}
    found: dict[float, float] = {}
    for name, value in weights.items():
        factor = reader.value(key, _FACTOR, name)
        weight = reader.value(f"{key}.{name}", _WEIGHT, value)
        if factor in found:
            reader.refuse(f"{key}.{name}", value, f"the factor {factor:g} is there twice")
        if factor is not FAILED and weight is not FAILED:
            found[factor] = weight
    if len(found) == len(weights) > 0 and not any(found.values()):
        reader.refuse(key, dict(weights), "at least one weight greater than 0")
    return dict(sorted(found.items()))


def _load(reader: Reader, key: str, path: str) -> Any:
    """What a file says; None after a problem."""
    if not path.endswith(".csv"):
        return load_yaml(reader, key, path)
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reader.refuse(key, path, f"a CSV file that can be read ({getattr(error, 'strerror', None) or 'it is not text'})")
        return None
    rows = [[cell.strip() for cell in line.split(",")] for line in lines if line.strip()]
    rows = rows[1:] if rows[:1] == [["factor", "weight"]] else rows
    for row in rows:
        if len(row) != 2:
            reader.refuse(key, path, f"a CSV file of lines factor,weight, but one is {','.join(row)}")
            return None
    if twice := [factor for i, (factor, _) in enumerate(rows) if factor in [other for other, _ in rows[:i]]]:
        reader.refuse(key, path, f"the factor {twice[0]} is there twice")
        return None
    return dict(rows)


def _fits(reader: Reader, straggler: Straggler, workers: int | None) -> None:
    """What the parts need of each other and of the workers."""
    _needs(
        reader, "histogram", straggler.histogram, straggler.jitter == "histogram", "jitter=histogram", "straggler.jitter"
    )
    delays = not straggler.scales_with_work
    _needs(reader, "work_seconds", straggler.work_seconds, delays, "scales_with_work=false", "straggler.scales_with_work")
    experts = straggler.experts
    if experts.hottest > experts.group:
        allowed = f"at most {experts.group}: then all tokens of straggler.experts.group go to one worker"
        reader.refuse("straggler.experts.hottest", experts.hottest, allowed)
    if workers is None:
        return
    for worker in straggler.episodes.who:
        if worker >= workers:
            reader.refuse("straggler.episodes.who", worker, f"there are workers 0 to {workers - 1}")
    if not experts.is_off and workers % experts.group:
        _divides(reader, "straggler.experts.group", experts.group, workers)
    if straggler.stages and workers % (len(straggler.stages) * straggler.stage_width):
        what = "straggler.stages" if straggler.stage_width == 1 else "straggler.stage_width"
        shown = list(straggler.stages) if straggler.stage_width == 1 else straggler.stage_width
        _divides(reader, what, shown, workers, f" ({len(straggler.stages)} stages of {straggler.stage_width})")


def _needs(reader: Reader, key: str, value: Any, wanted: bool, setting: str, owner: str) -> None:
    """A key that goes with a setting and with no other."""
    shown = dict(value) if isinstance(value, Mapping) else value
    if wanted and not value:
        reader.refuse(f"straggler.{key}", shown, f"must be given with straggler.{setting}")
    if value and not wanted:
        reader.refuse(
            f"straggler.{key}", shown, f"only with straggler.{setting}", f"add straggler.{setting} or leave it out"
        )


def _divides(reader: Reader, key: str, value: Any, workers: int, more: str = "") -> None:
    reader.refuse(key, value, f"must divide the {workers} workers{more}")


def _as(value: Any) -> Kind:
    return lambda _: value
