"""The tests of a package with a strategy. No more is needed for all that distsim promises of it."""

import pytest
from distsim_leader import Leader

from distsim.testing import check_strategy


@pytest.mark.parametrize("strategy", [Leader(), Leader(leader=1)])
def test_it_passes_what_every_built_in_strategy_passes(strategy: Leader) -> None:
    assert check_strategy(strategy, equals_one_process=True)
