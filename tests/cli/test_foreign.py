"""An edited strategy or module of the user's is another run, wherever it was written and whatever was edited."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

import pytest

from distsim.foreign import source_of
from distsim.strategies.pipeline import OneFOneB

ROOT = Path(__file__).parents[2]
STRATEGY = """
from dataclasses import dataclass
from distsim.interface import Batch, Strategy

SCALE = 1.0

def double(x):
    return 2.0 * x

@dataclass(frozen=True)
class Mine(Strategy):
    async def run(self, worker):
        for step in worker.steps():
            gradient = await worker.gradient(Batch(step, worker.rank, worker.world_size))
            await worker.apply(await worker.all_reduce(gradient), scale=double(SCALE))
"""
NAME = """
from distsim import api
print(api.prepare([*api._named(("strategy", Mine())), ("backend", "modeled")]).name)
"""


def said(words: list[str], folder: Path, **options: str) -> str:
    """What Python prints, started in `folder`."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    ended = subprocess.run(
        [sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True, check=False, **options
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


EDITS = {
    "the strategy": ("worker.rank, worker.world_size", "worker.rank, 2 * worker.world_size"),
    "a function it calls": ("2.0 * x", "3.0 * x"),
    "a constant it reads": ("SCALE = 1.0", "SCALE = 2.0"),
}


@pytest.mark.parametrize("way", ["command", "input", "file"])
def test_code_without_a_module_of_its_own(way: str, tmp_path: Path) -> None:
    """As in a notebook: there is no file to hash, or it is the script itself."""

    def name(text: str) -> str:
        (tmp_path / "script.py").write_text(text + NAME)
        if way == "input":
            return said(["-"], tmp_path, input=text + NAME)
        return said(["-c", text + NAME] if way == "command" else ["script.py"], tmp_path)

    names = [name(STRATEGY), *(name(STRATEGY.replace(*edit)) for edit in EDITS.values())]
    assert len(set(names)) == 4
    assert name(STRATEGY) == names[0]


FILES = {
    "top.py": "import pack.deep\nfrom near import WIDTH\nfrom base import Base\nclass Top(Base):\n    x = WIDTH\n",
    "base.py": "class Base:\n    pass\n",
    "near.py": "WIDTH = 3\n",
    "pack/__init__.py": "",
    "pack/deep.py": "from . import deeper\n",
    "pack/deeper.py": "DEPTH = 1\n",
    "late.py": "LATE = 1\n",
    "unrelated.py": "",
}


def test_everything_that_a_module_imports_counts(tmp_path: Path) -> None:
    (tmp_path / "pack").mkdir()
    files = FILES | {"top.py": FILES["top.py"] + "    def run(self):\n        import late\n"}

    def of(edited: str = "", more: str = "pass") -> str:
        for file, text in files.items():
            (tmp_path / file).write_text(text + ("# edited\n" if file == edited else ""))
        return said(
            ["-c", f"import top; {more}; from distsim.foreign import source_of; print(source_of(top.Top))"], tmp_path
        )

    before = of()
    assert of() == of(more="import late") == of("unrelated.py") == before
    for file in files:
        assert (of(file) == before) == (file == "unrelated.py"), file


def test_a_module_that_was_edited_and_not_loaded_again(tmp_path: Path) -> None:
    """What runs is the old code: it is neither the old run nor the one that the new file gives."""
    code = """
        import importlib, pathlib, sys
        from distsim.foreign import source_of
        sys.dont_write_bytecode = True
        pathlib.Path("mine.py").write_text("class Mine:\\n    x = 1\\n")
        import mine
        print(source_of(mine.Mine))
        pathlib.Path("mine.py").write_text("class Mine:\\n    x = 22\\n")
        print(source_of(mine.Mine))
        importlib.invalidate_caches()
        importlib.reload(mine)
        print(source_of(mine.Mine))
    """
    assert len(set(said(["-c", dedent(code)], tmp_path).split())) == 3


def test_our_own_code_is_not_counted_twice() -> None:
    assert source_of(OneFOneB) == source_of(OneFOneB()) == source_of(len) == source_of(3) == ""
