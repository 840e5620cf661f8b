"""The command line. Exit codes: 0 done, 1 a run failed, 2 bad input, 3 some runs of a sweep failed, 130 interrupted.

    distsim run strategy=async_ps backend=modeled budget.updates=200
    distsim run -m strategy=all_reduce,sync_ps backend=real,modeled repeat=0,1,2
    distsim report runs --output report.html
    distsim list strategies | workloads | backends | clusters | stragglers | optimizers
    distsim explain k_sync strategy.k=3 --html k_sync.html
    distsim calibrate --quick

A sweep is Hydra's multirun with whatever launcher is configured (`hydra/launcher=joblib`). Before it starts, the whole grid
is expanded, composed and checked here; each job stores its run or its failure and raises nothing, because one raising job
would hide the others. Imports stay inside the commands: `--help` takes no more than argparse does.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distsim.execution import Prepared
    from distsim.interface.errors import Problem
    from distsim.results.store import Result

_CLOCKS = {"real": "measured", "modeled": "modeled", "cosimulated": "cosimulated"}
_sweep_started = 0.0
_sweep_runs = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit code."""
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if any(word.startswith("-") for word in rest) or (rest and options.command not in ("run", "explain")):
        parser.error(f"unknown arguments: {' '.join(rest)}")
    options.rest = rest
    from distsim.interface.errors import BadInput, DistsimError

    try:
        return int(_COMMANDS[options.command](options))
    except BadInput as error:
        print(error, file=sys.stderr)
        return 2
    except BrokenPipeError:  # whoever read the output has seen enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (DistsimError, OSError) as error:
        print(f"distsim: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; what is finished is kept, and the same command goes on from there", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="distsim", description="Write a distributed training strategy once; run it for real, modeled, or cosimulated."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser("run", help="run one configuration, or with -m a sweep of them")
    run.add_argument("-m", "--multirun", action="store_true", help="sweep over values separated by commas")
    run.add_argument("--yes", action="store_true", help="allow more than 1,000 runs")
    run.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="strategy=async_ps budget.updates=200 ...")
    report = commands.add_parser("report", help="one page that compares runs")
    report.add_argument("runs", nargs="+", metavar="RUN", type=Path, help="folders of runs, or of one run")
    report.add_argument("--output", metavar="FILE", type=Path, default=Path("report.html"))
    listing = commands.add_parser("list", help="what can be chosen")
    kinds = ("strategies", "workloads", "backends", "clusters", "stragglers", "optimizers")
    listing.add_argument("what", choices=kinds)
    listing.add_argument("--json", action="store_true", help="for programs")
    explain = commands.add_parser("explain", help="draw what a strategy does, on a small cluster")
    explain.add_argument("strategy", metavar="STRATEGY")
    explain.add_argument(
        "settings", nargs="*", metavar="KEY=VALUE", help="strategy.k=3 straggler=one_slow cluster.workers=3 ..."
    )
    explain.add_argument("--html", metavar="FILE", type=Path, help="write a page as well")
    calibrate = commands.add_parser("calibrate", help="measure this machine, so that it can be modeled")
    calibrate.add_argument("--quick", action="store_true", help="half a minute instead of two")
    calibrate.add_argument("--output", metavar="FILE", type=Path, default=Path(".distsim/profile.json"))
    return parser


# ---- run


def _run(options: argparse.Namespace) -> int:
    from distsim import api, composition

    overrides = [*options.settings, *options.rest]
    if options.multirun:
        return _sweep(overrides, options.yes)
    prepared = api.prepare(*composition.parse(overrides))
    _warn([prepared])
    if prepared.resolved.backend == "real" and not _is_finished(prepared):
        folder = prepared.resolved.runs / prepared.name
        print(f"{prepared.job.cluster.world_size} processes start; their logs: {folder / 'logs'}", file=sys.stderr)
    stored, result = _execute(prepared)
    print(_outcome(result) + (" (stored before)" if stored else ""))
    print(result.folder)
    return 0 if result.status == "done" else 1


def _sweep(overrides: list[str], yes: bool) -> int:
    """Check the whole grid, hand it to Hydra's multirun, and count what became of it."""
    global _sweep_started, _sweep_runs
    from distsim import api, composition
    from distsim.results import store

    prepared = api.prepare_all(composition.parse(run)[0] for run in composition.expand(overrides, yes))
    _warn(prepared)
    folder = prepared[0].resolved.runs
    before = sum(_is_finished(each) for each in prepared)
    print(f"{len(prepared)} runs" + (f", {before} of them stored before" if before else ""), file=sys.stderr)
    if before < len(prepared):
        _sweep_started, _sweep_runs = time.monotonic(), len(prepared)
        _multirun([*composition.forced(overrides), f"hydra.sweep.dir={composition.quoted(folder.absolute() / '.sweep')}"])
    rows = [store.find(each.resolved.runs, each.name) for each in prepared]
    good = sum(row is not None and row.status == "done" for row in rows)
    for row in rows:
        if row is not None and row.status != "done":
            print(f"{row.id} {_outcome(row)}", file=sys.stderr)
    missing = sum(row is None for row in rows)
    print(f"{good} of {len(rows)} runs done in {folder}" + (f"; {missing} left no row" if missing else ""))
    return 0 if good == len(rows) else 3


