"""The C library's allocator in a rank."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from distsim.backends.real.allocator import huge_pages


@pytest.mark.parametrize(
    ("before", "inside"),
    [
        (None, "glibc.malloc.hugetlb=1"),
        ("glibc.malloc.check=1", "glibc.malloc.check=1:glibc.malloc.hugetlb=1"),
        ("glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=0"),
    ],
)
def test_huge_pages_are_asked_for_unless_the_user_has_decided(before, inside, monkeypatch):
    if before is None:
        monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    else:
        monkeypatch.setenv("GLIBC_TUNABLES", before)
    with huge_pages():
        asked = [sys.executable, "-c", "import os; print(os.environ['GLIBC_TUNABLES'])"]
        assert subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip() == inside
    assert os.environ.get("GLIBC_TUNABLES") == before
