"""Records that contradict themselves are named."""

from collections import Counter
from copy import deepcopy
from random import Random

import pytest
from contract.runs import run

from distsim.interface.trace import Arrival, Compute, Interruption, Trace, Transfer
from distsim.results import conservation
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


def spoil(draw: Random, traces: list[Trace]) -> str:
    """Change one record of a run, in a way that is told."""
    how = draw.choice(["lost", "twice", "elsewhere", "moved", "bytes", "kind", "number", "time", "span", "order", "traces"])
    trace = draw.choice([trace for trace in traces if trace.transfers and trace.compute])
    i, spans = draw.randrange(len(trace.transfers)), trace.compute
    record = trace.transfers[i]
    if how == "lost":
        del trace.transfers[i]
    elif how == "twice":
        trace.transfers.append(record)
    elif how == "elsewhere":
        draw.choice(traces).transfers.append(trace.transfers.pop(i))
    elif how == "moved":
        trace.transfers.append(trace.transfers.pop(i))
    elif how == "bytes":
        trace.transfers[i] = record._replace(nbytes=record.nbytes + draw.choice([0.0, 1.0]))
    elif how == "kind":
        trace.transfers[i] = record._replace(kind=draw.choice(["send", "receive", "all_reduce"]))
    elif how == "number":
        trace.transfers[i] = record._replace(sequence=record.sequence + 1)
    elif how == "time":
        key, value = draw.choice(["posted", "awaited", "ended"]), draw.choice([-1.0, 1e-3, float("nan"), float("inf")])
        trace.transfers[i] = record._replace(**{key: value})
    elif how == "span":
        j, late = draw.randrange(len(spans)), draw.choice([1e-12, 1.0, -1.0, float("nan"), float("inf")])
        spans[j] = spans[j]._replace(ended=spans[j].ended + late)
    elif how == "order":
        draw.shuffle(spans)
    else:
        j = draw.randrange(len(trace.transfers))
        traces.append(Trace(trace.rank, spans[j:], trace.transfers[j:], ended=trace.ended))
        del spans[j:], trace.transfers[j:]
    return how


@pytest.mark.parametrize("strategy", ["async_ps 2 servers", "backup_workers", "one_f_one_b", "hsdp"])
def test_a_quick_look_overlooks_nothing(strategy: str) -> None:
    good = run(strategy, "slow switch", "exponential", has_values=False).traces
    draw, found = Random(strategy), Counter[tuple[str, bool]]()
    for _ in range(100):
        traces = deepcopy(good)
        how = spoil(draw, traces)
        off = [*conservation._transfers(traces), *conservation._gradients(traces), *conservation._times(traces)]
        found[how, bool(off)] += 1
        if conservation._is_in_time(traces) and conservation._is_matched(traces):
            assert not [*conservation._transfers(traces), *conservation._times(traces)], how
        if off:
            with pytest.raises(NotConserved):
                check_conservation(traces)
        else:
            check_conservation(traces)
    assert all(found[how, True] > 0 for how in ("lost", "twice", "bytes", "kind", "number", "time", "span")), found
    assert all(found[how, True] == 0 for how in ("moved", "order")), found


def test_what_an_interruption_dropped_is_not_off() -> None:
    cut = Interruption(1.5, 1, 3.0, 0, 2)
    sender = Trace(0, [], [message("send")], gradients=3, interruptions=[cut])
    receiver = Trace(1, arrivals=[Arrival(0, 0, 0, True, 1)], interruptions=[Interruption(1.5, 1, 3.0, 0, 0)])
    check_conservation([sender, receiver])
    late = Transfer("send", "message 0>1 push", 1, 4.0, 4.0, 4.0, 5.0)  # called after all had gone on
    with pytest.raises(NotConserved, match="message 0>1 push, number 1: recorded by"):
        check_conservation([Trace(0, [], [late], interruptions=[cut]), Trace(1, interruptions=[cut])])
    with pytest.raises(NotConserved, match=r"rank 0 sent 4 gradients; 1 were applied or discarded, 2 dropped"):
        check_conservation([Trace(0, gradients=4, interruptions=[cut]), receiver])
