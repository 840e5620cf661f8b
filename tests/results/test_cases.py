"""What is one setting and one contender, what is not, and how they are told apart."""

from __future__ import annotations

from races import FAST, SLOW, race, run

from distsim.results.agreement import agreement
from distsim.results.cases import cases
from distsim.results.verdict import verdicts


def test_namesakes_are_told_apart_by_what_differs() -> None:
    runs = [
        run("ps", 0, 1.0, fields={"weight": "constant", "k": 1}),
        run("ps", 0, 1.0, fields={"weight": "inverse", "k": 1}),
        run("ring", 0, 1.0, rate=0.1),
        run("ring", 0, 1.0, rate=0.025),
    ]
    (case,) = cases(runs)
    assert [c.label for c in case.contenders] == [
        "ps, weight constant",
        "ps, weight inverse",
        "ring, learning rate 0.025",
        "ring, learning rate 0.1",
    ]


def test_a_rate_tuned_for_each_case_is_one_contender() -> None:
    found = cases([run("ring", 0, 1.0, rate=0.1), run("ring", 0, 1.0, rate=0.05, slow={"0": 3.0})])
    assert [[c.label for c in case.contenders] for case in found] == [["ring"], ["ring"]]


def test_models_that_differ_are_told_and_have_their_own_targets() -> None:
    small, large = {"depth": 8, "batch": 16}, {"depth": 64, "batch": 16}
    runs = race(FAST, SLOW, model=small) + race(FAST, SLOW, model=large, best=0.4, workers=8)
    assert [(str(v.case), v.target) for v in verdicts(cases(runs))] == [
        ("local4, 4 workers, depth 8, no straggler", 0.25),
        ("local4, 8 workers, depth 64, no straggler", 0.5),
    ]


def test_options_that_change_times_make_other_cases_and_patience_does_not() -> None:
    runs = [run("ring", i, 1.0, options={"threads": threads}) for i in (0, 1) for threads in (1, 4)]
    assert [str(case) for case in cases(runs)] == [
        "local4, 4 workers, threads 1, no straggler",
        "local4, 4 workers, threads 4, no straggler",
    ]
    runs = [run("ring", i, 1.0, options={"threads": 1, "hang_seconds": 10 * (i + 1)}) for i in (0, 1)]
    (case,) = cases(runs)
    assert str(case) == "local4, 4 workers, no straggler"
    modeled = [run("ring", 0, None, mode="modeled", options={"preemption": p}) for p in ("instant", "block")]
    found = agreement(cases([run("ring", 0, 1.0, options={"threads": 1}), *modeled]))  # options are no setting
    assert [c.predicted_in.options for c in found.comparisons] == ["preemption block", "preemption instant"]


def test_a_label_runs_a_configuration_twice_on_purpose_unless_it_is_a_role() -> None:
    runs = [run("ring", 0, 1.0, label=label) for label in ("", "again")]
    assert [str(case) for case in cases(runs)] == [
        "local4, 4 workers, no straggler",
        "local4, 4 workers, label again, no straggler",
    ]
    assert len(cases([run("ring", 0, 1.0), run("ring", 0, 1.0, rate=0.2, label="control")])) == 1
