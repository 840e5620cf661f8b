"""The job on its way to the ranks, pickled. What it is made of must be importable by name: ranks are other processes.

A rank imports what the job names. Where that is the program's main script, multiprocessing runs the script again in every
rank, under another `__name__`: one that launches there without a guard would launch for ever, so it is refused.
"""

from __future__ import annotations

import ast
import multiprocessing
import pickle
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from distsim.interface import BadInput, Job, Problem

_GUARD = 'put the call under `if __name__ == "__main__":`, or the strategy into a module of its own'


def pack(job: Job) -> bytes:
    """The pickled job. Raises `BadInput` if ranks could not take it, or if this process is a rank being started."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise _bad(Path(_script()).name, "launches again in every rank, which runs it to import the job", _GUARD)
    try:
        pickled = pickle.dumps(job)
    except Exception as error:  # whatever its parts raise
        remedy = "define it at the top level of a module"
        raise _bad(str(error), "must be importable by name: ranks are other processes", remedy) from error
    if b"__main__" in pickled:
        if not Path(_script()).is_file():
            where = "defined in a notebook or at a prompt, where no rank can import it"
            raise BadInput([Problem("strategy", type(job.strategy).__name__, where, "move it to a module")])
        if _is_unguarded():
            raise _bad(Path(_script()).name, "would be run again in every rank, to import what the job is made of", _GUARD)
    return pickled


@contextmanager
def main_module(pickled: bytes) -> Iterator[None]:
    """Hide the main module from multiprocessing, which would run it again in every rank, unless the job needs it."""
    main = sys.modules["__main__"]
    if b"__main__" not in pickled:
        sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _script() -> str:
    return str(getattr(sys.modules["__main__"], "__file__", None) or "-")


def _is_unguarded() -> bool:
    """We are called from the top level of the main script, outside of every `if` that asks for `__name__`."""
    frame: Any = sys._getframe()
    while frame is not None and not (frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__") == "__main__"):
        frame = frame.f_back
    if frame is None or frame.f_code.co_filename != _script():
        return False
    try:
        tree = ast.parse(Path(_script()).read_bytes())
    except (OSError, SyntaxError, ValueError):
        return False
    around = [n for n in ast.walk(tree) if isinstance(n, ast.If) and n.lineno <= frame.f_lineno <= (n.end_lineno or 0)]
    return not any(isinstance(n, ast.Name) and n.id == "__name__" for each in around for n in ast.walk(each.test))


def _bad(value: str, allowed: str, remedy: str) -> BadInput:
    return BadInput([Problem("job", value, allowed, remedy)])
