"""A real calibration, too short to be good: it must only be whole."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest

from distsim.calibration.profile import Profile
from distsim.interface import Cost
from distsim.workloads.digits_mlp import DigitsMLP

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="real ranks need Linux")


def test_a_short_calibration_gives_a_whole_profile(tmp_path: Path) -> None:
    from distsim.calibration.measure import calibrate

    said: list[str] = []
    workload = DigitsMLP(depth=3, width=16)
    profile = calibrate(workload, workers=2, seconds=1.0, progress=said.append)
    profile.save(tmp_path / "profile.json")
    assert Profile.load(tmp_path / "profile.json") == profile
    assert len(said) == 2

    kinds = {block.kind for block in workload.model().blocks}
    last = workload.model().blocks[-1].kind
    expected = {(op, kind) for op in ("forward", "backward", "apply") for kind in kinds} | {("loss", last)}
    assert set(profile.blocks) == expected
    samples = [x for x, _ in profile.blocks["forward", last].points]
    assert samples == sorted(samples)
    assert samples[0] <= 2
    assert samples[-1] >= 512

    step = Cost((("forward", 0), ("forward", 1), ("forward", 2), ("loss", -1)), samples=16.0)
    assert 0.0 < profile.device().seconds(workload.model(), step) < 1.0
    assert set(profile.all_reduce) == {2}
    assert 0.0 < profile.message(4096.0) < 1.0
    assert 0.0 < profile.all_reduce[2](4096.0) < 1.0
    assert [n for n, _ in profile.cores.points] == [1.0, 2.0, 3.0, 1000.0]
    assert all(0.0 < done <= n for n, done in profile.cores.points)
    assert math.isfinite(profile.noise)
    assert profile.fallback.flops_per_second > 1e8
    assert profile.versions["torch"]
