"""A network given link by link: `cluster.graph`, in a configuration or in a YAML file that it names.

    hosts: [a, b, c]
    switches: [s, t]
    links:
    - {between: [a, s], bandwidth: 10Gbit/s, latency: 5us}
    - {between: [s, t], bandwidth: 40Gbit/s, latency: 5us, name: trunk}
    routes:
    - {from: a, to: c, links: [a-s, trunk, t-c]}
    routing: shortest

Hosts are numbered in their order. A link without a name is called after its ends, a-s. `routing` is `shortest`, where
routes need not be given and the others are of least latency; `given`, where every pair's is; or `tree`, where there is only
one.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

from distsim.configuration import quantities
from distsim.configuration.quantities import Refused
from distsim.configuration.reader import FAILED, Reader

_KEYS = ("hosts", "switches", "links", "routes", "routing")
_LINK_KEYS = ("between", "bandwidth", "latency", "name")
_ROUTE_KEYS = ("from", "to", "links")
_SHOWN = 4
"""Links of a cycle that are named; more are counted."""


def read_graph(reader: Reader, key: str, value: Any) -> Any:
    """The graph in plain form, its links named and its ways complete; None if there is none, FAILED after a problem."""
    if value is None:
        return None
    before = len(reader.problems)
    if isinstance(value, str):
        value = load_yaml(reader, key, value)
    if not isinstance(value, Mapping):
        if len(reader.problems) == before:
            reader.refuse(key, value, "the path of a YAML file, or a group of keys", f"its keys are {', '.join(_KEYS)}")
        return FAILED
    reader.close(key, value, _KEYS, _KEYS)
    hosts = _names(reader, f"{key}.hosts", value.get("hosts"))
    switches = _names(reader, f"{key}.switches", value.get("switches") or [])
    for name in switches:
        if name in hosts:
            reader.refuse(f"{key}.switches", name, "is among the hosts, too", "remove one")
    if not hosts and len(reader.problems) == before:
        reader.refuse(f"{key}.hosts", value.get("hosts"), "at least one host")
    routing = reader.value(
        f"{key}.routing", quantities.choice("shortest", "given", "tree"), value.get("routing", "shortest")
    )
    links = _links(reader, f"{key}.links", value.get("links") or [], [*hosts, *switches])
    if len(reader.problems) > before:
        return FAILED
    routes = _routes(reader, f"{key}.routes", value.get("routes") or [], hosts, links)
    if len(reader.problems) == before:
        _complete(reader, key, hosts, links, routes, str(routing))
    plain = {"hosts": hosts, "switches": switches, "links": links, "routes": routes, "routing": routing}
    return plain if len(reader.problems) == before else FAILED


def load_yaml(reader: Reader, key: str, path: str) -> Any:
    """What a YAML file says. A key that is there twice is refused: YAML takes the last without a word."""
    import yaml  # type: ignore[import-untyped]

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        pass

    def mapping(loader: Any, node: Any) -> dict[Any, Any]:
        names = [loader.construct_object(name, deep=True) for name, _ in node.value]
        twice = [name for i, name in enumerate(names) if name in names[:i]]
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice[0]} is there twice", node.start_mark)
        return {name: loader.construct_object(entry, deep=True) for name, (_, entry) in zip(names, node.value, strict=True)}

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    try:
        with Path(path).expanduser().open(encoding="utf-8") as file:
            return yaml.load(file, Loader)
    except (OSError, UnicodeDecodeError) as error:
        reader.refuse(key, path, f"a YAML file that can be read ({getattr(error, 'strerror', None) or 'it is not text'})")
    except (yaml.YAMLError, TypeError, RecursionError) as error:
        reader.refuse(key, path, f"a YAML file: {' '.join(str(error).split())}")
    return None


def _name(value: Any) -> str:
    text = str(value)
    if isinstance(value, (bool, Mapping, list)) or not text.replace("_", "a").isalnum() or len(text) > 50 or text == "all":
        raise Refused("a name of letters, digits and _, at most 50 of them")
    return text


def _link_name(value: Any) -> str:
    text = str(value)
    for part in text.split("-"):
        try:
            _name(part)
        except Refused:
            raise Refused("a name of letters, digits, _ and -") from None
    return text


def _names(reader: Reader, key: str, value: Any) -> list[str]:
    """Names, each once."""
    if not isinstance(value, (list, tuple)):
        reader.refuse(key, value, "a list of names", "like [a, b, c]")
        return []
    names = [reader.value(key, _name, entry) for entry in value]
    good = [name for name in names if name is not FAILED]
    for name in dict.fromkeys(name for name in good if good.count(name) > 1):
        reader.refuse(key, name, "every name once", "remove one")
    return good


def _entries(reader: Reader, key: str, value: Any, keys: tuple[str, ...]) -> list[tuple[str, Mapping[Any, Any]]]:
    """The groups of a list, each with the key that its problems are told under."""
    if not isinstance(value, (list, tuple)):
        reader.refuse(key, value, "a list of groups of keys", f"their keys are {', '.join(keys)}")
        return []
    found = []
    for i, entry in enumerate(value):
        if isinstance(entry, Mapping):
            reader.close(f"{key}.{i}", entry, keys, keys)
            found.append((f"{key}.{i}", entry))
        else:
            reader.refuse(f"{key}.{i}", entry, "a group of keys", f"its keys are {', '.join(keys)}")
    return found


def _links(reader: Reader, key: str, value: Any, nodes: list[str]) -> list[dict[str, Any]]:
    """The links in plain form."""
    links: list[dict[str, Any]] = []
    joined: dict[frozenset[str], str] = {}
    known = set(nodes)
    for where, entry in _entries(reader, key, value, _LINK_KEYS):
        bandwidth = reader.value(f"{where}.bandwidth", quantities.bandwidth, entry.get("bandwidth"))
        latency = reader.value(f"{where}.latency", quantities.seconds(bare_at_most=1.0), entry.get("latency"))
        between = entry.get("between")
        if not isinstance(between, (list, tuple)) or len(between) != 2:
            reader.refuse(f"{where}.between", between, "two names", "like [a, b]")
            continue
        ends = [str(end) for end in between]
        unknown = [end for end in ends if end not in known]
        for end in unknown:
            reader.refuse(f"{where}.between", end, "a host or a switch", quantities.near(end, nodes))
        if unknown:
            continue
        name = reader.value(f"{where}.name", _link_name, entry.get("name") or "-".join(ends))
        if ends[0] == ends[1]:
            reader.refuse(f"{where}.between", "-".join(ends), "a link joins two different nodes", "remove it")
        elif frozenset(ends) in joined:
            allowed = f"every two nodes have one link: {joined[frozenset(ends)]} is there, too"
            reader.refuse(
                f"{where}.between", "-".join(ends), allowed, "remove one, and give the other the bandwidth of both"
            )
        elif name is not FAILED and name in joined.values():
            reader.refuse(f"{where}.name", name, "every link has a name of its own")
        elif FAILED not in (bandwidth, latency, name):
            spelled = quantities.spelled(bandwidth, "bit/s")
            long = quantities.spelled_seconds(latency)
            links.append({"between": ends, "bandwidth": spelled, "latency": long, "name": name})
        joined.setdefault(frozenset(ends), str(name))
    return links


def _routes(reader: Reader, key: str, value: Any, hosts: list[str], links: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The given routes in plain form, each a chain of links from its source to its end."""
    by_name = {link["name"]: link for link in links}
    routes: list[dict[str, Any]] = []
    seen: set[tuple[str, str]] = set()
    for where, entry in _entries(reader, key, value, _ROUTE_KEYS):
        source, to = str(entry.get("from")), str(entry.get("to"))
        unknown = [(side, end) for side, end in (("from", source), ("to", to)) if end not in hosts]
        for side, end in unknown:
            reader.refuse(f"{where}.{side}", entry.get(side), "a host", quantities.near(end, hosts))
        names = entry.get("links")
        if not isinstance(names, (list, tuple)) or not names:
            reader.refuse(f"{where}.links", names, "the names of links, in the order of travel", "like [a-s, s-b]")
            continue
        if unknown:
            continue
        names, at = [str(name) for name in names], source
        for name in names:
            link = by_name.get(name)
            if link is None:
                reader.refuse(f"{where}.links", name, "the name of a link", quantities.near(name, by_name))
                break
            if at not in link["between"]:
                reader.refuse(f"{where}.links", name, f"a link at {at}, to which those before it lead")
                break
            first, second = link["between"]
            at = second if at == first else first
        else:
            if source == to:
                reader.refuse(f"{where}.to", to, "another host than the one it comes from", "remove it")
            elif at != to:
                reader.refuse(f"{where}.links", ", ".join(names), f"must lead to {to}, and lead to {at}")
            elif len(set(names)) < len(names):
                reader.refuse(f"{where}.links", ", ".join(names), "every link once")
            elif (source, to) in seen:
                reader.refuse(f"{where}.from", source, f"every route once: that to {to} is there, too", "remove one")
            seen.add((source, to))
            routes.append({"from": source, "to": to, "links": names})
    return routes


