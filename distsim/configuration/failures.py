"""The section `failure`: which ranks and links fail when, what a run does about it, and its checkpoints.

failure.ranks={3: [10min, 2h]}      rank 3 is lost at these times
failure.mtbf=50677h                 every rank is lost by rate, on average after so long
failure.links={host2: [{at: 10s, seconds: 5s, share: 0}]}
failure.checkpoint.updates=100      or .seconds=10min, or .seconds=auto: Daly's interval
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from math import inf
from typing import Any

from distsim.configuration import quantities
from distsim.configuration.cluster import ClusterSection
from distsim.configuration.networks import topology
from distsim.configuration.quantities import Kind
from distsim.configuration.reader import FAILED, Reader
from distsim.interface import Checkpoint, Failure, OnLoss, Outage, Strategy, is_part
from distsim.interface.failure import daly

_TIME = quantities.seconds()
_LONG = quantities.seconds(above=0.0)
_AUTO = inf
"""What `auto` is read as, until ranks are known."""

FAILURE: Mapping[str, Kind] = {
    "mtbf": quantities.optional(_LONG),
    "restart": _TIME,
    "on_loss": quantities.choice("auto", "restart", "continue", "abort"),
}
CHECKPOINT: Mapping[str, Kind] = {
    "updates": quantities.optional(quantities.integer(1)),
    "seconds": quantities.optional(lambda value: _AUTO if value == "auto" else _LONG(value)),
    "cost": _TIME,
}


@dataclass(frozen=True)
class FailureSection:
    """The failures of a run and the choice that they came from."""

    name: str
    failure: Failure

    def plain(self) -> dict[str, Any]:
        """The keys as a configuration writes them."""
        failure = self.failure
        return {
            "name": self.name,
            "ranks": {str(rank): list(times) for rank, times in failure.ranks.items()},
            "mtbf": failure.mtbf,
            "links": {cable: [asdict(outage) for outage in outages] for cable, outages in failure.links.items()},
            "restart": failure.restart,
            "on_loss": failure.on_loss,
            "checkpoint": asdict(failure.checkpoint),
        }


def read_failure(reader: Reader) -> FailureSection | None:
    """The section by itself; what depends on ranks and cables is for `check_failure`."""
    values = reader.section("failure")
    ranks = _by_name(reader, "ranks", values.get("ranks"), "a map from ranks to times, like {3: [10min, 2h]}", _rank_times)
    links = _by_name(
        reader, "links", values.get("links"), "a map from cables or hosts to outages, like {host2: [{at: 10s}]}", _outages
    )
    checkpoint = reader.fill("failure.checkpoint", Checkpoint, CHECKPOINT)
    if checkpoint and checkpoint.updates is not None and checkpoint.seconds is not None:
        allowed = "a checkpoint is due every so many updates or seconds, not both"
        reader.refuse("failure.checkpoint.seconds", checkpoint.seconds, allowed, "leave one of them null")
        checkpoint = None
    if checkpoint and checkpoint.is_off and checkpoint.cost:
        allowed = "nothing is saved: give failure.checkpoint.updates or failure.checkpoint.seconds"
        reader.refuse("failure.checkpoint.cost", checkpoint.cost, allowed, "for example failure.checkpoint.updates=100")
        checkpoint = None
    kinds = {**FAILURE, "ranks": lambda _: ranks, "links": lambda _: links, "checkpoint": lambda _: checkpoint}
    failure = reader.fill("failure", Failure, kinds, skip=("name",))
    if failure is None or ranks is FAILED or links is FAILED or checkpoint is None:
        return None
    return FailureSection(str(values.get("name", "")), failure)


Entry = Callable[[Reader, Any, Any], tuple[Any, Any]]
"""Reads a name and what is said of it; FAILED after a problem."""


def _by_name(reader: Reader, key: str, value: Any, allowed: str, read: Entry) -> Any:
    """A map, sorted by its names; FAILED after a problem."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        reader.refuse(f"failure.{key}", value, allowed)
        return FAILED
    found = {}
    for name, entry in value.items():
        name, entry = read(reader, name, entry)
        if FAILED in (name, entry):
            return FAILED
        found[name] = entry
    return dict(sorted(found.items()))


def _rank_times(reader: Reader, name: Any, value: Any) -> tuple[Any, Any]:
    rank = reader.value("failure.ranks", quantities.integer(0), name)
    listed = value if isinstance(value, (list, tuple)) else [value]
    times = [reader.value(f"failure.ranks.{name}", _TIME, each) for each in listed]
    return rank, FAILED if FAILED in times else tuple(sorted(times))


def _outages(reader: Reader, name: Any, value: Any) -> tuple[Any, Any]:
    key = f"failure.links.{name}"
    found = []
    for each in value if isinstance(value, (list, tuple)) else [value]:
        if not isinstance(each, Mapping):
            reader.refuse(key, each, "an outage is {at: 10s, seconds: 5s, share: 0}")
            return str(name), FAILED
        kinds = {"at": _TIME, "seconds": _LONG, "share": quantities.number(at_least=0.0, below=1.0)}
        if missing := [part for part in ("at", "seconds") if part not in each]:
            needed = f"an outage needs {' and '.join(missing)}"
            reader.refuse(key, dict(each), needed, "like {at: 10s, seconds: 5s, share: 0}")
            return str(name), FAILED
        if unknown := [part for part in each if part not in kinds]:
            reader.refuse(f"{key}.{unknown[0]}", each[unknown[0]], "no such key", "an outage has at, seconds and share")
            return str(name), FAILED
        read = {part: reader.value(f"{key}.{part}", kinds[part], entry) for part, entry in each.items()}
        if FAILED in read.values():
            return str(name), FAILED
        found.append(Outage(**read))
    return str(name), tuple(sorted(found, key=lambda outage: outage.at))


