"""Nothing that runs record has changed unnoticed."""

from __future__ import annotations

from distsim import registry

from . import fingerprints
from .fingerprints import DRAWS, RUNS


def test_records_are_those_of_before() -> None:
    expected = fingerprints.recorded()
    comparable = RUNS
    if fingerprints.draws() != expected[DRAWS]:  # this machine's C library rounds another way
        comparable = [run for run in RUNS if not fingerprints.needs_library(run)]
    found = fingerprints.fingerprints(comparable)
    changed = [f"    {run}" for run in comparable if found[run] != expected.get(run)]
    assert not changed, (
        f"the records of {len(changed)} of {len(comparable)} runs have changed, to the last bit:\n"
        + "\n".join(changed)
        + "\nIf that was meant, it needs a line in CHANGELOG that says what has changed and why; then run"
        "\n    python tests/golden/fingerprints.py --write"
    )


def test_every_strategy_and_network_has_some() -> None:
    words = {word for run in RUNS for word in run.split()}
    assert {f"strategy={name}" for name in registry.BUILT_IN["strategy"]} <= words
    assert set(fingerprints.recorded()) == {DRAWS, *RUNS}
