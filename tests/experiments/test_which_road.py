"""The experiment's plan: a fair comparison, and settings that can run."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path

import pytest

from distsim import api

PATH = Path(__file__).parents[2] / "experiments" / "01_which_road" / "run.py"
RATES = {"model_parallel": 0.2, "one_f_one_b": 0.2, "all_reduce": 0.2, "sync_ps": 0.2, "async_ps": 0.1}


@pytest.fixture(scope="module")
def plan():
    spec = importlib.util.spec_from_file_location("which_road", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def all_runs(plan):
    roads = plan.roads_of(RATES)
    local = [run for backend in ("real", "cosimulated", "modeled") for run in plan.local_runs(backend, roads, plan.REPEATS)]
    return [*plan.tuning_runs(), *local, *plan.switch_runs(list(RATES.items()))]


def test_every_run_of_the_plan_can_run_and_is_planned_once(plan, tmp_path):
    runs = [{**run, "runs": str(tmp_path)} for run in all_runs(plan)]
    assert len(api.prepare_all(run.items() for run in runs)) == len(runs)


def test_every_strategy_has_the_same_budget_grid_and_seeds(plan):
    seen = Counter((run["strategy"], run["optimizer.learning_rate"], run["seed"]) for run in plan.tuning_runs())
    assert seen == {(s, rate, plan.TUNING_SEED): plan.TUNING_REPEATS for s in plan.STRATEGIES for rate in plan.GRID}
    compared = plan.local_runs("real", plan.roads_of(RATES), plan.REPEATS)
    assert {run["budget.samples"] for run in compared} == {plan.SAMPLES}
    assert not any("seed" in run for run in compared)  # tuning seeds are nobody else's
    assert plan.REPEATS >= 5


def test_repeats_follow_each_other_and_strategies_are_shuffled_within(plan):
    runs = plan.local_runs("real", plan.roads_of(RATES), 5)
    assert [run["repeat"] for run in runs] == sorted(run["repeat"] for run in runs)
    orders = {tuple((run["strategy"], run["straggler"]) for run in runs if run["repeat"] == r) for r in range(5)}
    assert len(orders) == 5


def test_the_control_runs_at_the_synchronous_rate_divided_by_the_workers(plan):
    assert plan.roads_of(RATES)[-1] == ("async_ps", 0.05)
    assert plan.roads_of({**RATES, "async_ps": 0.05}) == list({**RATES, "async_ps": 0.05}.items())
