"""From the records of a run to what is drawn: for every rank its computing, letter by letter, and its communication.

    F forward   B backward   I, W its halves: input and weights   A apply   M mean   E encode   D decode

A gradient computed as one operation is drawn as its forward and backward passes, which the bench says the lengths of; one
that was cancelled ends before its time.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from distsim.explain.bench import BLOCKS
from distsim.interface import Compute, Trace
from distsim.results.breakdown import divide
from distsim.results.intervals import Interval, union, without
from distsim.results.matching import begins

LETTERS: Mapping[str, tuple[str, str]] = {
    "forward": ("F", "forward"),
    "backward": ("B", "backward"),
    "input": ("I", "backward, input"),
    "weights": ("W", "backward, weights"),
    "apply": ("A", "apply (update)"),
    "average": ("M", "mean of gradients"),
    "encode": ("E", "encode"),
    "decode": ("D", "decode"),
}
_BLOCKWISE = {"F": "forward", "B": "backward", "I": "input", "W": "weights"}
_ROUNDING = 1e-9

Factor = Callable[[int, int, float], float]
"""How many times longer than planned an operation of (rank, step) takes that begins at a time."""


@dataclass(frozen=True)
class Span:
    """One stretch of computing."""

    kind: str
    """A key of `LETTERS`, or the name that the strategy gave to an operation of its own."""
    begun: float
    ended: float
    step: int = -1
    part: int = -1
    """Which share of the step's samples: the micro-batch in a pipeline."""
    cancelled: bool = False


@dataclass(frozen=True)
class Lane:
    """What one rank did."""

    name: str
    computing: tuple[Span, ...]
    communication: tuple[Interval, ...]
    """That no computing hides."""
    hidden: tuple[Interval, ...]
    """Communication behind computing."""
    waiting: tuple[Interval, ...]


def lanes(traces: Sequence[Trace], workers: int, seconds: float, microbatches: int, factor: Factor) -> list[Lane]:
    """A lane a rank, workers first, until `seconds`."""
    begun = begins(traces)
    found = []
    for division, trace in zip(divide(traces, seconds), traces, strict=True):
        moving = union(((begun[t.channel, t.sequence], t.ended) for t in trace.transfers), 0.0, seconds)
        rank = trace.rank
        found.append(
            Lane(
                name=f"worker {rank}" if rank < workers else f"server {rank - workers}",
                computing=tuple(_clipped(_merged(_spans(trace, microbatches, factor)), seconds)),
                communication=tuple(division.communication),
                hidden=tuple(without(moving, without(moving, division.compute))),
                waiting=tuple(division.waiting),
            )
        )
    return found


def numbered(lane: Lane) -> bool:
    """Whether its passes are of several micro-batches of a step: then their numbers tell them apart."""
    passes = [span for span in lane.computing if span.kind in ("forward", "backward", "input", "weights")]
    return len({(span.step, span.part) for span in passes}) > len({span.step for span in passes})


def kinds(drawn: Iterable[Lane]) -> list[str]:
    """The kinds of computing in the picture: those of `LETTERS` in their order, then a strategy's own."""
    there = dict.fromkeys(span.kind for lane in drawn for span in lane.computing)
    return [*(kind for kind in LETTERS if kind in there), *(kind for kind in there if kind not in LETTERS)]


def _spans(trace: Trace, microbatches: int, factor: Factor) -> Iterator[Span]:
    for record in sorted(trace.compute, key=lambda record: (record.begun, record.ended)):
        if record.name.startswith("gradient"):
            yield from _gradient(record, microbatches, factor(trace.rank, record.step, record.begun))
        elif record.letter:
            yield Span(_BLOCKWISE[record.letter], record.begun, record.ended, record.step, record.part)
        elif record.ended > record.begun:
            yield Span(record.name, record.begun, record.ended)


def _gradient(record: Compute, microbatches: int, factor: float) -> Iterator[Span]:
    """The passes of a gradient that was one operation, or of one of its buckets, `gradient[first:last]`."""
    match = re.fullmatch(r"gradient\[(\d+):(\d+)\]", record.name)
    first, last = (int(match[1]), int(match[2])) if match else (0, BLOCKS)
    share = factor / microbatches
    whole = [("forward", BLOCKS * share), ("backward", 2.0 * BLOCKS * share)]
    passes = [*whole * (microbatches - 1), ("forward", BLOCKS * share)] if last == BLOCKS else []
    passes.append(("backward", 2.0 * (last - first) * share))
    planned = sum(seconds for _, seconds in passes)
    taken = record.ended - record.begun
    cancelled = taken < planned * (1.0 - _ROUNDING)
    stretch = max(1.0, taken / planned)
    at = record.begun
    for kind, seconds in passes:
        until = min(record.ended, at + seconds * stretch)
        if until > at:
            yield Span(kind, at, until, record.step, record.part, cancelled and until >= record.ended)
        at = until


def _merged(spans: Iterable[Span]) -> Iterator[Span]:
    """Neighbours of one kind and micro-batch as one span: a stage runs several blocks."""
    last: Span | None = None
    for span in spans:
        if last and (last.kind, last.step, last.part) == (span.kind, span.step, span.part):
            together = span.begun - last.ended <= _ROUNDING and not last.cancelled
        else:
            together = False
        if last and together:
            last = Span(last.kind, last.begun, span.ended, last.step, last.part, span.cancelled)
            continue
        if last:
            yield last
        last = span
    if last:
        yield last


def _clipped(spans: Iterable[Span], seconds: float) -> Iterator[Span]:
    for span in spans:
        if span.begun < seconds - _ROUNDING:
            yield Span(span.kind, span.begun, min(span.ended, seconds), span.step, span.part, span.cancelled)
