"""Random scenarios of flows, and when they end in SimGrid: run by an interpreter that has SimGrid's Python bindings.

    python3 tests/simgrid/scenarios.py FIRST COUNT        the ends of these scenarios' flows, as JSON
    python3 tests/simgrid/scenarios.py FIRST COUNT FILE   the scenarios with them, compressed: what the tests have recorded

Debian's python3-simgrid (3.32) does. SimGrid computes with model CM02, all factors 1, no cross-traffic; completions that
lie 1e-12 s apart are one instant, as they are here. Flows and links are lists, so that SimGrid's side needs no distsim.
"""

from __future__ import annotations

import gzip
import json
import os
import sys
from pathlib import Path
from random import Random
from typing import Any, TypedDict

OPTIONS = [
    "network/model:CM02",
    "network/latency-factor:1",
    "network/bandwidth-factor:1",
    "network/weight-S:0",
    "network/crosstraffic:0",
    "surf/precision:1e-12",
]


class Flow(TypedDict):
    after: list[int]
    """Flows that end before this one starts; all of them come before it in the list."""
    delay: float
    """Seconds from then, or from 0, to its start."""
    links: list[int]
    nbytes: int


class Scenario(TypedDict):
    capacities: list[float]
    """Bytes a second, of each link."""
    latency: float
    """Seconds, of every flow: of unequal ones SimGrid gives each a share in inverse proportion to its own."""
    window: float
    """Bytes that may be under way: a flow's rate is at most window / (2 latency). 0 for no such limit."""
    flows: list[Flow]


def scenario(seed: int) -> Scenario:
    """A scenario, of one of five kinds."""
    draw = Random(seed)
    kind = (_anything, _switch, _fat_tree, _server, _ring)[seed % 5]
    links, flows = kind(draw)
    kinds = draw.choice([1, 3, links])  # all equal, of a few kinds, or all different
    few = [draw.uniform(1e8, 1e10) for _ in range(kinds)]
    capacities = few if kinds == links else [draw.choice(few) for _ in range(links)]
    latency = draw.choice([0.0, 1e-5, draw.uniform(1e-5, 1e-2)])
    window = draw.choice([0.0, 0.0, draw.uniform(0.1, 1.0) * max(capacities) * latency])
    return {"capacities": capacities, "latency": latency, "window": window, "flows": flows}


Parts = tuple[int, list[Flow]]
"""How many links, and the flows."""


def _starts(draw: Random, count: int) -> list[float]:
    """All at once, on a grid, or whenever."""
    span = draw.choice([0.01, 0.1, 1.0])
    how = draw.randrange(3)
    return [(0.0, span * draw.randrange(5), draw.uniform(0.0, span))[how] for _ in range(count)]


def _sizes(draw: Random, count: int) -> list[int]:
    """All equal, of three sizes, or all different."""
    how, few = draw.randrange(3), [draw.randint(10**6, 10**8) for _ in range(3)]
    return [(few[0], draw.choice(few), draw.randint(10**6, 10**8))[how] for _ in range(count)]


def _independent(draw: Random, paths: list[list[int]]) -> list[Flow]:
    starts, sizes = _starts(draw, len(paths)), _sizes(draw, len(paths))
    return [
        {"after": [], "delay": start, "links": path, "nbytes": size}
        for start, path, size in zip(starts, paths, sizes, strict=True)
    ]


def _anything(draw: Random) -> Parts:
    """Any flows over any links."""
    count = draw.randint(1, 12)
    paths = [draw.sample(range(count), draw.randint(1, min(count, 5))) for _ in range(draw.randint(1, 30))]
    return count, _independent(draw, paths)


def _pairs(draw: Random, hosts: int) -> list[tuple[int, int]]:
    pairs = [(draw.randrange(hosts), draw.randrange(hosts - 1)) for _ in range(draw.randint(1, 30))]
    return [(source, to + (to >= source)) for source, to in pairs]


def _switch(draw: Random) -> Parts:
    """Hosts on one switch: host h sends over link 2h and receives over 2h + 1."""
    hosts = draw.randint(2, 10)
    paths = [[2 * source, 2 * to + 1] for source, to in _pairs(draw, hosts)]
    return 2 * hosts, _independent(draw, paths)


def _fat_tree(draw: Random) -> Parts:
    """Leaves of hosts, and up-links chosen by destination."""
    leaves, hosts, up = draw.randint(2, 4), draw.randint(2, 4), draw.randint(1, 2)
    ends, above = leaves * hosts, leaves * up
    paths = []
    for source, to in _pairs(draw, ends):
        here, there = source // hosts, to // hosts
        between = [2 * ends + here * up + to % up, 2 * ends + above + there * up + to % up] if here != there else []
        paths.append([2 * source, *between, 2 * to + 1])
    return 2 * (ends + above), _independent(draw, paths)


