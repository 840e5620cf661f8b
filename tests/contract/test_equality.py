"""A modeled run takes exactly the time of the cosimulated one, and does exactly the same."""

import pytest

from contract.runs import NETWORKS, STRAGGLERS, STRATEGIES, records, run
from distsim import registry
from distsim.backends.simulated import SimulatedOptions


@pytest.mark.parametrize("name", registry.BUILT_IN["strategy"])
def test_every_strategy_is_among_the_runs(name):
    found = [type(strategy) for key, strategy in STRATEGIES.items() if key.split()[0] == name]
    assert found, f"contract/runs.py lacks {name}"
    assert set(found) == {registry.load("strategy", name)}


FEW = {"switch": ["none", "everything"], "slow switch": list(STRAGGLERS), "loopback": ["none", "everything"]}
"""All stragglers on one network; on the others those that leave all ties and those that leave none."""
FURTHER = {network: [straggler for straggler in STRAGGLERS if straggler not in few] for network, few in FEW.items()}


@pytest.mark.parametrize(
    ("network", "stragglers"),
    [*FEW.items(), *(pytest.param(*each, marks=pytest.mark.slow) for each in FURTHER.items() if each[1])],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)} stragglers",
)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_modeled_is_cosimulated_bit_for_bit(strategy, network, stragglers):
    for straggler in stragglers:
        modeled, cosimulated = (run(strategy, network, straggler, has_values) for has_values in (False, True))
        assert modeled.status == "done", modeled.message
        assert modeled.seconds > 0.0
        assert modeled.seconds == cosimulated.seconds
        assert records(modeled) == records(cosimulated)
        assert sum(len(trace.losses) for trace in modeled.traces) >= 5


def test_all_networks_and_stragglers_are_among_the_runs():
    assert FEW.keys() == NETWORKS.keys()


@pytest.mark.parametrize("options", [SimulatedOptions("block", "flows"), SimulatedOptions("instant", "price")])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_under_every_option(strategy, options):
    modeled, cosimulated = (run(strategy, "slow switch", "everything", has_values, options) for has_values in (False, True))
    assert records(modeled) == records(cosimulated)
    assert modeled.status == "done", modeled.message


def test_stragglers_and_networks_make_a_difference():
    seconds = {run("sync_ps", network, straggler, False).seconds for network in NETWORKS for straggler in STRAGGLERS}
    assert len(seconds) == len(NETWORKS) * len(STRAGGLERS)
