"""Of runs that may not be compared, or are one and the same, the newest stay; how many are left out is said."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

from distsim.results.selection import select


def run(
    name: str,
    day: int,
    *,
    strategy: str = "ring",
    mode: str = "real",
    repeat: int = 0,
    samples: int = 6400,
    **inputs: str,
) -> Any:
    config: Mapping[str, Any] = {
        "strategy": {"name": strategy},
        "backend": {"name": mode},
        "workload": {"name": "digits_mlp"},
        "cluster": {"name": "local4", "workers": 4, "network": "loopback", "profile": "auto"},
        "straggler": {},
        "optimizer": {"learning_rate": 0.1},
        "budget": {"samples": samples},
        "seed": 0,
        "repeat": repeat,
        "label": "",
    }
    summary = {"started": f"2030-01-{day:02}T00:00:00.000+00:00", "inputs": {"source": "s", "strategy": "", **inputs}}
    return SimpleNamespace(name=name, config=config, summary=summary)


def names(*runs: Any) -> tuple[list[str], list[str]]:
    """What stays in either order, and the notes."""
    kept, notes = select(runs)
    again, same = select(runs[::-1])
    assert ([each.name for each in again[::-1]], same) == ([each.name for each in kept], notes)
    return [each.name for each in kept], notes


def test_runs_that_agree_all_stay() -> None:
    assert names(run("a", 1), run("b", 2, repeat=1), run("c", 3, strategy="ps"), run("d", 4, mode="modeled")) == (
        ["a", "b", "c", "d"],
        [],
    )


def test_of_one_pair_the_newest_stays_not_the_longest() -> None:
    assert names(run("old", 1, samples=9600), run("new", 2), run("other", 1, repeat=1)) == (
        ["new", "other"],
        ["1 older run is left out: run again since, with the same seed and repeat"],
    )


def test_versions_of_distsim_are_not_compared_on_the_whole_page() -> None:
    assert names(run("a", 1, source="old"), run("b", 2, source="old", mode="modeled"), run("c", 3, strategy="ps")) == (
        ["c"],
        ["2 older runs are left out: made by another version of distsim, and versions are not compared"],
    )


def test_calibrations_are_not_mixed_in_a_case() -> None:
    old = [run(f"old {strategy}", 1, mode="modeled", strategy=strategy, profile="p1") for strategy in ("ring", "ps")]
    new = run("new ring", 2, mode="modeled", profile="p2")
    assert names(*old, new, run("real", 1)) == (  # a real run without a straggler depends on no profile
        ["new ring", "real"],
        [
            "2 older runs are left out: made with another calibration, other data, on another machine or with other "
            "library versions"
        ],
    )


def test_versions_of_a_strategy_are_not_mixed_in_a_contender() -> None:
    mine = [run(f"{i}", i, repeat=i, strategy="mine") for i in (1, 2)]
    mine[0].summary["inputs"]["strategy"] = "v1"
    mine[1].summary["inputs"]["strategy"] = "v2"
    assert names(*mine, run("ring", 1)) == (
        ["2", "ring"],
        ["1 older run is left out: made by another version of their strategy"],
    )


def test_strategies_with_servers_have_more_ranks_and_stay_placements_are_not_mixed_in_one() -> None:
    ring, older, newer = (
        run("ring", 3, world="1 of 4 ranks"),
        run("older", 1, strategy="ps", repeat=1, world="5 of 5 ranks"),
        run("newer", 2, strategy="ps", world="1 of 5 ranks"),
    )
    assert names(ring, newer) == (["ring", "newer"], [])
    assert names(ring, older, newer) == (
        ["ring", "newer"],
        ["1 older run is left out: made with other numbers of ranks on a host"],
    )


def test_runs_of_before_inputs_were_stored_are_of_one_version() -> None:
    runs = [run("a", 1), run("b", 2, repeat=1)]
    for each in runs:
        del each.summary["inputs"]
    assert names(*runs) == (["a", "b"], [])