def _multirun(overrides: list[str]) -> None:
    """Hydra's own multirun over `_job`."""
    import hydra

    from distsim import composition

    composition.register()
    words, sys.argv = sys.argv, ["distsim", "--multirun", *overrides]
    try:
        hydra.main(config_path=str(composition.conf()), config_name="run", version_base="1.3")(_job)()
    except SystemExit as end:  # Hydra's way to say that a launcher failed; which runs are missing is counted afterwards
        print(f"the sweep ended early (Hydra exits with {end.code}); run the command again to go on", file=sys.stderr)
    finally:
        sys.argv = words


def _job(config: Any) -> None:
    """One job of a sweep, perhaps in another process."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from distsim import execution
    from distsim.interface import BadInput

    values = OmegaConf.to_container(config, resolve=False)
    assert isinstance(values, dict)
    number = HydraConfig.get().job.num + 1
    prepared, problems = execution.prepare({str(key): value for key, value in values.items()})
    try:
        if prepared is None:
            raise BadInput(problems)
        stored, result = _execute(prepared)
    except Exception as error:  # a raising job would hide the others
        print(f"{_count(number)} {type(error).__name__}: {error}", file=sys.stderr)
        return
    left = _sweep_runs - number
    each = (time.monotonic() - _sweep_started) / number
    estimate = f", about {each * left:.0f} s left" if left > 0 and not stored else ""
    print(f"{_count(number)} {result.id}: {_outcome(result)}{' (stored before)' if stored else estimate}", flush=True)


def _execute(prepared: Prepared) -> tuple[bool, Result]:
    from distsim import execution

    stored = _is_finished(prepared)
    return stored, execution.run(prepared)


def _is_finished(prepared: Prepared) -> bool:
    from distsim.results import store

    found = store.find(prepared.resolved.runs, prepared.name)
    return found is not None and found.is_finished


def _warn(prepared: Sequence[Prepared]) -> None:
    for warning in dict.fromkeys(warning for each in prepared for warning in each.resolved.warnings):
        print(f"warning: {warning}", file=sys.stderr)


def _outcome(result: Result) -> str:
    """How a run ended, in one line."""
    row = result.summary
    if result.status != "done":
        return f"{result.status}: {' '.join(str(row['message']).split())}"
    clock = _CLOCKS[str(result.config["backend"]["name"])]
    text = f"done: {row['updates']} updates in {row['seconds']:.4g} s {clock}"
    if row["final_loss"] is not None:
        text += f", validation loss {row['final_loss']:.4g}"
    elif known := [point for point in row["curve"] if point["loss"] is not None]:
        text += f"; last evaluated at update {known[-1]['update']}: validation loss {known[-1]['loss']:.4g}"
    if row["final_accuracy"] is not None:
        text += f", accuracy {row['final_accuracy']:.1%}"
    return text


def _count(number: int) -> str:
    return f"[{number}/{_sweep_runs}]" if _sweep_runs else f"[{number}]"


# ---- the other commands


def _report(options: argparse.Namespace) -> int:
    from distsim.report.page import write_report
    from distsim.results import store

    results = store.load_all(options.runs)
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
    from distsim import composition
    from distsim.explain import settings, terminal
    from distsim.explain.lesson import lesson
    from distsim.interface.errors import BadInput

    given, problems = composition.parse([*options.settings, *options.rest])
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


def _unwritable(key: str, path: Path) -> list[Problem]:
    from distsim.interface.errors import Problem

    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        return [Problem(key, str(path), "a file that can be written")]
    return []


def _calibrate(options: argparse.Namespace) -> int:
    from distsim.calibration.measure import calibrate
    from distsim.interface.errors import BadInput
    from distsim.workloads.digits_mlp import DigitsMLP

    if problems := _unwritable("--output", options.output):
        raise BadInput(problems)
    profile = calibrate(DigitsMLP(), quick=options.quick)
    profile.save(options.output)
    print(options.output)
    return 0


_COMMANDS = {"run": _run, "report": _report, "list": _list, "explain": _explain, "calibrate": _calibrate}

if __name__ == "__main__":
    sys.exit(main())
