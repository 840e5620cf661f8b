"""The plans of the experiments that measure nothing: settings that can run, each once, with equal budgets and own seeds."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from distsim import api

FOLDER = Path(__file__).parents[2] / "experiments"


def plan(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name[3:], FOLDER / name / "run.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compared(name: str) -> list[dict]:
    module = plan(name)
    if name == "02_stragglers":
        return module.compared_runs(dict.fromkeys(module.CONTENDERS, 0.1))
    if name == "03_staleness":
        return module.compared_runs({f"{p} {c}": 0.1 for p in module.WORKERS for c in module.CONTENDERS})
    return [run for row in module.planned().values() for run in row]


@pytest.mark.parametrize("name", ["02_stragglers", "03_staleness", "04_pipelines"])
def test_every_run_can_run_and_is_planned_once(name, tmp_path):
    runs = compared(name) + (plan(name).tuning_runs() if name != "04_pipelines" else [])
    first = [run for run in runs if run["repeat"] == 0]
    assert len(api.prepare_all([*run.items(), ("runs", str(tmp_path))] for run in first)) == len(first)
    assert len({tuple(sorted(map(str, run.items()))) for run in runs}) == len(runs)


@pytest.mark.parametrize("name", ["02_stragglers", "03_staleness"])
def test_budgets_are_equal_and_tuning_has_seeds_of_its_own(name):
    module, runs = plan(name), compared(name)
    assert {run["budget.samples"] for run in [*runs, *module.tuning_runs()]} == {module.SAMPLES}
    assert {run["seed"] for run in module.tuning_runs()} == {module.TUNING_SEED}
    assert {run.get("seed", 0) for run in runs}.isdisjoint({module.TUNING_SEED})
    assert module.REPEATS >= 5
    assert all(run["label"].startswith("tuning") for run in module.tuning_runs())


def test_a_gradient_at_the_control_rate_weighs_what_it_weighs_in_a_synchronous_update():
    for name, workers in (("02_stragglers", {8}), ("03_staleness", {2, 8, 16, 32})):
        controls = [run for run in compared(name) if run.get("label") == "control"]
        assert {run["cluster.workers"] for run in controls} == workers
        assert all(run["optimizer.learning_rate"] == 0.1 / run["cluster.workers"] for run in controls)


def made_up(
    name: str, workers: int, straggler: str, repeat: int, seconds: float | None, label: str = ""
) -> SimpleNamespace:
    curve = [{"update": 1, "samples": 1, "seconds": seconds or 1.0, "loss": 9.0 if seconds is None else 0.1}]
    config = {
        "strategy": {"name": name, "weight": "constant"},
        "cluster": {"workers": workers},
        "straggler": {"name": straggler},
        "label": label,
        "repeat": repeat,
    }
    return SimpleNamespace(config=config, summary={"curve": curve})


def test_a_crossing_is_said_only_where_it_is_sure():
    staleness = plan("03_staleness")
    late = {2: 2.0, 8: 1.0, 16: 0.5, 32: None}  # sync's seconds over async's: sure at 2 and 16; async never there at 32
    runs = [
        made_up(name, workers, "none", repeat, time)
        for workers, ratio in late.items()
        for repeat in range(staleness.REPEATS)
        for name, time in (
            ("sync_ps", (ratio or 1.0) * (1.0 + 0.01 * (-1) ** repeat)),
            ("async_ps", None if ratio is None else 1.0),
        )
    ]
    assert staleness._crossing(runs, "none") == "surely ahead: sync_ps at P = 16, 32; async_ps at P = 2"


def test_the_parts_of_a_pipeline_step_add_up():
    pipelines = plan("04_pipelines")
    spans = [SimpleNamespace(begun=0.0, ended=6.0), SimpleNamespace(begun=7.0, ended=8.0)]
    trace = SimpleNamespace(compute=spans, peak_activations=10.0, peak=SimpleNamespace(versions=3.0))
    other = SimpleNamespace(compute=[], peak_activations=20.0, peak=SimpleNamespace(versions=0.0))
    run = SimpleNamespace(summary={"seconds": 10.0}, trace=lambda: [trace, other])
    assert pipelines.step(run) == 1.0
    assert pipelines.idle(run) == pytest.approx(1.0 - (0.7 + 0.0) / 2)
    assert pipelines.peaks(run) == (20.0, 3.0)


def test_what_links_carry_by_hand_is_what_a_modeled_run_takes(tmp_path):
    network = plan("05_real_network")
    assert network.hosts("one server") == [0, 1, 2, 3, 4]
    assert network.hosts("a server beside each worker") == [0, 1, 2, 3, 0, 1, 2, 3]
    for contender in network.CONTENDERS:
        run = api.run(**network.settings(contender, "modeled", 0, updates=2, runs=str(tmp_path)))
        exchange = network.payload(contender)[1] / network.LINK
        assert exchange < network.step(run) < 1.02 * exchange  # and a little computing