def _complete(
    reader: Reader, key: str, hosts: list[str], links: list[dict[str, Any]], routes: list[dict[str, Any]], routing: str
) -> None:
    """Every two hosts have a way, and only one where a tree is asked for."""
    parts: dict[str, set[str]] = {}
    for link in links:
        first, second = link["between"]
        here, there = parts.setdefault(first, {first}), parts.setdefault(second, {second})
        if here is not there:
            here |= there
            for node in there:
                parts[node] = here
        elif routing == "tree":
            others = [each for each in links[: links.index(link)] if each["between"][0] in here]
            cycle = [*_way(others, second, first), link["name"]]
            shown = ", ".join(cycle[:_SHOWN]) + (f" and {len(cycle) - _SHOWN} more" if len(cycle) > _SHOWN else "")
            remedy = f"remove one, or take {key}.routing=shortest"
            reader.refuse(f"{key}.routing", routing, f"a tree has no cycle, and {shown} are one", remedy)
            return
    known = {frozenset((route["from"], route["to"])) for route in routes}
    if routing == "given":
        lacking = [pair for pair in combinations(hosts, 2) if frozenset(pair) not in known]
    else:
        groups = {id(parts.get(host, host)): host for host in reversed(hosts)}
        alone = [host for host in groups.values() if host != hosts[0]]
        lacking = [(hosts[0], host) for host in sorted(alone, key=hosts.index)]
    if lacking:
        more = f" (and {len(lacking) - 1} more)" if len(lacking) > 1 else ""
        remedy = "give its links" if routing == "given" else "add a link"
        reader.refuse(f"{key}.{'routes' if routing == 'given' else 'links'}", f"{'-'.join(lacking[0])}{more}",
                      "every two hosts need a way, and these have none", remedy)  # fmt: skip


def _way(links: list[dict[str, Any]], source: str, to: str) -> list[str]:
    """The names of the links of the one way between two nodes of a tree."""
    came: dict[str, tuple[str, str]] = {source: ("", "")}
    queue = [source]
    for node in queue:
        for link in links:
            first, second = link["between"]
            other = second if node == first else first if node == second else None
            if other is not None and other not in came:
                came[other] = node, link["name"]
                queue.append(other)
    names, at = [], to
    while at != source:
        at, name = came[at]
        names.append(name)
    return names[::-1]
