"""All tests of this folder need such a network; where none can be made they are skipped, with the reason."""

from __future__ import annotations

import pytest

from distsim.testing.namespaces import obstacle


@pytest.fixture(scope="session", autouse=True)
def needs_namespaces() -> None:
    reason = obstacle()
    if reason is not None:
        pytest.skip(reason)