# ---- with the rest of the run


def check_failure(
    reader: Reader, section: FailureSection, strategy: Strategy, backend: str, cluster: ClusterSection
) -> FailureSection:
    """Refuse what this strategy, cluster or backend cannot do; the section with its `auto` interval worked out."""
    failure, workers = section.failure, cluster.workers
    ranks = workers + strategy.server_count(workers)
    for rank, times in failure.ranks.items():
        if rank >= ranks:
            reader.refuse(f"failure.ranks.{rank}", list(times), f"there are ranks 0 to {ranks - 1}")
    _links(reader, failure, strategy, backend, cluster)
    on_loss = failure.on_loss
    answer: OnLoss = strategy.on_loss(workers)[0] if on_loss == "auto" else on_loss
    if backend == "real" and not failure.is_off:
        _real(reader, failure, answer)
        return section
    if failure.loses_ranks and answer not in (*strategy.on_loss(workers), "abort"):
        allowed = (
            f"strategy={reader.section('strategy').get('name')} can {' or '.join((*strategy.on_loss(workers), 'abort'))}"
        )
        reader.refuse("failure.on_loss", on_loss, allowed, "auto takes the first of them")
    least = failure.restart if answer == "continue" else failure.restart * ranks
    if failure.mtbf is not None and answer != "abort" and failure.mtbf <= least:
        fails = "a rank fails" if answer == "continue" else f"of {ranks} ranks one fails"
        every = failure.mtbf if answer == "continue" else failure.mtbf / ranks
        allowed = f"{fails} every {every:g} s, and a restart takes {failure.restart:g} s: no work would get done"
        reader.refuse("failure.mtbf", failure.mtbf, allowed, f"more than {least:g} s, or a shorter failure.restart")
    checkpoint = failure.checkpoint
    if not checkpoint.is_off and not any(strategy.can_resume(update) for update in range(1, 100_000)):
        key = "updates" if checkpoint.updates is not None else "seconds"
        allowed = f"strategy={reader.section('strategy').get('name')} cannot go on from a checkpoint: it begins anew"
        reader.refuse(f"failure.checkpoint.{key}", getattr(checkpoint, key), allowed, "leave it null")
    if checkpoint.seconds == _AUTO:
        if failure.mtbf is None or not checkpoint.cost:
            allowed = "Daly's interval follows from failure.mtbf and failure.checkpoint.cost: give both"
            reader.refuse("failure.checkpoint.seconds", "auto", allowed, "or a time, like 10min")
            return section
        checkpoint = replace(checkpoint, seconds=daly(failure.mtbf / ranks, checkpoint.cost))
    return replace(section, failure=replace(failure, checkpoint=checkpoint))


def _links(reader: Reader, failure: Failure, strategy: Strategy, backend: str, cluster: ClusterSection) -> None:
    if not failure.links or reader.problems:
        return
    if cluster.network == "loopback":
        cable = next(iter(failure.links))
        reader.refuse(f"failure.links.{cable}", "...", "cluster.network=loopback has no links", "take cluster=switch")
        return
    hosts = cluster.workers + (0 if strategy.servers_beside() else strategy.server_count(cluster.workers))
    names = list(dict.fromkeys(topology(cluster, hosts).cables(hosts)))
    for cable in failure.links:
        if not any(is_part(cable, name) for name in names):
            some = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            allowed = f"the name of a cable ({some}) or of one of its ends"
            reader.refuse(f"failure.links.{cable}", "...", allowed, quantities.near(cable, names))


def _real(reader: Reader, failure: Failure, answer: OnLoss) -> None:
    if failure.loses_ranks and answer != "abort":
        allowed = "backend=real can only abort: to go on it would need checkpoints on disk, which it does not write yet"
        reader.refuse("failure.on_loss", failure.on_loss, allowed, "take failure.on_loss=abort, or backend=cosimulated")
    if not failure.checkpoint.is_off:
        key = "updates" if failure.checkpoint.updates is not None else "seconds"
        value = getattr(failure.checkpoint, key)
        reader.refuse(f"failure.checkpoint.{key}", value, "backend=real writes no checkpoints yet", "leave it null")


def warnings(failure: Failure, ranks: int) -> Iterator[str]:
    """What runs all the same, and is said."""
    checkpoint = failure.checkpoint
    if failure.mtbf is not None and checkpoint.is_off and failure.on_loss in ("auto", "restart"):
        yield f"failure.mtbf={failure.mtbf:g} s without failure.checkpoint: every restart begins with the first update"
    if failure.mtbf is not None and checkpoint.cost >= failure.mtbf / ranks:
        every = failure.mtbf / ranks
        yield f"failure.checkpoint.cost={checkpoint.cost:g} s is longer than the {every:g} s between two failures"
