"""The division of time, on traces made by hand with splits calculated by hand."""

import pytest

from distsim.interface.trace import Compute, Trace, Transfer
from distsim.results.breakdown import Division, breakdown, by_rank, divide, dominating


def compute(begun: float, ended: float) -> Compute:
    return Compute("gradient", begun, ended, 0, 0)


def reduction(posted: float, awaited: float, ended: float, sequence: int = 0) -> Transfer:
    return Transfer("all_reduce", "all_reduce 0,1", sequence, 8.0, posted, awaited, ended)


def test_a_late_partner_is_waiting_the_transfer_itself_communication() -> None:
    # Rank 0 computes until 2 and awaits; rank 1 joins at 6; the reduction takes until 8; the run ends at 10.
    early = Trace(0, [compute(0, 2)], [reduction(2, 2, 8)])
    late = Trace(1, [compute(0, 6)], [reduction(6, 6, 8)])
    assert by_rank([early, late], 10.0) == {
        0: pytest.approx({"compute": 0.2, "communication": 0.2, "waiting": 0.4, "other": 0.2}),
        1: pytest.approx({"compute": 0.6, "communication": 0.2, "waiting": 0.0, "other": 0.2}),
    }
    assert breakdown([early, late], 2, 10.0) == pytest.approx(
        {"compute": 0.4, "communication": 0.2, "waiting": 0.2, "other": 0.2}
    )


def test_communication_under_computing_is_hidden() -> None:
    # Two buckets. The first, posted at 2 by both, ends at 5 under the computing until 6; the second is exposed from 6 to 9.
    ranks = [Trace(r, [compute(0, 2), compute(2, 6)], [reduction(2, 6, 6), reduction(6, 6, 9, 1)]) for r in (0, 1)]
    assert breakdown(ranks, 2, 9.0) == pytest.approx({"compute": 6 / 9, "communication": 3 / 9, "waiting": 0, "other": 0})


def test_nobody_awaits_so_it_is_neither_communication_nor_waiting() -> None:
    # Posted at 1, over at 4, first looked at at 5 (awaited = ended): the time in between is the program's own.
    ranks = [Trace(r, [compute(0, 1)], [reduction(1, 4, 4)]) for r in (0, 1)]
    assert breakdown(ranks, 2, 5.0) == pytest.approx({"compute": 0.2, "communication": 0, "waiting": 0, "other": 0.8})


def test_messages_match_by_channel_and_number_whoever_awaits_first() -> None:
    # The server (rank 1) awaits from 0; the worker sends at 3; it arrives at 4. Then the answer: posted at 6, over at 7.
    up, down = "message 0>1 push", "message 1>0 pull"
    worker = Trace(0, [compute(0, 3)], [Transfer("send", up, 0, 4, 3, 3, 4), Transfer("receive", down, 0, 4, 0, 4, 7)])
    server = Trace(1, [compute(4, 6)], [Transfer("receive", up, 0, 4, 0, 0, 4), Transfer("send", down, 0, 4, 6, 6, 7)])
    shares = by_rank([worker, server], 8.0)
    assert shares[0] == pytest.approx({"compute": 3 / 8, "communication": 2 / 8, "waiting": 2 / 8, "other": 1 / 8})
    assert shares[1] == pytest.approx({"compute": 2 / 8, "communication": 2 / 8, "waiting": 3 / 8, "other": 1 / 8})
    assert breakdown([worker, server], 1, 8.0) == shares[0]  # servers do not count


def test_two_flows_that_await_at_once_count_once_and_communication_wins() -> None:
    a, b = "all_reduce 0,1", "broadcast 0,1"
    flows = [
        [Transfer("all_reduce", a, 0, 8, 0, 0, 4), Transfer("broadcast", b, 0, 8, 0, 0, 6)],
        [Transfer("all_reduce", a, 0, 8, 1, 1, 4), Transfer("broadcast", b, 0, 8, 5, 5, 6)],
    ]
    first = by_rank([Trace(r, [], transfers) for r, transfers in enumerate(flows)], 6.0)[0]
    # Waiting until 1; the reduction moves in [1, 4]; waiting for the broadcast until 5; it moves until 6.
    assert first == pytest.approx({"compute": 0, "communication": 4 / 6, "waiting": 2 / 6, "other": 0})


def test_what_lies_behind_the_last_update_is_clipped() -> None:
    ranks = [Trace(r, [compute(0, 2), compute(5, 9)], [reduction(2, 2, 7)]) for r in (0, 1)]
    assert breakdown(ranks, 2, 4.0) == pytest.approx({"compute": 0.5, "communication": 0.5, "waiting": 0, "other": 0})


def test_a_partner_that_left_no_record_was_waited_for() -> None:
    assert breakdown([Trace(0, [compute(0, 1)], [reduction(1, 1, 4)]), Trace(1)], 1, 4.0)["waiting"] == 0.75


def test_the_fractions_add_up_to_one() -> None:
    starts = [0.1 * i for i in range(30)]
    spans = [compute(t, t + 0.03) for t in starts]
    transfers = [reduction(t, t + 0.04, t + 0.07, i) for i, t in enumerate(starts)]
    ranks = [Trace(r, spans, transfers) for r in (0, 1)]
    assert sum(breakdown(ranks, 2, 3.1).values()) == pytest.approx(1.0, abs=1e-12)


def test_a_run_of_no_length_is_all_other() -> None:
    assert breakdown([Trace(0)], 1, 0.0) == {"compute": 0.0, "communication": 0.0, "waiting": 0.0, "other": 1.0}
    assert breakdown([], 1, 1.0)["other"] == 1.0


def test_intervals_are_what_a_timeline_draws() -> None:
    early = Trace(0, [compute(0, 2)], [reduction(2, 2, 8)])
    late = Trace(1, [compute(0, 6)], [reduction(6, 6, 8)])
    first = divide([early, late], 10.0)[0]
    assert (first.compute, first.waiting, first.communication) == ([(0, 2)], [(2, 6)], [(6, 8)])


def test_the_dominating_kind() -> None:
    assert dominating({"compute": 0.4, "communication": 0.1, "waiting": 0.5, "other": 0.0}) == "waiting"
    assert dominating({"compute": 0.5, "communication": 0.0, "waiting": 0.5, "other": 0.0}) == "compute"


def test_parts_that_are_more_than_the_whole_are_our_mistake() -> None:
    assert Division(0, [(0, 2)], [], []).fractions(2.0)["other"] == 0.0
    with pytest.raises(AssertionError, match=r"rank 0: .* are more than all its time"):
        Division(0, [(0, 2)], [(1, 2)], []).fractions(2.0)
