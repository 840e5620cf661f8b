"""The section `failure`: which ranks and links fail when, and what a run does about it.

failure.ranks={3: [10min, 2h]}      rank 3 is lost at these times
failure.mtbf=50677h                 every rank is lost by rate, on average after so long
failure.links={host2: [{at: 10s, seconds: 5s, share: 0}]}       the cable has that share of its bandwidth for a while
failure.links={all: {mtbf: 100h, seconds: 5s}}                  every cable by rate, whole for so long on average
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from distsim.configuration import quantities
from distsim.configuration.cluster import ClusterSection
from distsim.configuration.networks import check_cables
from distsim.configuration.quantities import Kind
from distsim.configuration.reader import FAILED, Reader
from distsim.interface import Failure, OnLoss, Outage, Strategy

_TIME = quantities.seconds()
_LONG = quantities.seconds(above=0.0)
_RATE = quantities.seconds(at_least=1e-4)
"""Of outages: if they came more often, drawing them would take long."""
_LIKE = "like {at: 10s, seconds: 5s, share: 0}"

FAILURE: Mapping[str, Kind] = {
    "mtbf": quantities.optional(_LONG),
    "restart": _TIME,
    "on_loss": quantities.choice("auto", "restart", "continue", "abort"),
}
_MOVED = {"updates": "checkpoint.every", "seconds": "checkpoint.every", "cost": "checkpoint.cost"}
"""Keys of `failure.checkpoint` that there were."""


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
            "links": {cable: [_given(asdict(outage)) for outage in outages] for cable, outages in failure.links.items()},
            "restart": failure.restart,
            "on_loss": failure.on_loss,
        }


def read_failure(reader: Reader) -> FailureSection | None:
    """The section by itself; what depends on ranks and cables is for `check_failure`."""
    values = reader.section("failure")
    ranks = _by_name(reader, "ranks", values.get("ranks"), "a map from ranks to times, like {3: [10min, 2h]}", _rank_times)
    links = _by_name(
        reader, "links", values.get("links"), "a map from cables or hosts to outages, like {host2: [{at: 10s}]}", _outages
    )
    good = _moved(reader, values)
    kinds = {**FAILURE, "ranks": lambda _: ranks, "links": lambda _: links}
    failure = reader.fill("failure", Failure, kinds, skip=("name",))
    if failure is None or ranks is FAILED or links is FAILED or not good:
        return None
    return FailureSection(str(values.get("name", "")), failure)


def _moved(reader: Reader, values: Mapping[str, Any]) -> bool:
    """Refuse what belongs to the section `checkpoint`; the rest is left to read."""
    if "checkpoint" not in values:
        return True
    old = values["checkpoint"]
    for key, value in old.items() if isinstance(old, Mapping) and old else [("", old)]:
        meant = _MOVED.get(str(key), "checkpoint.every")
        where = f"failure.checkpoint.{key}" if key else "failure.checkpoint"
        reader.refuse(where, value, "no such key", f"did you mean {meant}?")
    left = {key: value for key, value in values.items() if key != "checkpoint"}
    reader.values = {**reader.values, "failure": left}
    return False


Entry = Callable[[Reader, Any, Any], tuple[Any, Any]]
"""Reads a name and what is said of it; FAILED after a problem."""


def _given(outage: Mapping[str, Any]) -> dict[str, Any]:
    return {part: entry for part, entry in outage.items() if entry is not None}


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
        if name in found:
            reader.refuse(f"failure.{key}.{name}", "...", f"every {key[:-1]} once")
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
        each = _given(each)
        kinds = {"at": _TIME, "mtbf": _RATE, "seconds": _LONG, "share": quantities.number(at_least=0.0, below=1.0)}
        if missing := [part for part in ("at", "seconds") if part not in each and not (part == "at" and "mtbf" in each)]:
            reader.refuse(key, each, f"an outage needs {' and '.join(missing)}", f"{_LIKE}; mtbf in place of at: by rate")
            return str(name), FAILED
        if "at" in each and "mtbf" in each:
            reader.refuse(key, each, "an outage has a time or a rate", "leave out at or mtbf")
            return str(name), FAILED
        if unknown := [part for part in each if part not in kinds]:
            reader.refuse(
                f"{key}.{unknown[0]}", each[unknown[0]], "no such key", "an outage has at or mtbf, seconds and share"
            )
            return str(name), FAILED
        read = {part: reader.value(f"{key}.{part}", kinds[part], entry) for part, entry in each.items()}
        if FAILED in read.values():
            return str(name), FAILED
        found.append(Outage(**{"at": None, **read}))
    return str(name), tuple(sorted(found, key=lambda outage: (outage.at is None, outage.at or 0.0)))


# ---- with the rest of the run


def check_failure(
    reader: Reader, section: FailureSection, strategy: Strategy, backend: str, cluster: ClusterSection
) -> None:
    """Refuse what this strategy, cluster or backend cannot do."""
    failure, workers = section.failure, cluster.workers
    ranks = cluster.ranks(strategy)
    for rank, times in failure.ranks.items():
        if rank >= ranks:
            reader.refuse(f"failure.ranks.{rank}", list(times), f"there are ranks 0 to {ranks - 1}")
    _links(reader, failure, strategy, backend, cluster)
    on_loss = failure.on_loss
    answer: OnLoss = strategy.on_loss(workers)[0] if on_loss == "auto" else on_loss
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


def _links(reader: Reader, failure: Failure, strategy: Strategy, backend: str, cluster: ClusterSection) -> None:
    if not failure.links or reader.problems:
        return
    if cluster.network == "loopback":
        cable = next(iter(failure.links))
        reader.refuse(f"failure.links.{cable}", "...", "cluster.network=loopback has no links", "take cluster=switch")
        return
    if backend == "real":
        cable = next(iter(failure.links))
        reader.refuse(
            f"failure.links.{cable}", "...", "backend=real takes no link down", "take backend=modeled or cosimulated"
        )
        return
    check_cables(reader, cluster, cluster.hosts(strategy), "failure.links", dict.fromkeys(failure.links, "..."))


def check_worker_loss(reader: Reader, wanted: str, strategy: Strategy, workers: int) -> None:
    """Refuse to go on without workers where the strategy cannot."""
    if wanted == "continue" and "continue" not in strategy.on_loss(workers):
        allowed = f"strategy={reader.section('strategy').get('name')} cannot work on without a worker"
        reader.refuse("backend.on_worker_loss", wanted, allowed, "take stop or restart")


def warnings(failure: Failure, ranks: int) -> Iterator[str]:
    """What runs all the same, and is said."""
    checkpoint = failure.checkpoint
    if failure.mtbf is not None and checkpoint.is_off and failure.on_loss in ("auto", "restart"):
        yield f"failure.mtbf={failure.mtbf:g} s without checkpoint.every: every restart begins with the first update"
    if failure.mtbf is not None and checkpoint.cost >= failure.mtbf / ranks:
        every = failure.mtbf / ranks
        yield f"checkpoint.cost={checkpoint.cost:g} s is longer than the {every:g} s between two failures"
