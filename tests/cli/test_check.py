"""`distsim check`: any strategy by its name, an installed package's too, and what is said if it does not pass."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from distsim.cli import main

EXAMPLE = Path(__file__).parents[1] / "example_package"


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """What an installer makes of the example package."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    ((group, names),) = project["entry-points"].items()
    info = tmp_path / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    (info / "entry_points.txt").write_text(
        "\n".join([f"[{group}]", *(f"{name} = {value}" for name, value in names.items())])
    )
    (tmp_path / "distsim_leader.py").write_text((EXAMPLE / "distsim_leader.py").read_text())
    return tmp_path


def python(installed: Path, *words: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join(filter(None, [str(installed), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, "PYTHONPATH": path}
    return subprocess.run([sys.executable, *words], cwd=installed, env=env, capture_output=True, text=True)


def test_a_strategy_of_an_installed_package_is_found_by_its_name(installed: Path) -> None:
    words = ["check", "leader", "strategy.leader=1", "cluster.workers=3", "--equals-one-process"]
    checked = python(installed, "-m", "distsim.cli", *words)
    assert (checked.returncode, checked.stderr) == (0, "")
    assert re.fullmatch("leader passes: form, docstring, .*, published, losses, one_process\n", checked.stdout)
    script = "from distsim.testing import check_strategy; print(check_strategy('leader', updates=2)[0])"
    assert python(installed, "-c", script).stdout == "form\n"


@pytest.mark.slow
def test_so_it_is_on_real_ranks(installed: Path) -> None:
    checked = python(installed, "-m", "distsim.cli", "check", "leader", "--real")
    assert (checked.returncode, checked.stderr) == (0, "")
    assert checked.stdout.endswith(", published, losses, real\n")


def test_what_does_not_pass_is_said_and_ends_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "local_sgd", "budget.updates=4", "cluster.workers=2", "--equals-one-process"]) == 1
    said = capsys.readouterr()
    title, first, _ = said.err.splitlines()
    assert title == "distsim: LocalSGD(every=8, after=0) does not pass, 2 findings:"
    assert first.startswith("one_process, 2 uneven workers, switch, 4 updates: the weights of block ")
    assert said.out == ""


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        ("k_sink", [r"strategy='k_sink': one of .*; did you mean k_sync\?"]),
        ("k_sync strategy.k=x", ["strategy.k='x': a whole number"]),
        ("k_sync strategy.K=2", [r"strategy.K=2: no such key; did you mean strategy.k\?"]),
        (
            "k_sync workload=digits_mlp cluster.workers=0 budget.updates=many",
            [
                "workload='digits_mlp': only strategy.., cluster.workers, budget.updates can be set: .*",
                "cluster.workers=0: a whole number from 1 to 1000",
                "budget.updates='many': a whole number from 1 to 1000",
            ],
        ),
    ],
)
def test_bad_input_ends_with_2(words: str, lines: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", *words.split()]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == len(lines)
    assert all(map(re.fullmatch, lines, said))
