"""The shape of a deadlock: a cycle among those who wait."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def find_cycle(waits_for: Mapping[int, Sequence[int]]) -> list[int]:
    """A cycle of the graph rank -> ranks it waits for, its first rank again at the end; empty if there is none."""
    done = set[int]()
    for start in waits_for:
        path, walks = [start], [iter(waits_for[start])]
        while walks and start not in done:
            peer = next(walks[-1], None)
            if peer is None:
                done.add(path.pop())
                walks.pop()
            elif peer in path:
                return [*path[path.index(peer) :], peer]
            elif peer in waits_for and peer not in done:
                path.append(peer)
                walks.append(iter(waits_for[peer]))
    return []
