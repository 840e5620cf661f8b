"""Random scenarios end when they end in SimGrid, to 1e-9: recorded ones and, where its Python bindings are, 1,000 more."""

from __future__ import annotations

import gzip
import json
import math
import subprocess
from pathlib import Path

import pytest

from distsim.backends.simulated.engine import Engine
from distsim.backends.simulated.network import Network

from .scenarios import Scenario, scenario

RECORDED = Path(__file__).with_name("recorded.json.gz")
SYSTEM = "/usr/bin/python3"


def simulate(given: Scenario) -> list[float]:
    """When the flows end here."""
    engine = Engine()
    network = Network(engine, given["capacities"])
    flows, latency = given["flows"], given["latency"]
    limit = given["window"] / (2.0 * latency) if given["window"] else math.inf
    ends = [math.nan] * len(flows)
    left = [len(set(flow["after"])) for flow in flows]
    then: list[list[int]] = [[] for _ in flows]
    for number, flow in enumerate(flows):
        for before in set(flow["after"]):
            then[before].append(number)

    def start(number: int) -> None:
        flow = flows[number]
        network.start(flow["links"], flow["nbytes"], latency, lambda: end(number), limit)

    def end(number: int) -> None:
        ends[number] = engine.now
        for after in then[number]:
            left[after] -= 1
            if not left[after]:
                engine.after(flows[after]["delay"], lambda after=after: start(after))

    for number, flow in enumerate(flows):
        if not flow["after"]:
            engine.after(flow["delay"], lambda number=number: start(number))
    engine.env.run()
    assert abs(network.unaccounted()) <= 1e-12
    return ends


def test_recorded_scenarios_end_when_they_do_in_simgrid() -> None:
    recorded = json.loads(gzip.decompress(RECORDED.read_bytes()))
    assert recorded["simgrid"] == "3.32.0"
    assert len(recorded["scenarios"]) == 50
    for number, (given, ends) in enumerate(zip(recorded["scenarios"], recorded["ends"], strict=True)):
        assert simulate(given) == pytest.approx(ends, rel=1e-9, abs=0.0), f"scenario {number}"


@pytest.mark.parametrize("first", range(1000, 2000, 250))
def test_scenarios_end_when_they_do_in_simgrid(first: int) -> None:
    try:
        subprocess.run([SYSTEM, "-c", "import simgrid"], check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError):
        pytest.skip(f"{SYSTEM} has no python3-simgrid")
    script = Path(__file__).with_name("scenarios.py")
    printed = subprocess.run([SYSTEM, str(script), str(first), "250"], check=True, capture_output=True, timeout=280).stdout
    wrong = [
        seed
        for seed, ends in enumerate(json.loads(printed), first)
        if simulate(scenario(seed)) != pytest.approx(ends, rel=1e-9, abs=0.0)
    ]
    assert not wrong, f"scenarios {wrong} end at other times"
