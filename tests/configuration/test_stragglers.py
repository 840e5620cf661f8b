"""Stragglers from files: presets that say what their sources say, several joined to one, histograms."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist, fmean, stdev
from typing import Any

import pytest

from distsim.composition import choices, compose, conf
from distsim.configuration import resolve
from distsim.interface import Straggler
from distsim.workloads import text


def straggler(name: str, *settings: tuple[str, Any]) -> Straggler:
    values, unknown = compose([("straggler", name), *settings])
    resolved, problems = resolve(values)
    assert [*unknown, *problems] == []
    assert resolved is not None
    assert resolved.config["straggler"]["name"] == "+".join(sorted(name.split("+")))
    return resolved.straggler


# ---- presets


@pytest.mark.parametrize(
    ("name", "minutes", "slowdown"),
    [("episodes_one_node", 10, 0.118), ("episodes_four_nodes", 24, 0.155), ("episodes_512_gpus", 72, 0.346)],
)
def test_episodes_slow_a_synchronous_job_down_as_published(name: str, minutes: int, slowdown: float) -> None:
    """In a share of the time it does 1 / factor of the work, else all of it."""
    episodes = straggler(name).episodes
    assert episodes.mean_seconds == 60 * minutes
    assert 1.0 / (1.0 - episodes.share + episodes.share / episodes.factor) - 1.0 == pytest.approx(slowdown, abs=1e-4)
    assert episodes.who == (0,)


def test_a_step_of_a_slow_job_differs_as_published() -> None:
    """The time of a step over the job's typical one: 1.0 in the median, 1.06 at the 90th percentile. The slowest of four
    workers is below x with the product of their probabilities."""
    found = straggler("persistent")

    def below(x: float) -> float:
        factors = [found.slow.get(worker, 1.0) for worker in range(4)]
        return math.prod(NormalDist().cdf(math.log(x / factor) / found.sigma) for factor in factors)

    median = next(x / 1e4 for x in range(12_000, 13_000) if below(x / 1e4) >= 0.5)
    assert median == pytest.approx(1.25, abs=1e-3)
    assert below(1.06 * median) == pytest.approx(0.9, abs=2e-3)


def test_rare_long_steps_meet_most_requests_of_a_hundred() -> None:
    found = straggler("rare_long_steps")
    assert 1.0 - (1.0 - found.probability) ** 100 == pytest.approx(0.63, abs=0.005)
    assert found.multiple == 1.0 / 0.01  # seconds


def test_sequence_lengths_are_those_of_the_text_that_ships() -> None:
    vocabulary, numbers = text.load()
    play = bytes(vocabulary[number] for number in numbers).decode("ascii")
    lengths = [len(paragraph) for paragraph in re.split(r"\n\s*\n", play) if paragraph.strip()]
    assert len(lengths) == 1051
    sigma = straggler("sequence_lengths").lengths.sigma
    assert round(stdev(map(math.log, lengths)), 2) == sigma
    # a lognormal's standard deviation over its mean is sqrt(exp(sigma^2) - 1)
    assert stdev(lengths) / fmean(lengths) == pytest.approx(math.sqrt(math.exp(sigma**2) - 1.0), rel=0.05)


@pytest.mark.parametrize("name", choices("straggler"))
def test_a_file_sets_what_it_turns_on_and_nothing_else(name: str) -> None:
    """So that files can be joined."""
    assert straggler(name).is_off == (name == "none")
    values, _ = compose([("straggler", name)])
    plain = {field: getattr(Straggler(), field) for field in ("jitter", "slow", "stages", "histogram")}
    assert all(values["straggler"][key] != plain[key] for key in values["straggler"] if key in plain)


# ---- several at once


def test_joined_choices_are_one_straggler_in_whatever_order() -> None:
    found = straggler("lognormal+one_slow+hot_expert")
    assert found == straggler("one_slow+hot_expert+lognormal")
    one, other, third = (straggler(name) for name in ("lognormal", "one_slow", "hot_expert"))
    assert found == replace(one, slow=other.slow, experts=third.experts)


def test_a_joined_choice_takes_settings_as_any_other() -> None:
    found = straggler("lognormal+one_slow", ("straggler.sigma", 0.5), ("straggler.slow", {1: 2}))
    assert found == Straggler("lognormal", sigma=0.5, slow={0: 3.0, 1: 2.0})


def test_every_two_choices_join_or_say_what_they_share() -> None:
    for one in choices("straggler"):
        for other in choices("straggler"):
            _, problems = compose([("straggler", f"{one}+{other}")])
            said = [(conf() / "straggler" / f"{name}.yaml").read_text() for name in (one, other)]
            keys = [set(re.findall(r"^\w+(?=:)", text, re.MULTILINE)) - {"name"} for text in said]
            assert bool(problems) == (one == other or bool(keys[0] & keys[1])), (one, other)


# ---- histograms


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("steps.yaml", "1: 90\n1.5: 7\n4: 3\n"),
        ("steps.json", '{"1": 90, "1.5": 7, "4.0": 3}'),
        ("steps.csv", "factor,weight\n4,3\n1, 90\n1.5,7\n\n"),
        ("bare.csv", "1,90\n1.5,7\r\n4,3"),
    ],
)
def test_a_histogram_from_a_file_is_part_of_the_configuration(file: str, content: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text(content)
    settings = [("straggler.jitter", "histogram"), ("straggler.histogram", str(tmp_path / file))]
    found = straggler("none", *settings)
    assert found == Straggler("histogram", histogram={1.0: 90.0, 1.5: 7.0, 4.0: 3.0})
    assert [found.factor(0, 0, step) for step in range(5)] == [
        straggler("none", settings[0], ("straggler.histogram", {1.5: 7, 4: 3, 1: 90})).factor(0, 0, step)
        for step in range(5)
    ]


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("torn.csv", "1,90\n1.5", "a CSV file of lines factor,weight, but one is 1.5"),
        ("twice.csv", "1,90\n1,5", "the factor 1 is there twice"),
        ("twice.yaml", "1: 90\n1: 5", "a YAML file: the key 1 is there twice"),
        ("torn.json", '{"1": 90', "a YAML file: "),
        ("list.yaml", "[1, 2]", "a map from factors to weights, or the path of a file with one"),
        ("binary.csv", b"\xff\xfe", "a CSV file that can be read (it is not text)"),
        ("words.csv", "one,two", "a number greater than 0 and at most 1000000"),
        ("empty.yaml", "", "a file of factors and weights, but it is empty"),
        ("empty.csv", "factor,weight\n", "a file of factors and weights, but it is empty"),
    ],
)
def test_a_histogram_that_is_none(file: str, content: str | bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    values, _ = compose([("straggler.jitter", "histogram"), ("straggler.histogram", str(tmp_path / file))])
    resolved, problems = resolve(values)
    assert resolved is None
    assert all(problem.key.startswith("straggler.histogram") for problem in problems)
    assert problems[0].allowed.startswith(said), problems
