"""`distsim calibrate workload=...`: any workload is measured; runs take its own costs or say that they guess."""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

import pytest

import distsim
from distsim.calibration.profile import Profile
from distsim.cli import main

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="real ranks need Linux")

MODEL = """
import torch
from torch import nn

def build():
    x = torch.linspace(-1.0, 1.0, 240).reshape(60, 4)
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
    return net, (x, (x.sum(1) > 0).long()), nn.functional.cross_entropy
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with a model of the user's; calibrations are too short to be good."""
    from distsim.calibration import measure

    (tmp_path / "measured_model.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(measure, "QUICK", 1.0)
    yield tmp_path
    sys.modules.pop("measured_model", None)


MINE = ["workload=module", "workload.module=measured_model:build"]


def test_a_users_model_is_measured_and_then_modeled_by_that(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["run", *MINE, "cluster.workers=2", "budget.updates=2"]
    assert main(run) == 0
    guessed = capsys.readouterr().err
    assert re.fullmatch(
        r"warning: blocks Sequential\(4,6\) \S+ \S+, Linear\(6,2\) \S+ \S+ were not measured: "
        r"estimated by FLOPs and bytes; `distsim calibrate workload=module workload.module=measured_model:build` "
        r"measures them\n",
        guessed,
    )

    assert main(["calibrate", "--quick", *MINE, "cluster.workers=2"]) == 0
    profile = Profile.load(".distsim/profile.json")
    assert profile.workload == " ".join(MINE)
    assert set(profile.all_reduce) == {2}
    capsys.readouterr()
    for batch in (16, 32):  # whatever the batch: curves go by samples
        assert main([*run, f"workload.batch={batch}"]) == 0
        said = capsys.readouterr()
        assert said.err == ""
        (note,) = distsim.load(said.out.splitlines()[-1]).summary["notes"]
        assert note.startswith(f"costs as calibrated on this machine on {profile.created[:10]} with {' '.join(MINE)}")
        assert "not measured" not in note


def test_costs_of_another_workload_or_of_older_code_are_never_taken_without_a_word(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    profile = ["--output", "costs of mine.json"]
    assert main(["calibrate", "--quick", *MINE, "cluster.workers=2", *profile]) == 0
    run = ["run", "cluster.workers=2", "budget.updates=2", "cluster.profile='costs of mine.json'"]
    capsys.readouterr()
    assert main([*run, "workload=digits_mlp"]) == 0
    assert "`distsim calibrate workload=digits_mlp --output 'costs of mine.json'` measures them" in capsys.readouterr().err

    del sys.modules["measured_model"]  # another process would read it anew
    (folder / "measured_model.py").write_text(MODEL + "\n# and something more\n")
    assert main([*run, *MINE]) == 0
    said = capsys.readouterr()
    changed = "the code or the data of measured_model:build have changed since"
    assert said.err.startswith(f"warning: {changed} its blocks were measured; `distsim calibrate ")
    assert distsim.load(said.out.splitlines()[-1]).summary["notes"][-1].endswith(f"; {changed}")


def test_a_profile_of_another_workload_is_not_replaced_without_a_word(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", "--quick", *MINE, "cluster.workers=2"]) == 0
    assert capsys.readouterr().err == ""
    assert main(["calibrate", "--quick", "workload.depth=2", "workload.width=8", "cluster.workers=2"]) == 0
    kept = f"is a profile with {' '.join(MINE)}, to be replaced; --output FILE keeps both"
    assert capsys.readouterr().err == f".distsim/profile.json {kept}\n"
    assert Profile.load(".distsim/profile.json").workload == "workload=digits_mlp workload.depth=2 workload.width=8"


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        ("workload=digits_mpl", ["workload='digits_mpl': one of .*; did you mean digits_mlp\\?"]),
        ("workload=module", ["workload.module='': must be package.file:function; for instance .*"]),
        ("workload=module workload.module=nowhere:build", ["workload.module='nowhere:build': cannot be imported: .*"]),
        ("workload=char_gpt,digits_mlp", ["workload='char_gpt,digits_mlp': one value here"]),
        (
            "strategy=sync_ps cluster.workers=65 workload.dept=3 --output /proc/profile.json",
            [
                "--output='/proc/profile.json': a file that can be written .*",
                "strategy='sync_ps': only workload, workload.., cluster.workers can be set",
                "cluster.workers=65: a whole number from 1 to 64",
                "workload.dept=3: no such key; did you mean workload.depth\\?",
            ],
        ),
    ],
)
def test_bad_input_ends_with_2_and_measures_nothing(
    words: str, lines: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", *words.split()]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.splitlines()) == len(lines)
    assert all(map(re.fullmatch, lines, said.err.splitlines()))
    assert not (folder / ".distsim").exists()


def test_what_a_users_code_raises_in_several_lines_is_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "measured_model.py").write_text("def build():\n    raise RuntimeError('two\\n  lines')\n")
    assert main(["calibrate", *MINE]) == 2
    assert capsys.readouterr().err == ("workload.module='measured_model:build': cannot be built: RuntimeError: two lines\n")


def test_logs_are_kept_of_what_failed_and_of_nothing_else(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from distsim.calibration import measure
    from distsim.interface import Outcome

    monkeypatch.setattr(tempfile, "tempdir", str(folder))

    def interrupted(*_: object) -> Outcome:
        raise KeyboardInterrupt

    for launch, code in ((interrupted, 130), (lambda *_: Outcome("failed", "rank 1 died", 0.0), 1)):
        monkeypatch.setattr(measure, "launch", launch)
        assert main(["calibrate", "--quick", *MINE, "cluster.workers=2"]) == code
        kept = list(folder.glob("distsim-calibration-*"))
        assert len(kept) == (code == 1)
    assert capsys.readouterr().err.splitlines()[-3:] == [
        "interrupted",  # it begins anew
        "distsim: the calibration failed: rank 1 died",
        f"logs of all ranks: {kept[0]}",
    ]
