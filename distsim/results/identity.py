"""What a run is named by: everything that its result depends on, and nothing else.

Two runs of one name would give the same records (real ones: on the same machine). The folder of runs is no part of it, nor
whether checkpoints are kept; the label is, so that one configuration can be run twice on purpose.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from distsim.foreign import source_of

_PACKAGE = Path(__file__).parent.parent
_READERS = frozenset(
    ["report", "explain", "catalogue.py", "cli.py", "api.py", "composition.py", "jobs.py", "sweeping.py", "testing"]
    + ["__main__.py", "emit.py", "commands.py", "engines.py", "grammar.py"]
    + [f"calibration/{name}.py" for name in ("analysis", "bench", "measure", "probes", "strategy")]
    + [f"results/{name}.py" for name in ("agreement", "cases", "explanation", "fairness", "keys", "naming", "selection")]
    + [f"results/{name}.py" for name in ("statistics", "table", "verdict")]
)
"""Folders and files of the package that a run's records do not depend on: they read runs, or write what is an input."""
_COMPUTES_WITH = {"modeled": ("simpy",), "cosimulated": ("simpy", "torch"), "real": ("torch",)}


def run_name(config: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """`strategy-backend-hash` of a resolved configuration and the hashes of what it reads."""
    chosen = {key: value for key, value in config.items() if key != "runs"}
    if "checkpoint" in chosen:
        chosen["checkpoint"] = {key: value for key, value in chosen["checkpoint"].items() if key != "keep"}
    text = json.dumps({"config": chosen, "inputs": dict(inputs)}, sort_keys=True, allow_nan=False)
    return f"{config['strategy']['name']}-{config['backend']['name']}-{sha256(text.encode()).hexdigest()[:12]}"


@cache
def source() -> str:
    """A hash of the package's source as far as runs depend on it: runs of another version are other runs."""
    digest = sha256()
    for file in sorted(_PACKAGE.rglob("*.py")):
        path = file.relative_to(_PACKAGE)
        if not _READERS & {path.parts[0], path.as_posix()}:
            digest.update(f"{path.as_posix()}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()


def foreign_source(component: object) -> str:
    """A hash of the code of a component of others, its bases and all that they import; empty for our own."""
    return source_of(component)


def host() -> str:
    """This machine, as far as times measured on it depend on it."""
    count = os.cpu_count()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else count
    return f"{platform.node()} {platform.machine()}, {usable} of {count} cores"


def versions(backend: str | None = None) -> dict[str, str]:
    """Versions of Python, distsim and what `backend` computes with; without one, of all that is installed."""
    return dict(_versions(backend))


@cache
def _versions(backend: str | None) -> Mapping[str, str]:
    from distsim import __version__

    found = {"python": platform.python_version(), "distsim": __version__}
    for package in _COMPUTES_WITH[backend] if backend else ("simpy", "torch"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
