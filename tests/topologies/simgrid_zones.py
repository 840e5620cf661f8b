"""Flows over SimGrid's own fat tree and torus, for its Python bindings (3.32): reads JSON, writes when each flow ends.

Run by the system's interpreter, so it imports nothing of the package. `network/optim:Full` solves all flows at every
change; the default solves those it takes for affected, and its rates are then not always max-min fair.
"""

import json
import sys

import simgrid
from simgrid import Actor, Comm, Engine, Link, NetZone

OPTIONS = (
    "network/model:CM02",
    "network/optim:Full",
    "network/latency-factor:1",
    "network/bandwidth-factor:1",
    "network/weight-S:0",
    "network/TCP-gamma:0",
    "network/crosstraffic:0",
)


def main():
    given = json.load(sys.stdin)
    engine = Engine(["zones", *(f"--cfg={option}" for option in OPTIONS), "--log=root.thres:critical"])
    hosts, ends = {}, [0.0] * len(given["flows"])

    def host(zone, coordinates, number):
        hosts[number] = zone.create_host(f"host{number}", 1e9)
        return hosts[number].netpoint, None

    callbacks = simgrid.ClusterCallbacks(host, None, None)
    link = given["bandwidth"], given["latency"], Link.SharingPolicy.SPLITDUPLEX
    if "shape" in given:
        zone = NetZone.create_torus_zone("zone", None, given["shape"], callbacks, *link)
    else:
        size, leaves, uplinks = given["leaf"]
        tree = simgrid.FatTreeParams(2, [size, leaves], [1, uplinks], [1, 1])
        zone = NetZone.create_fatTree_zone("zone", None, tree, callbacks, *link)
    zone.seal()

    def flow(number, source, to, nbytes):
        Comm.sendto(hosts[source], hosts[to], nbytes)
        ends[number] = Engine.clock

    for number, (source, to, nbytes) in enumerate(given["flows"]):
        Actor.create(f"flow{number}", hosts[source], flow, number, source, to, nbytes)
    engine.run()
    print(json.dumps(ends))


main()
