"""Which case and which contender a run belongs to, by its configuration alone.

    case        one setting in which strategies compete: the fields of workload and cluster, P, stragglers, failures, the
                mode with those of its options that change what comes out, and the label
    contender   one strategy with its fields and its optimizer
    pair        (seed, repeat): runs of equal pairs saw the same data, stragglers and failures

A label runs one configuration twice on purpose, so it makes another case, as it makes another name. Two kinds of label
are roles instead: "control..." is shown and not ranked (a strategy at a rate that its tuning did not choose), "tuning..."
chose a rate and takes no part in the comparison.

Budgets and snapshots are no part of a case: contenders that differ in them are shown together, and none wins.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple

from distsim.results.wording import duration

CONTROL, TUNING = "control", "tuning"
_PATIENCE = ("name", "hang_seconds", "limit_seconds", "start_seconds")
"""Options of a backend that say when it gives up, not what a run that ends well gives."""

Config = Mapping[str, Any]


class CaseKey(NamedTuple):
    """What all runs of a case have in common."""

    mode: str
    workload: str
    cluster: str
    workers: int
    straggler: str
    """What disturbs it: stragglers and failures."""
    options: str
    label: str


def case_key(config: Config) -> CaseKey:
    """The case of a run."""
    return CaseKey(
        str(config["backend"]["name"]),
        canonical(config["workload"]),
        canonical(cluster_fields(config)),
        int(config["cluster"]["workers"]),
        ", ".join(filter(None, (straggler_in_words(config.get("straggler") or {}), failure_in_words(config)))),
        canonical(option_fields(config)),
        own_label(config),
    )


def contender_key(config: Config) -> str:
    """The contender of a run, within its case."""
    return canonical([config["strategy"], config["optimizer"]])


def pair_key(config: Config) -> tuple[int, int]:
    """What makes runs of two contenders a pair."""
    return int(config["seed"]), int(config["repeat"])


def cluster_fields(config: Config) -> dict[str, Any]:
    """The cluster without the number of workers, and without the file that says what things cost on it."""
    return {key: value for key, value in config["cluster"].items() if key not in ("workers", "profile")}


def option_fields(config: Config) -> dict[str, Any]:
    """How the backend was asked to run, and with which costs."""
    options = {key: value for key, value in config["backend"].items() if key not in _PATIENCE}
    return {**options, "profile": config["cluster"].get("profile")}


def own_label(config: Config) -> str:
    """The label, unless it names a role."""
    return "" if is_control(config) or is_tuning(config) else str(config.get("label") or "")


def is_control(config: Config) -> bool:
    """True for a run that is shown for comparison and takes no place in the ranking."""
    return str(config.get("label") or "").startswith(CONTROL)


def is_tuning(config: Config) -> bool:
    """True for a run that chose a learning rate."""
    return str(config.get("label") or "").startswith(TUNING)


def straggler_in_words(straggler: Mapping[str, Any]) -> str:
    """What slows workers down, in words; empty if nothing does."""
    slow = [(int(worker), float(factor)) for worker, factor in (straggler.get("slow") or {}).items()]
    words = [f"worker {worker} slowed {factor:g}x" for worker, factor in sorted(slow) if factor != 1.0]
    stages = straggler.get("stages") or []
    if any(factor != 1.0 for factor in stages):
        width = straggler.get("stage_width", 1)
        words.append(f"stages {','.join(f'{factor:g}' for factor in stages)}" + (f" of {width}" if width > 1 else ""))
    words += _jitter(straggler)
    for part, said in _PARTS.items():
        values = straggler.get(part) or {}
        words += [said(values)] if values else []
    return ", ".join(filter(None, words))


def is_random(straggler: Mapping[str, Any]) -> bool:
    """True if some of what slows workers down is drawn."""
    drawn = straggler.get("jitter", "none") != "none"
    return drawn or any(said(straggler[part]) for part, said in _PARTS.items() if straggler.get(part))


def _jitter(straggler: Mapping[str, Any]) -> Iterator[str]:
    jitter = straggler.get("jitter", "none")
    if jitter == "none":
        return
    said = {
        "lognormal": " (sigma {sigma:g})",
        "pareto": " (shape {shape:g})",
        "bernoulli": " ({multiple:g}x with probability {probability:g})",
        "shifted_exponential": " (scale {scale:g})",
    }
    told = said.get(jitter, "").format_map(straggler)
    if jitter == "histogram":
        digest = blake2b(canonical(straggler["histogram"]).encode(), digest_size=2).hexdigest()
        told = f" ({len(straggler['histogram'])} factors, {digest})"
    if straggler.get("scales_with_work", True):
        yield f"{jitter.replace('_', ' ')} jitter{told}"
    else:
        yield f"{jitter.replace('_', ' ')} delays{told} of {duration(straggler['work_seconds'])} of work"


def _spread(values: Mapping[str, Any]) -> str:
    if values["kind"] == "lognormal" and values["sigma"]:
        return f"workers spread by sigma {values['sigma']:g}"
    is_share = values["kind"] == "share" and values["share"] and values["factor"] != 1.0
    return f"{100 * values['share']:g} % of workers slowed {values['factor']:g}x" if is_share else ""


def _episodes(values: Mapping[str, Any]) -> str:
    if not values["share"] or values["factor"] == 1.0:
        return ""
    whose = f" of worker {','.join(map(str, values['who']))}" if values["who"] else ""
    length, share = duration(values["mean_seconds"]), 100 * values["share"]
    return f"episodes{whose} ({values['factor']:g}x, {length} long, {share:g} % of the time)"


def _lengths(values: Mapping[str, Any]) -> str:
    attention = f", attention {values['attention']:g}" if values["attention"] else ""
    return f"sequence lengths (sigma {values['sigma']:g}{attention})" if values["sigma"] else ""


def _experts(values: Mapping[str, Any]) -> str:
    if values["hottest"] == 1.0 or not values["share"]:
        return ""
    share = f", {100 * values['share']:g} % of the work" if values["share"] < 1.0 else ""
    return f"hottest of {values['group']} experts' workers {values['hottest']:g}x{share}"


_PARTS: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "spread": _spread,
    "episodes": _episodes,
    "lengths": _lengths,
    "experts": _experts,
}
"""What is drawn besides the jitter; each says nothing of a part that is off."""


def failure_in_words(config: Config) -> str:
    """What fails, and what is done about it, in words; empty if nothing does."""
    failure, checkpoint = config.get("failure") or {}, config.get("checkpoint") or {}
    words = [f"rank {rank} lost at {_times(times)}" for rank, times in (failure.get("ranks") or {}).items() if times]
    if failure.get("mtbf") is not None:
        words.append(f"each rank lost every {duration(failure['mtbf'])}")
    if words:
        words.append(f"restart {duration(failure['restart'])}, on_loss {failure['on_loss']}")
    for cable, outages in (failure.get("links") or {}).items():
        for outage in outages:
            what = "down" if not outage["share"] else f"at {outage['share']:.0%}"
            when = f"at {duration(outage['at'])}" if outage.get("mtbf") is None else f"every {duration(outage['mtbf'])}"
            words.append(f"{cable} {what} {when} for {duration(outage['seconds'])}")
    if (every := checkpoint.get("every")) is not None:
        told = duration(float(every.rstrip("s"))) if isinstance(every, str) else f"{every} updates"
        words.append(f"checkpoints of {duration(checkpoint['cost'])} every {told}")
    return ", ".join(words)


def _times(times: Sequence[float]) -> str:
    return " and ".join(map(duration, times))


def canonical(value: Any) -> str:
    """Equal text for equal values, whatever the order of their keys."""
    return json.dumps(value, sort_keys=True, default=str)
