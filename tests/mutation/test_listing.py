"""The list of equivalent mutants is one of mutants that there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import mutate


def test_all_that_is_listed_is_a_mutant_and_listed_once() -> None:
    every = [mutant.key for name in mutate.GROUPS for mutant in mutate.of_group(name)]
    assert len(set(every)) == len(every)
    assert mutate.listed() <= set(every)


@pytest.mark.parametrize("change", ["if ends:  ->  if begins:", "listed twice"])
def test_what_is_no_mutant_or_listed_twice_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    listing = tmp_path / "equivalent.toml"
    first = mutate.of_group("staleness")[0]
    changes = [first.change] * 2 if change == "listed twice" else [first.change, change]
    listing.write_text(
        f"[[equivalent]]\nfile = '{first.file}'\nfunction = '{first.function}'\nchanges = {changes}\nreason = ''\n"
    )
    monkeypatch.setattr(mutate, "LISTING", listing)
    with pytest.raises(ValueError, match=r"equivalent\.toml: no mutants, or listed twice"):
        mutate.listed()


def test_equivalent_mutants_are_left_out_of_what_is_to_be_killed() -> None:
    def verdict(is_killed: bool, is_equivalent: bool = False) -> mutate.Verdict:
        return mutate.Verdict("", is_killed, is_equivalent, int(is_killed), 1.0)

    verdicts = [verdict(True), verdict(True), verdict(True, True), verdict(False), verdict(False, True)]
    assert mutate.score(verdicts) == "killed 3 of 4, 75.0% (1 equivalent left out); raw 3 of 5, 60.0%"
