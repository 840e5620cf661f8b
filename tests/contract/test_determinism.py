"""The same run gives the same records in every process, whatever the hash seed, and whether they are kept or not."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from contract.runs import STRATEGIES, run
from distsim.interface import Trace, rank

TESTS = Path(__file__).parent.parent


@pytest.mark.parametrize("which", [[], pytest.param(["all"], marks=pytest.mark.slow)], ids=["few", "all"])
def test_the_hash_of_all_records_is_the_same_in_two_processes(which):
    outputs = []
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)])}
        command = [sys.executable, "-m", "contract.trace_hash", *which]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        outputs.append(done.stdout)
    assert outputs[0] == outputs[1]
    assert [line.split()[0] for line in outputs[0].splitlines()] == ["modeled", "cosimulated"]


class Forgetful(list):
    """Keeps nothing."""

    def append(self, record):
        pass


def forgets(number):
    """A trace of which only updates are kept."""
    return Trace(number, *(Forgetful() for _ in range(2)), losses=Forgetful(), arrivals=Forgetful())


@pytest.mark.parametrize(
    "strategy", ["async_ps 2 servers", "backup_workers drop", "ad_psgd", "hsdp", "one_f_one_b", "diloco"]
)
def test_records_have_no_part_in_a_run(strategy, monkeypatch):
    def found():
        outcome = run(strategy, "slow switch", "exponential", has_values=False)
        return outcome.seconds, [(trace.updates, trace.ended, trace.peak, trace.gradients) for trace in outcome.traces]

    kept = found()
    monkeypatch.setattr(rank, "Trace", forgets)
    assert found() == kept
    assert run(strategy, "slow switch", "exponential", has_values=False).traces[0].transfers == []


def test_runs_one_after_another_do_not_change_each_other():
    names = ["async_ps", "hybrid", "all_reduce", "gossip", "k_async"]
    assert set(names) <= set(STRATEGIES)

    def traces(order):
        return {name: run(name, "switch", "lognormal", has_values=False).traces for name in order}

    assert traces(names) == traces([*reversed(names), *names])
