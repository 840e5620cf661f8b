"""Every strategy can be drawn: a row a rank, with all its computing, in the width of the terminal, and as a page."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from distsim import catalogue, composition, registry
from distsim.cli import main
from distsim.explain import settings
from distsim.explain.lesson import Lesson, lesson
from distsim.explain.terminal import gantt, letters, text
from distsim.interface import Batch, Strategy, T, Worker
from distsim.report.lesson import render

STRATEGIES = registry.installed("strategy")


@cache
def made(name: str, *given: tuple[str, object]) -> Lesson:
    """The same for all who ask: nobody changes it."""
    values, problems = composition.compose([("strategy", name), *given])
    read, more = settings.read(values, [key for key, _ in given])
    assert [*problems, *more] == []
    assert read is not None
    return lesson(read)


@pytest.mark.parametrize("name", STRATEGIES)
def test_it_is_drawn(name: str) -> None:
    picture = made(name)
    assert picture.is_done, picture.summary["message"]
    assert len(picture.lanes) == picture.summary["world_size"]
    assert all(lane.computing for lane in picture.lanes if lane.name.startswith("worker"))
    glyphs = letters(picture.lanes)
    assert "#" not in glyphs.values()
    for width in (60, 80, 120):
        rows = {line[:9].rstrip(): line for line in gantt(picture.lanes, picture.seconds, width)[:-2]}
        for lane in picture.lanes:
            drawn = set(rows[lane.name][10:])
            long = {span.kind for span in lane.computing if span.ended - span.begun > 1.5 * picture.seconds / (width - 10)}
            assert {glyphs[kind] for kind in long} <= drawn, f"{lane.name} of {name}: {rows[lane.name]}"
        lines = text(picture, width).splitlines()
        assert max(map(len, lines)) <= width
        assert lines[0] == name


@pytest.mark.parametrize("name", STRATEGIES)
def test_computing_adds_up(name: str) -> None:
    """What is drawn of a worker's computing is what its breakdown says: nothing is lost or drawn twice."""
    picture = made(name)
    workers = [lane for lane in picture.lanes if lane.name.startswith("worker")]
    computing = sum(span.ended - span.begun for lane in workers for span in lane.computing)
    shares = picture.summary["breakdown"]
    assert computing == pytest.approx(shares["compute"] * len(workers) * picture.seconds, rel=1e-9)
    for lane in workers:
        spans = sorted((span.begun, span.ended) for span in lane.computing)
        assert all(ended <= begun + 1e-9 for (_, ended), (begun, _) in pairwise(spans))


@pytest.mark.parametrize("name", STRATEGIES)
def test_its_page_holds_everything_and_asks_for_nothing(name: str) -> None:
    picture = made(name)
    page = render(picture)
    assert not re.search(r'(?:src|href)\s*=\s*"|@import', page.replace(_library(), ""))
    assert f"<h1>{name}</h1>" in page
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])  # type: ignore[index]
    bars = [
        (y, base) for trace in data["plots"]["plot0"]["data"] for y, base in zip(trace["y"], trace["base"], strict=True)
    ]
    assert {name for name, _ in bars} == {lane.name for lane in picture.lanes}
    assert len(bars) >= sum(len(lane.computing) for lane in picture.lanes)


def _library() -> str:
    from importlib.resources import files

    return (files("distsim.report") / "assets" / "plotly-cartesian.min.js").read_text(encoding="utf-8")


@pytest.mark.parametrize("workers", [1, 3, 6])
def test_other_numbers_of_workers_are_drawn_or_refused(workers: int, capsys: pytest.CaptureFixture[str]) -> None:
    for name in STRATEGIES:
        code = main(["explain", name, f"cluster.workers={workers}", "budget.updates=2"])
        said = capsys.readouterr()
        assert code in (0, 2), said.out
        assert "Traceback" not in said.err
        assert code == 0 or re.match(r"(cluster|strategy)\.\w+=", said.err), said.err


@dataclass(frozen=True)
class Mine(Strategy):
    """<b>Nobody</b> ever talks."""

    async def run(self, worker: Worker[T]) -> None:
        for step in worker.steps():
            await worker.apply(await worker.gradient(Batch(step, worker.rank, worker.world_size)))


