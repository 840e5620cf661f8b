"""Cancelling: a gradient `unless` something else was over first."""

from functools import partial

import pytest

from contract.kit import block
from contract.tiny import BLOCK_BYTES, Tiny
from distsim.interface import Batch, Switch

GRADIENT = [5.0, 6.0, 7.0, 8.0, 1.0, 2.0, 3.0, 4.0]


async def over_before(worker, note):
    if worker.rank == 0:
        await worker.send(None, 1, "news")
    else:
        news = worker.receive(0, "news")
        await news
        note("cancelled", await worker.gradient(Batch(0), unless=news))
        note("whole", await worker.gradient(Batch(0)))
        note("parameters", worker.read())


def test_a_gradient_is_not_begun_if_the_other_was_over(mode):
    ran = mode.run(over_before)
    assert ran.notes[1]["cancelled"] == [None]
    assert ran.notes[1]["whole"] == [mode.payload(GRADIENT)]
    assert ran.notes[1]["parameters"] == [mode.payload([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0])]
    assert len(ran.outcome.traces[1].losses) == 1


async def over_after(worker, note):
    if worker.rank == 0:
        await worker.receive(1, "go")
        await worker.send(None, 1, "news")
    else:
        news = worker.receive(0, "news")
        note("gradient", await worker.gradient(Batch(0), unless=news))
        await worker.send(None, 0, "go")
        await news


def test_a_gradient_comes_if_the_other_is_not_over(mode):
    assert mode.run(over_after).notes[1]["gradient"] == [mode.payload(GRADIENT)]


async def over_meanwhile(worker, note):
    if worker.rank == 0:
        await worker.receive(1, "go")
        await worker.send(None, 1, "news", label="cancel")
    else:
        news = worker.receive(0, "news")
        worker.post(None, 0, "go")
        note("gradient", await worker.gradient(Batch(0), unless=news))
        note("label", (await news).label)
        whole = await worker.gradient(Batch(1))
        note("whole", whole * 0.0)


def test_a_gradient_ends_early_if_the_other_is_over_meanwhile(mode):
    # Half a second for two signals; the blocks of a modeled run need not sleep.
    workload = Tiny(depth=10, sleep=0.0 if mode.is_exact else 0.05)
    ran = mode.run(over_meanwhile, workload=workload)
    assert ran.notes[1] == {"gradient": [None], "label": ["cancel"], "whole": [mode.payload([0.0] * 40)]}


async def cancelled_after(seconds, worker, note):
    if worker.rank == 0:
        await worker.compute("wait", lambda *xs: None, *[block(worker)] * seconds)
        await worker.send(None, 1, "news")  # half a second of latency
    else:
        news = worker.receive(0, "news")
        gradient = worker.gradient(Batch(0), unless=news)
        after = worker.compute("after", lambda x: x, block(worker))
        note("gradient", await gradient)
        note("now", worker.now)
        await after
        note("now", worker.now)
        await news


@pytest.mark.parametrize(
    ("preemption", "seconds", "is_cancelled", "ended"),
    [
        ("instant", 2, True, 2.5),
        ("instant", 5, True, 5.5),
        ("instant", 6, False, 6.0),
        ("block", 0, True, 1.0),  # blocks end after 1, 2, 4 and 6 s
        ("block", 2, True, 4.0),
        ("block", 5, False, 6.0),
        ("block", 6, False, 6.0),
    ],
)
def test_cancelling_takes_effect_at_once_or_between_blocks(exact, preemption, seconds, is_cancelled, ended):
    ran = exact.run(
        partial(cancelled_after, seconds), network=Switch(BLOCK_BYTES, latency=0.25), options={"preemption": preemption}
    )
    assert ran.notes[1]["gradient"] == [None if is_cancelled else exact.payload(GRADIENT)]
    assert ran.notes[1]["now"] == [ended, ended + 1.0]
    assert ran.computed(1) == [("after", ended, ended + 1.0), ("gradient", 0.0, ended)]
