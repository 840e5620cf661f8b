"""One run's configuration, from what was written to what is meant.

`resolve` takes a plain nested dict, composed by Hydra or written by hand, and gives the objects of the run with its
resolved configuration: every key present, every value checked, quantities spelled in one way, so that equal runs have equal
configurations. Resolving a resolved configuration changes nothing. All problems are found in one go; nothing is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from hashlib import blake2b
from pathlib import Path
from typing import Any

from distsim.configuration import checks
from distsim.configuration.checkpoints import check_checkpoint, read_checkpoint, spelled_checkpoint
from distsim.configuration.cluster import ClusterSection, read_cluster
from distsim.configuration.failures import check_failure, check_worker_loss, read_failure
from distsim.configuration.failures import warnings as failure_warnings
from distsim.configuration.optimizers import check_course, read_optimizer
from distsim.configuration.reader import Reader
from distsim.configuration.sections import known_keys, read_budget, read_evaluation, read_run
from distsim.configuration.stragglers import read_straggler, spelled_straggler
from distsim.interface import (
    BadInput,
    Budget,
    Failure,
    Model,
    Optimizer,
    Precision,
    Problem,
    Scaling,
    Schedule,
    Straggler,
    Strategy,
)


@dataclass(frozen=True)
class Resolved:
    """A configuration that can run. `config` is its plain form, in a fixed order of keys."""

    config: dict[str, Any]
    strategy: Strategy
    backend: str
    options: Any
    workload: Any
    model: Model
    cluster: ClusterSection
    straggler: Straggler
    failure: Failure
    optimizer: Optimizer
    schedule: Schedule
    scaling: Scaling
    budget: Budget
    evaluation_samples: int
    precision: Precision
    seed: int
    """Of weights, data and stragglers: `seed` and `repeat` in one."""
    runs: Path
    warnings: tuple[str, ...]


def resolve(values: Mapping[str, Any], alone: bool = True) -> tuple[Resolved | None, list[Problem]]:
    """The run that `values` describe, or None and everything that is wrong with them. `alone`: this machine runs all of it,
    so that it must fit."""
    reader = Reader(values, known_keys)
    strategy = reader.component("strategy")
    options = reader.component("backend")
    workload = reader.component("workload")
    cluster = read_cluster(reader)
    straggler, straggler_name = read_straggler(reader, cluster.workers if cluster else None)
    failure = read_failure(reader)
    checkpoint = read_checkpoint(reader)
    course = read_optimizer(reader)
    budget = read_budget(reader)
    if course and budget:
        check_course(reader, course, budget)
    samples = read_evaluation(reader)
    run = read_run(reader)
    backend = str(reader.section("backend").get("name"))
    model = described(reader, workload, has_values=backend != "modeled")
    checks.runs_folder(reader, run["runs"])
    checks.precision(reader, run["precision"], model, strategy, cluster)
    if cluster and options is not None:
        fits = not alone or checks.machine(reader, backend, options, cluster, model, strategy)
        if fits and strategy and model and budget:
            checks.together(reader, strategy, backend, model, cluster, budget)
            if alone:
                checks.network(reader, strategy, backend, cluster)
    if failure and strategy and cluster:
        check_failure(reader, failure, strategy, backend, cluster)
        if backend == "real" and options is not None:
            check_worker_loss(reader, options.on_worker_loss, strategy, cluster.workers)
        if checkpoint:
            checkpoint = check_checkpoint(reader, checkpoint, failure.failure, strategy, cluster.ranks(strategy))
    if reader.problems or not (cluster and model and straggler and failure and checkpoint and course and budget):
        return None, reader.problems
    failures = replace(failure.failure, checkpoint=checkpoint)
    config = {
        "strategy": _plain(reader, "strategy", strategy),
        "backend": _plain(reader, "backend", options),
        "workload": _plain(reader, "workload", workload),
        "cluster": cluster.spelled(),
        "straggler": spelled_straggler(straggler, straggler_name),
        "failure": failure.plain(),
        "checkpoint": spelled_checkpoint(checkpoint),
        "optimizer": course.plain(),
        "budget": asdict(budget),
        "evaluation": {"samples": samples},
        **run,
    }
    return Resolved(
        config=config,
        strategy=strategy,
        backend=backend,
        options=options,
        workload=workload,
        model=model,
        cluster=cluster,
        straggler=straggler,
        failure=failures,
        optimizer=course.optimizer,
        schedule=course.schedule,
        scaling=course.scaling,
        budget=budget,
        evaluation_samples=samples,
        precision=Precision(run["precision"]),
        seed=run_seed(run["seed"], run["repeat"]),
        runs=Path(run["runs"]).expanduser(),
        warnings=(
            *checks.warnings(strategy, backend, model, cluster, straggler, alone),
            *checks.precision_warnings(run["precision"], backend, cluster),
            *failure_warnings(failures, cluster.ranks(strategy)),
            *course.warnings(budget.updates_allowed(strategy.gradients_an_update(cluster.workers) * model.batch)),
        ),
    ), []


def run_seed(seed: int, repeat: int) -> int:
    """The one seed that a run's weights, data and stragglers are keyed by."""
    return int.from_bytes(blake2b(repr((seed, repeat)).encode(), digest_size=6).digest(), "little")


def described(reader: Reader, workload: Any, has_values: bool = True) -> Model | None:
    """The description of the workload's model, None after a problem; for a user's own, what their code returned.
    `has_values`: its data is needed, too."""
    if workload is None:
        return None
    problems = [*workload.problems(), *(workload.obstacles() if has_values else ())]
    reader.problems += problems
    if problems:
        return None
    try:
        model: Model = workload.model()
    except BadInput as error:
        reader.problems += error.problems
    except (Exception, SystemExit) as error:  # theirs: it is named, not traced
        module = getattr(workload, "module", workload.name)
        reader.refuse("workload.module", module, f"cannot be built: {type(error).__name__}: {error}")
    else:
        return model
    return None


def _plain(reader: Reader, section: str, component: Any) -> dict[str, Any]:
    """A component's fields as a configuration writes them."""
    fields = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(component).items()}
    return {"name": str(reader.section(section)["name"]), **fields}
