"""Stragglers in words: what is off is not told, and what differs is told apart."""

from __future__ import annotations

from typing import Any

import pytest

from distsim.composition import compose
from distsim.configuration import resolve
from distsim.results.keys import failure_in_words, is_random, straggler_in_words


@pytest.mark.parametrize(
    ("name", "settings", "words", "random"),
    [
        ("none", {}, "", False),
        ("one_slow", {"stages": [1, 1.5]}, "worker 0 slowed 3x, stages 1,1.5", False),
        ("none", {"stages": [1, 1.5], "stage_width": 2}, "stages 1,1.5 of 2", False),
        ("none", {"stages": [1, 1], "spread.kind": "lognormal", "spread.sigma": 0}, "", False),
        ("lognormal+one_slow", {}, "worker 0 slowed 3x, lognormal jitter (sigma 0.2)", True),
        (
            "shifted_exponential",
            {"scales_with_work": False, "work_seconds": "20ms"},
            "shifted exponential delays (scale 1) of 20 ms of work",
            True,
        ),
        ("none", {"spread.kind": "lognormal", "spread.sigma": 0.3}, "workers spread by sigma 0.3", True),
        ("none", {"spread.kind": "share"}, "10 % of workers slowed 2x", True),
        ("episodes_one_node", {}, "episodes of worker 0 (2x, 10 min long, 21.11 % of the time)", True),
        ("none", {"episodes.share": 0.5, "episodes.factor": 1}, "", False),
        ("sequence_lengths", {"lengths.attention": 0.5}, "sequence lengths (sigma 1.09, attention 0.5)", True),
        ("hot_expert", {"experts.share": 0.4}, "hottest of 4 experts' workers 1.25x, 40 % of the work", True),
    ],
)
def test_in_words(name: str, settings: dict[str, Any], words: str, random: bool) -> None:
    values, _ = compose([("straggler", name), *((f"straggler.{key}", value) for key, value in settings.items())])
    resolved, problems = resolve(values)
    assert problems == []
    assert resolved is not None
    straggler = resolved.config["straggler"]
    assert (straggler_in_words(straggler), is_random(straggler)) == (words, random)
    assert (straggler_in_words(straggler) == "") == resolved.straggler.is_off


def test_other_histograms_are_other_stragglers() -> None:
    found = {straggler_in_words({"jitter": "histogram", "histogram": {"1.0": 1.0, "2.0": w}}) for w in (1.0, 2.0)}
    assert len(found) == 2
    assert all(words.startswith("histogram jitter (2 factors, ") for words in found)


def test_runs_that_know_fewer_parts_are_read_as_before() -> None:
    assert straggler_in_words({"jitter": "exponential", "slow": {"1": 2.0}}) == "worker 1 slowed 2x, exponential jitter"
    assert straggler_in_words({}) == ""


def test_failures_in_words() -> None:
    def said(*settings: tuple[str, Any]) -> str:
        resolved, problems = resolve(compose([("cluster", "switch"), *settings])[0])
        assert problems == []
        assert resolved is not None
        return failure_in_words(resolved.config)

    assert said() == ""
    assert said(("failure.ranks", {1: [1, 4]}), ("failure.restart", 2), ("checkpoint", {"every": 5, "cost": 1})) == (
        "rank 1 lost at 1 s and 4 s, restart 2 s, on_loss auto, checkpoints of 1 s every 5 updates"
    )
    assert said(("failure", "llama3"), ("checkpoint.every", "1h"), ("checkpoint.cost", 30)) == (
        "each rank lost every 3,040,620 min, restart 10 min, on_loss auto, checkpoints of 30 s every 60 min"
    )
    assert said(("failure.links", {"host1": [{"at": 1, "seconds": 2}, {"at": 5, "seconds": 1, "share": 0.5}]})) == (
        "host1 down at 1 s for 2 s, host1 at 50% at 5 s for 1 s"
    )
    assert said(("failure.links", {"all": {"mtbf": 40, "seconds": 2}})) == "all down every 40 s for 2 s"
