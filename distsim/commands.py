"""What each command of the command line does, with the options that cli.py has read; its exit code.

Imports stay inside the commands: each takes what it needs.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from distsim.execution import Prepared
    from distsim.interface.errors import Problem
    from distsim.results.store import Result


# ---- run


def _run(options: argparse.Namespace) -> int:
    from distsim import api, engines, grammar, sweeping
    from distsim.interface.errors import BadInput

    overrides = [*options.settings, *options.rest]
    at_once = _at_once(options.jobs)
    started = engines.started(overrides)
    try:
        if options.multirun:
            prepared = sweeping.prepare(overrides, options.yes)
        else:
            prepared = [api.prepare(*grammar.parse(overrides, sweeps=True))]
    except BadInput as error:
        if started is None:
            raise
        return engines.refuse(started, overrides, error)

    def runs(run: Callable[[Prepared], Result]) -> int:
        return sweeping.sweep(prepared, overrides, at_once, run) if options.multirun else _one(prepared[0], run)

    return engines.conduct(started, prepared, runs)


def _one(prepared: Prepared, run: Callable[[Prepared], Result]) -> int:
    from distsim import execution, sweeping

    sweeping.warn([prepared])
    stored = sweeping.finished(prepared)
    if prepared.resolved.backend == "real" and stored is None:
        folder = prepared.resolved.runs / prepared.name
        ranks = prepared.job.cluster.world_size
        started = "1 process starts; its log" if ranks == 1 else f"{ranks} processes start; their logs"
        print(f"{started}: {folder / 'logs'}", file=sys.stderr)
    try:
        result = stored or run(prepared)
    except execution.Stopped as stop:
        print(sweeping.outcome(stop.result))
        print(stop.result.folder)
        raise
    if said := sweeping.traceback(result):
        print(said, file=sys.stderr)
    print(sweeping.outcome(result) + (" (stored before)" if stored else ""))
    print(result.folder)
    return 0 if result.status == "done" else 1


def _at_once(text: str | None) -> int | None:
    """The runs at once that were asked for."""
    from distsim.configuration import quantities
    from distsim.interface.errors import BadInput, Problem

    try:
        return None if text is None else int(quantities.integer(1)(text))
    except quantities.Refused as refused:
        raise BadInput([Problem("--jobs", text, refused.allowed, refused.suggestion)]) from None


# ---- the other commands


def _report(options: argparse.Namespace) -> int:
    from distsim.interface.errors import BadInput
    from distsim.results import store

    problems = _unwritable("--output", options.output)
    try:
        results = store.load_all(options.runs)
    except BadInput as error:
        problems = [*error.problems, *problems]
    if problems:
        raise BadInput(problems)
    from distsim.report.page import write_report

    print(write_report(results, options.output))
    print(options.output)
    return 0


def _list(options: argparse.Namespace) -> int:
    import json

    from distsim import catalogue, composition

    if options.what == "strategies":
        entries = catalogue.strategies()
        document: object = catalogue.as_documents(entries)
        text = catalogue.in_blocks(entries, _width())
    else:
        folder = composition.conf() / options.what.removesuffix("s")
        named = catalogue.workloads() if options.what == "workloads" else catalogue.choices(folder)
        document = [{"name": name, "rule": said} for name, said in named]
        text = catalogue.in_lines(named, _width())
    print(json.dumps(document, indent=1) if options.json else text)
    return 0


def _width() -> int:
    """Columns of the terminal, within what reads well."""
    return min(120, max(60, shutil.get_terminal_size((100, 24)).columns))


def _explain(options: argparse.Namespace) -> int:
    from distsim import composition, grammar
    from distsim.explain import settings, terminal
    from distsim.explain.lesson import lesson
    from distsim.interface.errors import BadInput

    given, problems = grammar.parse([*options.settings, *options.rest])
    problems += settings.foreign(given)
    known = {problem.key for problem in problems}
    values, unknown = composition.compose(
        [("strategy", options.strategy), *(pair for pair in given if pair[0] not in known)]
    )
    read, more = settings.read(values, [key for key, _ in given])
    problems += [*unknown, *more]
    if options.html:
        problems += _unwritable("--html", options.html)
    if problems or read is None:
        raise BadInput(problems)
    made = lesson(read)
    print(terminal.text(made, _width()))
    if options.html:
        from distsim.report.lesson import write_lesson

        write_lesson(made, options.html)
        print(f"\n{options.html}")
    return 0 if made.is_done else 1


def _check(options: argparse.Namespace) -> int:
    from distsim import grammar

    given, problems = grammar.parse([*options.settings, *options.rest])
    counts = {"cluster.workers": 0, "budget.updates": 8}
    allowed = f"only strategy.*, {', '.join(counts)} can be set: the runs are small ones of its own"
    strategy = _chosen("strategy", options.strategy, given, counts, 1000, allowed, problems)
    from distsim.testing import check_strategy

    passed = check_strategy(
        strategy,
        counts["cluster.workers"] or None,
        updates=counts["budget.updates"],
        equals_one_process=options.equals_one_process,
        real=options.real,
    )
    print(f"{options.strategy} passes: {', '.join(passed)}")
    return 0


def _chosen(
    kind: Literal["strategy", "workload"],
    name: str,
    given: Sequence[tuple[str, Any]],
    counts: dict[str, int],
    most: int,
    allowed: str,
    problems: list[Problem],
) -> Any:
    """The component of a command that takes the keys of one, and whole numbers up to `most`, which are put into `counts`.
    Raises `BadInput` with all that is wrong."""
    from distsim import composition
    from distsim.configuration import quantities
    from distsim.configuration.reader import Reader
    from distsim.configuration.run import described
    from distsim.configuration.sections import known_keys
    from distsim.interface.errors import BadInput, Problem

    own = [(key, value) for key, value in given if key.startswith(f"{kind}.")]
    foreign = [(key, value) for key, value in given if key not in counts and not key.startswith(f"{kind}.")]
    values, unknown = composition.compose([(kind, name), *own])
    reader = Reader(values, known_keys)
    counts |= {key: reader.value(key, quantities.integer(1, most), value) for key, value in given if key in counts}
    component = None if unknown else reader.component(kind)
    if kind == "workload":
        described(reader, component)
    problems += [*(Problem(key, value, allowed) for key, value in foreign), *unknown, *reader.problems]
    if problems:
        raise BadInput(problems)
    return component


def _emit(options: argparse.Namespace) -> int:
    from distsim import emit

    print(emit.script(options.engine, [*options.settings, *options.rest], options.per_node), end="")
    return 0


def _unwritable(key: str, path: Path) -> list[Problem]:
    from distsim import durable
    from distsim.interface.errors import Problem

    why = durable.refusal(path)
    return [Problem(key, str(path), f"a file that can be written ({why})")] if why else []


def _calibrate(options: argparse.Namespace) -> int:
    from distsim import grammar
    from distsim.interface.errors import BadInput

    given, problems = grammar.parse([*options.settings, *options.rest])
    problems += _unwritable("--output", options.output)
    counts = {"cluster.workers": 4}
    allowed = f"only workload, workload.*, {', '.join(counts)} can be set"
    name = dict(given).get("workload", "digits_mlp")
    others = [(key, value) for key, value in given if key != "workload"]
    workload = _chosen("workload", name, others, counts, 64, allowed, problems)
    from distsim.calibration.measure import calibrate
    from distsim.calibration.profile import Profile
    from distsim.workloads.workload import spelled

    with suppress(BadInput):
        before = Profile.load(options.output).workload
        if before not in (spelled(workload), ""):
            print(f"{options.output} is a profile with {before}, to be replaced; --output FILE keeps both", file=sys.stderr)
    profile = calibrate(workload, counts["cluster.workers"], quick=options.quick, device=options.device)
    profile.save(options.output)
    print(options.output)
    return 0


def _bench(options: argparse.Namespace) -> int:
    return _bench_fabric(options) if options.what == "fabric" else _bench_overhead(options)


def _bench_fabric(options: argparse.Namespace) -> int:
    import json

    from distsim.bench import fabric

    asked = fabric.read(options.workers, options.simgrid, options.json)
    rows = fabric.bench(asked)
    print(fabric.table(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    if options.profile:
        print("", *fabric.profiles(asked), sep="\n\n")
    return 0


def _bench_overhead(options: argparse.Namespace) -> int:
    import json

    from distsim.bench import overhead

    chosen = (options.workloads, options.ranks, options.strategies, options.limit_seconds, options.others, options.seed)
    asked = overhead.read(*chosen, options.json)
    rows, profiles = list[dict[str, object]](), list[str]()
    for found in overhead.bench(asked, profiles.append if options.profile else None):
        rows += found
        if options.json:  # what is measured is kept, whatever comes
            options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(overhead.table(rows))
    if options.profile:
        print("", *profiles, sep="\n\n")
    return 0


COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "run": _run,
    "report": _report,
    "list": _list,
    "explain": _explain,
    "check": _check,
    "emit": _emit,
    "calibrate": _calibrate,
    "bench": _bench,
}
