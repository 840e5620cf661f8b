"""The pieces of the analysis, by hand calculation."""

from __future__ import annotations

import os

import pytest

from distsim.calibration.analysis import _rising, _throughput, halves_apart, quiet_rounds, segments
from distsim.calibration.bench import bench
from distsim.calibration.host import Others, hardware
from distsim.interface import Block, DistsimError, Model
from distsim.interface.trace import Compute, Trace, Transfer


def spans(*times: tuple[float, float], name: str = "gradient") -> list[Compute]:
    return [Compute(name, begun, ended, -1, -1) for begun, ended in times]


def others(*shares: float) -> Trace:
    trace = Trace(0)
    trace.compute += [Compute(f"others {share:.4f}", i, i, -1, -1) for i, share in enumerate(shares)]
    return trace


def test_probes_are_cut_out_of_the_trace_at_their_marks() -> None:
    trace = Trace(0)
    trace.compute += spans((0.0, 1.0), name="begin 7 message 3")
    trace.compute += spans((1.0, 3.0), (4.0, 8.0))
    trace.compute += spans((9.0, 9.5), name="end")
    trace.compute += spans((10.0, 11.0))  # between probes: nobody's
    inside = Transfer("send", "message 0>1 ball", 0, 8.0, 3.0, 3.0, 4.0)
    outside = Transfer("send", "message 0>1 go", 0, 0.0, 9.6, 9.6, 9.9)
    trace.transfers += [outside, inside]
    found = segments(trace)
    assert list(found) == [("message 3", 7)]
    assert found["message 3", 7].steps() == [2.0, 5.0]
    assert found["message 3", 7].transfers == [inside]


def test_the_first_round_warms_up_and_rounds_with_other_users_are_rejected() -> None:
    kept, shares = quiet_rounds(others(0.0, 0.01, 0.2, 0.04, 0.05, 0.3))
    assert kept == [1, 3, 4]
    assert shares == {1: 0.01, 2: 0.2, 3: 0.04, 4: 0.05, 5: 0.3}


def test_on_a_busy_machine_the_three_quietest_rounds_are_kept() -> None:
    assert quiet_rounds(others(0.0, 0.4, 0.2, 0.01, 0.3))[0] == [2, 3, 4]


def test_a_single_round_has_to_do() -> None:
    assert quiet_rounds(others(0.5))[0] == [0]


def test_without_a_round_it_says_so() -> None:
    with pytest.raises(DistsimError, match="give it more seconds"):
        quiet_rounds(others())


def test_throughput_counts_whole_operations_while_all_compute() -> None:
    # both compute in [2, 8]: rank 0 ends operations at 2, 4, 6, 8, one every 2 s; rank 1 at 5, 8, one every 3 s
    a = spans((0, 2), (2, 4), (4, 6), (6, 8), (8, 10))
    b = spans((2, 5), (5, 8))
    assert _throughput([a, b]) == pytest.approx(1 / 2 + 1 / 3)


def test_throughput_of_operations_too_long_for_the_window_takes_the_whole_record() -> None:
    assert _throughput([spans((0, 4)), spans((1, 3))]) == pytest.approx(1 / 4 + 1 / 2)


def test_halves_of_equal_times_do_not_differ() -> None:
    assert halves_apart([3.0] * 6) == 0.0
    assert halves_apart([3.0]) == 0.0


def test_halves_of_two_times_differ_by_their_difference() -> None:
    assert halves_apart([1.0, 3.0]) == pytest.approx(1.0)  # |1 - 3| / 2, both ways to halve


def test_halves_are_averaged_over_all_ways() -> None:
    # {1,1|3,3}: 1, twice; {1,3|1,3}: 0, four times
    assert halves_apart([1.0, 1.0, 3.0, 3.0]) == pytest.approx(2 / 6)


def test_more_never_takes_less() -> None:
    measured = {1.0: [1.0], 2.0: [4.0], 3.0: [3.0], 4.0: [2.0], 5.0: [7.0, 9.0, 5.0]}
    assert _rising(measured).points == ((1.0, 1.0), (2.0, 3.0), (3.0, 3.0), (4.0, 3.0), (5.0, 7.0))
    # 4, 3 and 2 fall: each becomes their mean, 3; a later fall pools with the pool, not with its last member
    assert _rising({1.0: [2.0], 2.0: [4.0], 3.0: [0.0]}).points == ((1.0, 2.0), (2.0, 2.0), (3.0, 2.0))


def test_the_bench_measures_shares_from_one_sample_to_the_largest() -> None:
    model = Model((Block(0, "only", 10, 1, 1, 20.0, 0.0, 20.0),), batch=16, input=10)
    on_bench = bench(model, workers=4, largest=256, sizes=(64, 4096))
    assert (on_bench.share, on_bench.groups, on_bench.blocks) == (16, (2, 4), (4,))
    assert [on_bench.samples(parts) for parts in on_bench.shares] == [256, 64, 16, 4, 1]
    assert [on_bench.model.nbytes([b]) for b in on_bench.payloads] == [64, 4096]
    names = [probe.name for probe in on_bench.probes()]
    assert len(names) == len(set(names))


def test_this_machine_is_named() -> None:
    found = hardware()
    assert found["cpu"]
    assert int(found["cores"]) >= 1
    assert int(found["memory_bytes"]) > 0


def test_our_own_work_is_not_the_others() -> None:
    meter = Others(os.getpid())
    assert meter() == 0.0  # nothing to compare with yet
    assert 0.0 <= meter() <= 1.0
