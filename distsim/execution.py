"""One run, from its configuration to its folder.

`prepare` finds everything that is wrong before anything runs, reading what the run depends on (profile, data, source) for
its name; `run` runs it, or gives the stored run where there is one. What a run needs is imported when it is needed: a
modeled run imports neither torch nor numpy, and no table.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from math import inf, isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distsim import signals
from distsim.configuration import Resolved, resolve
from distsim.costs import Costs, costed
from distsim.interface import (
    BadInput,
    Cluster,
    Interrupted,
    Job,
    Numerics,
    Outcome,
    Piece,
    Problem,
    Region,
    Snapshot,
    interrupted,
)
from distsim.interface.errors import full_disk
from distsim.results import identity, store
from distsim.results.conservation import NotConserved, check_conservation
from distsim.results.store import Draft, Result
from distsim.results.summary import Curve, metrics, summarize

if TYPE_CHECKING:
    from distsim.backends.real.worlds.meeting import Meeting
    from distsim.backends.real.worlds.world import World


Company = Callable[[], "tuple[Meeting, str]"]
"""Tells other processes that a run starts; where they meet, and its name there."""


class Stopped(KeyboardInterrupt):
    """Somebody interrupted a run; `result` is its row, of status `interrupted`. It is done anew when asked for again."""

    def __init__(self, result: Result) -> None:
        super().__init__(result.summary["message"])
        self.result = result


@dataclass(frozen=True)
class Prepared:
    """A run that can start."""

    resolved: Resolved
    job: Job
    name: str
    inputs: Mapping[str, str]
    """What it reads, by hash or version: runs with other inputs are other runs."""
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    """What is said before it runs."""
    disturbed: str = ""
    """What else used the machine while the costs that it predicts with were measured."""

    @property
    def config(self) -> dict[str, Any]:
        """The resolved configuration."""
        return self.resolved.config


def prepare(values: Mapping[str, Any]) -> tuple[Prepared | None, list[Problem]]:
    """The run that a configuration describes, or None and everything that is wrong with it. Writes nothing."""
    try:
        around = _world(values)
    except BadInput as error:
        return None, error.problems
    resolved, problems = resolve(values, around is None)
    if resolved is None:
        return None, problems
    problems += store.check(resolved.runs)
    inputs = {
        "source": identity.source(),
        "strategy": identity.foreign_source(resolved.strategy),
        **identity.versions(resolved.backend),
    }
    cluster, costs = None, Costs()
    try:
        inputs["data"] = resolved.workload.fingerprint()
    except BadInput as error:
        problems += error.problems
    try:
        cluster, costs = costed(resolved, inputs.get("data", ""))
        inputs["profile"] = costs.fingerprint
    except BadInput as error:
        problems += error.problems
    if resolved.backend == "real":
        from distsim.backends.real.options import device_of
        from distsim.backends.real.options import problems as real_problems
        from distsim.backends.real.watching.failures import no_restarts
        from distsim.backends.real.worlds.world import problems as world_problems

        problems += real_problems(resolved.options)
        inputs["host"] = identity.host()
        ranks = cluster.world_size if cluster else 0
        if cluster and around:
            problems += world_problems(around, ranks, resolved.options.interface)
            problems += no_restarts(resolved.failure, resolved.options, around.engine)
            inputs["world"] = f"{around.local_size} of {ranks} ranks are on this host"
            if not resolved.failure.checkpoint.is_off:  # started again, on other hosts for one, it is the same run
                del inputs["world"], inputs["host"]
            ranks = around.local_size
        if cluster and not problems:
            inputs["device"] = device_of(resolved.options, ranks)
            if inputs["device"] == "cpu":  # ranks share this machine's memory; the key describes a device of their own
                cluster = replace(cluster, memory=inf)
        if resolved.straggler.is_off:  # only the sleep of an injected straggler follows from the profile
            inputs.pop("profile", None)
    if problems or cluster is None:
        return None, problems
    job = _job(resolved, cluster, inputs.get("device", "cpu"))
    if resolved.backend == "real":
        from distsim.backends.real import pack
        from distsim.backends.real.options import no_shared_memory
        from distsim.backends.real.watching.failures import works_on

        engine = around.engine if around else ""
        if problems := list(no_shared_memory(resolved.options, works_on(job, resolved.options), engine)):
            return None, problems
        try:
            pack(job)
        except BadInput as error:
            return None, error.problems
    name = identity.run_name(resolved.config, inputs)
    notes = (*resolved.warnings, *filter(None, [costs.note]))
    return Prepared(resolved, job, name, inputs, notes, (*resolved.warnings, *costs.warnings), costs.disturbed), []


def _world(values: Mapping[str, Any]) -> World | None:
    """The world that a real run is to run in."""
    section = values.get("backend")
    if not isinstance(section, Mapping) or section.get("name") != "real":
        return None
    from distsim.backends.real.worlds.world import world

    return world()


def run(prepared: Prepared, company: Company | None = None) -> Result:
    """Run and store what was prepared, whatever becomes of it; the stored run if it is finished. `company` tells the other
    processes of an engine that a real run starts. Raises `Stopped`, once the row is stored, where a KeyboardInterrupt ended
    the run."""
    with store.claim(prepared.resolved.runs, prepared.name, prepared.config) as claimed:
        return claimed if isinstance(claimed, Result) else _run(prepared, claimed, company)


def fail(prepared: Prepared, message: str) -> Result:
    """Store that a run ended outside of its backend, which can say nothing about it; the stored run if it is finished."""
    with store.claim(prepared.resolved.runs, prepared.name, prepared.config) as claimed:
        if isinstance(claimed, Result):
            return claimed
        return _commit(prepared, claimed, Outcome("failed", message, 0.0), datetime.now(UTC), 0.0)


def _run(prepared: Prepared, draft: Draft, company: Company | None) -> Result:
    started, clock = datetime.now(UTC), time.perf_counter()
    try:
        signals.check()
        outcome = _conserved(_backend(prepared, draft.folder, company))
    except KeyboardInterrupt as stop:
        known = stop.outcome if isinstance(stop, Interrupted) else interrupted([])
        with signals.whole():
            row = _commit(prepared, draft, known, started, time.perf_counter() - clock)
        raise Stopped(row) from None
    with signals.whole():
        return _commit(prepared, draft, outcome, started, time.perf_counter() - clock)


def _commit(prepared: Prepared, draft: Draft, outcome: Outcome, started: datetime, wall: float) -> Result:
    notes = [*prepared.notes, *outcome.notes]
    try:
        curve = [] if outcome.status == "interrupted" else _curve(prepared, outcome.snapshots)
    except Exception as error:  # the run itself went well: its times count
        curve = []
        notes.append(f"not evaluated: {type(error).__name__}: {error}")
    row = {
        "config": prepared.config,
        "inputs": prepared.inputs,
        **summarize(prepared.job, outcome, curve),
        "notes": list(dict.fromkeys(notes)),
        "disturbed": prepared.disturbed,
        "versions": identity.versions(),
        "host": identity.host(),
        "started": started.isoformat(timespec="milliseconds"),
        "wall_seconds": wall,
    }
    return draft.commit(row, metrics(outcome, curve), outcome.traces)


def _backend(prepared: Prepared, folder: Path, company: Company | None = None) -> Outcome:
    """Hand the job to its backend; whatever it raises becomes a failed outcome."""
    options = prepared.resolved.options
    try:
        if prepared.resolved.backend == "real":
            from distsim.backends.real import launch

            meeting, name = company() if company else (None, "")
            return launch(prepared.job, options, folder / store.LOGS, meeting, name, folder / store.CHECKPOINTS)
        from distsim.backends.simulated import simulate

        with _one_thread(prepared.resolved.backend):
            return simulate(prepared.job, options)
    except Exception as error:  # a failure is a row
        where = traceback.extract_tb(error.__traceback__)[-1]
        said = f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"
        return Outcome("failed", full_disk(error) or said, 0.0)


def _conserved(outcome: Outcome) -> Outcome:
    """The same outcome, or a failed one if its records lost bytes, gradients or time: no number of it can be trusted."""
    if outcome.status == "done":
        try:
            check_conservation(outcome.traces)
        except NotConserved as error:
            outcome.status, outcome.message = "failed", f"not conserved, a mistake of distsim: {error}"
    return outcome


def _one_thread(backend: str) -> AbstractContextManager[None]:
    """What computes in this process computes with one thread."""
    if backend == "modeled":
        return nullcontext()
    from distsim.numerics.tensors import one_thread

    return one_thread()


def _job(resolved: Resolved, cluster: Cluster, device: str) -> Job:
    has_values = resolved.backend != "modeled"
    return Job(
        strategy=resolved.strategy,
        model=resolved.model,
        cluster=cluster,
        budget=resolved.budget,
        numerics=_numerics(resolved, cluster, device),
        straggler=resolved.straggler,
        failure=resolved.failure,
        seed=resolved.seed,
        schedule=resolved.schedule,
        scaling=resolved.scaling,
        samples_between_snapshots=resolved.evaluation_samples if has_values else 0,
    )


def _numerics(resolved: Resolved, cluster: Cluster, device: str) -> Callable[[int], Numerics[Any]]:
    workers = cluster.workers
    if resolved.backend == "modeled":
        from distsim.numerics.sizes import SizesFactory

        return SizesFactory(resolved.model, workers, resolved.optimizer, resolved.precision)
    from distsim.numerics.tensors import TensorsFactory

    return TensorsFactory(resolved.workload, workers, resolved.optimizer, resolved.seed, device, resolved.precision)


def _curve(prepared: Prepared, snapshots: Iterable[Snapshot]) -> Curve:
    """The evaluated snapshots, the initial model first. The model of an update is the union of what was published for it,
    and the mean where pieces overlap; an update whose pieces lack a parameter is left out. A loss that is not finite is
    None."""
    resolved = prepared.resolved
    if resolved.backend == "modeled" or not resolved.evaluation_samples:
        return []
    with _one_thread(resolved.backend):
        return _evaluated(resolved, snapshots)


def _evaluated(resolved: Resolved, snapshots: Iterable[Snapshot]) -> Curve:
    from distsim.numerics.tensors import TensorsFactory
    from distsim.numerics.tensors_assemble import assemble

    task = resolved.workload.task(resolved.seed)
    whole = Region(tuple(range(len(resolved.model.blocks))))
    initial = TensorsFactory(resolved.workload, 1, resolved.optimizer, resolved.seed)(0).read(whole)
    by_update = {0: [Snapshot(0, 0, 0.0, [Piece(whole, (0, 1), initial)])]}
    for snapshot in snapshots:
        by_update.setdefault(snapshot.number, []).append(snapshot)
    curve: Curve = []
    for number, published in sorted(by_update.items()):
        values = assemble(resolved.model, task.blocks, (piece for s in published for piece in s.pieces))
        if values is None:
            continue
        loss, accuracy = task.evaluate(values)
        curve.append(
            {
                "update": number,
                "samples": published[0].samples,
                "seconds": max(snapshot.time for snapshot in published),
                "loss": loss if isfinite(loss) else None,
                "accuracy": accuracy if isfinite(loss) else None,
            }
        )
    return curve
