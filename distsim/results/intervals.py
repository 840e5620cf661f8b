"""Sets of times as sorted, disjoint intervals: what a rank's time is divided with. Every operation is linear or a sort."""

from __future__ import annotations

from collections.abc import Iterable

Interval = tuple[float, float]
"""Begin and end, in seconds; never empty."""


def union(intervals: Iterable[Interval], low: float, high: float) -> list[Interval]:
    """What lies in any of the intervals and within [low, high]."""
    kept = [(b if b > low else low, e if e < high else high) for b, e in intervals if b < e]  # most are empty
    merged: list[Interval] = []
    for begun, ended in sorted(kept):
        if begun >= ended:
            continue
        if merged and begun <= merged[-1][1]:
            if ended > merged[-1][1]:
                merged[-1] = (merged[-1][0], ended)
        else:
            merged.append((begun, ended))
    return merged


def without(intervals: list[Interval], taken: list[Interval]) -> list[Interval]:
    """What lies in `intervals` and not in `taken`; both sorted and disjoint."""
    left: list[Interval] = []
    i = 0
    for begun, ended in intervals:
        while i < len(taken) and taken[i][1] <= begun:
            i += 1
        j = i
        while j < len(taken) and taken[j][0] < ended:
            if begun < taken[j][0]:
                left.append((begun, taken[j][0]))
            begun = max(begun, taken[j][1])
            j += 1
        if begun < ended:
            left.append((begun, ended))
    return left


def length(intervals: Iterable[Interval]) -> float:
    """Total seconds of disjoint intervals."""
    return sum(ended - begun for begun, ended in intervals)
