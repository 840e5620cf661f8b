"""`distsim bench fabric`: SimGrid's simulated seconds, the form of the rows, and what it refuses."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from distsim.bench import fabric
from distsim.bench.measure import measure
from distsim.cli import main

PROGRAM = Path(__file__).parent / "simgrid" / "bench.cpp"
SIMGRID = {  # 3.32, CM02 with all factors 1 and no cross-traffic; it prints nine decimals
    ("sync_ps", 8): 13.187406282,
    ("sync_ps", 64): 102.728630500,
    ("async_ps", 8): 9.063532441,
    ("async_ps", 64): 82.497646598,
    ("ring", 8): 0.140140000,
    ("ring", 64): 0.158760000,
    ("fat_tree_ring", 8): 0.560280000,
    ("fat_tree_ring", 64): 0.632520000,
}
KEYS = ["workload", "workers", "simulated_seconds", "cpu_seconds", "startup_cpu_seconds", "peak_mb"]
COMPARED = ["reference_simulated_seconds", "reference_cpu_seconds", "ratio"]


@pytest.mark.parametrize(("workload", "workers"), SIMGRID)
def test_workloads_take_simgrids_seconds(workload: str, workers: int, tmp_path: Path) -> None:
    fabric.write_times(tmp_path, workers)
    found = measure(workload, workers, tmp_path)["simulated_seconds"]
    assert found == pytest.approx(SIMGRID[workload, workers], abs=1e-9)


def test_rows_and_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "rows.json"
    assert main(["bench", "fabric", "--workers", "8", "--json", str(output)]) == 0
    rows = json.loads(output.read_text())
    assert [list(row) for row in rows] == [KEYS] * 4
    assert {(row["workload"], row["workers"]): row["simulated_seconds"] for row in rows} == pytest.approx(
        {key: seconds for key, seconds in SIMGRID.items() if key[1] == 8}, abs=1e-9
    )
    assert all(0.0 < row["startup_cpu_seconds"] < row["cpu_seconds"] for row in rows)
    assert all(row["peak_mb"] > 0.0 for row in rows)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [
        [row["workload"], "8", f"{row['simulated_seconds']:.9f}"] for row in rows
    ]


def test_a_profile_names_files() -> None:
    for text in fabric.profiles(fabric.Options((8,))):
        assert "distsim/backends/simulated/" in text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--workers", "7"], "--workers='7'"),
        (["--workers", "8,72"], "--workers='72'"),  # four and a half leaves
        (["--workers", ""], "--workers=''"),
        (["--workers", "8,many"], "--workers='many'"),
        (["--workers", "99999999"], "--workers='99999999'"),
        (["--simgrid", "no/such/program"], "--simgrid='no/such/program'"),
        (["--json", "no/such/folder/rows.json"], "--json='no/such/folder/rows.json'"),
    ],
)
def test_bad_arguments(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "fabric", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_unknown_benchmarks_and_options(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["bench"], ["bench", "disks"], ["bench", "fabric", "--fast"]):
        with pytest.raises(SystemExit) as end:
            main(arguments)
        assert end.value.code == 2
    assert "--fast" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["#!/bin/sh\nexit 3\n", "#!/bin/sh\necho hello\n"])
def test_a_program_that_is_none(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = tmp_path / "program"
    program.write_text(text)
    program.chmod(0o755)
    assert main(["bench", "fabric", "--workers", "8", "--simgrid", str(program)]) == 1
    assert str(program) in capsys.readouterr().err


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled SimGrid program."""
    compiler = shutil.which("g++")
    if compiler is None or not any(
        Path(root, "simgrid/s4u.hpp").exists() for root in ("/usr/include", "/usr/local/include")
    ):
        pytest.skip("needs g++ and libsimgrid-dev")
    built = tmp_path_factory.mktemp("simgrid") / "bench"
    subprocess.run([compiler, "-std=c++17", "-O0", str(PROGRAM), "-o", str(built), "-lsimgrid"], check=True)
    return built


def test_simgrid_takes_the_same_seconds(program: Path, tmp_path: Path) -> None:
    output = tmp_path / "rows.json"
    assert main(["bench", "fabric", "--workers", "8,16", "--json", str(output), "--simgrid", str(program)]) == 0
    rows = json.loads(output.read_text())
    assert [list(row) for row in rows] == [KEYS + COMPARED] * 8
    for row in rows:
        assert row["simulated_seconds"] == pytest.approx(row["reference_simulated_seconds"], abs=1e-9)
        assert row["ratio"] == pytest.approx(row["reference_cpu_seconds"] / row["cpu_seconds"])
