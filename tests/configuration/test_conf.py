"""The files of conf/: every choice can run, says what its class says, and fills nothing that does not exist."""

from __future__ import annotations

from dataclasses import fields
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from distsim import composition, registry
from distsim.composition import compose
from distsim.configuration import resolve

CHOICES = [
    (group, path.stem) for group in composition.GROUPS for path in sorted((composition.conf() / group).glob("*.yaml"))
]
NEEDED = {"module": [("workload.module", "operator:add")]}


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_every_choice_resolves(group: str, name: str, tmp_path: Path) -> None:
    values, problems = compose([(group, name), ("runs", str(tmp_path)), *NEEDED.get(name, [])])
    resolved, more = resolve(values)
    if name == "module":  # read well, but no model comes out of operator.add
        assert [problem.key for problem in more] == ["workload.module"]
        return
    assert [*problems, *more] == []
    assert resolved is not None
    assert resolved.config[group]["name"] == name


@pytest.mark.parametrize(
    ("group", "name"), [choice for choice in CHOICES if choice[0] in ("strategy", "workload", "backend")]
)
def test_files_say_what_the_classes_say(group: registry.Kind, name: str) -> None:
    values, _ = compose([(group, name)])
    resolved, _ = resolve(values)
    if resolved is None:
        pytest.skip("needs a module")
    component: Any = {"strategy": resolved.strategy, "workload": resolved.workload, "backend": resolved.options}[group]
    assert component == type(component)()
    assert set(values[group]) == {"name", *(field.name for field in fields(component))}


def test_every_built_in_name_has_a_file() -> None:
    names = chain.from_iterable((kind, name) for kind in registry.BUILT_IN for name in registry.BUILT_IN[kind])
    assert set(zip(*[iter(names)] * 2, strict=True)) <= set(CHOICES)


def test_no_file_names_code() -> None:
    for path in composition.conf().rglob("*.yaml"):
        assert "_target_" not in path.read_text(encoding="utf-8"), path


