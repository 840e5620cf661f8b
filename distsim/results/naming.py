"""Short names that tell apart what differs on one page: of strategies and rates, of models, clusters and options."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

from distsim.results.keys import (
    Config,
    canonical,
    case_key,
    cluster_fields,
    contender_key,
    is_control,
    option_fields,
    own_label,
)
from distsim.results.wording import duration, nbytes


def labels(configs: Sequence[Config]) -> dict[str, str]:
    """A short name for every contender key: the strategy's, with the fields in which namesakes differ.

    The learning rate is told of controls, and where a strategy competes with several optimizers in one case (tuned rates
    may differ between cases); with it what else differs between the optimizers of the page.
    """
    strategies = _Fields((config["strategy"]["name"], config["strategy"]) for config in configs)
    optimizers: dict[tuple[Any, ...], set[str]] = {}
    for config in configs:
        if not is_control(config):
            rates = optimizers.setdefault((canonical(config["strategy"]), case_key(config)), set())
            rates.add(canonical(config["optimizer"]))
    several = {strategy for (strategy, _), found in optimizers.items() if len(found) > 1}
    named = {}
    courses = _Fields((str(config["optimizer"].get("name")), flat(config["optimizer"])) for config in configs)
    for config in sorted(configs, key=lambda config: not is_control(config)):  # who also competes is named as that
        strategy, optimizer = config["strategy"], config["optimizer"]
        told = strategies.differing(strategy["name"], strategy)
        if canonical(strategy) in several or is_control(config):
            told += _optimizer(optimizer, courses)
        named[contender_key(config)] = ", ".join([strategy["name"], *told])
    return named


def flat(optimizer: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an optimizer with those of its schedule among them, without its name."""
    plain = {key: value for key, value in optimizer.items() if key not in ("name", "schedule")}
    return {**plain, **(optimizer.get("schedule") or {})}


def _optimizer(optimizer: Mapping[str, Any], all_of_them: _Fields) -> list[str]:
    """The algorithm if several are on the page, the rate, and what else differs between optimizers of this name."""
    name = str(optimizer.get("name"))
    told = all_of_them.differing(name, flat(optimizer), known=("learning_rate",))
    algorithm = [name] if len(all_of_them.names) > 1 else []
    return [*algorithm, f"learning rate {optimizer['learning_rate']:g}", *told]


def field_in_words(key: str, value: Any) -> str:
    """A field of a configuration as a label tells it: `k 3`, `bucket 25 MB`, `late drop`, `no nesterov`."""
    words = key.replace("_", " ")
    if isinstance(value, bool):
        return words if value else f"no {words}"
    if isinstance(value, (int, float)) and key.endswith("_bytes"):
        return f"{words.removesuffix(' bytes')} {nbytes(value)}"
    if isinstance(value, float) and key.endswith("_seconds"):
        return f"{words.removesuffix(' seconds')} {duration(value)}"
    if isinstance(value, (list, tuple)):
        return f"{words} {','.join(map(str, value))}"
    return f"{words} {value:g}" if isinstance(value, float) else f"{words} {value}"


def cluster_in_words(config: Config) -> dict[str, Any]:
    """The fields of a cluster, those that are groups of keys as one text each; None for those that say nothing."""
    fields = cluster_fields(config)
    slow, background = fields.get("slow") or {}, fields.get("background") or {}
    fields["slow"] = ", ".join(f"{name} {factor:g}x" for name, factor in slow.items()) or None
    fields["background"] = ", ".join(f"{name} {100 * share:g}%" for name, share in background.items()) or None
    if graph := fields.get("graph"):
        digest = blake2b(canonical(graph).encode(), digest_size=2).hexdigest()
        fields["graph"] = f"of {len(graph['hosts'])} hosts and {len(graph['links'])} links ({digest})"
    if transport := fields.get("transport"):
        fields["transport"] = _transport(transport)
    return fields


def _transport(transport: Mapping[str, Any]) -> str:
    """The corrections that are on, a preset by its name."""
    preset = transport["preset"]
    links = ("bandwidth_factor", "latency_factor", "message_seconds", "window_bytes") if preset != "none" else ()
    off = {"bandwidth_factor": 1.0, "latency_factor": 1.0}
    told = [
        field_in_words(key, value)
        for key, value in transport.items()
        if key not in ("preset", *links) and value and value != off.get(key)
    ]
    return ", ".join([*([preset] if preset != "none" else []), *told]) or "none"


def network_in_words(config: Config) -> str:
    """What a run's bytes cross, as its configuration describes it."""
    cluster = config["cluster"]
    network = str(cluster.get("network"))
    if network == "loopback":
        return "the loopback interface of one machine"
    told = [f"links of {cluster['bandwidth']}"] if cluster.get("bandwidth") else []
    if (share := (cluster.get("transport") or {}).get("bandwidth_factor", 1.0)) != 1.0:
        told.append(f"{100 * share:.1f} % of that for payload")
    if cluster.get("latency"):
        told.append(f"{duration(cluster['latency'])} a link")
    return f"a network of hosts ({', '.join([network.replace('_', ' '), *told])})"


class Places:
    """Where runs were made, in words: what differs between the given ones is told, what they share is not."""

    def __init__(self, configs: Sequence[Config]) -> None:
        self._models = _Fields((config["workload"]["name"], config["workload"]) for config in configs)
        self._clusters = _Fields((config["cluster"]["name"], cluster_in_words(config)) for config in configs)
        self._options = _Fields((config["backend"]["name"], option_fields(config)) for config in configs)

    def cluster(self, config: Config) -> str:
        """The cluster's name; a switch's bandwidth with it."""
        cluster = config["cluster"]
        is_switch = cluster.get("network") == "switch"
        known = ("bandwidth",) if is_switch else ()
        told = self._clusters.differing(cluster["name"], cluster_in_words(config), known)
        name = f"{cluster['name']} {cluster['bandwidth']}" if is_switch else str(cluster["name"])
        return ", ".join([name, *told])

    def model(self, config: Config) -> str:
        """What tells the model from others on the page; empty if there is one only."""
        name = config["workload"]["name"]
        told = self._models.differing(name, config["workload"])
        return ", ".join([*([name] if len(self._models.names) > 1 else []), *told])

    def options(self, config: Config) -> str:
        """How the backend was asked to run, where that differs, and the label."""
        told = self._options.differing(config["backend"]["name"], option_fields(config))
        return ", ".join([*told, *([f"label {own_label(config)}"] if own_label(config) else [])])


class _Fields:
    """The fields of things that have names; of namesakes it is told in which they differ."""

    def __init__(self, things: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        self.names: dict[str, dict[str, Mapping[str, Any]]] = {}
        for name, fields in things:
            self.names.setdefault(name, {})[canonical(fields)] = fields

    def differing(self, name: str, fields: Mapping[str, Any], known: Sequence[str] = ()) -> list[str]:
        """Those of `fields` that a namesake has another value of, in words."""
        others = self.names[name].values()
        return [
            field_in_words(key, value)
            for key, value in fields.items()
            if key not in ("name", *known) and value is not None and any(other.get(key) != value for other in others)
        ]
