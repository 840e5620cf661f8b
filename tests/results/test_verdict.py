"""Who wins, who does not, and what is said about it."""

import pytest
from races import FAST, SLOW, race, run

from distsim.results.agreement import agreement
from distsim.results.cases import cases
from distsim.results.explanation import changes, model_distance, sentence, why
from distsim.results.verdict import common_target, verdicts
from distsim.results.wording import duration, number


def test_the_winner_is_named_with_the_interval() -> None:
    (verdict,) = verdicts(cases(race(FAST, SLOW)))
    # ln of the ratios 2, 21/11, 19/9, 44/21, 36/19: mean 0.69315, s 0.05043; t = 2.776445: 2.000 [1.879, 2.129].
    assert sentence(verdict) == (
        "Take async_ps: validation loss 0.25 in 1 s, 2.00 times as fast as sync_ps "
        "(95 % interval 1.88 to 2.13, 5 pairs); measured on local4, 4 workers, no straggler."
    )
    assert [s.label for s in verdict.standings] == ["async_ps", "sync_ps"]
    assert [str(s) for s in verdict.standings] == ["reached in all 5 repeats"] * 2
    assert [s.text for s in why(verdict)] == [
        "A sample takes sync_ps 2.00 times as long, because of waiting for other ranks "
        "(50 % of its workers' time, 0 % of async_ps's).",
        "Both need equally many samples.",
    ]


def test_what_speaks_against_the_winner_comes_last() -> None:
    runs = [run("async_ps", i, s, samples=9600) for i, s in enumerate(FAST)]
    runs += [run("sync_ps", i, s, step=0.03, waiting=0.5) for i, s in enumerate(SLOW)]
    assert [s.text for s in why(verdicts(cases(runs))[0])] == [
        "A sample takes sync_ps 3.00 times as long, because of waiting for other ranks "
        "(50 % of its workers' time, 0 % of async_ps's).",
        "But async_ps needs 1.50 times the samples of sync_ps.",
    ]


def test_four_pairs_make_no_winner_however_clear() -> None:
    (verdict,) = verdicts(cases(race(FAST[:4], SLOW[:4])))
    assert verdict.winner is None
    assert "4 paired repeats, and a winner needs at least 5" in sentence(verdict)


def test_an_interval_that_holds_one_makes_no_winner() -> None:
    (verdict,) = verdicts(cases(race(FAST, (1.3, 0.9, 1.2, 0.8, 1.1))))
    assert verdict.winner is None
    assert sentence(verdict).startswith("No winner: async_ps and sync_ps cannot be told apart: ratio 1.05, 95 % interval ")


def test_runs_of_other_seeds_are_no_pairs() -> None:
    runs = [run("async_ps", i, s) for i, s in enumerate(FAST)]
    runs += [run("sync_ps", 10 + i, s) for i, s in enumerate(SLOW)]
    assert "both got to the target in 0 pairs only" in sentence(verdicts(cases(runs))[0])


def test_the_only_one_that_gets_there_wins_and_the_other_is_said_to_have_not() -> None:
    runs = race(FAST, [None] * 5)
    (verdict,) = verdicts(cases(runs), target=0.25)
    assert sentence(verdict) == (
        "Take async_ps: it alone got to validation loss 0.25 in 1 s, in all 5 repeats; "
        "measured on local4, 4 workers, no straggler."
    )
    assert str(verdict.standings[1]) == "not reached, best 1 at step 10"


def test_a_repeat_that_got_nowhere_takes_its_pair_away() -> None:
    (verdict,) = verdicts(cases(race((*FAST[:4], None), SLOW)))
    assert verdict.winner is None
    assert str(verdict.first) == "reached in 4 of 5 repeats"
    assert "both got to the target in 4 pairs only" in sentence(verdict)


def test_nobody_gets_there() -> None:
    assert "none got to the target" in sentence(verdicts(cases(race(FAST, SLOW)), target=0.01)[0])


def test_a_failed_run_never_got_there() -> None:
    runs = race(FAST, SLOW)
    runs[0] = run("async_ps", 0, 1.0, status="diverged")
    assert str(verdicts(cases(runs))[0].standings[0]) == "reached in 4 of 5 repeats"


def test_throughput_makes_no_winner() -> None:
    (verdict,) = verdicts(cases(race(FAST, SLOW, mode="modeled")))
    assert sentence(verdict) == (
        "No winner: without validation losses there is only throughput, and that alone makes no winner; "
        "highest: async_ps, 12,800 samples/s; modeled on local4, 4 workers, no straggler."
    )


def test_one_strategy_alone() -> None:
    assert "nothing to be compared with" in sentence(verdicts(cases([run("async_ps", 0, 1.0)]))[0])
    assert sentence(None) == "No winner: there are no runs."


@pytest.mark.parametrize(("best", "target"), [(0.2, 0.25), (0.0801, 0.11), (0.8, 1.0), (0.1, 0.13)])
def test_the_target_follows_from_the_rule(best: float, target: float) -> None:
    runs = [run("a", i, 1.0, best=best) for i in range(5)] + [run("b", i, 1.0, best=2 * best) for i in range(5)]
    assert common_target(cases(runs)) == target


