"""Ways of random graphs are chains of links from source to end, and as short as an independent calculation has them."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distsim.topologies import Graph, Link


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_ways_are_shortest_chains(data: st.DataObject) -> None:
    nodes = [f"n{i}" for i in range(data.draw(st.integers(2, 7)))]
    ends = {(data.draw(st.integers(0, i - 1)), i) for i in range(1, len(nodes))}  # a tree, and more
    ends |= data.draw(st.sets(st.sampled_from([(i, j) for j in range(len(nodes)) for i in range(j)]), max_size=6))
    latencies = [data.draw(st.sampled_from([0.0, 1.0, 2.0, 4.0])) for _ in ends]
    links = tuple(Link((nodes[i], nodes[j]), 1.0, latency) for (i, j), latency in zip(sorted(ends), latencies, strict=True))
    hosts = tuple(nodes[: data.draw(st.integers(2, len(nodes)))])
    least = {(x, y): 0.0 if x == y else inf for x in nodes for y in nodes}
    for link in links:
        first, second = link.ends
        least[first, second] = least[second, first] = link.latency
    for via in nodes:  # Floyd and Warshall
        for x in nodes:
            for y in nodes:
                least[x, y] = min(least[x, y], least[x, via] + least[via, y])
    graph = Graph(hosts, links)
    for source in range(len(hosts)):
        for to in range(len(hosts)):
            if source == to:
                continue
            way = graph.route(source, to)
            at = hosts[source]
            for link in way.links:
                begin, end = links[link // 2].ends if link % 2 == 0 else links[link // 2].ends[::-1]
                assert begin == at
                at = end
            assert at == hosts[to]
            assert way.latency == pytest.approx(least[hosts[source], hosts[to]])
            assert graph.route(to, source).links == tuple(link ^ 1 for link in reversed(way.links))
