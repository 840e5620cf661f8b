"""A run frees tensors by reference counts alone: the collector of cycles is off while it lasts."""

from __future__ import annotations

import gc

import pytest
import torch

from distsim import api
from distsim.backends.simulated import simulate

SMALL = {"workload.width": 16, "workload.depth": 4, "evaluation.samples": 0}


def tensors_in_cycles(strategy: str, cluster: str, updates: int) -> int:
    """How many tensors a cosimulated run leaves to the collector."""
    settings = {"strategy": strategy, "backend": "cosimulated", "cluster": cluster, **SMALL, "budget.updates": updates}
    job = api.prepare(settings.items()).job
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        outcome = simulate(job)
        assert outcome.status == "done"
        del outcome
        gc.collect()
        return sum(type(found) is torch.Tensor for found in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.parametrize("strategy", ["all_reduce", "sync_ps", "async_ps", "model_parallel", "one_f_one_b"])
@pytest.mark.parametrize("cluster", ["local4", "switch"])
def test_a_longer_run_leaves_no_more_tensors(strategy: str, cluster: str) -> None:
    assert tensors_in_cycles(strategy, cluster, 12) == tensors_in_cycles(strategy, cluster, 3)
