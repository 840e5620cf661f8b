"""Every strategy loses ranks, and makes its updates all the same, in both modeled modes alike."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from contract.runs import NETWORKS, OTHER_WORKERS, STRATEGIES, WORKERS, records, run
from distsim.interface import Checkpoint, Failure, Outage, Outcome
from distsim.results.conservation import check_conservation

QUICK = ("switch", 0.6)


@cache
def undisturbed(strategy: str, network: str) -> Outcome:
    return run(strategy, network, "lognormal", has_values=False)


def updates(outcome: Outcome) -> set[int]:
    return {update.number for trace in outcome.traces for update in trace.updates}


def lossy(strategy: str, network: str, at: float) -> Failure:
    """Two losses, the second after the first restart; the link of host 0 is slow and then down for a while."""
    seconds = undisturbed(strategy, network).seconds
    outages = (Outage(0.1 * seconds, 0.5 * seconds, 0.3), Outage(0.7 * seconds, 0.1 * seconds))
    return Failure(
        ranks={1: (at * seconds,), 0: ((at + 0.9) * seconds,)},
        restart=0.2 * seconds,
        links={} if network == "loopback" else {"host0": outages},
        checkpoint=Checkpoint(updates=2, cost=0.01 * seconds),
    )


@pytest.mark.parametrize(
    ("network", "at"), [QUICK, *(pytest.param(n, at, marks=pytest.mark.slow) for n in NETWORKS for at in (0.0, 0.3, 0.95))]
)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_all_updates_are_made(strategy: str, network: str, at: float) -> None:
    expected = undisturbed(strategy, network)
    workers = OTHER_WORKERS.get(strategy, WORKERS)
    for answer in STRATEGIES[strategy].on_loss(workers):
        failure = replace(lossy(strategy, network, at), on_loss=answer)
        outcome = run(strategy, network, "lognormal", has_values=False, failure=failure)
        assert (outcome.status, outcome.message) == ("done", "")
        check_conservation(outcome.traces)
        if answer == "restart":
            assert updates(outcome) == updates(expected)


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_modeled_and_cosimulated_runs_are_alike(strategy: str) -> None:
    for answer in STRATEGIES[strategy].on_loss(OTHER_WORKERS.get(strategy, WORKERS)):
        failure = replace(lossy(strategy, "switch", 0.6), on_loss=answer)
        modeled, cosimulated = (run(strategy, "switch", "lognormal", values, failure=failure) for values in (False, True))
        assert records(modeled) == records(cosimulated)
        assert modeled.losses == cosimulated.losses


@pytest.mark.parametrize("strategy", ["all_reduce", "sync_ps", "zero", "gpipe"])
def test_what_is_shown_is_shown_once(strategy: str) -> None:
    outcome = run(strategy, "switch", "lognormal", True, failure=lossy(strategy, "switch", 0.6))
    expected = run(strategy, "switch", "lognormal", True)
    assert [(s.number, s.samples) for s in outcome.snapshots] == [(s.number, s.samples) for s in expected.snapshots]
    for ours, theirs in zip(outcome.snapshots, expected.snapshots, strict=True):
        for mine, its in zip(ours.pieces, theirs.pieces, strict=True):
            assert mine.region == its.region
            assert bool((mine.values == its.values).all())
