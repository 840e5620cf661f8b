"""What a run is named by: everything that its records depend on, and nothing else."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path

import pytest

from distsim import api, registry
from distsim.calibration.profile import REFERENCE, Profile
from distsim.results import identity

PACKAGE = Path(identity.__file__).parent.parent
REAL = {"strategy": "all_reduce", "backend": "real", "cluster.workers": 2, "budget.updates": 5}


def closure() -> set[str]:
    """The files that a run imports, from what prepares it and all that a configuration can name, to the last one."""
    named = {target.partition(":")[0] for kind in registry.BUILT_IN.values() for target in kind.values()}
    waiting = ["distsim.execution", "distsim.backends.real", "distsim.backends.simulated", *sorted(named)]
    found: set[str] = set()
    while waiting:
        module = waiting.pop()
        path = PACKAGE.parent / module.replace(".", "/")
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        name = file.relative_to(PACKAGE).as_posix()
        if name in found or name == "__init__.py" or not file.exists():
            continue
        found.add(name)
        waiting.append(module.rpartition(".")[0])
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names if alias.name.startswith("distsim.")]
            elif isinstance(node, ast.ImportFrom) and str(node.module).startswith("distsim"):
                waiting += [str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def is_reader(name: str) -> bool:
    return bool(identity._READERS & {name, name.partition("/")[0]})


def test_no_run_imports_what_its_name_leaves_out() -> None:
    found = closure()
    assert {"execution.py", "results/summary.py", "backends/real/rank.py", "strategies/pipeline.py"} <= found
    assert [name for name in sorted(found) if is_reader(name)] == []


def test_whether_checkpoints_are_kept_changes_no_name() -> None:
    """So a run that was cut off goes on when they are to be kept after all."""
    every_5 = {**REAL, "checkpoint.every": 5}
    settings = (every_5, {**every_5, "checkpoint.keep": True}, {**REAL, "checkpoint.every": 4})
    names = [api.prepare(each.items()).name for each in settings]
    assert names[0] == names[1] != names[2]


def test_what_only_reads_runs_changes_no_name() -> None:
    for folder in ("results", "calibration"):
        files = {path.relative_to(PACKAGE).as_posix() for path in (PACKAGE / folder).glob("*.py")}
        assert [name for name in sorted(files - closure()) if not is_reader(name)] == []
    assert all((PACKAGE / name).exists() for name in identity._READERS)


def profile(path: Path, **changes: object) -> None:
    replace(Profile.load(REFERENCE), **changes).save(path)  # type: ignore[arg-type]


def test_a_profile_names_the_runs_that_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def names() -> list[str]:
        slow = {"straggler": "one_slow"}
        settings = (REAL, {**REAL, **slow}, {**REAL, "backend": "modeled"})
        return [api.prepare(each.items()).name for each in settings]

    path = tmp_path / ".distsim" / "profile.json"
    profile(path)
    first = names()
    profile(path, created="2030-01-01T00:00:00+00:00", noise=0.5)
    assert names() == first
    profile(path, overhead=0.5)
    assert [a == b for a, b in zip(names(), first, strict=True)] == [True, False, False]


def test_versions_and_the_machine_are_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    always = {"source", "strategy", "python", "distsim", "data"}
    for backend, more in (
        ("real", {"torch", "host", "device"}),
        ("modeled", {"simpy", "profile"}),
        ("cosimulated", {"simpy", "torch", "profile"}),
    ):
        prepared = api.prepare({**REAL, "backend": backend}.items())
        assert set(prepared.inputs) == always | more
        other = {**prepared.inputs, "python": "3.99.0"}
        assert identity.run_name(prepared.config, other) != prepared.name


def test_what_a_run_read_is_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    prepared = api.prepare({**REAL, "backend": "modeled"}.items())
    api.run("all_reduce", backend="modeled", **{"cluster.workers": 2, "budget.updates": 5})
    summary = json.loads((tmp_path / "runs" / prepared.name / "summary.json").read_text())
    assert summary["inputs"] == prepared.inputs
