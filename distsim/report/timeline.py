"""What every rank did when, packed for a canvas.

A timeline of 10^5 spans takes a browser 38 s as plotly bars and 0.9 s on a canvas. Still, the page is one file: of each run
only the beginning is kept, up to a number of spans, and what is left out is said. Spans are pairs of gap and length in
millionths of what is shown, so that they are short to write.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from distsim.results.breakdown import Division, divide
from distsim.results.cases import Case, Contender
from distsim.results.intervals import Interval

SPANS = 2_500
"""Most spans of one run."""
RANKS = 20
"""Most ranks of one run: the first workers, and the servers."""
UNITS = 1_000_000


def timeline(case: Case, contender: Contender, color: int) -> dict[str, Any] | None:
    """The beginning of the contender's first done run that has records."""
    for run in contender.done:
        traces = run.trace()
        seconds = float(run.summary["seconds"])
        if not any(trace.compute for trace in traces) or seconds <= 0.0:
            continue
        workers = int(run.summary["workers"])
        divisions = [
            replace(division, compute=sorted((span.begun, span.ended) for span in trace.compute if span.begun < seconds))
            for division, trace in zip(divide(traces, seconds), traces, strict=True)
        ]  # each operation by itself, where the breakdown needs their union only
        shown = _chosen(divisions, workers)
        until = _until(shown, seconds)
        return {
            "label": contender.label,
            "color": color,
            "badge": case.badge,
            "setting": str(case),
            "seconds": seconds,
            "until": until,
            "hidden": int(run.summary["world_size"]) - len(shown),
            "ranks": [
                {
                    "name": f"worker {d.rank}" if d.rank < workers else f"server {d.rank - workers}",
                    "compute": _packed(d.compute, until),
                    "communication": _packed(d.communication, until),
                    "waiting": _packed(d.waiting, until),
                }
                for d in shown
            ],
        }
    return None


def _chosen(divisions: Sequence[Division], workers: int) -> list[Division]:
    servers = [d for d in divisions if d.rank >= workers]
    return [d for d in divisions if d.rank < workers][: max(1, RANKS - len(servers))] + servers[:RANKS]


def _until(divisions: Sequence[Division], seconds: float) -> float:
    """The time until which at most `SPANS` spans begin."""
    starts = sorted(begun for d in divisions for spans in (d.compute, d.communication, d.waiting) for begun, _ in spans)
    return seconds if len(starts) <= SPANS else starts[SPANS]


def _packed(spans: Sequence[Interval], until: float) -> list[int]:
    packed: list[int] = []
    at = 0
    for begun, ended in spans:
        if begun >= until:
            break
        first = max(at, round(begun / until * UNITS))
        last = max(first, round(min(ended, until) / until * UNITS))
        packed += [first - at, last - first]
        at = last
    return packed
