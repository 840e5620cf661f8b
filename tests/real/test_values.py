"""What travels between launchers: read back equal, and never run."""

from __future__ import annotations

import importlib
import os
import pickle
import socket
from datetime import timedelta
from math import inf
from pathlib import Path

import pytest
import torch
from torch._C._distributed_c10d import PrefixStore, TCPStore

from distsim.backends.real import values
from distsim.backends.real.process import Report
from distsim.backends.real.saving.saved import Begin
from distsim.backends.real.transport import ledger
from distsim.backends.real.worlds.meeting import Hello, meet
from distsim.backends.real.worlds.mirror import Seen
from distsim.backends.real.worlds.pulse import LauncherLost
from distsim.backends.real.worlds.world import World
from distsim.interface import Compute, Interruption, Memory, Piece, Region, Snapshot, Trace


class Evil:
    """Pickled, it writes a file where it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_values_come_back_equal():
    seen = Seen(None, "S", 3, [Report("failed", "x")], [(0, b"raw")], 1.5, "log", {"group-0": {0: b"call"}})
    trace = Trace(1, [Compute("F", 0.0, 0.5, 2, 1)], interruptions=[Interruption(1.0, 0, inf, 0, 2)], peak=Memory(4.0))
    told = (Hello("a", "b", {"run": {"seed": "0"}}), seen, trace, Begin(Path("/x/y")), {0: [True, None, 1 << 70]})
    assert values.loads(values.dumps(told)) == told


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_tensors_come_back_with_their_kind_and_shape_and_can_be_written(dtype):
    for x in (
        torch.tensor([[0, 1, 2], [3, 4, 5]]).to(dtype),
        torch.ones(1, 1, dtype=dtype),
        torch.empty(0, 2, dtype=dtype),
    ):
        for given in (x, x.T, x.sum() if x.numel() else x):
            snapshot = Snapshot(1, 2, 0.5, [Piece(Region((0,)), (0, 1), given)])
            back = values.loads(values.dumps(snapshot)).pieces[0].values
            assert (back.dtype, back.shape) == (given.dtype, given.shape)
            assert torch.equal(back, given)
            back.zero_()


def test_everything_that_is_known_is_there():
    for module, name in values._KNOWN:
        assert hasattr(importlib.import_module(module), name)


def test_code_is_refused_and_not_run(tmp_path):
    with pytest.raises(values.Unknown, match="mkdir is no value that ranks or launchers tell"):
        values.loads(pickle.dumps({"seen": [Evil(tmp_path / "pwned")]}))
    for torn in (b"", values.dumps([1, 2])[:-3], values.dumps(torch.ones(3)).replace(b"float32", b"compile")):
        with pytest.raises(values.Unknown):
            values.loads(torn)
    assert not (tmp_path / "pwned").exists()


def test_what_a_stranger_writes_where_launchers_meet_ends_the_run_in_a_line(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    leader = World("torchrun", 0, 2, 0, 2, "127.0.0.1", port, False, "start", "WORLD_SIZE")
    meeting = meet(leader, None, 5.0)
    stranger = PrefixStore(meeting.prefix, TCPStore("127.0.0.1", port, None, False, timedelta(seconds=5), False))
    stranger.set("hello/1", pickle.dumps(Evil(tmp_path / "pwned")))
    with pytest.raises(LauncherLost, match=rf"^somebody else has written hello/1 at 127\.0\.0\.1:{port}, .*mkdir"):
        meeting.get("hello/1")
    assert not (tmp_path / "pwned").exists()


def test_what_is_told_of_calls_is_written_into_ledgers_alone(tmp_path):
    private = tmp_path / "private"
    private.mkdir()
    name = ledger.group_file(private, (0, 1)).name
    ledger.merge(private, {"../profile": {0: b"x"}, name: {0: b"call"}})
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()] == [f"private/{name}"]
