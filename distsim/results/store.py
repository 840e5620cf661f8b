"""The folder of runs: one folder a run, named by what the run depends on.

    runs/<strategy>-<backend>-<hash>/
        config.json        the resolved configuration, written before the run starts
        logs/              what the ranks of a real run wrote
        checkpoints/       what a real run goes on from when it is asked for again; gone once it has finished
        trace.jsonl.gz     every record of every rank
        metrics.json       updates, losses, arrivals and the evaluated curve
        summary.json       the row of the table; its presence is what makes the folder a run

Rules. `summary.json` is written last, to a temporary file that is flushed to the disk and renamed: at any instant a run is
there as a whole or not at all, and a folder without it is redone, from its last checkpoint if there is one. A finished run
is never written to again; one that failed is a row too, and is retried when asked for again. Who wants to write a run holds
its lock, so two processes never write one run at once, and a killed one leaves no lock (see `distsim.locks`). Tables are
made by a scan, never kept.
"""

from __future__ import annotations

import json
import shutil
import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from distsim import durable, locks
from distsim.interface import BadInput, Problem, Trace
from distsim.results import records

SCHEMA = 1
FINISHED = ("done", "diverged")
"""A run that ended like this is not done again, nor is a modeled one that does not fit: a real device may have more room
another time."""
CHECKPOINTS = "checkpoints"
"""What a run that did not finish leaves to go on from, and one that did if it is to keep them."""
LOGS = "logs"
_OWN = {"id": str, "status": str, "config": dict}
"""What every row has."""
_SUMMARY, _CONFIG, _METRICS, _TRACE = "summary.json", "config.json", "metrics.json", "trace.jsonl.gz"


@dataclass(frozen=True)
class Result:
    """A stored run. `summary` is its row (see `distsim.results.summary`); the rest is read when asked for."""

    folder: Path
    summary: Mapping[str, Any] = field(repr=False)

    @property
    def id(self) -> str:
        """The name of its folder."""
        return str(self.summary["id"])

    @property
    def status(self) -> str:
        """done, failed, diverged, deadlocked, timed out, out of memory or interrupted."""
        return str(self.summary["status"])

    @property
    def config(self) -> Mapping[str, Any]:
        """The resolved configuration."""
        config: Mapping[str, Any] = self.summary["config"]
        return config

    @property
    def is_finished(self) -> bool:
        """True if running it again would give nothing new."""
        return self.status in FINISHED or (self.status == "out of memory" and self.config["backend"]["name"] != "real")

    def metrics(self) -> dict[str, Any]:
        """Updates, losses, arrivals and the evaluated curve."""
        metrics: dict[str, Any] = _read(self.folder / _METRICS)
        return metrics

    def trace(self) -> list[Trace]:
        """What every rank did, by rank. Raises `BadInput` if the file is torn or gone."""
        try:
            return records.read(self.folder / _TRACE)
        except (OSError, EOFError, ValueError, LookupError, TypeError, zlib.error) as error:
            raise _unreadable(self.folder, _TRACE, error) from None


