"""The fixtures `mode` (every mode in turn) and `exact` (those with a modeled clock), and the option that adds a backend."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from contract.kit import COSIMULATED, MODELED, REAL, Bench, Mode


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--contract-backend", metavar="MODULE:FUNCTION", help="hold one more backend to the contract")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    modes = [MODELED, COSIMULATED, REAL]
    if named := metafunc.config.getoption("--contract-backend", default=None):
        module, _, function = named.partition(":")
        launch = getattr(import_module(module), function)
        modes.append(Mode(named, launch, has_values=True, is_exact=False))
    for fixture, chosen in (("mode", modes), ("exact", [mode for mode in modes if mode.is_exact])):
        if fixture in metafunc.fixturenames:
            metafunc.parametrize(fixture, chosen, ids=lambda mode: mode.name, indirect=True)


@pytest.fixture
def mode(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    return Bench(request.param, tmp_path)


@pytest.fixture
def exact(request: pytest.FixtureRequest, tmp_path: Path) -> Bench:
    return Bench(request.param, tmp_path)
