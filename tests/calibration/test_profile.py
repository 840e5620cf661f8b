"""The profile as a file: read back equal, refused when torn, and the device and network that it stands for."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import distsim
from distsim.calibration.profile import REFERENCE, Profile, current
from distsim.interface import BadInput, Block, Cost, Curve, Model, Roofline

PROFILE = Profile(
    created="2026-02-03T04:05:06+00:00",
    hardware={"cpu": "Abacus 3000", "cores": 2, "memory_bytes": 1 << 33, "os": "Linux 6"},
    versions={"python": "3.11.7", "torch": "2.13", "distsim": "0.1.0"},
    blocks={("forward", "linear(4,8)"): Curve(((1.0, 1e-5), (9.0, 5e-5))), ("apply", "linear(4,8)"): Curve(((0.0, 2e-6),))},
    overhead=4e-6,
    pass_overhead=7e-6,
    message=Curve(((0.0, 5e-5), (1e6, 1.05e-3))),
    delay=2e-3,
    all_reduce={2: Curve(((0.0, 5e-4),)), 4: Curve(((0.0, 4e-3), (1e6, 6e-3)))},
    cores=Curve(((1.0, 1.0), (2.0, 1.8), (4.0, 1.6))),
    fallback=Roofline(1e10, 1e9, 1e-5),
    noise=0.04,
    details={"rounds": 9, "others_cpu": 0.02},
)
DISTURBANCE = "other processes used 42% of the CPU, 3 of 5 rounds were kept"
MODEL = Model((Block(0, "linear(4,8)", 40, 8, 4, 64.0, 0.0, 64.0), Block(1, "unknown", 1000, 8, 8, 1e6, 1e6, 1e6)), 4, 4)


def test_it_is_read_back_equal(tmp_path: Path) -> None:
    path = tmp_path / "new" / "profile.json"
    PROFILE.save(path)
    assert Profile.load(path) == PROFILE
    assert Profile.load(path).fingerprint() == PROFILE.fingerprint()
    assert [p.name for p in path.parent.iterdir()] == ["profile.json"]


def test_another_cost_is_another_fingerprint_and_another_day_is_not() -> None:
    others = [
        replace(PROFILE, overhead=5e-6),
        replace(PROFILE, pass_overhead=5e-6),
        replace(PROFILE, delay=3e-3),
        replace(PROFILE, message=Curve(((0.0, 1.0),))),
    ]
    assert len({profile.fingerprint() for profile in (PROFILE, *others)}) == 5
    told = replace(PROFILE, created="2026-02-04T00:00:00+00:00", hardware={"cpu": "B"}, versions={}, noise=0.1, details={})
    assert told.fingerprint() == PROFILE.fingerprint()


def test_a_torn_file_is_refused_wherever_it_is_torn(tmp_path: Path) -> None:
    text = PROFILE.to_json()
    path = tmp_path / "profile.json"
    for length in range(0, len(text) - 2, 7):
        path.write_text(text[:length])
        with pytest.raises(BadInput, match=r"profile\.json is not JSON .*torn.*distsim calibrate"):
            Profile.load(path)


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("schema", 0, "has schema 0, this version reads 3"),
        ("noise", None, "noise is None, not a finite number"),
        ("noise", -0.1, "noise is -0.1, not a finite number of at least 0"),
        ("overhead", float("nan"), "overhead is nan"),
        ("fallback", {"flops_per_second": 0, "bytes_per_second": 1, "overhead": 0}, "more than 0"),
        ("fallback", [], "fallback is no JSON object"),
        ("message", [], "message is not a list"),
        ("message", [[1, 2], [1, 3]], "message: its points do not ascend"),
        ("message", [[0, float("inf")]], "message is inf"),
        ("cores", [[1, True]], "cores is True"),
        ("all_reduce", {"two": [[0, 1]]}, "all_reduce.two: a group has 2 ranks or more"),
        ("blocks", [{"operation": "forward", "points": [[0, 1]]}], r"lacks blocks\[0\]\.kind"),
        ("hardware", "a PC", "hardware is 'a PC', not a dict"),
    ],
)
def test_a_wrong_file_is_refused_by_key(key: str, value: object, says: str) -> None:
    document = json.loads(PROFILE.to_json())
    document[key] = value
    with pytest.raises(BadInput, match=says):
        Profile.from_json(json.dumps(document))
    del document[key]
    with pytest.raises(BadInput, match=f"lacks {key}"):
        Profile.from_json(json.dumps(document))


def test_a_missing_file_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"nowhere\.json cannot be read .*distsim calibrate"):
        Profile.load(tmp_path / "nowhere.json")


def test_the_device_interpolates_what_was_measured_and_adds_the_overhead() -> None:
    seconds = PROFILE.device().seconds(MODEL, Cost((("forward", 0), ("apply", 0)), samples=5.0))
    assert seconds == pytest.approx(4e-6 + 3e-5 + 2e-6)
    one_pass = Cost((("forward", 0), ("apply", 0)), samples=5.0, passes=1)
    assert PROFILE.device().seconds(MODEL, one_pass) == pytest.approx(seconds + 7e-6)


def test_the_device_falls_back_to_the_roofline() -> None:
    # 4 samples: 4e6 FLOPs at 1e10 a second beat (1000 + 4 * 16) * 4 bytes at 1e9 a second
    assert PROFILE.device().seconds(MODEL, Cost((("forward", 1),), samples=4.0)) == pytest.approx(4e-6 + 1e-5 + 4e-4)
    # an update of 1000 parameters moves 3000 scalars of 4 bytes
    assert PROFILE.device().seconds(MODEL, Cost((("apply", 1),))) == pytest.approx(4e-6 + 1e-5 + 1.2e-5)


def test_the_loopback_network_is_what_was_measured() -> None:
    network = PROFILE.loopback()
    assert network.message(5e5) == pytest.approx(5.5e-4)
    assert network.all_reduce[4](5e5) == pytest.approx(5e-3)
    assert network.cores(3) == pytest.approx(1.7)
    assert network.delay == 2e-3


def test_without_a_profile_the_reference_is_taken_and_said_so(tmp_path: Path) -> None:
    profile, note = current(tmp_path / "profile.json")
    assert profile == Profile.load(REFERENCE)
    assert "reference machine" in note
    assert "distsim calibrate" in note


def test_a_profile_of_another_machine_is_taken_and_said_so(tmp_path: Path) -> None:
    PROFILE.save(tmp_path / "profile.json")
    profile, note = current(tmp_path / "profile.json")
    assert profile == PROFILE
    assert "another machine (Abacus 3000, 2 cores, 2026-02-03)" in note


@pytest.mark.parametrize(
    ("details", "says"),
    [
        ({"others_cpu": 0.05, "rounds": 5, "rounds_kept": 4}, ""),
        ({"others_cpu": 0.42, "rounds": 5, "rounds_kept": 3}, DISTURBANCE),
        ({}, ""),
    ],
)
def test_it_says_what_disturbed_it(details: dict[str, float], says: str) -> None:
    assert replace(PROFILE, details=details).disturbance == says


def test_a_run_keeps_what_disturbed_the_costs_it_predicts_with(tmp_path: Path) -> None:
    details = {"others_cpu": 0.42, "rounds": 5, "rounds_kept": 3}
    replace(Profile.load(REFERENCE), details=details).save(tmp_path / "profile.json")
    settings = {"cluster.profile": str(tmp_path / "profile.json"), "runs": str(tmp_path), "budget.updates": 2}
    row = distsim.run("all_reduce", backend="modeled", **settings).summary
    assert row["disturbed"] == DISTURBANCE
    assert row["notes"][-1].endswith(f"the calibration was disturbed: {DISTURBANCE}")


def test_reading_a_profile_loads_neither_torch_nor_numpy() -> None:
    code = "import sys, distsim.calibration.profile; print({'torch', 'numpy', 'pandas', 'simpy'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_it_says_what_of_a_run_was_not_measured() -> None:
    assert PROFILE.unmeasured(replace(MODEL, blocks=MODEL.blocks[:1]), ranks=4, together=4) == []
    assert PROFILE.unmeasured(MODEL, ranks=5, together=3) == [
        "blocks unknown (estimated by FLOPs and bytes)",
        "5 ranks on these cores (extrapolated from 4)",
        "an all-reduce of 3 ranks (estimated from messages)",
    ]
    beyond = Curve((*PROFILE.cores.points, (1000.0, PROFILE.cores.points[-1][1])))  # as `distsim calibrate` writes it
    assert replace(PROFILE, cores=beyond).unmeasured(MODEL, ranks=5, together=2) == PROFILE.unmeasured(MODEL, 5, 2)
    assert PROFILE.unmeasured(MODEL, ranks=0) == ["blocks unknown (estimated by FLOPs and bytes)"]  # hosts of their own
