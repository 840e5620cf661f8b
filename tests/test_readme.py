"""Every command and program that the README shows runs as shown (its two make targets aside), beside its files."""

import os
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from distsim.backends.simulated import SimulatedOptions
from distsim.configuration.cluster import NETWORKS, Corrections
from distsim.interface import Roofline

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = [block.splitlines() for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)]
FILES = dict(re.findall(r"this is `(\w+\.py)`:\n\n```python\n(.*?)```", README, re.DOTALL))
PROGRAMS = [program for program in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if program not in FILES.values()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("readme")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder


def finishes(command, folder):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block[0])
def test_commands_one_after_the_other(block, folder):
    for line in filter(None, block):
        program, *arguments = shlex.split(line)
        assert program == "distsim"
        assert finishes([sys.executable, "-m", "distsim.cli", *arguments], folder)
        if arguments[0] == "report":
            assert (folder / arguments[arguments.index("--output") + 1]).stat().st_size > 100_000


@pytest.mark.parametrize("program", PROGRAMS)
def test_program(program, folder):
    (folder / "program.py").write_text(program)
    assert finishes([sys.executable, "program.py"], folder)


def test_the_picture_is_what_its_command_draws(folder):
    pattern = r"`distsim (explain [^`]*)` draws[^`]*`--html`[^`]*```\n(.*?)```"
    command, picture = re.search(pattern, README, re.DOTALL).groups()
    assert picture in finishes([sys.executable, "-m", "distsim.cli", *shlex.split(command)], folder)


def test_there_is_something_to_run():
    assert sum(map(len, BLOCKS)) >= 8
    assert any("--output" in line for block in BLOCKS for line in block)
    assert len(PROGRAMS) == 2
    assert list(FILES) == ["my_model.py"]


def test_every_setting_of_the_simulator_is_named():
    settings = [*fields(SimulatedOptions), *fields(Corrections), *fields(Roofline)]
    names = {field.name for field in settings} - {"flops_per_second", "bytes_per_second"}
    names |= {*NETWORKS, *(key for keys in NETWORKS.values() for group in keys for key in group)}
    assert [name for name in sorted(names) if not re.search(rf"\b{name}\b", README)] == []