class Draft:
    """A run's folder while it is being written; `commit` makes it a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def commit(self, summary: Mapping[str, Any], metrics: Mapping[str, Any], traces: Iterable[Trace]) -> Result:
        """Write everything, the summary last. Raises OSError, and leaves no run, if the disk is full."""
        digest = records.write(self.folder / _TRACE, traces)
        _write(self.folder / _METRICS, metrics, indent=None)  # for programs; an indent takes ten times as long
        durable.sync(self.folder / _CONFIG)
        durable.sync(self.folder)  # one for all names so far: all of it is on the disk before the run is there
        row = records.finite({"schema": SCHEMA, "id": self.folder.name, **summary, "trace_hash": digest})
        _write(self.folder / _SUMMARY, row)
        durable.sync(self.folder)
        result = Result(self.folder, row)
        _tidy(result)
        return result


@contextmanager
def claim(runs: Path, run: str, config: Mapping[str, Any]) -> Iterator[Draft | Result]:
    """The run if it is finished; else its folder, empty but for the configuration and nobody else's while we are here.

    Waits while another process writes the same run.
    """
    finished = find(runs, run)
    if finished is not None and finished.is_finished:
        _tidy(finished)  # who finished it may have been killed before that
        yield finished
        return
    beside = runs / ".locks"
    beside.mkdir(parents=True, exist_ok=True)
    _mark(runs)
    with (beside / run).open("w") as lock:
        _wait_for(lock, run)
        finished = find(runs, run)
        if finished is not None and finished.is_finished:
            yield finished
            return
        folder = runs / run
        (folder / _SUMMARY).unlink(missing_ok=True)  # first: from here on the folder is no run
        _empty(folder)
        _write(folder / _CONFIG, config, durably=False)
        yield Draft(folder)


def _tidy(result: Result) -> None:
    """Remove checkpoints that nobody goes on from any more, unless the run was to keep them."""
    checkpoint = result.summary.get("config", {}).get("checkpoint") or {}
    if result.is_finished and not checkpoint.get("keep", True):
        shutil.rmtree(result.folder / CHECKPOINTS, ignore_errors=True)


def _empty(folder: Path) -> None:
    """A folder with nothing but the checkpoints of a run that did not finish, and the logs of who wrote them."""
    folder.mkdir(exist_ok=True)
    kept = (CHECKPOINTS, LOGS) if (folder / CHECKPOINTS).is_dir() else ()
    for path in folder.iterdir():
        if path.is_symlink() or not path.is_dir():
            path.unlink()
        elif path.name not in kept:
            shutil.rmtree(path)


def find(runs: Path, run: str) -> Result | None:
    """The stored run of this name, or None."""
    return load(runs / run) if (runs / run / _SUMMARY).is_file() else None


def load(folder: Path | str) -> Result:
    """The run in `folder`. Raises `BadInput` if there is none, or one of another version."""
    folder = Path(folder)
    try:
        summary = _read(folder / _SUMMARY)
    except FileNotFoundError:
        there = "it was not finished: run it again" if (folder / _CONFIG).exists() else "no run is there"
        raise BadInput([Problem("run", str(folder), "a folder with summary.json", there)]) from None
    except (ValueError, OSError) as error:
        raise _unreadable(folder, _SUMMARY, error) from None
    schema = summary.get("schema") if isinstance(summary, dict) else None
    if schema != SCHEMA:
        remedy = "run it again with this version, or read it with the one that wrote it"
        raise BadInput([Problem("run", str(folder), f"has schema {schema!r}, this version reads {SCHEMA}", remedy)])
    if lacking := [key for key, kind in _OWN.items() if not isinstance(summary.get(key), kind)]:
        raise _unreadable(folder, _SUMMARY, ValueError(f"no {', '.join(lacking)} in it"))
    return Result(folder, summary)


def _unreadable(folder: Path, file: str, error: Exception) -> BadInput:
    why = getattr(error, "strerror", None) or error
    remedy = "remove that folder, and run it again"
    return BadInput([Problem("run", str(folder), f"its {file} cannot be read ({why})", remedy)])


def scan(runs: Path | str) -> list[Result]:
    """All runs in a folder, by name; folders without a summary are none. Raises `BadInput` with all that cannot be read."""
    runs = Path(runs)
    if not runs.is_dir():
        raise BadInput([Problem("runs", str(runs), "an existing folder of runs")])
    found = sorted(path.parent for path in runs.glob(f"*/{_SUMMARY}") if not path.parent.name.startswith("."))
    results: list[Result] = []
    problems: list[Problem] = []
    for folder in found:
        try:
            results.append(load(folder))
        except BadInput as error:
            problems += error.problems
    if problems:
        raise BadInput(problems)
    return results


def load_all(paths: Iterable[Path | str]) -> list[Result]:
    """The runs that `paths` name: run folders, or folders of runs. Raises `BadInput` where there is none."""
    results: list[Result] = []
    problems: list[Problem] = []
    for path in map(Path, paths):
        try:
            found = [load(path)] if (path / _CONFIG).exists() or (path / _SUMMARY).exists() else scan(path)
        except BadInput as error:
            problems += error.problems
            continue
        if not found:
            problems.append(Problem("run", str(path), "holds no run", "distsim run ... writes one"))
        results += found
    if problems:
        raise BadInput(problems)
    return list({result.folder.resolve(): result for result in results}.values())


def check(runs: Path) -> list[Problem]:
    """What keeps this folder from taking runs of this version."""
    marker = runs / ".distsim"
    try:
        schema = _read(marker).get("schema") if marker.is_file() else SCHEMA
    except (ValueError, OSError, AttributeError):
        schema = "torn"
    if schema == SCHEMA:
        return []
    allowed = f"holds runs of another version (schema {schema}, this one writes {SCHEMA})"
    return [Problem("runs", str(runs), allowed, f"choose another, for example runs=runs{SCHEMA}")]


def _mark(runs: Path) -> None:
    if not (runs / ".distsim").exists():
        _write(runs / ".distsim", {"schema": SCHEMA})
        durable.sync(runs)


def _wait_for(lock: IO[str], run: str) -> None:
    try:
        locks.take(lock, locks.ALONE | locks.NOW)
    except BlockingIOError:
        print(f"another process is at {run}: waiting for it", file=sys.stderr)
        locks.take(lock, locks.ALONE)


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _write(path: Path, document: Any, indent: int | None = 1, durably: bool = True) -> None:
    """Write JSON to a file that is whole at any instant; see `durable.write`."""
    try:
        text = json.dumps(document, indent=indent, allow_nan=False)
    except ValueError:  # rare, and looking for it costs more than all the rest
        text = json.dumps(records.finite(document), indent=indent, allow_nan=False)
    durable.write(path, f"{text}\n".encode(), durably)
