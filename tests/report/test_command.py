"""The printed command makes the same run: parsed, composed and resolved again, it gives the same configuration."""

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import distsim
from distsim import registry
from distsim.composition import compose
from distsim.configuration.run import resolve
from distsim.grammar import parse
from distsim.report.command import reproduce
from distsim.strategies.all_reduce import AllReduce


def configuration(*overrides: str) -> dict[str, Any]:
    settings, unread = parse(overrides)
    values, unknown = compose(settings)
    resolved, problems = resolve(values)
    assert [*unread, *unknown, *problems] == []
    assert resolved is not None
    return resolved.config


@pytest.mark.parametrize(
    "overrides",
    [
        ["strategy=all_reduce"],
        ["strategy=all_reduce", "strategy.bucket_bytes=1MB", "backend=real", "seed=3", "repeat=2"],
        ["strategy=async_ps", "strategy.weight=inverse", "straggler=one_slow", "optimizer.learning_rate=0.025"],
        ["strategy=sync_ps", "straggler=lognormal", "straggler.slow={1: 2.5, 3: 4}", "budget.updates=200", "label=tuning"],
        ["straggler=persistent+episodes_512_gpus", "straggler.slow={1: 2}", "straggler.episodes.who=[1,2]"],
        ["straggler=lognormal+hot_expert+one_slow", "straggler.experts.share=0.25", "straggler.stages=[1,1,2,1]"],
        ["straggler.jitter=histogram", "straggler.histogram={1.5: 1, 1: 9}", "straggler.spread.kind=share"],
        ["straggler=exponential", "straggler.scales_with_work=false", "straggler.work_seconds=3ms"],
        ["strategy=one_f_one_b", "cluster=switch", "cluster.workers=8", "cluster.latency=2us", "workload.depth=16"],
        ["backend=cosimulated", "backend.preemption=block", "budget.seconds=2", "evaluation.samples=0"],
        ["optimizer=adamw", "optimizer.beta2=0.95", "optimizer.scaling=linear", "cluster.memory=80GB"],
        ["failure=llama3", "failure.restart=5min"],
        ["cluster=switch", "failure.ranks={1: [2, 3h]}", "failure.links={host1: [{at: 1, seconds: 2ms}]}"],
        ["failure.mtbf=1h", "checkpoint.every=5", "checkpoint.cost=0.5"],
        ["failure.mtbf=1h", "checkpoint.every=10min"],
        ["optimizer.nesterov=true", "optimizer.momentum=0.9", "optimizer.schedule.decay=cosine", "budget.updates=9"],
    ],
)
def test_the_command_makes_the_same_run(overrides: list[str]) -> None:
    config = configuration(*overrides)
    words = shlex.split(reproduce([config]))
    assert words[:2] == ["distsim", "run"]
    assert configuration(*words[2:]) == config


def test_repeats_are_swept_over() -> None:
    configs = [configuration("strategy=sync_ps", f"repeat={repeat}", "budget.samples=640") for repeat in (0, 1, 2)]
    assert reproduce(configs) == (
        "distsim run -m strategy=sync_ps backend=modeled workload=digits_mlp cluster=local4 straggler=none "
        "failure=none optimizer=sgd budget.samples=640 repeat=0,1,2"
    )


@dataclass(frozen=True)
class Mine(AllReduce):
    """A strategy that only this file knows."""

    extra: str = "a 'b'"


def test_a_strategy_of_python_is_called_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_OFFERED", {})  # no other test is to know Mine
    settings = {"backend": "modeled", "budget.updates": 2, "straggler.slow": {1: 2.5}, "label": "a label"}
    first = [distsim.run(Mine(bucket_bytes=1e6), **settings, repeat=repeat, runs="first") for repeat in (0, 1)]
    for runs in (first, first[1:]):
        call = reproduce([run.config for run in runs])
        assert "distsim.run(Mine(" in call
        assert "bucket_bytes=1000000.0" in call
        assert "extra=\"a 'b'\"), **{'backend': 'modeled', " in call
        assert call.endswith("  # in Python, with your own class Mine")
        again = eval(call, {"distsim": distsim, "Mine": Mine})
        found = again if isinstance(again, list) else [again]
        assert [run.id for run in found] == [run.id for run in runs]


def test_the_folder_of_runs_is_left_out() -> None:
    config = configuration("strategy=sync_ps", "runs=somewhere/else")
    assert reproduce([config]) == reproduce([configuration("strategy=sync_ps")])


def test_what_a_shell_would_read_is_quoted() -> None:
    config = configuration("strategy=sync_ps")
    command = reproduce([{**config, "label": "a; rm -rf / $(x) 'y'"}])
    assert shlex.split(command)[-1] == "label=\"a; rm -rf / $(x) 'y'\""
