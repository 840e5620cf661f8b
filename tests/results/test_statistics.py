"""Statistics against tables and hand calculations."""

import math

import pytest

from distsim.results.statistics import (
    mean_interval,
    median_interval,
    paired_ratio,
    reached,
    student_distribution,
    student_quantile,
)


@pytest.mark.parametrize(
    ("freedom", "level", "table"),
    [  # Abramowitz and Stegun, table 26.10
        (1, 0.95, 12.706),
        (2, 0.95, 4.303),
        (3, 0.95, 3.182),
        (4, 0.95, 2.776),
        (5, 0.95, 2.571),
        (9, 0.95, 2.262),
        (10, 0.95, 2.228),
        (29, 0.95, 2.045),
        (30, 0.95, 2.042),
        (120, 0.95, 1.980),
        (4, 0.99, 4.604),
        (7, 0.90, 1.895),
    ],
)
def test_student_quantile_is_the_tables(freedom: int, level: float, table: float) -> None:
    assert round(student_quantile(freedom, level), 3) == table


def test_student_distribution_in_closed_form() -> None:
    assert student_distribution(1.0, 1) == pytest.approx(0.5, abs=1e-15)  # Cauchy: 2/pi atan(1)
    assert student_distribution(math.sqrt(2.0), 2) == pytest.approx(math.sqrt(0.5), abs=1e-15)  # t / sqrt(2 + t^2)


def test_mean_interval_by_hand() -> None:
    estimate = mean_interval([1.0, 2.0, 3.0, 4.0, 5.0])  # s = sqrt(2.5), s / sqrt(5) = sqrt(.5), t = 2.776445
    assert estimate.value == 3.0
    assert estimate.low == pytest.approx(3.0 - 2.776445 * math.sqrt(0.5), abs=1e-5)
    assert estimate.high == pytest.approx(3.0 + 2.776445 * math.sqrt(0.5), abs=1e-5)
    assert estimate.n == 5


def test_one_value_has_no_interval() -> None:
    assert mean_interval([2.0]).high == math.inf
    assert not mean_interval([2.0]).excludes(-1e300)
    with pytest.raises(ValueError, match="at least one"):
        mean_interval([])


def test_equal_values_have_an_interval_of_no_width() -> None:
    estimate = mean_interval([0.5] * 5)
    assert (estimate.low, estimate.high) == (0.5, 0.5)
    assert estimate.excludes(0.0)
    assert not estimate.excludes(0.5)


def test_paired_ratio_by_hand() -> None:
    # Logarithms of the ratios: ln 2 and ln 8, mean ln 4, s = ln 4 / sqrt(2), half-width 12.7062 * ln 4 / 2.
    estimate = paired_ratio([2.0, 24.0], [1.0, 3.0])
    assert estimate.value == pytest.approx(4.0)
    assert math.log(estimate.high) == pytest.approx(math.log(4.0) * (1 + 12.7062 / 2), rel=1e-5)
    assert not estimate.excludes(1.0)


def test_pairing_finds_what_pooling_cannot() -> None:
    # Seeds differ tenfold, the strategies by 10 % on each of them.
    seeds = [1.0, 2.0, 4.0, 8.0, 10.0]
    assert paired_ratio([1.1 * s for s in seeds], seeds).excludes(1.0)


@pytest.mark.parametrize("values", [([1.0], [0.0]), ([1.0, 2.0], [1.0])])
def test_paired_ratio_refuses(values: tuple[list[float], list[float]]) -> None:
    with pytest.raises(ValueError, match="equally many positive"):
        paired_ratio(*values)


def test_median_interval_by_hand() -> None:
    # Six values: P(all on one side) = 2/64 = .031, so [min, max] covers 96.9 %. Five: 2/32 = .0625, too much.
    assert median_interval([6.0, 1.0, 2.0, 5.0, 3.0, 4.0]) == median_interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    six = median_interval([1.0, 2.0, 3.0, 4.0, 5.0, 6.0])
    assert (six.value, six.low, six.high) == (3.5, 1.0, 6.0)
    assert median_interval([1.0, 2.0, 3.0, 4.0, 5.0]).high == math.inf
    nine = median_interval([float(i) for i in range(1, 10)])  # ranks 2 and 8: P(fewer than 2 below) = 10/512 = .0195
    assert (nine.low, nine.high) == (2.0, 8.0)


def point(update: int, loss: float | None, seconds: float) -> dict[str, float | int | None]:
    return {"update": update, "samples": update * 32, "seconds": seconds, "loss": loss, "accuracy": None}


def test_the_first_snapshot_at_or_under_the_target_counts() -> None:
    curve = [point(10, 0.9, 1.0), point(20, 0.5, 2.0), point(30, 0.7, 3.0), point(40, 0.4, 4.0)]
    assert reached(curve, 0.5).seconds == 2.0
    assert reached(curve, 0.5).samples == 640
    assert reached(curve, 0.45).seconds == 4.0
    assert str(reached(curve, 0.45)) == "reached in 4 s"


def test_not_reached_says_the_best_and_where() -> None:
    curve = [point(10, 0.9, 1.0), point(500, 0.31, 2.0), point(600, math.nan, 3.0), point(700, None, 4.0)]
    assert str(reached(curve, 0.25)) == "not reached, best 0.31 at step 500"
    assert reached(curve, 0.25).seconds is None
    assert str(reached([], 0.25)) == "not reached"


def test_the_interval_is_that_since_the_snapshot_before_whatever_its_loss() -> None:
    losses = ((0.5, 2.0), (1.5, None), (4.0, 0.2), (6.0, 0.1))
    curve = [{"update": i, "samples": i, "seconds": t, "loss": loss} for i, (t, loss) in enumerate(losses)]
    assert reached(curve, 0.25).interval == 2.5  # 4.0 - 1.5
    assert reached(curve[2:], 0.25).interval == 4.0  # since the start
