"""How contenders are told apart: by the fields of their strategy and of their optimizer, in a reader's words."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from races import run

from distsim import registry
from distsim.results.cases import cases
from distsim.results.naming import field_in_words, network_in_words


def labels(*runs: Any) -> list[str]:
    (case,) = cases(runs)
    return [contender.label for contender in case.contenders]


def optimized(name: str, **optimizer: Any) -> Any:
    made = run("ring", 0, 1.0)
    made.config["optimizer"] |= {
        "name": name,
        "scaling": "none",
        "schedule": {"warmup": 0, "decay": "constant"},
        **optimizer,
    }
    return made


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("k", 3, "k 3"),
        ("backups", 1, "backups 1"),
        ("late", "drop", "late drop"),
        ("bucket_bytes", 25e6, "bucket 25 MB"),
        ("outer_learning_rate", 0.7, "outer learning rate 0.7"),
        ("density", 0.01, "density 0.01"),
        ("nesterov", True, "nesterov"),
        ("beside", False, "no beside"),
        ("hang_seconds", 10.0, "hang 10 s"),
        ("widths", [64, 32], "widths 64,32"),
    ],
)
def test_fields_in_words(key: str, value: Any, words: str) -> None:
    assert field_in_words(key, value) == words


@pytest.mark.parametrize("name", registry.installed("strategy"))
def test_every_field_of_every_strategy_tells_namesakes_apart(name: str) -> None:
    fields = {f.name: f.default for f in dataclasses.fields(registry.load("strategy", name)) if f.init}
    for key, value in fields.items():
        other = {bool: lambda v: not v, str: lambda v: f"{v}2"}.get(type(value), lambda v: 2 * v + 1)(value)
        found = labels(run(name, 0, 1.0, fields=fields), run(name, 0, 1.0, fields={**fields, key: other}))
        assert found == sorted(f"{name}, {field_in_words(key, each)}" for each in (value, other))


@pytest.mark.parametrize(
    ("cluster", "words"),
    [
        ({"network": "loopback"}, "the loopback interface of one machine"),
        ({"network": "torus", "bandwidth": "1Gbit/s", "latency": 0.0}, "a network of hosts (torus, links of 1Gbit/s)"),
        ({"network": "graph", "bandwidth": None, "latency": None}, "a network of hosts (graph)"),
        (
            {"network": "fat_tree", "bandwidth": "200Mbit/s", "latency": 5e-6, "transport": {"bandwidth_factor": 0.956407}},
            "a network of hosts (fat tree, links of 200Mbit/s, 95.6 % of that for payload, 5 us a link)",
        ),
    ],
)
def test_networks_in_words(cluster: dict[str, Any], words: str) -> None:
    assert network_in_words({"cluster": cluster}) == words


def test_optimizers_in_words() -> None:
    assert labels(optimized("sgd"), optimized("adamw", learning_rate=0.001)) == [
        "ring, adamw, learning rate 0.001",
        "ring, sgd, learning rate 0.1",
    ]
    assert labels(optimized("sgd"), optimized("sgd", momentum=0.9, scaling="linear")) == [
        "ring, learning rate 0.1, momentum 0, scaling none",
        "ring, learning rate 0.1, momentum 0.9, scaling linear",
    ]
    assert labels(optimized("sgd"), optimized("sgd", schedule={"warmup": 5, "decay": "cosine"})) == [
        "ring, learning rate 0.1, warmup 0, decay constant",
        "ring, learning rate 0.1, warmup 5, decay cosine",
    ]


def test_an_optimizer_that_all_share_is_not_told() -> None:
    others = [run(name, 0, 1.0) for name in ("ring", "star")]
    for each in others:
        each.config["optimizer"] = {**each.config["optimizer"], "name": "adamw"}
    assert labels(*others) == ["ring", "star"]
