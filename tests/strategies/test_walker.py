"""The walker runs any runner, and says once of each block, at once, that its gradient is final."""

from __future__ import annotations

from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any

import pytest
from oracles.jobs import Times, chain, done, job

from distsim.interface import Batch, Part, Strategy, Worker
from distsim.strategies.pipeline import chunks_of
from distsim.strategies.schedules import Schedule, gpipe, interleaved, one_f_one_b, zb_h1, zb_h2, zb_v
from distsim.strategies.walker import walk

M = 4
LETTERS = {"both": "B", "input": "I", "weights": "W"}


@dataclass(frozen=True)
class Noted(Strategy):
    """A step of a schedule whose rank 1 notes what its runner is asked for and what is said to be ready."""

    schedule: Schedule
    notes: list[str] = field(default_factory=list)

    async def run(self, worker: Worker[Any]) -> None:
        chunks = chunks_of(worker.blocks, self.schedule, worker.rank, worker.world_size)
        worker.place([block for blocks in chunks for block in blocks])
        notes = self.notes if worker.rank == 1 else []

        class Noting:
            """A runner around the worker."""

            def forward(self, block: int, x: Any, batch: Batch) -> Awaitable[Any]:
                notes.append(f"F{block} {batch.part}")
                return worker.forward(block, x, batch)

            def backward(self, block: int, g: Any, batch: Batch, part: Part = "both") -> Awaitable[Any]:
                notes.append(f"{LETTERS[part]}{block} {batch.part}")
                return worker.backward(block, g, batch, part)

        async def ready(block: int) -> None:
            notes.append(f"ready {block}")

        for step in worker.steps():
            await walk(worker, Noting(), chunks, Batch(step).split(M), self.schedule, ready)


LAST_HALF, EVERY_OTHER, MIDDLE = [4, 5, 6, 7], [2, 3, 6, 7], [2, 3, 4, 5]


@pytest.mark.parametrize(
    ("schedule", "mine"),
    [
        (Schedule(gpipe), LAST_HALF),
        (Schedule(one_f_one_b), LAST_HALF),
        (Schedule(zb_h1), LAST_HALF),
        (Schedule(zb_h2), LAST_HALF),
        (Schedule(interleaved, 2), EVERY_OTHER),
        (Schedule(zb_v, 2, is_folded=True), MIDDLE),
    ],
)
def test_a_block_is_ready_once_and_right_after_its_last_backward_pass(schedule: Schedule, mine: list[int]) -> None:
    strategy = Noted(schedule)
    done(job(strategy, 2, 1, Times(1.0, 2.0, halves=(1.0, 1.0)), model=chain(blocks=8, batch=M)))
    notes = strategy.notes
    final = "W" if any(note[0] == "W" for note in notes) else "B"
    for block in mine:
        assert notes.count(f"ready {block}") == 1
        at = notes.index(f"ready {block}")
        assert notes[at - 1] == f"{final}{block} {M - 1}"
    assert {note for note in notes if note.startswith("ready")} == {f"ready {block}" for block in mine}


def test_blocks_of_a_chunk_run_forth_and_back() -> None:
    strategy = Noted(Schedule(zb_h1))
    done(job(strategy, 2, 1, Times(), model=chain(blocks=4, batch=M)))
    assert strategy.notes[:8] == ["F2 0", "F3 0", "I3 0", "I2 0", "F2 1", "F3 1", "I3 1", "I2 1"]
    assert strategy.notes[8:10] == ["W3 0", "W2 0"]
