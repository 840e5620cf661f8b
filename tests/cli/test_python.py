"""distsim from Python where it is not a script's: in threads, under an event loop, in a program of Hydra's, at a prompt."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import hydra
import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra

import distsim
from distsim import composition
from distsim.testing import check_strategy

SMALL = {"budget": {"updates": 2}, "evaluation": {"samples": 0}}


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    composition._compose_groups.cache_clear()  # as in a process that has just begun
    return tmp_path


def test_threads_run_at_once() -> None:
    ended: dict[str, str] = {}
    together = threading.Barrier(4)

    def run(strategy: str) -> None:
        together.wait()
        ended[strategy] = distsim.run(strategy, backend="modeled", **SMALL).status

    names = ["all_reduce", "sync_ps", "async_ps", "gossip"]
    threads = [threading.Thread(target=run, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ended == dict.fromkeys(names, "done")


def test_a_program_of_hydras_keeps_its_own() -> None:
    with hydra.initialize_config_dir(str(composition.conf()), version_base="1.3"):
        theirs = GlobalHydra.instance().hydra
        assert distsim.run("sync_ps", backend="modeled", **SMALL).status == "done"
        assert GlobalHydra.instance().hydra is theirs
        assert hydra.compose("run", ["strategy=ssp"]).strategy.name == "ssp"
    assert not GlobalHydra.instance().is_initialized()
    with pytest.raises(distsim.BadInput):
        distsim.run("sinc_ps", **SMALL)
    assert not GlobalHydra.instance().is_initialized()


def test_under_an_event_loop_as_in_a_notebook() -> None:
    async def cell() -> None:
        for backend in ("modeled", "cosimulated"):
            assert distsim.run("sync_ps", backend=backend, **SMALL).status == "done"
        assert (
            len(distsim.sweep(strategy=["sync_ps", "all_reduce"], backend="modeled", repeat=[0, 1], jobs=2, **SMALL)) == 4
        )
        assert check_strategy("all_reduce", 2, updates=2)

    asyncio.run(cell())


def test_numbers_of_numpy_and_paths_are_taken(here: Path) -> None:
    learning = {"optimizer.learning_rate": np.float32(0.5), "straggler.burn": np.bool_(False)}
    given = distsim.run(
        np.str_("sync_ps"), budget={"updates": np.int64(2)}, runs=here / "a b", seed=np.uint8(3), **learning
    )
    assert given.folder.parent == here / "a b"
    assert given.config["optimizer"]["learning_rate"] == 0.5
    plain = distsim.run("sync_ps", budget={"updates": 2}, runs="c", seed=3, **{"optimizer.learning_rate": 0.5})
    assert given.id == plain.id
    table = distsim.sweep(strategy="sync_ps", budget={"updates": 2}, repeat=np.arange(2), runs=here / "d")
    assert list(table["repeat"]) == [0, 1]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: distsim.sweep(strategy="sync_ps", jobs=0), "jobs=0: a whole number 1 or more"),
        (lambda: distsim.sweep(strategy="sync_ps", jobs=None), "jobs=None: a whole number 1 or more"),
        (lambda: distsim.sweep(strategy="sync_ps", jobs=1.5), "jobs=1.5: a whole number 1 or more"),
        (
            lambda: distsim.sweep(["all_reduce"]),
            "grid=['all_reduce']: a mapping from keys to values; for example strategy=['all_reduce', 'sync_ps']",
        ),
        (lambda: distsim.run("sync_ps", budget={"updates": -(10**5000)}), "budget.updates=int: a whole number 1 or more"),
        (lambda: check_strategy("sync_ps", 0), "workers=0: a whole number 1 or more"),
        (lambda: check_strategy("sync_ps", 2, updates=-1), "updates=-1: a whole number 1 or more"),
    ],
)
def test_bad_arguments_are_bad_input(wrong: Callable[[], object], said: str) -> None:
    with pytest.raises(distsim.BadInput) as error:
        wrong()
    assert str(error.value) == said


PROMPT = """
from dataclasses import dataclass
import distsim
from distsim.interface import Batch, Strategy, T, Worker

@dataclass(frozen=True)
class Mine(Strategy):
    "Every worker averages its gradient with all others."
    every: int = 1
    async def run(self, worker: Worker[T]) -> None:
        for step in worker.steps():
            gradient = await worker.gradient(Batch(step, worker.rank, worker.world_size))
            await worker.apply(await worker.all_reduce(gradient))
            worker.publish()

for backend in ("modeled", "cosimulated"):
    print(distsim.run(Mine(), backend=backend, budget={"updates": 2}).status)
print(len(distsim.sweep(strategy=[Mine(), Mine(2)], backend="modeled", budget={"updates": 2}, jobs=2)))
try:
    distsim.run(Mine(), backend="real", budget={"updates": 2})
except distsim.BadInput as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="real ranks need Linux")
def test_a_strategy_written_at_a_prompt() -> None:
    ended = subprocess.run([sys.executable, "-"], input=PROMPT, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (0, "")
    *lines, refused = ended.stdout.splitlines()
    assert lines == ["done", "done", "2"]
    assert (
        refused == "strategy='Mine': defined in a notebook or at a prompt, where no rank can import it; move it to a module"
    )
