"""Where a step's time went on each rank of ours, from the records that every run keeps.

Only steps count that another step of their block came before: what the gate made the first of a block wait is not theirs.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from distsim.interface.trace import Trace

_COLUMNS = ("step", "forward and backward", "optimizer", "other arithmetic", "waited for others", "our own Python")


def profile(traces: Sequence[Trace], blocks: Sequence[int]) -> str:
    """A table, a line a rank, of milliseconds a step; `blocks` are the sizes of all blocks, the first two to warm up."""
    lines = [["rank", *_COLUMNS]]
    for trace in traces:
        lines.append([str(trace.rank), *(f"{1e3 * seconds:.3f}" for seconds in shares(trace, blocks))])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)


def shares(trace: Trace, blocks: Sequence[int]) -> list[float]:
    """Seconds a step: the whole, and its parts in the order of the columns."""
    ends = [update.time for update in trace.updates]
    counted, first = set[int](), 0
    for number, size in enumerate(blocks):
        if number >= 2:
            counted.update(range(first + 1, first + size))
        first += size
    counted = {step for step in counted if step < len(ends)}
    whole = sum(ends[step] - ends[step - 1] for step in counted)
    computing, optimizer, other, waited = 0.0, 0.0, 0.0, 0.0
    for record in trace.compute:
        if bisect_right(ends, record.begun) in counted:
            seconds = record.ended - record.begun
            if record.name == "apply":
                optimizer += seconds
            elif record.letter or record.name == "loss" or record.name.startswith("gradient"):
                computing += seconds
            else:
                other += seconds
    for transfer in trace.transfers:
        if bisect_right(ends, transfer.awaited) in counted:
            waited += transfer.ended - transfer.awaited
    parts = [computing, optimizer, other, waited]
    return [each / max(1, len(counted)) for each in (whole, *parts, whole - sum(parts))]
