"""What travels between launchers: read back equal, and never run."""

from __future__ import annotations

import os
import pickle
import random
import socket
import struct
from contextlib import suppress
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
    told = (Hello("a", "b", {"run": {"seed": "0"}}, ["no"]), seen, trace, Begin(Path("/x/y")), {0: [True, None, 1 << 70]})
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
    for name in values._KNOWN:
        assert values._class(name).__name__ == name


def test_nothing_else_is_told(tmp_path):
    for what in (Evil(tmp_path), {1, 2}, object, torch.Size([1])):
        with pytest.raises(TypeError, match="is nothing that ranks or launchers tell"):
            values.dumps([what])


def said(text: str, raw: bytes = b"") -> bytes:
    return struct.pack("<q", len(text)) + text.encode() + raw


REFUSED = {
    "nothing": b"",
    "a pickle": pickle.dumps([1, 2]),
    "torn": values.dumps([1, 2])[:-3],
    "torn within a tensor": values.dumps(torch.ones(3))[:-1],
    "more than there is": values.dumps([1, 2]) + b"x",
    "a length that is none": struct.pack("<q", -8) + b"1",
    "a length beyond all": struct.pack("<q", (1 << 63) - 1) + b"1",
    "an object": said('{"a": 1}'),
    "a class of others": said('["os.mkdir", "x"]'),
    "a kind that is none": said('[["list"], 1]'),
    "nothing within": said("[]"),
    "too few fields": said('["Hello", "host"]'),
    "a function for a kind of number": said('["tensor", "compile", 4, 1]', bytes(4)),
    "a tensor larger than its bytes": said('["tensor", "float32", 4, 1073741824, 1073741824]', bytes(4)),
    "a tensor of nothing": said('["tensor", "float32", 0, 8, 1073741824]'),
    "bytes that are not there": said('["bytes", 1099511627776]'),
    "bytes from before": said('["bytes", -1]'),
    "a dict's key that is none": said('["dict", [["list"], 1]]'),
    "a nest": said("[" * 100_000),
    "a nest that ends": said('["list",' * 5000 + "1" + "]" * 5000),
    "a number of many digits": said("9" * 100_000),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_nobody_has_told_is_refused(name):
    """As pickles, ten bytes took 64 GB, a hundred more years than there are, and seventy changed a class for good."""
    with pytest.raises(values.Unknown):
        values.loads(REFUSED[name])


def test_bytes_that_were_changed_are_refused_or_give_something_else():
    hello = Hello("a", "b", {"run": {"seed": "0"}}, ["no"])
    told = values.dumps((hello, {0: [True, None, 1.5]}, torch.ones(2, 3), Trace(1)))
    rng = random.Random(0)
    for _ in range(3000):
        changed = bytearray(told)
        for _ in range(rng.randint(1, 3)):
            changed[rng.randrange(len(told))] = rng.randrange(256)
        with suppress(values.Unknown):
            values.loads(bytes(changed))
        with suppress(values.Unknown):
            values.loads(rng.randbytes(rng.randrange(64)))


def test_what_a_stranger_writes_where_launchers_meet_ends_the_run_in_a_line(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    leader = World("torchrun", 0, 2, 0, 2, "127.0.0.1", port, False, "start", "WORLD_SIZE")
    meeting = meet(leader, None, 5.0)
    stranger = PrefixStore(meeting.prefix, TCPStore("127.0.0.1", port, None, False, timedelta(seconds=5), False))
    for evil in (pickle.dumps(Evil(tmp_path / "pwned")), said('["os.mkdir", "x"]')):
        stranger.set("hello/1", evil)
        with pytest.raises(LauncherLost, match=rf"^somebody else has written hello/1 at 127\.0\.0\.1:{port}, "):
            meeting.get("hello/1")
    assert not (tmp_path / "pwned").exists()


def test_launchers_find_those_of_their_own_start_where_others_have_met():
    """Nobody says hello to a launcher of a start before, nor takes its hello for one of now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    agent = TCPStore("127.0.0.1", port, None, True, wait_for_workers=False)
    worlds = [World("torchrun", rank, 2, rank, 2, "127.0.0.1", port, True, "a-run", "WORLD_SIZE") for rank in (0, 1)]
    for _ in range(3):
        leader, other = (meet(world, None, 5.0) for world in worlds)
        assert not leader.has_come(1)  # in the second start it has heard a word from the first, and does not know it
        leader.put("hello/0", 0)
        assert not other.has_come(0)
        assert not leader.has_come(1)  # but has answered
        assert other.has_come(0)
        other.put("hello/1", 1)
        assert leader.has_come(1)
        assert leader.get("hello/0", "hello/1") == other.get("hello/0", "hello/1") == [0, 1]
    del agent


def test_what_is_told_of_calls_is_written_into_ledgers_alone(tmp_path):
    private = tmp_path / "private"
    private.mkdir()
    name = ledger.group_file(private, (0, 1)).name
    ledger.merge(private, {"../profile": {0: b"x"}, name: {0: b"call"}})
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()] == [f"private/{name}"]
