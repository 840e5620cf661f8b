"""The folder of runs: a run is there as a whole or not at all, whatever happens to whoever writes it."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import sys
import time
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from distsim.interface import Arrival, BadInput, Compute, Loss, Memory, Trace, Transfer, Update
from distsim.results import records, store
from distsim.results.store import Draft, Result

NAME = "async_ps-modeled-0123456789ab"
CONFIG = {"strategy": {"name": "async_ps"}, "backend": {"name": "modeled"}}
TRACES = [
    Trace(
        0,
        [Compute("gradient", 0.0, 0.1, 0, 0), Compute("apply", 0.1, 0.3, -1, -1)],
        [Transfer("send", "message 0>1 gradient", 0, 4.0, 0.1, 0.1, 0.2)],
        [Update(1, 64, 1.0 / 3.0)],
        [Loss(0, 0, 4, 2.302585092994046, 0.1)],
        [Arrival(0, 0, 3, True, 0.25)],
        ended=0.3,
        gradients=1,
        peak=Memory(512.0, activations=1024.0),
        peak_activations=1024.0,
    ),
    Trace(1),
]


def write(runs: Path, name: str = NAME, status: str = "done") -> Result:
    with store.claim(runs, name, CONFIG) as draft:
        assert isinstance(draft, Draft)
        return draft.commit(
            {"config": CONFIG, "status": status, "seconds": float("nan")}, {"updates": [[1, 64, 0.5]]}, TRACES
        )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    written = write(tmp_path / "runs")
    read = store.load(tmp_path / "runs" / NAME)
    assert read.trace() == TRACES
    assert read.metrics() == {"updates": [[1, 64, 0.5]]}
    assert (read.id, read.status, read.config) == (NAME, "done", CONFIG)
    assert read.summary["seconds"] is None  # JSON knows no nan
    assert read.summary["trace_hash"] == written.summary["trace_hash"] == records.trace_hash(TRACES)
    assert sorted(path.name for path in read.folder.iterdir()) == [
        "config.json",
        "metrics.json",
        "summary.json",
        "trace.jsonl.gz",
    ]


def test_many_records_are_read_back(tmp_path: Path) -> None:
    trace = Trace(0, [Compute("gradient", i / 3, (i + 1) / 3, i, 0) for i in range(2500)])
    digest = records.write(tmp_path / "trace", [trace])
    assert records.read(tmp_path / "trace") == [trace]
    assert digest == records.trace_hash([trace])


def test_a_large_group_is_named_once(tmp_path: Path) -> None:
    """1,000 ranks of which each knows all: two channels take 7.8 MB, or 7.8 kB."""
    ranks = ",".join(map(str, range(1000)))

    def trace(rank: int) -> Trace:
        channels = [f"all_reduce {ranks}", f"barrier {ranks}", "all_reduce 0,1"]
        return Trace(rank, transfers=[Transfer(c.split()[0], c, 0, 8.0, 1.0, 2.0, 3.0 + rank) for c in channels])

    traces = [trace(rank) for rank in range(1000)]
    digest = records.write(tmp_path / "trace", traces)
    with gzip.open(tmp_path / "trace") as file:
        assert len(file.read()) < 300_000
    assert records.read(tmp_path / "trace") == traces
    assert digest == records.trace_hash(traces)
    assert digest != records.trace_hash([replace(traces[0], transfers=traces[0].transfers[::-1]), *traces[1:]])


def test_the_hash_is_of_the_records() -> None:
    lines = [
        '{"rank":0,"ended":0.3,"gradients":1,"peak":[512.0,0.0,0.0,1024.0,0.0],"peak_activations":1024.0}',
        '{"rank":0,"compute":[["gradient",0.0,0.1,0,0],["apply",0.1,0.3,-1,-1]]}',
        '{"rank":0,"transfers":[["send","message 0>1 gradient",0,4.0,0.1,0.1,0.2]]}',
        '{"rank":0,"updates":[[1,64,0.3333333333333333]]}',
        '{"rank":0,"losses":[[0,0,4,2.302585092994046,0.1]]}',
        '{"rank":0,"arrivals":[[0,0,3,true,0.25]]}',
        '{"rank":1,"ended":0.0,"gradients":0,"peak":[0.0,0.0,0.0,0.0,0.0],"peak_activations":0.0}',
    ]
    assert records.trace_hash(TRACES) == sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()
    changed = Trace(1, ended=5e-324)
    assert records.trace_hash([TRACES[0], changed]) != records.trace_hash(TRACES)
    assert records.trace_hash(TRACES[::-1]) == records.trace_hash(TRACES)  # ranks have an order of their own


@pytest.mark.parametrize("status", ["done", "diverged"])
def test_a_finished_run_is_not_written_again(tmp_path: Path, status: str) -> None:
    first = write(tmp_path, status=status)
    before = {path: path.stat().st_mtime_ns for path in first.folder.iterdir()}
    with store.claim(tmp_path, NAME, CONFIG) as claimed:
        assert isinstance(claimed, Result)
    assert {path: path.stat().st_mtime_ns for path in first.folder.iterdir()} == before


def write_with_checkpoints(runs: Path, keep: bool, status: str) -> Path:
    with store.claim(runs, NAME, CONFIG) as draft:
        assert isinstance(draft, Draft)
        saved = draft.folder / "checkpoints" / "000000020" / "rank0.state"
        saved.parent.mkdir(parents=True, exist_ok=True)
        saved.write_text("weights")
        draft.commit({"config": {**CONFIG, "checkpoint": {"keep": keep}}, "status": status}, {}, TRACES)
    return saved


@pytest.mark.parametrize("status", ["done", "diverged"])
def test_nobody_goes_on_from_a_finished_run(tmp_path: Path, status: str) -> None:
    saved = write_with_checkpoints(tmp_path, False, status)
    assert not (tmp_path / NAME / "checkpoints").exists()
    saved.parent.mkdir(parents=True)  # as if its writer had been killed before it could remove them
    with store.claim(tmp_path, NAME, CONFIG) as claimed:
        assert isinstance(claimed, Result)
    assert not (tmp_path / NAME / "checkpoints").exists()


@pytest.mark.parametrize(("keep", "status"), [(True, "done"), (True, "failed"), (False, "failed"), (False, "interrupted")])
def test_checkpoints_stay_if_they_are_to_be_kept_or_gone_on_from(tmp_path: Path, keep: bool, status: str) -> None:
    saved = write_with_checkpoints(tmp_path, keep, status)
    with store.claim(tmp_path, NAME, {**CONFIG, "checkpoint": {"keep": False}}):
        assert saved.read_text() == "weights"


@pytest.mark.parametrize("status", ["failed", "deadlocked", "timed out"])
def test_a_failed_run_is_a_row_and_is_retried(tmp_path: Path, status: str) -> None:
    write(tmp_path, status=status)
    assert [result.status for result in store.scan(tmp_path)] == [status]
    assert write(tmp_path).status == "done"
    assert [result.status for result in store.scan(tmp_path)] == ["done"]


def test_a_torn_folder_is_no_run_and_is_redone(tmp_path: Path) -> None:
    folder = tmp_path / NAME
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "trace.jsonl.gz").write_bytes(b"\x1f\x8b torn")
    (folder / ".summary.json.123").write_text('{"schema": 1')
    assert store.scan(tmp_path) == []
    with pytest.raises(BadInput, match="it was not finished: run it again"):
        store.load(folder)
    write(tmp_path)
    assert store.load(folder).trace() == TRACES
    assert not (folder / ".summary.json.123").exists()


def test_a_trace_without_the_names_of_its_channels_is_refused(tmp_path: Path) -> None:
    result = write(tmp_path)
    with gzip.open(result.folder / "trace.jsonl.gz", "wt") as file:
        file.write('{"rank":0,"transfers":[["all_reduce",0,0,4.0,0.1,0.1,0.2]]}')
    with pytest.raises(BadInput, match=r"trace\.jsonl\.gz"):
        result.trace()


def test_a_run_of_another_version_is_refused(tmp_path: Path) -> None:
    result = write(tmp_path)
    (result.folder / "summary.json").write_text('{"schema": 0}')
    with pytest.raises(BadInput, match="has schema 0, this version reads 1"):
        store.scan(tmp_path)


def test_what_holds_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(BadInput) as error:
        store.load_all([tmp_path / "empty", tmp_path / "nowhere"])
    assert [problem.allowed for problem in error.value.problems] == ["holds no run", "an existing folder of runs"]


def test_runs_are_named_once(tmp_path: Path) -> None:
    result = write(tmp_path)
    assert store.load_all([tmp_path, result.folder]) == [result]


WRITER = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_store import *
runs = Path(sys.argv[1])
for i in range(int(sys.argv[3])):
    with store.claim(runs, f"run-{i}", CONFIG) as draft:
        if isinstance(draft, Draft):
            draft.commit({"config": CONFIG, "status": "done", "writer": os.getpid()}, {}, TRACES)
            print(i, flush=True)
"""


