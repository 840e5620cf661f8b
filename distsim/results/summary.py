"""The row and the metrics of a run, from what its backend gave back.

seconds, updates, samples    until the last update, on the run's clock
curve                        the evaluated snapshots: update, samples, seconds, loss, accuracy (null if not finite)
status                       the backend's; diverged too if the last snapshot's loss is not finite; out of memory if a rank
                             held more than its device has: then no time and no loss of the run means anything
contended                    ranks of a real run shared cores or GPUs
memory                       bytes that the rank with most of them held at its peak, by what they were for; see _memory
final_loss, final_accuracy   of the model after the last update; null if that was not evaluated
disturbed                    what else used the machine while the costs that the run predicts with were measured; else empty
staleness                    of the gradients that were applied; null where no gradient travelled
losses                       what failures took from the run: failures, restarts, complete checkpoints, lost_seconds; null
                             where nothing can fail
breakdown                    the workers' mean fractions of time, see `distsim.results.breakdown`
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from distsim.interface import Job, Outcome, Trace
from distsim.results.breakdown import breakdown
from distsim.results.wording import nbytes

Curve = list[dict[str, float | None]]
OUT_OF_MEMORY = "out of memory"
"""The status of a run that its devices could not hold."""


def summarize(job: Job, outcome: Outcome, curve: Curve) -> dict[str, Any]:
    """The numbers of a run's row."""
    updates = max((trace.updates[-1].number for trace in outcome.traces if trace.updates), default=0)
    samples = max((trace.updates[-1].samples for trace in outcome.traces if trace.updates), default=0)
    seconds = outcome.seconds
    status, message = _ended(job, outcome, curve)
    timed = updates > 0 and seconds > 0.0 and status != OUT_OF_MEMORY
    last = curve[-1] if curve and curve[-1]["update"] == updates and status != OUT_OF_MEMORY else {}
    recorded = len(outcome.traces) * outcome.copies
    complete = recorded == job.cluster.world_size and outcome.status == "done" and status != OUT_OF_MEMORY
    return {
        "status": status,
        "message": message,
        "workers": job.cluster.workers,
        "servers": job.cluster.servers,
        "world_size": job.cluster.world_size,
        "seconds": seconds,
        "updates": updates,
        "samples": samples,
        "seconds_per_update": seconds / updates if timed else None,
        "samples_per_second": samples / seconds if timed else None,
        "staleness": _staleness(outcome.traces),
        "contended": outcome.contended,
        "memory": _memory(outcome.traces),
        "losses": None if outcome.losses is None else outcome.losses._asdict(),
        "breakdown": breakdown(outcome.traces, job.cluster.workers, seconds) if complete else None,
        "curve": curve,
        "final_loss": last.get("loss"),
        "final_accuracy": last.get("accuracy"),
    }


def _ended(job: Job, outcome: Outcome, curve: Curve) -> tuple[str, str]:
    """Status and message: a run that does not fit its devices is none, and one whose last evaluated model is no model any
    more has diverged, whatever its backend saw."""
    if outcome.status in ("done", "diverged") and (missing := _overflow(job, outcome)):
        return OUT_OF_MEMORY, missing
    if outcome.status == "done" and curve and curve[-1]["loss"] is None:
        return "diverged", f"validation loss is not finite at update {curve[-1]['update']}"
    return outcome.status, outcome.message


def _overflow(job: Job, outcome: Outcome) -> str:
    """Which rank holds too much for its device, and how much too much; empty if all fit."""
    trace = _largest(outcome.traces)
    limit = job.cluster.memory
    if trace is None or trace.peak.total <= limit:
        return ""
    total = trace.peak.total
    kinds = ", ".join(f"{kind} {nbytes(value)}" for kind, value in trace.peak._asdict().items() if value)
    others = outcome.copies * sum(other.peak.total > limit for other in outcome.traces) - 1
    more = f"; {others} more {'rank does' if others == 1 else 'ranks do'} not fit" if others else ""
    return (
        f"would not fit: rank {trace.rank} needs {nbytes(total)}, {nbytes(total - limit)} more than the "
        f"{nbytes(limit)} of its device ({kinds}){more}"
    )


def _memory(traces: Sequence[Trace]) -> Mapping[str, Any] | None:
    """The peak of the rank that held most: its rank, its bytes and their kinds, the activations at their own peak, and the
    bytes of every rank that was simulated."""
    trace = _largest(traces)
    if trace is None:
        return None
    return {
        "rank": trace.rank,
        "bytes": trace.peak.total,
        **trace.peak._asdict(),
        "peak_activations": trace.peak_activations,
        "by_rank": [each.peak.total for each in sorted(traces, key=lambda each: each.rank)],
    }


def _largest(traces: Sequence[Trace]) -> Trace | None:
    """The first of the ranks that held most; None where nobody weighed."""
    trace = max(traces, key=lambda trace: (trace.peak.total, -trace.rank), default=None)
    return trace if trace is not None and trace.peak.total else None


def metrics(outcome: Outcome, curve: Curve) -> dict[str, Any]:
    """What changes over a run: [number, samples, seconds] of updates, [step, part, parts, loss, seconds] of training losses
    as they were met, [server, worker, version, staleness, applied, seconds] of gradients in order of their decision."""
    ends: dict[int, tuple[int, float]] = {}
    for trace in outcome.traces:
        for update in trace.updates:  # complete when the last rank that counts it is
            known = ends.get(update.number)
            if known is None or update.time > known[1]:
                ends[update.number] = (update.samples, update.time)
    losses = [list(loss) for trace in outcome.traces for loss in trace.losses]
    arrivals = [[trace.rank, *arrival] for trace in outcome.traces for arrival in trace.arrivals]
    return {
        "updates": [[number, *ends[number]] for number in sorted(ends)],
        "losses": sorted(losses, key=lambda loss: (loss[4], loss[0], loss[1])),
        "arrivals": arrivals,
        "curve": curve,
    }


def _staleness(traces: Sequence[Trace]) -> Mapping[str, Any] | None:
    counts = Counter(arrival.staleness for trace in traces for arrival in trace.arrivals if arrival.applied)
    total = counts.total()
    if not total:
        return None
    return {
        "mean": sum(value * count for value, count in counts.items()) / total,
        "max": max(counts),
        "histogram": {str(value): counts[value] for value in sorted(counts)},
    }
