"""Training over links of 200 Mbit/s: what the links allow at best, which strategy is slower, and what the model said.

M is the bytes of the model, and there are 4 workers. Tolerances follow from what is known of the parts: transfers into or
out of one host at once take what its link says to within 1 %, a ring of four ranks 6 to 10 % more than its formula. A run
may be quicker than modeled by what a bucket lets pass at once, 2 % of an exchange here, and by flows that share a link
unequally: 10 %. It may be slower by a half, as others may use the machine and every hop of a ring waits for a program to be
scheduled. Computing is compared with nothing: the ranks share the cores, and the model gives each of them a device.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

from distsim import Result, api
from distsim.report.page import write_report
from distsim.testing.namespaces import BURST, PAYLOAD, Network

pytestmark = [pytest.mark.netns, pytest.mark.timeout(900)]

UPDATES = 6
RATE = 200e6 / 8.0 * PAYLOAD
MODEL = 4 * (65 * 512 + 6 * 513 * 512 + 513 * 10)  # bytes of the weights and biases of 8 layers, 512 wide
LEAST = {  # of M, in one direction of a link: no schedule of these messages needs less
    "all_reduce": 2 * 3 / 4,  # any all-reduce: Patarasuk and Yuan, JPDC 69(2), 2009
    "two servers": 4 / 2,  # each gives half of the model to four workers
    "one server": 4,
}


@pytest.fixture(scope="module")
def experiment() -> ModuleType:
    path = Path(__file__).parents[2] / "experiments" / "05_real_network" / "run.py"
    spec = importlib.util.spec_from_file_location("real_network", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def runs(experiment: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Result, Result]]:
    """Of each contender the run over the network, and the modeled one of the same configuration."""
    folder = str(tmp_path_factory.mktemp("runs"))
    assert experiment.MODEL == MODEL
    found = {}
    with Network(6, 200e6) as network:
        for i, contender in enumerate(LEAST):
            real, modeled = (experiment.settings(contender, b, 0, UPDATES, runs=folder) for b in ("real", "modeled"))
            measured = experiment.train(network, real, experiment.hosts(contender), 29500 + i)
            found[contender] = measured, api.run(**modeled)
    assert {run.status for pair in found.values() for run in pair} == {"done"}
    return found


@pytest.mark.parametrize("contender", LEAST)
def test_no_run_is_quicker_than_its_links(runs: dict[str, tuple[Result, Result]], contender: str) -> None:
    least = (UPDATES * LEAST[contender] * MODEL - BURST) / RATE
    measured, modeled = (run.summary["seconds"] for run in runs[contender])
    assert measured >= least
    assert modeled >= least


@pytest.mark.parametrize("contender", LEAST)
def test_exchanges_take_what_was_modeled(
    experiment: ModuleType, runs: dict[str, tuple[Result, Result]], contender: str
) -> None:
    measured, modeled = map(experiment.exchanges, runs[contender])
    assert measured.keys() == modeled.keys() == ({"all_reduce"} if contender == "all_reduce" else {"model", "gradient"})
    for kind, seconds in measured.items():
        assert modeled[kind] / 1.1 <= seconds <= 1.5 * modeled[kind], kind


def test_one_server_is_slower_than_two_and_two_than_none(runs: dict[str, tuple[Result, Result]]) -> None:
    """A step of 8 M, 4 M and 1.5 M: the links of the servers carry all."""
    for each in range(2):
        steps = [runs[contender][each].summary["seconds_per_update"] for contender in LEAST]
        assert steps == sorted(steps)


def test_the_page_names_the_network_and_how_far_off_the_model_is(
    runs: dict[str, tuple[Result, Result]], tmp_path: Path
) -> None:
    write_report([run for pair in runs.values() for run in pair], tmp_path / "page.html")
    (said,) = re.findall(r'<section id="predictions">.*?</section>', (tmp_path / "page.html").read_text(), re.DOTALL)
    assert "over a network of hosts (switch, links of 200Mbit/s, 95.6 % of that for payload)." in said
    rows = re.findall(r'class="who">([^<]*)<.*?data-name="off by">([-+]\d+\.\d) %<', said, re.DOTALL)
    assert [strategy for strategy, _ in rows] == ["all_reduce", "sync_ps, servers 1", "sync_ps, servers 2"]