def _server(draw: Random) -> Parts:
    """Rounds of computing, a push to a server and a pull from it, for all workers together or for each by itself."""
    workers, rounds, together = draw.randint(2, 12), draw.randint(1, 4), draw.random() < 0.5
    up, down = 2 * workers, 2 * workers + 1
    size = draw.randint(10**6, 10**8)
    flows: list[Flow] = []
    last: list[list[int]] = [[] for _ in range(workers)]
    for _ in range(rounds):
        first = len(flows)
        for worker in range(workers):
            compute = draw.lognormvariate(-3.0, 0.2)
            flows.append({"after": last[worker], "delay": compute, "links": [2 * worker, down], "nbytes": size})
        for worker in range(workers):
            pushes = list(range(first, first + workers)) if together else [first + worker]
            flows.append({"after": pushes, "delay": 0.0, "links": [up, 2 * worker + 1], "nbytes": size})
            last[worker] = [len(flows) - 1]
    return 2 * workers + 2, flows


def _ring(draw: Random) -> Parts:
    """Steps of a ring that starts askew; several flows may share the link between the two halves of the ranks.

    At most 32 ranks: more are chaotic where they share a link, and SimGrid then disagrees with itself.
    """
    ranks, steps, is_shared = draw.randint(3, 32), draw.randint(1, 5), draw.random() < 0.7
    place = draw.sample(range(ranks), ranks)
    size = draw.randint(10**6, 10**7)
    skew = draw.choice([0.0, 1e-3, 1e-1])
    flows: list[Flow] = []
    for step in range(steps):
        for rank in range(ranks):
            here, right = place[rank], place[(rank + 1) % ranks]
            half, other = 2 * here < ranks, 2 * right < ranks
            between = [2 * ranks + half] if is_shared and half != other else []
            before = (step - 1) * ranks
            # the sender has ended its last step, and so has the receiver
            after = [before + i % ranks for i in (rank - 1, rank, rank + 1)] if step else []
            delay = 0.0 if step else draw.uniform(0.0, skew)
            flows.append({"after": after, "delay": delay, "links": [2 * here, *between, 2 * right + 1], "nbytes": size})
    return 2 * ranks + 2, flows


# ---- SimGrid's side


def simulate(given: Scenario) -> list[float]:
    """When the flows end in SimGrid. Once a process: SimGrid has one engine."""
    from simgrid import Actor, Comm, Engine, LinkInRoute, NetZone, this_actor

    options = [*OPTIONS, f"network/TCP-gamma:{given['window']!r}"]
    engine = Engine(["scenarios", *(f"--cfg={option}" for option in options), "--log=root.thres:critical"])
    zone = NetZone.create_full_zone("all")
    links = []
    for number, capacity in enumerate(given["capacities"]):
        links.append(zone.create_link(f"link{number}", capacity))
        links[-1].seal()
    ends = [0.0] * len(given["flows"])
    actors: list[Any] = []

    def carry(number: int, flow: Flow, source: Any, to: Any) -> None:
        for before in flow["after"]:
            actors[before].join()
        this_actor.sleep_for(flow["delay"])
        Comm.sendto(source, to, flow["nbytes"])
        ends[number] = engine.clock

    hosts = []
    for number, flow in enumerate(given["flows"]):  # hosts of its own, so that its route is its alone
        way = zone.create_link(f"way{number}", 1e15).set_latency(given["latency"])
        way.seal()
        source, to = zone.create_host(f"from{number}", 1.0), zone.create_host(f"to{number}", 1.0)
        hosts.append((source, to))
        route = [LinkInRoute(link) for link in [way, *(links[link] for link in flow["links"])]]
        zone.add_route(source.netpoint, to.netpoint, None, None, route, False)
        source.seal()
        to.seal()
    zone.seal()
    for number, (flow, (source, to)) in enumerate(zip(given["flows"], hosts, strict=True)):
        actors.append(Actor.create(f"flow{number}", source, carry, number, flow, source, to))
    engine.run()
    return ends


def in_a_process(given: Scenario) -> list[float]:
    """The same in a child."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.close(reading)
            with os.fdopen(writing, "w") as out:
                json.dump(simulate(given), out)
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading) as answer:
        text = answer.read()
    if os.waitpid(child, 0)[1]:
        raise RuntimeError("SimGrid failed")
    ends: list[float] = json.loads(text)
    return ends


def main(first: int, count: int, file: str = "") -> None:
    """Print the ends of scenarios' flows, or record scenarios."""
    import simgrid

    given = [scenario(seed) for seed in range(first, first + count)]
    ends = [in_a_process(one) for one in given]
    if file:
        recorded = {"simgrid": simgrid.simgrid_version, "scenarios": given, "ends": ends}
        Path(file).write_bytes(gzip.compress(json.dumps(recorded).encode(), mtime=0))
    else:
        print(json.dumps(ends))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])
