"""The shape of a deadlock: a cycle among those who wait; and how ranks are listed in a message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

SAID = 16
"""Ranks that a message names at most where there may be thousands."""


def listed(ranks: Sequence[int], separator: str = ",") -> str:
    """Ranks by number; of many the first, the last, and how many they are."""
    if len(ranks) <= SAID:
        return separator.join(map(str, ranks))
    half = SAID // 2
    ends = [*map(str, ranks[:half]), "...", *map(str, ranks[-half:])]
    return f"{separator.join(ends)} ({len(ranks)} of them)"


def find_cycle(waits_for: Mapping[int, Sequence[int]]) -> list[int]:
    """A cycle of the graph rank -> ranks it waits for, its first rank again at the end; empty if there is none."""
    done = set[int]()
    for start in waits_for:
        path, walks = {start: None}, [iter(waits_for[start])]  # in the order of the walk
        while walks and start not in done:
            peer = next(walks[-1], None)
            if peer is None:
                done.add(path.popitem()[0])
                walks.pop()
            elif peer in path:
                ranks = list(path)
                return [*ranks[ranks.index(peer) :], peer]
            elif peer in waits_for and peer not in done:
                path[peer] = None
                walks.append(iter(waits_for[peer]))
    return []
