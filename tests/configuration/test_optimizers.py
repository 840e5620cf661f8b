"""The section `optimizer`: from keys to what the interface says they mean, and to the rate that an update takes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from distsim import execution
from distsim.composition import compose
from distsim.configuration import Resolved, resolve
from distsim.interface import SGD, AdamW, Schedule


def resolved(*settings: tuple[str, Any]) -> Resolved:
    found, problems = resolve(compose(settings)[0])
    assert problems == []
    assert found is not None
    return found


def test_the_default_is_plain_sgd() -> None:
    found = resolved()
    assert (found.optimizer, found.schedule, found.scaling) == (SGD(0.03), Schedule(), "none")


def test_keys_of_sgd() -> None:
    found = resolved(
        ("optimizer.learning_rate", 0.05),
        ("optimizer.momentum", 0.9),
        ("optimizer.nesterov", True),
        ("optimizer.weight_decay", 1e-4),
    )
    assert found.optimizer == SGD(0.05, 0.9, nesterov=True, weight_decay=1e-4)


def test_keys_of_adamw() -> None:
    assert resolved(("optimizer", "adamw")).optimizer == AdamW(0.001, 0.9, 0.999, 1e-8, 0.01)  # torch.optim.AdamW's own
    found = resolved(("optimizer", "adamw"), ("optimizer.learning_rate", 4e-4), ("optimizer.beta2", 0.95))
    assert found.optimizer == AdamW(4e-4, beta2=0.95)


def test_the_course_is_shared_by_all_and_survives_a_change_of_optimizer() -> None:
    course: list[tuple[str, Any]] = [
        ("optimizer.scaling", "linear"),
        ("optimizer.schedule.warmup", 5),
        ("optimizer.schedule.decay", "cosine"),
        ("optimizer.schedule.final", 0.1),
        ("budget.updates", 20),
    ]
    for name in ("sgd", "adamw"):
        found = resolved(("optimizer", name), *course)
        assert (found.schedule, found.scaling) == (Schedule(5, "cosine", 0.1), "linear")


@pytest.mark.parametrize(("updates", "samples"), [(20, None), (None, 20 * 64)])
def test_the_rate_of_an_update(updates: int | None, samples: int | None, tmp_path: Path) -> None:
    """By hand: warm-up over 4 updates, then linear from 1 to 0.2 in 16; linear scaling by the 4 gradients of an update."""
    prepared, problems = execution.prepare(
        compose(
            [
                ("strategy", "sync_ps"),
                ("optimizer.scaling", "linear"),
                ("optimizer.schedule", {"warmup": 4, "decay": "linear", "final": 0.2}),
                ("budget.updates", updates),
                ("budget.samples", samples),
                ("runs", str(tmp_path)),
            ]
        )[0]
    )
    assert problems == []
    assert prepared is not None
    rank = prepared.job.rank(4, fabric=SimpleNamespace(now=lambda: 0.0))  # type: ignore[arg-type]  # nothing is started
    rates = []
    for update in (0, 3, 4, 12, 19):
        rank.progress.updates = update
        rates.append(rank.progress.rate(None, 1.0))
    assert rates == pytest.approx([4 * 0.25, 4 * 1.0, 4 * 1.0, 4 * 0.6, 4 * (0.2 + 0.8 / 16)], rel=1e-12)
