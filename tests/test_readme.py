"""Every command and program that the README shows runs as shown (its two make targets aside), beside its files."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL) for line in block.splitlines() if line]
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


@pytest.mark.parametrize("line", COMMANDS)
def test_command(line, folder):
    program, *arguments = shlex.split(line)
    assert program == "distsim"
    assert finishes([sys.executable, "-m", "distsim.cli", *arguments], folder)


def test_the_report_command_wrote_its_file(folder):
    assert (folder / "comparison.html").stat().st_size > 100_000


@pytest.mark.parametrize("program", PROGRAMS)
def test_program(program, folder):
    (folder / "program.py").write_text(program)
    assert finishes([sys.executable, "program.py"], folder)


def test_the_picture_is_what_its_command_draws(folder):
    pattern = r"`distsim (explain [^`]*)` draws[^`]*`--html`[^`]*```\n(.*?)```"
    command, picture = re.search(pattern, README, re.DOTALL).groups()
    assert picture in finishes([sys.executable, "-m", "distsim.cli", *shlex.split(command)], folder)


def test_there_is_something_to_run():
    assert len(COMMANDS) >= 8
    assert len(PROGRAMS) == 2
    assert list(FILES) == ["my_model.py"]
