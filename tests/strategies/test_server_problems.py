"""What members of the parameter-server family say of settings that they cannot run with, and what an update consumes."""

import pytest

from distsim.interface import Block, Model, Strategy
from distsim.strategies.easgd import EASGD
from distsim.strategies.parameter_server import (
    DCASGD,
    SSP,
    AsyncPS,
    BackupWorkers,
    KAsync,
    KBatchAsync,
    KBatchSync,
    KSync,
    SyncPS,
)

MODEL = Model(tuple(Block(i, "block", 10, 4, 4, 1.0, 1.0, 1.0) for i in range(4)), batch=6, input=4)


@pytest.mark.parametrize(
    "strategy",
    [
        SyncPS(servers=40),
        SyncPS(servers=4, beside=True),
        BackupWorkers(0),
        BackupWorkers(3, late="drop"),
        KSync(1),
        KSync(4),
        KBatchSync(4, late="drop"),
        KAsync(4, servers=3),
        KBatchAsync(1),
        AsyncPS("polynomial", 0.0),
        SSP(0),
        SSP(10**9),
        DCASGD(0.0),
        DCASGD(2.0, adaptive=True, decay=0.0),
        KSync(2, compression="top_k"),
        EASGD(0.0, 1),
        EASGD(1.0),
    ],
)
def test_what_can_run_has_no_problem(strategy: Strategy) -> None:
    assert list(strategy.problems(4, MODEL)) == []


@pytest.mark.parametrize(
    ("strategy", "line"),
    [
        (KSync(5), "strategy.k=5: must be 1 to 4: an update takes so many gradients of 4 workers; take strategy.k=4"),
        (KSync(0), "strategy.k=0: must be 1 to 4: an update takes so many gradients of 4 workers; take strategy.k=1"),
        (KBatchSync(-3), "strategy.k=-3: must be 1 to 4: "),
        (KAsync(9), "strategy.k=9: must be 1 to 4: "),
        (KBatchAsync(0), "strategy.k=0: must be 1 to 4: "),
        (
            BackupWorkers(4),
            "strategy.backups=4: must be 0 to 3: of 4 workers one at least must count; take strategy.backups=3",
        ),
        (BackupWorkers(-1), "strategy.backups=-1: must be 0 to 3: of 4 workers one at least must count; take "),
        (SSP(-1), "strategy.bound=-1: must be at least 0; 0 keeps all workers in step"),
        (SyncPS(servers=0), "strategy.servers=0: must be 1 to 40: this model has 40 parameters to share"),
        (AsyncPS(servers=41), "strategy.servers=41: must be 1 to 40: this model has 40 parameters to share"),
        (
            AsyncPS(compression="powersgd"),
            "strategy.compression='powersgd': its two rounds are all-reduces, and a server takes one code of each worker; "
            "take top_k, fp16 or strategy=all_reduce",
        ),
        (AsyncPS("polynomial", -0.5), "strategy.exponent=-0.5: must be at least 0; for example strategy.exponent=0.5"),
        (AsyncPS("polynomial", float("nan")), "strategy.exponent=nan: must be at least 0"),
        (DCASGD(-1.0), "strategy.compensation=-1.0: must be at least 0; 0 is async_ps"),
        (DCASGD(decay=1.0), "strategy.decay=1.0: must be at least 0 and below 1; for example strategy.decay=0.95"),
        (EASGD(1.5), "strategy.alpha=1.5: must be 0 to 1; the paper takes 0.225 here"),
        (EASGD(period=0), "strategy.period=0: must be at least 1; for example strategy.period=10"),
    ],
)
def test_what_cannot_run_says_why_in_one_line(strategy: Strategy, line: str) -> None:
    (problem,) = strategy.problems(4, MODEL)
    assert str(problem).startswith(line)
    assert "\n" not in str(problem)
    assert problem.suggestion


def test_all_problems_are_said_at_once() -> None:
    assert [p.key for p in KSync(7, servers=0).problems(3, MODEL)] == ["strategy.servers", "strategy.k"]


@pytest.mark.parametrize(
    ("strategy", "servers", "gradients"),
    [
        (SyncPS(servers=2), 2, 8),
        (BackupWorkers(3), 1, 5),
        (KSync(4), 1, 4),
        (KBatchSync(3), 1, 3),
        (KAsync(6), 1, 6),
        (KBatchAsync(2, servers=8, beside=True), 8, 2),
        (AsyncPS(), 1, 1),
        (SSP(), 1, 1),
        (DCASGD(), 1, 1),
        (EASGD(period=7), 1, 7),
    ],
)
def test_what_an_update_consumes(strategy: Strategy, servers: int, gradients: int) -> None:
    assert (strategy.server_count(8), strategy.gradients_an_update(8)) == (servers, gradients)
    assert strategy.servers_beside() == (servers == 8)


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        (SyncPS(), False),  # of everybody one
        (KAsync(4), False),
        (KAsync(1), False),
        (KAsync(2), True),
        (KSync(3), True),
        (KSync(1), True),
        (BackupWorkers(1), True),
        (KBatchSync(4), True),  # some come too late
        (KBatchAsync(3), False),
        (AsyncPS(), False),
        (SSP(), False),
    ],
)
def test_servers_take_one_order_where_an_update_picks_among_gradients(strategy: SyncPS, expected: bool) -> None:
    assert strategy.takes_one_order(4) == expected