def test_all_cases_share_the_target_and_measured_ones_come_first() -> None:
    runs = race(FAST, SLOW, mode="cosimulated", best=0.02) + race(SLOW, FAST, slow={"3": 3.0}) + race(FAST, SLOW)
    found = verdicts(cases(runs))
    assert [(v.case.badge, v.case.straggler, v.target) for v in found] == [
        ("measured", "", 0.25),
        ("measured", "worker 3 slowed 3x", 0.25),
        ("cosimulated", "", 0.25),
    ]
    assert [s.text for s in changes(found)] == [
        "With worker 3 slowed 3x: take sync_ps, 2.00 times as fast as async_ps (1.88 to 2.13).",
        "Cosimulated runs give the same answer in this setting.",
    ]


def test_a_prediction_that_disagrees_is_told() -> None:
    found = verdicts(cases(race(FAST, SLOW) + race(SLOW, FAST, mode="cosimulated")))
    assert [s.text for s in changes(found)] == [
        "Cosimulated instead, no straggler: take sync_ps, 2.00 times as fast as async_ps (1.88 to 2.13)."
    ]


def test_scaling_is_told_by_who_leads() -> None:
    runs = race(FAST, SLOW)
    for workers, step in ((8, 0.01), (16, 0.01), (32, 0.05)):
        runs.append(run("sync_ps", 0, None, mode="modeled", workers=workers, step=0.02))
        runs.append(run("async_ps", 0, None, mode="modeled", workers=workers, step=step))
    assert [s.text for s in changes(verdicts(cases(runs)))] == [
        "Throughput alone, on local4, no straggler: highest for async_ps at 8 to 16, sync_ps at 32 workers."
    ]


def test_agreement_and_its_noise_floor_by_hand() -> None:
    measured = [run("ring", i, 1.0, step=step) for i, step in enumerate((0.010, 0.011, 0.012))]
    modeled = [run("ring", i, None, mode="modeled", step=0.0121) for i in range(3)]
    found = agreement(cases(measured + modeled))
    (comparison,) = found.comparisons
    assert comparison.error == pytest.approx(0.1)  # .0121 / .010, .011, .012 - 1 = .21, .1, .0083: the median
    assert comparison.spread == (pytest.approx(0.0121 / 0.012 - 1), pytest.approx(0.21))
    assert found.floor == pytest.approx(0.1)  # 11/10, 12/10, 12/11: the median is 1.1
    assert [s.text for s in model_distance(found)] == [
        "The modeled step time was 10 % off (median of 1), at worst 10 % (ring, no straggler).",
        "Two real runs of one strategy differ by 10 % (median of 3 pairs).",
    ]
    assert model_distance(found)[0].badges == ("measured", "modeled")


def test_a_disturbed_calibration_is_told_beside_the_distance_with_the_remedy() -> None:
    measured, modeled = run("ring", 0, 1.0), run("ring", 0, None, mode="modeled", step=0.015)
    modeled.summary = {**modeled.summary, "disturbed": "other processes used 42% of the CPU, 3 of 5 rounds were kept"}
    last = model_distance(agreement(cases([measured, modeled])))[-1]
    assert last.text == (
        "The calibration that this rests on was disturbed: other processes used 42% of the CPU, 3 of 5 rounds were kept. "
        "The model may be nearer than it seems here: calibrate again on a quiet machine (distsim calibrate), and predict "
        "again."
    )
    assert last.badges == ("modeled",)


def test_predictions_of_another_setting_are_not_compared() -> None:
    found = agreement(cases([run("ring", 0, 1.0), run("ring", 0, None, mode="modeled", workers=8)]))
    assert found.comparisons == []
    assert model_distance(found) == []


@pytest.mark.parametrize(
    ("x", "text"),
    [(0.0, "0"), (0.01234, "0.0123"), (1.0, "1"), (1.834, "1.83"), (99.96, "100"), (12345.6, "12,346"), (2e-5, "2e-05")],
)
def test_numbers_are_short(x: float, text: str) -> None:
    assert number(x) == text


def test_durations_have_their_unit() -> None:
    assert [duration(t) for t in (2.5e-4, 0.0123, 1.31, 600.0)] == ["250 us", "12.3 ms", "1.31 s", "10 min"]


def test_cosimulated_times_that_repeat_the_modeled_ones_are_told_once() -> None:
    runs = [run("ring", 0, 1.0), run("ring", 0, None, mode="modeled", step=0.02)]
    same = agreement(cases([*runs, run("ring", 0, 1.0, mode="cosimulated", step=0.02)]))
    assert [c.predicted_in.mode for c in same.without_repetition().comparisons] == ["modeled"]
    assert model_distance(same)[0].badges == ("measured", "modeled", "cosimulated")
    other = agreement(cases([*runs, run("ring", 0, 1.0, mode="cosimulated", step=0.03)]))
    assert len(other.without_repetition().comparisons) == 2


def test_a_control_is_shown_and_does_not_compete() -> None:
    quickest = [run("async_ps", i, 0.5 * s, rate=0.025, label="control") for i, s in enumerate(FAST)]
    (verdict,) = verdicts(cases(race(FAST, SLOW) + quickest))
    assert [s.label for s in verdict.standings] == [
        "async_ps, learning rate 0.025",
        "async_ps",
        "sync_ps",
    ]
    assert verdict.winner is not None
    assert verdict.winner.label == "async_ps"
    assert verdict.ratio is not None
    assert verdict.ratio.value == pytest.approx(2.0)
