"""Records that contradict themselves are named."""

import pytest

from distsim.interface.trace import Arrival, Compute, Trace, Transfer
from distsim.results.conservation import NotConserved, check_conservation


def message(kind: str, nbytes: float = 4.0, number: int = 0) -> Transfer:
    return Transfer(kind, "message 0>1 push", number, nbytes, 0.0, 0.0, 1.0)


def test_a_run_that_adds_up_passes() -> None:
    reduction = Transfer("all_reduce", "all_reduce 0,1", 0, 8.0, 0.0, 0.5, 1.0)
    check_conservation(
        [
            Trace(0, [Compute("F0", 0, 1, 0, 0), Compute("B0", 1, 2, 0, 0)], [message("send"), reduction], gradients=2),
            Trace(1, [], [message("receive"), reduction], arrivals=[Arrival(0, 0, 0, True, 1), Arrival(0, 0, 1, False, 2)]),
        ]
    )


@pytest.mark.parametrize(
    ("traces", "says"),
    [
        (
            [Trace(0, [], [message("send")]), Trace(1)],
            r"message 0>1 push, number 0: recorded by rank 0 \(send\), not by rank 0 \(send\), rank 1 \(receive\)",
        ),
        (
            [Trace(0, [], [message("send", 4.0)]), Trace(1, [], [message("receive", 8.0)])],
            "message 0>1 push, number 0: the bytes differ: 4 at rank 0, 8 at rank 1",
        ),
        (
            [Trace(0, [], [message("send"), message("send")]), Trace(1, [], [message("receive")])],
            r"recorded by rank 0 \(send\), rank 0 \(send\), rank 1 \(receive\), not by",
        ),
        (
            [Trace(0, [], [Transfer("broadcast", "broadcast 0,1", 2, 8, 0, 0, 1)]), Trace(1)],
            r"broadcast 0,1, number 2: recorded by rank 0 \(broadcast\), not by",
        ),
        ([Trace(0, gradients=2), Trace(1, arrivals=[Arrival(0, 0, 0, True, 1)])], "rank 0 sent 2 gradients; 1 were"),
        ([Trace(1, arrivals=[Arrival(3, 0, 0, True, 1)])], "rank 3 left no record; 1 of its gradients"),
        (
            [Trace(0, [Compute("F0", 0.0, 2.0, 0, 0), Compute("B0", 1.5, 3.0, 0, 0)])],
            r"rank 0: B0 \[1.5, 3.0\] begins before the operation ahead of it ended at 2.0",
        ),
        ([Trace(0, [Compute("F0", 2.0, 1.0, 0, 0)])], r"F0 \[2.0, 1.0\] ends before it begins"),
        ([Trace(0, [Compute("F0", float("nan"), 1.0, 0, 0)])], r"F0 \[nan, 1.0\] ends before it begins"),
        (
            [
                Trace(0, [], [Transfer("send", "message 0>1 ", 0, 4, 1.0, 0.5, 2.0)]),
                Trace(1, [], [Transfer("receive", "message 0>1 ", 0, 4, 0.0, 0.0, 2.0)]),
            ],
            "message 0>1 , number 0: times out of order",
        ),
    ],
)
def test_what_is_off_is_named(traces: list[Trace], says: str) -> None:
    with pytest.raises(NotConserved, match=says):
        check_conservation(traces)


def test_everything_is_named_up_to_a_limit() -> None:
    with pytest.raises(NotConserved, match=r"and 5 more$"):
        check_conservation([Trace(0, [], [message("send", number=i) for i in range(25)]), Trace(1)])