def test_resolving_twice_changes_nothing(tmp_path: Path) -> None:
    settings = [
        ("strategy", "all_reduce"),
        ("strategy.bucket_bytes", "1MiB"),
        ("cluster", "switch"),
        ("cluster.latency", "5us"),
        ("cluster.memory", "80e9B"),
        ("straggler", "one_slow"),
        ("straggler.slow", {2: 1.5}),
        ("straggler.jitter", "histogram"),
        ("straggler.histogram", {"2.5": 5, 1: "95"}),
        ("straggler.scales_with_work", False),
        ("straggler.burn", True),
        ("straggler.work_seconds", "20ms"),
        ("straggler.stages", [1, 1.25]),
        ("straggler.stage_width", 2),
        ("straggler.episodes", {"share": 0.5, "mean_seconds": "10min", "who": [0, 3]}),
        ("failure.ranks", {1: ["2h", "0.5"]}),
        ("failure.mtbf", "12h"),
        ("failure.links", {"host1": [{"at": "4s", "seconds": "1s"}, {"at": 2, "seconds": 0.5, "share": 0.1}]}),
        ("failure.restart", "5min"),
        ("checkpoint", {"every": "10min", "cost": "20s"}),
        ("optimizer", "adamw"),
        ("optimizer.weight_decay", 0),
        ("optimizer.scaling", "square_root"),
        ("optimizer.schedule.warmup", "1e1"),
        ("budget.seconds", "2min"),
        ("runs", str(tmp_path)),
    ]
    first, problems = resolve(compose(settings)[0])
    assert problems == []
    assert first is not None
    second, problems = resolve(first.config)
    assert problems == []
    assert second is not None
    assert second == first
    strategy = first.config["strategy"]
    assert (strategy["name"], strategy["bucket_bytes"]) == ("all_reduce", 1048576.0)
    assert first.config == {
        "strategy": strategy,
        "backend": {
            "name": "modeled",
            "preemption": "instant",
            "collectives": "auto",
            "algorithm": "auto",
            "ring_bytes": 524288.0,
            "ring_factor": 2.0,
            "node_ranks": 0,
            "fold_ranks": 512,
        },
        "workload": {"name": "digits_mlp", "batch": 16, "depth": 8, "width": 256, "dtype": "float32"},
        "cluster": {
            "name": "switch",
            "workers": 4,
            "network": "switch",
            "bandwidth": "10Gbit/s",
            "latency": 5e-6,
            "nics": 1,
            "node_size": None,
            "node_bandwidth": None,
            "node_latency": None,
            "leaf_size": None,
            "uplinks": None,
            "uplink_bandwidth": None,
            "shape": None,
            "graph": None,
            "duplex": "full",
            "placement": None,
            "slow": {},
            "background": {},
            "transport": {
                "preset": "none",
                "bandwidth_factor": 1.0,
                "latency_factor": 1.0,
                "message_seconds": 0.0,
                "window_bytes": None,
                "eager_bytes": 0.0,
                "one_at_a_time": False,
            },
            "device": "profile",
            "flops": None,
            "efficiency": None,
            "memory_bandwidth": None,
            "overhead": None,
            "memory": "80GB",
            "profile": "auto",
        },
        "straggler": {
            "name": "one_slow",
            "jitter": "histogram",
            "scale": 1.0,
            "sigma": 0.2,
            "shape": 2.0,
            "probability": 0.05,
            "multiple": 10.0,
            "slow": {"0": 3.0, "2": 1.5},
            "histogram": {"1.0": 95.0, "2.5": 5.0},
            "scales_with_work": False,
            "work_seconds": 0.02,
            "stages": [1.0, 1.25],
            "stage_width": 2,
            "spread": {"kind": "none", "sigma": 0.1, "share": 0.1, "factor": 2.0},
            "episodes": {"share": 0.5, "mean_seconds": 600.0, "factor": 2.0, "who": [0, 3]},
            "lengths": {"sigma": 0.0, "attention": 0.0},
            "experts": {"hottest": 1.0, "group": 4, "share": 1.0},
            "burn": True,
        },
        "failure": {
            "name": "none",
            "ranks": {"1": [0.5, 7200.0]},
            "mtbf": 43200.0,
            "links": {"host1": [{"at": 2.0, "seconds": 0.5, "share": 0.1}, {"at": 4.0, "seconds": 1.0, "share": 0.0}]},
            "restart": 300.0,
            "on_loss": "auto",
        },
        "checkpoint": {"every": "600.0s", "cost": 20.0, "keep": False},
        "optimizer": {
            "name": "adamw",
            "learning_rate": 0.001,
            "beta1": 0.9,
            "beta2": 0.999,
            "epsilon": 1e-8,
            "weight_decay": 0.0,
            "scaling": "square_root",
            "schedule": {"warmup": 10, "decay": "constant", "final": 0.0},
        },
        "budget": {"updates": None, "samples": None, "seconds": 120.0},
        "evaluation": {"samples": 1000},
        "seed": 0,
        "repeat": 0,
        "precision": "float32",
        "runs": str(tmp_path),
        "label": "",
    }


def test_seed_and_repeat_make_one_seed() -> None:
    seeds = {
        resolved.seed
        for seed in (0, 1)
        for repeat in (0, 1)
        if (resolved := resolve(compose([("seed", seed), ("repeat", repeat)])[0])[0]) is not None
    }
    assert len(seeds) == 4


def test_samples_auto_gives_way_to_any_other_limit() -> None:
    def budget(*settings: tuple[str, Any]) -> Any:
        resolved, _ = resolve(compose(settings)[0])
        assert resolved is not None
        return resolved.config["budget"]

    assert budget() == {"updates": None, "samples": 20000, "seconds": None}
    assert budget(("budget.updates", 5)) == {"updates": 5, "samples": None, "seconds": None}
    assert budget(("budget.seconds", 2)) == {"updates": None, "samples": None, "seconds": 2.0}
    assert budget(("budget.samples", "1e3")) == {"updates": None, "samples": 1000, "seconds": None}


def test_a_dict_beside_a_key_that_it_does_not_set_loses_nothing() -> None:
    values, problems = compose([("budget.samples", 9), ("budget", {"updates": 7}), ("budget.seconds", 3), ("budget", {})])
    assert problems == []
    assert values["budget"] == {"updates": 7, "samples": 9, "seconds": 3}
