"""`distsim run -m`: the whole grid is expanded, composed and checked, then run, each run with a line of its own.

Runs go through the pool of `distsim.jobs`, and every group of choices is composed once. Only with a launcher of Hydra's
(`hydra/launcher=submitit_slurm`, for other machines) it is Hydra that multiplies the grid and composes each run again; its
jobs store their run or their failure and raise nothing, because one raising job would hide the others.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from distsim import api, composition, execution, grammar
from distsim.configuration import checks
from distsim.execution import Prepared
from distsim.interface import BadInput
from distsim.results import store
from distsim.results.store import Result

_CLOCKS = {"real": "measured", "modeled": "modeled", "cosimulated": "cosimulated"}
_TRACEBACK = "Traceback (most recent call last)"
_lines: Lines | None = None


def prepare(overrides: Sequence[str], yes: bool) -> list[Prepared]:
    """All runs of a sweep, checked."""
    return api.prepare_all(grammar.expand(overrides, yes))


def sweep(
    prepared: Sequence[Prepared],
    overrides: Sequence[str],
    at_once: int | None,
    run: Callable[[Prepared], Result] = execution.run,
) -> int:
    """Run what is not finished, and count what became of all; the exit code. `at_once`: None for a run a core. `run` does
    what is run in this process."""
    warn(prepared)
    rows: list[Result | None] = [finished(each) for each in prepared]
    before = sum(row is not None for row in rows)
    print(f"{len(rows)} runs" + (f", {before} of them stored before" if before else ""), file=sys.stderr)
    lines = Lines(len(rows))
    try:
        if before < len(rows) and has_launcher(overrides):
            _multirun(overrides, prepared[0], lines)
            rows = [store.find(each.resolved.runs, each.name) for each in prepared]
        else:
            _run(prepared, rows, lines, at_once or checks.cores(), run)
    except KeyboardInterrupt:
        done = sum(row is not None and row.is_finished for row in rows)
        print(f"{done} of {len(rows)} runs finished in {prepared[0].resolved.runs}")
        raise
    good = sum(row is not None and row.status == "done" for row in rows)
    for row in rows:
        if row is not None and row.status != "done":
            print(f"{row.id} {outcome(row)}", file=sys.stderr)
    missing = sum(row is None for row in rows)
    left = f"; {missing} left no row" if missing else ""
    print(f"{good} of {len(rows)} runs done in {prepared[0].resolved.runs}{left}")
    return 0 if good == len(rows) else 3


def _run(
    prepared: Sequence[Prepared],
    rows: list[Result | None],
    lines: Lines,
    at_once: int,
    run: Callable[[Prepared], Result],
) -> None:
    """Put the rows of what is not finished where they are missing, a line each; what is finished has its line first."""
    for row in rows:
        if row is not None:
            lines.ended(row, stored=True)
    from distsim import jobs  # what multiprocessing costs to import, a single run need not pay

    waiting = [number for number, row in enumerate(rows) if row is None]

    def ended(number: int, row: Result | str) -> None:
        if isinstance(row, Result):
            rows[waiting[number]] = row
            lines.ended(row)
        else:
            lines.lost(f"{prepared[waiting[number]].name}: {row}")

    jobs.run_all([prepared[number] for number in waiting], at_once, ended, run)


class Lines:
    """A line a run, with how many are over and how long the others will take."""

    def __init__(self, runs: int) -> None:
        self._runs = runs
        self._over = self._ran = 0
        self._started = time.monotonic()

    def ended(self, row: Result, stored: bool = False) -> None:
        """A run has its row; `stored`: it had it before."""
        count = self._count()
        self._ran += not stored
        left = self._runs - self._over
        each = (time.monotonic() - self._started) / max(1, self._ran)
        note = " (stored before)" if stored else f", about {each * left:.0f} s left" if left > 0 else ""
        print(f"{count} {row.id}: {outcome(row)}{note}", flush=True)

    def lost(self, why: str) -> None:
        """A run is over and could not be stored."""
        print(f"{self._count()} {why}", file=sys.stderr)

    def _count(self) -> str:
        self._over += 1
        return f"[{self._over}/{self._runs}]" if self._runs else f"[{self._over}]"


def finished(prepared: Prepared) -> Result | None:
    """The stored run, if it would not be done again."""
    found = store.find(prepared.resolved.runs, prepared.name)
    return found if found is not None and found.is_finished else None


def warn(prepared: Sequence[Prepared]) -> None:
    """Say each warning once."""
    for warning in dict.fromkeys(warning for each in prepared for warning in each.warnings):
        print(f"warning: {warning}", file=sys.stderr)


def outcome(result: Result) -> str:
    """How a run ended, in one line."""
    row = result.summary
    if result.status != "done":
        return f"{result.status}: {' '.join(str(row['message']).partition(_TRACEBACK)[0].split())}"
    clock = _CLOCKS[str(result.config["backend"]["name"])]
    text = f"done: {row['updates']} updates in {row['seconds']:.4g} s {clock}"
    if row["final_loss"] is not None:
        text += f", validation loss {row['final_loss']:.4g}"
    elif known := [point for point in row["curve"] if point["loss"] is not None]:
        text += f"; last evaluated at update {known[-1]['update']}: validation loss {known[-1]['loss']:.4g}"
    if row["final_accuracy"] is not None:
        text += f", accuracy {row['final_accuracy']:.1%}"
    return text


def traceback(result: Result) -> str:
    """What the line of `outcome` leaves out."""
    return "".join(str(result.summary["message"]).partition(_TRACEBACK)[1:])


# ---- by a launcher of Hydra's


def has_launcher(overrides: Sequence[str]) -> bool:
    """One of Hydra's launchers is to run the jobs."""
    return any(text.startswith(("hydra/launcher", "hydra.launcher")) for text in overrides)


def _multirun(overrides: Sequence[str], first: Prepared, lines: Lines) -> None:
    """Hydra's own multirun over `_job`."""
    global _lines
    import hydra

    composition.register()
    folder = grammar.quoted(first.resolved.runs.absolute() / ".sweep")
    words, sys.argv = sys.argv, ["distsim", "--multirun", *grammar.forced(overrides), f"hydra.sweep.dir={folder}"]
    _lines = lines
    try:
        hydra.main(config_path=str(composition.conf()), config_name="run", version_base="1.3")(_job)()
    except SystemExit as end:  # Hydra's way to say that a launcher failed; which runs are missing is counted afterwards
        print(f"the sweep ended early (Hydra exits with {end.code}); run the command again to go on", file=sys.stderr)
    finally:
        sys.argv = words


def _job(config: Any) -> None:
    """One job of Hydra's multirun, perhaps in another process."""
    from omegaconf import OmegaConf

    lines = _lines or Lines(0)
    values = OmegaConf.to_container(config, resolve=False)
    assert isinstance(values, dict)
    try:
        prepared, problems = execution.prepare({str(key): value for key, value in values.items()})
        if prepared is None:
            raise BadInput(problems)
        before = finished(prepared)
        lines.ended(before or execution.run(prepared), stored=before is not None)
    except Exception as error:  # a raising job would hide the others
        lines.lost(f"{type(error).__name__}: {error}")
