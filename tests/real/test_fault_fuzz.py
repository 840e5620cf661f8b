"""Whatever goes wrong, wherever, on whichever rank: one message names the rank and what it was in, and nothing is left."""

from __future__ import annotations

import pytest

from real.fuzz import cases, limit, measure, wrong


@pytest.mark.slow
@pytest.mark.parametrize("case", cases(seed=5, count=110), ids=str)
def test_a_fault_ends_the_run_as_promised(case, tmp_path, record_property):
    found = measure(case, tmp_path)
    print(f"\n{case}: {found.seconds} s, {found.message.splitlines()[:1]}")
    record_property("seconds", found.seconds)
    assert wrong(case, found) == [], found.message
    assert found.seconds <= limit(case, found)  # promised