def writer(runs: Path, count: int) -> subprocess.Popen[str]:
    """A process that writes runs 0 to `count` - 1 and prints the number of each that it wrote."""
    words = [sys.executable, "-c", WRITER, str(runs), str(Path(__file__).parent), str(count)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True)


def test_several_writers_write_each_run_once(tmp_path: Path) -> None:
    writers = [writer(tmp_path, 40) for _ in range(3)]
    written = [int(line) for process in writers for line in process.communicate()[0].split()]
    assert sorted(written) == list(range(40))
    assert len(store.scan(tmp_path)) == 40


def test_kill_9_at_any_instant_leaves_whole_runs(tmp_path: Path) -> None:
    whole: dict[str, str] = {}
    for delay in (0.0, 0.003, 0.007, 0.013, 0.029):
        process = writer(tmp_path, 300)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(delay)
        process.kill()
        process.communicate()
        found = {result.id: (result.folder / "summary.json").read_text() for result in store.scan(tmp_path)}
        assert found.items() >= whole.items()  # nothing that was finished changed
        assert all(result.trace() == TRACES for result in store.scan(tmp_path))
        whole = found
    assert 5 <= len(whole) <= 300


FULL = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
"""


def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    before = write(tmp_path, "kept-run")
    words = [sys.executable, "-c", FULL + WRITER, str(tmp_path), str(Path(__file__).parent), "1"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 1
    assert "File too large" in done.stderr
    assert store.scan(tmp_path) == [before]


def test_an_interrupted_writer_leaves_no_run(tmp_path: Path) -> None:
    process = writer(tmp_path, 300)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert all(json.loads((r.folder / "config.json").read_text()) == CONFIG for r in store.scan(tmp_path))


def test_nothing_is_left_beside_the_runs(tmp_path: Path) -> None:
    write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".distsim", ".locks", NAME]
