"""Why a network of namespaces cannot be made is said, on machines of any kind."""

from __future__ import annotations

import os

import pytest

from distsim.testing.namespaces import Network, NoNamespaces, obstacle


def test_who_is_not_root_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert obstacle() == "only root makes network namespaces and shapes their traffic"
    with pytest.raises(NoNamespaces, match="only root"), Network(2, 200e6):
        pass


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", "")
    assert obstacle() == "ip, tc, unshare, nsenter, setpriv not found (iproute2, util-linux)"
