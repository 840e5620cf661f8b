"""`distsim list`: what can be chosen, in words, for readers and for programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from distsim import composition, registry
from distsim.cli import main


def listed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["list", *words]) == 0
    return capsys.readouterr().out


def test_strategies(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = listed(capsys, "strategies")
    blocks = text.split("\n\n")
    assert [block.splitlines()[0] for block in blocks[:-1]] == registry.installed("strategy")
    assert (
        "async_ps\n"
        "    The server updates with every gradient at once, however old the model it was\n"
        "    computed on; nobody waits.\n"
        "    staleness    P-1, for any delays\n"
        "    closed form  E[X]/P an update." in text
    )


def test_strategies_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(listed(capsys, "strategies", "--json"))
    assert [entry["name"] for entry in found] == registry.installed("strategy")
    assert set(found[0]) == {"name", "rule", "staleness", "closed_form", "paper"}


@pytest.mark.parametrize("kind", ["backend", "cluster", "straggler", "failure", "optimizer"])
def test_every_choice_of_a_group_says_what_it_is(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(listed(capsys, f"{kind}s", "--json"))
    assert [entry["name"] for entry in found] == composition.choices(kind)
    assert all(entry["rule"].endswith(".") and not entry["rule"].startswith("name:") for entry in found)
    text = listed(capsys, f"{kind}s")
    assert [line.split()[0] for line in text.splitlines() if not line.startswith(" ")] == composition.choices(kind)


def test_workloads(capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(listed(capsys, "workloads", "--json"))
    assert [entry["name"] for entry in found] == registry.names("workload")
    assert all(entry["rule"].endswith(".") for entry in found)


def test_something_else_is_answered_with_what_there_is(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["list", "strategy"])
    assert ended.value.code == 2
    assert "strategies" in capsys.readouterr().err