@dataclass(frozen=True)
class Stuck(Strategy):
    """Everybody waits for somebody else."""

    async def run(self, worker: Worker[T]) -> None:
        for step in worker.steps():
            gradient = await worker.gradient(Batch(step, worker.rank, worker.world_size))
            await worker.receive((worker.rank + 1) % worker.world_size)
            await worker.apply(gradient)


def test_a_strategy_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(registry, "_OFFERED", {"Mine": Mine})
    monkeypatch.setenv("COLUMNS", "80")
    page = tmp_path / "mine.html"
    assert main(["explain", "Mine", "--html", str(page), "cluster.workers=2"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("Mine\n    <b>Nobody</b> ever talks.\n\nworker 0  F")
    assert out.endswith(f"\n{page}\n")
    assert "<b>Nobody</b>" not in page.read_text(encoding="utf-8")
    assert "&lt;b&gt;Nobody&lt;/b&gt; ever talks." in page.read_text(encoding="utf-8")


def test_one_that_gets_stuck_is_drawn_until_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(registry, "_OFFERED", {"Stuck": Stuck})
    assert main(["explain", "Stuck"]) == 1
    out = capsys.readouterr().out
    assert "worker 3  FFF" in out
    assert "the run deadlocked: deadlock: rank 0 waits for receive '' from rank 1" in " ".join(out.split())


def test_what_was_chosen_for_the_picture_is_said_and_can_be_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "local_sgd"]) == 0
    assert "strategy.every=2 (its default: every 8)" in " ".join(capsys.readouterr().out.split())
    assert main(["explain", "local_sgd", "strategy.every=3"]) == 0
    assert "strategy.every" not in capsys.readouterr().out
    assert main(["explain", "async_ps"]) == 0
    assert "worker 3 computes 1.5 times as long (straggler=none makes all alike)" in " ".join(
        capsys.readouterr().out.split()
    )
    assert main(["explain", "async_ps", "straggler=none"]) == 0
    assert "times as long" not in capsys.readouterr().out


def test_what_a_lesson_changes_of_a_strategy_is_a_field_of_it() -> None:
    own = {key: {name for name in STRATEGIES if key in dict(catalogue.settings(registry.load("strategy", name)))}
           for key in settings.DRAWN}  # fmt: skip
    assert all(own.values())
    assert set(settings.UPDATES) | set(settings.DRAWN_OF) <= set(STRATEGIES)


LESSON = "a lesson has a model and a cluster of its own: only strategy.*, straggler.*, straggler, cluster.workers, "
BAD = {
    "k_sink": ("strategy='k_sink': one of ", "did you mean k_sync?"),
    "k_sync strategy.kk=3": ("strategy.kk=3: no such key; did you mean strategy.k?", ""),
    "k_sync strategy.k=9": ("strategy.k=9: must be 1 to 4", ""),
    "sync_ps workload.width=3": (f"workload.width=3: {LESSON}budget.updates can be set", ""),
    "sync_ps worker=3": (f"worker=3: {LESSON}budget.updates can be set; did you mean cluster.workers?", ""),
    "sync_ps cluster.workers=65": ("cluster.workers=65: a whole number from 1 to 64", ""),
    "sync_ps budget.updates=0": ("budget.updates=0: a whole number from 1 to 1000", ""),
    "sync_ps straggler=slow": ("straggler='slow': one of ", ""),
    "sync_ps straggler.slow={7:2}": ("straggler.slow.7=2: there are workers 0 to 3", ""),
    "gpipe strategy.microbatches=7": ("strategy.microbatches=7: must divide the 32 samples of a step", ""),
    "sync_ps --html /etc/hostname/x": ("--html='/etc/hostname/x': a file that can be written (Not a directory)", ""),
}


@pytest.mark.parametrize("words", BAD)
def test_bad_input(words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", *words.split()]) == 2
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    begins, ends = BAD[words]
    assert line.startswith(begins)
    assert line.endswith(ends)
    assert said.out == ""
