"""Calibrating the simulator gives back the machine that it simulates: probes and analysis together, exactly."""

from __future__ import annotations

import pytest

from distsim.backends.simulated import simulate
from distsim.calibration.analysis import Record, quiet_rounds, segments
from distsim.calibration.bench import Bench, BenchFactory, bench
from distsim.calibration.strategy import Calibration
from distsim.interface import Block, Budget, Cluster, Curve, Job, Loopback, Measured, Model, Roofline
from distsim.numerics.sizes import Size, SizesFactory

MODEL = Model(
    blocks=(
        Block(0, "first", 40, 8, 8, 80.0, 0.0, 80.0),
        Block(1, "hidden", 60, 8, 8, 120.0, 120.0, 120.0),
        Block(2, "hidden", 60, 8, 8, 120.0, 120.0, 120.0),
        Block(3, "last", 20, 2, 8, 40.0, 40.0, 40.0),
    ),
    batch=4,
    input=5,
)
SIZES = (64, 4096, 65536)
FALLBACK = Roofline(flops_per_second=50e9, bytes_per_second=10e9)


def affine(constant: float, slope: float, *xs: float) -> Curve:
    return Curve(tuple((x, constant + slope * x) for x in xs))


TABLE = {
    ("forward", "first"): affine(1e-4, 1e-6, 0, 1000),
    ("forward", "hidden"): affine(2e-4, 2e-6, 0, 1000),
    ("forward", "last"): affine(3e-4, 3e-6, 0, 1000),
    ("loss", "last"): affine(5e-5, 1e-7, 0, 1000),
    ("backward", "first"): affine(4e-4, 1e-6, 0, 1000),
    ("backward", "hidden"): affine(5e-4, 2e-6, 0, 1000),
    ("backward", "last"): affine(6e-4, 3e-6, 0, 1000),
    ("apply", "first"): Curve(((0.0, 7e-5),)),
    ("apply", "hidden"): Curve(((0.0, 8e-5),)),
    ("apply", "last"): Curve(((0.0, 9e-5),)),
}
NETWORK = Loopback(
    cores=Curve(((1.0, 1.0), (2.0, 1.75), (3.0, 1.75), (5.0, 1.5), (1000.0, 1.5))),
    message=affine(1e-4, 1e-9, 0, 1e6),
    all_reduce={2: affine(5e-4, 2e-9, 0, 1e6), 4: affine(4e-3, 6e-9, 0, 1e6)},
    delay=2e-3,
)


def same(found: Curve, expected: list[tuple[float, float]]) -> bool:
    """Equal points, to nine digits."""
    return [x for x, _ in found.points] == [x for x, _ in expected] and all(
        y == pytest.approx(z, rel=1e-9) for (_, y), (_, z) in zip(found.points, expected, strict=True)
    )


def calibrated(workers: int, pass_overhead: float = 0.0) -> tuple[Record, Bench]:
    on_bench = bench(MODEL, workers, largest=16, sizes=SIZES)
    job = Job(
        strategy=Calibration(on_bench.probes(), on_bench.blocks),
        model=on_bench.model,
        cluster=Cluster(workers, 1, Measured(TABLE, FALLBACK, 1e-5, pass_overhead), NETWORK),
        budget=Budget(updates=3),
        numerics=BenchFactory(
            SizesFactory(MODEL, on_bench.share),
            on_bench.first,
            lambda block: Size(on_bench.model.nbytes([block])),
            lambda block, x: x,
        ),
    )
    outcome = simulate(job)
    assert outcome.status == "done", outcome.message
    kept, _ = quiet_rounds(outcome.traces[0])
    assert kept == [1, 2]
    return Record(on_bench, [segments(trace) for trace in outcome.traces], kept), on_bench


@pytest.fixture(scope="module")
def record() -> Record:
    return calibrated(4)[0]


def test_block_times_are_recovered(record: Record) -> None:
    found = record.blocks()
    assert set(found) == set(TABLE)
    for key, curve in found.items():
        assert [x for x, _ in curve.points] == ([0.0] if key[0] == "apply" else [1.0, 4.0, 16.0])
        for samples, seconds in curve.points:
            assert seconds == pytest.approx(TABLE[key](samples), rel=1e-9)


def test_the_overhead_of_an_operation_is_recovered(record: Record) -> None:
    assert record.overhead == pytest.approx(1e-5, rel=1e-9)


def test_the_overhead_of_a_pass_is_recovered_and_is_no_part_of_blocks(record: Record) -> None:
    assert record.pass_overhead == pytest.approx(0.0, abs=1e-12)
    costly = calibrated(2, pass_overhead=3e-5)[0]
    assert costly.pass_overhead == pytest.approx(3e-5, rel=1e-9)
    for key, curve in costly.blocks().items():
        for samples, seconds in curve.points:
            assert seconds == pytest.approx(TABLE[key](samples), rel=1e-9)


def test_messages_and_all_reduces_are_recovered(record: Record) -> None:
    assert same(record.message(), [(s, 1e-4 + 1e-9 * s) for s in SIZES])
    assert same(record.all_reduce(2), [(s, 5e-4 + 2e-9 * s) for s in SIZES])
    assert same(record.all_reduce(4), [(s, 4e-3 + 6e-9 * s) for s in SIZES])


def test_the_delay_of_a_message_while_others_compute_is_recovered(record: Record) -> None:
    # the three that compute share the cores with a message only while it travels: the stretch is overestimated a little
    assert record.delay() == pytest.approx(2e-3, rel=0.1)


def test_effective_cores_are_recovered(record: Record) -> None:
    expected = [(1, 1), (2, 1.75), (3, 1.75), (4, 1.625), (5, 1.5), (1000, 1.5)]
    assert same(record.cores(), expected)


def test_the_roofline_of_the_machine_is_recovered(record: Record) -> None:
    found = record.fallback()
    assert found.bytes_per_second == pytest.approx(10e9, rel=1e-4)
    assert found.flops_per_second == pytest.approx(50e9, rel=1e-4)


def test_the_simulator_has_no_noise(record: Record) -> None:
    assert record.noise() == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_other_numbers_of_workers(workers: int) -> None:
    record, on_bench = calibrated(workers)
    assert on_bench.groups == {1: (), 2: (2,), 3: (2, 3)}[workers]
    assert record.blocks()["forward", "hidden"](4.0) == pytest.approx(2.08e-4, rel=1e-9)
