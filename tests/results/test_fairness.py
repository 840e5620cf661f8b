"""What a lead has to pass before it makes a winner: reliability, equal terms, and the evaluation's resolution."""

from __future__ import annotations

from collections.abc import Sequence

from races import FAST, SLOW, MadeUp, race, run

from distsim.results.cases import cases
from distsim.results.explanation import changes, sentence
from distsim.results.verdict import verdicts

# ---- who got there in some repeats only


def test_a_slower_strategy_does_not_win_by_time_over_one_that_got_there_sooner_in_some_repeats() -> None:
    slow, fast = (10.0, 10.1, 10.2, 10.3, 10.4), (1.0, 1.01, None, None, None)
    (verdict,) = verdicts(cases(race(slow, fast)))
    assert sentence(verdict).startswith(
        "No winner: async_ps got to the target in all 5 repeats, sync_ps in 2 of 5 only, but sooner when it did: "
        "reliability speaks for async_ps, time does not"
    )
    assert verdict.first is not None
    assert verdict.first.label == "async_ps"


def test_one_that_got_there_in_some_repeats_later_is_told_beside_the_winner() -> None:
    found = verdicts(cases([*race(FAST, (2.0, 2.1, None, None, None)), *race((*FAST,), [None] * 5, slow={"3": 3.0})]), 0.25)
    assert sentence(found[0]) == (
        "Take async_ps: validation loss 0.25 in 1 s, in all 5 repeats; sync_ps in 2 of 5; "
        "measured on local4, 4 workers, no straggler."
    )
    assert [s.text for s in changes(found)] == ["With worker 3 slowed 3x: take async_ps, it alone gets there."]
    assert [s.text for s in changes(found[::-1])] == [
        "With no straggler: take async_ps, in all 5 repeats; sync_ps in 2 of 5."
    ]


def test_a_first_that_is_less_reliable_than_a_rival_is_no_winner() -> None:
    (verdict,) = verdicts(cases(race((*FAST, 1.02, None), (*SLOW, 2.05, 1.95))))
    assert verdict.ratio is not None
    assert verdict.ratio.n == 6
    assert verdict.reason == "async_ps got to the target in 6 of 7 only, sync_ps in all 7 repeats"


# ---- what is not alike, and what nobody saw


def test_unequal_budgets_make_no_winner() -> None:
    runs = [run("a", i, s) for i, s in enumerate(FAST)] + [run("b", i, s, samples=2560) for i, s in enumerate(SLOW)]
    assert sentence(verdicts(cases(runs))[0]) == (
        "No winner: the budgets differ: a 6,400 samples, b 2,560 samples; measured on local4, 4 workers, no straggler."
    )
    # 100 updates of 64 samples are 6,400 samples, and a limit on seconds is another budget
    equal = [run("b", i, s, budget={"updates": 100, "samples": None, "seconds": None}) for i, s in enumerate(SLOW)]
    assert verdicts(cases([*runs[:5], *equal]))[0].winner is not None
    limited = [run("b", i, s, budget={"samples": 6400, "seconds": 9.0}) for i, s in enumerate(SLOW)]
    assert verdicts(cases([*runs[:5], *limited]))[0].reason == (
        "the budgets differ: a 6,400 samples, b 6,400 samples or 9 s"
    )


def test_unequal_intervals_between_evaluations_make_no_winner() -> None:
    runs = [run("a", i, s) for i, s in enumerate(FAST)]
    runs += [run("b", i, s, evaluation=6400) for i, s in enumerate(SLOW)]
    assert verdicts(cases(runs))[0].reason == "the intervals between evaluations differ: a every 320, b every 6,400 samples"


def paths(second: Sequence[float]) -> list[MadeUp]:
    """Evaluated every 0.2 s, `a` is at the target at 1.0 s of five; `b` at 1.1 s, with these losses at the same samples."""
    samples, runs = (64, 128, 192), []
    for i, d in enumerate((0.0, 0.001, 0.002, 0.003, 0.004)):
        seconds = (0.6 + d, 0.8 + d, 1.0 + d)
        runs.append(run("a", i, None, snapshots=list(zip(samples, seconds, (1.0, 0.5, 0.2), strict=True))))
    for i, d in enumerate((0.0, 0.002, 0.001, 0.004, 0.003)):
        seconds = (0.7 + d, 0.9 + d, 1.1 + d)
        runs.append(run("b", i, None, snapshots=list(zip(samples, seconds, second, strict=True))))
    return runs


def test_a_lead_within_one_interval_between_evaluations_makes_no_winner() -> None:
    (verdict,) = verdicts(cases(paths((1.1, 0.6, 0.2))))
    assert verdict.ratio is not None
    assert verdict.ratio.excludes(1.0)  # 1.10, far from 1: what is missing is not precision
    assert verdict.reason == "the lead of a over b, 100 ms, is within the evaluation's resolution, 200 ms"


def test_on_one_path_the_target_is_met_at_one_sample_wherever_that_is() -> None:
    (verdict,) = verdicts(cases(paths((1.0, 0.5 * (1 + 1e-6), 0.2))))
    assert verdict.winner is not None
    assert verdict.winner.label == "a"
