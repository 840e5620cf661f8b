"""What the ranks of a run gave, put together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from distsim.backends.real import values
from distsim.backends.real.process import Order
from distsim.backends.real.watching.watch import End
from distsim.backends.real.worlds.pulse import LauncherLost
from distsim.interface import Outcome

if TYPE_CHECKING:
    from distsim.backends.real.worlds.meeting import Meeting


def results_of(
    end: End, orders: Iterable[Order], logs: Sequence[Path], meeting: Meeting | None, run: str
) -> Iterator[bytes]:
    """What every rank gave, by rank; of other launchers' ranks, the logs are written, too."""
    for order in orders:
        if end.status == "done":
            yield order.results.read_bytes()
        order.results.unlink(missing_ok=True)
    for rank in range(1, len(logs)) if meeting else ():
        assert meeting is not None
        try:
            if end.status == "done":
                yield meeting.receive(f"{run}/results/{rank}", rank)
            logs[rank].write_bytes(meeting.receive(f"{run}/log/{rank}", rank))
        except LauncherLost:
            if end.status == "done":
                raise


def gather(end: End, results: Iterable[bytes], notes: list[str]) -> Outcome:
    """The outcome of a run that ended like this; `results` of every rank, by rank, if it went well."""
    outcome = Outcome(end.status, end.message, 0.0, notes=notes)
    if end.status != "done":
        return outcome
    clock = 0.0
    for data in results:
        trace, snapshots, weights, clock = values.loads(data)
        outcome.traces.append(trace)
        outcome.snapshots += snapshots
        outcome.weights.append(weights)
    if clock:
        outcome.notes.append(f"clocks of several machines were aligned at the start, to {clock * 1e6:.0f} us at worst")
    updates = [update.time for trace in outcome.traces for update in trace.updates]
    outcome.seconds = max(updates or [trace.ended for trace in outcome.traces])
    return outcome
