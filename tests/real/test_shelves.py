"""Payloads through memory that ranks share: messages keep their rules, shelves theirs; CUDA is asked the right things."""

from __future__ import annotations

import random
import threading
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from contract.kit import REAL, Bench
from oracles.replicas import job

from distsim.backends.real import RealOptions, launch
from distsim.backends.real.options import no_shared_memory
from distsim.backends.real.transport import shelves
from distsim.backends.real.transport.shelves import GpuMemory, HostMemory, Shelves, tried
from distsim.interface import SGD, BadInput
from distsim.strategies.parameter_server import AsyncPS
from real.test_transport import (
    LARGE,
    SIZES,
    all_posted_then_another_tag,
    awaited_backwards,
    both_send_first,
    filled,
    of_all_kinds,
    server_and_three,
)

SHARED = {"messages": "shared"}
KB64 = 65_536


@pytest.fixture
def bench(tmp_path):
    return Bench(REAL, tmp_path)


async def one_after_another(worker, note):
    for name, main in (
        ("first", partial(both_send_first, LARGE)),
        ("backwards", partial(awaited_backwards, LARGE)),
        ("ahead", partial(all_posted_then_another_tag, 2)),
        ("kinds", of_all_kinds),
    ):
        await main(worker, lambda key, value, name=name: note(name, value))


def test_two_ranks_that_share_memory_keep_the_rules_of_messages(bench):
    """As in test_transport.py."""
    ran = bench.run(one_after_another, options=SHARED)
    assert ran.all("first") == [[1.0, 2.0, 3.0, 4.0], [0.0, 1.0, 2.0, 3.0]]
    assert ran.notes[1]["backwards"] == [[i, float(i) if i % 3 else None] for i in [*range(5, -1, -1), *range(11, 5, -1)]]
    assert ran.notes[1]["ahead"][2:] == [[[size, float(i + 2)] for i, size in enumerate(SIZES)]]
    assert ran.notes[1]["kinds"] == [True] * 20
    assert "large messages go through shared memory" in ran.outcome.notes


def test_a_server_that_shares_memory_receives_from_any_rank_in_order(bench):
    expected = [[float(10 * source + i) for i in range(10)] for source in range(3)]
    assert bench.run(partial(server_and_three, LARGE), ranks=4, options=SHARED).notes[3]["got"] == expected


def plan(seed):
    """Messages in the order in which each rank sends its own: source, destination, tag, scalars."""
    draw = random.Random(seed)
    sizes, sources = (4, 9_000, 20_000, 30_000), [0, 1, 2] * 15
    draw.shuffle(sources)
    return [(source, (source + draw.choice((1, 2))) % 3, draw.choice("ab"), draw.choice(sizes)) for source in sources]


async def in_any_order(seed, most, worker, note):
    """All receives are posted first, so that no order of sends can hang; they are awaited in another order."""
    shelves.MOST = most
    sends = plan(seed)
    posted = [(source, tag, worker.receive(source, tag)) for source, to, tag, _ in sends if to == worker.rank]
    order = list(range(len(posted)))
    random.Random(seed + worker.rank).shuffle(order)

    async def take():
        for i in order:
            source, tag, work = posted[i]
            payload = (await work).payload
            assert bool((payload == payload[0]).all())
            note(f"{i}", [source, tag, len(payload), float(payload[0])])

    other = worker.task(take())
    for number, (source, to, tag, scalars) in enumerate(sends):
        if source == worker.rank:
            await worker.send(filled(worker, number, scalars), to, tag)
    await other


@pytest.mark.slow
@pytest.mark.parametrize("most", [shelves.MOST, 4 * KB64, 0], ids=["shelves", "few", "none"])
@pytest.mark.parametrize("seed", range(4))
def test_messages_of_any_sizes_and_orders_arrive(bench, seed, most):
    """With too few shelves, payloads of one channel go either way."""
    ran = bench.run(partial(in_any_order, seed, most), ranks=3, options=SHARED)
    for rank in range(3):
        expected = [[s, tag, scalars, float(i)] for i, (s, to, tag, scalars) in enumerate(plan(seed)) if to == rank]
        assert [ran.notes[rank][str(i)] for i in range(len(expected))] == [[each] for each in expected]


# ---- shelves by themselves: ranks 0 and 1 in one process


def two(tmp_path):
    return [Shelves(HostMemory(tmp_path, rank), tmp_path / "shelves", rank, 2) for rank in range(2)]


def files(tmp_path):
    return sorted((path.name, path.stat().st_size) for path in tmp_path.glob("shelf-*"))


def test_a_shelf_is_taken_again_once_it_has_been_read(tmp_path):
    zero, one = two(tmp_path)
    for value in range(3):
        x = torch.full((3, 10_000), float(value))  # 120,000 bytes, of 131,072
        name = zero.put(x)
        assert torch.equal(one.take(0, name + b"and more").view(torch.float32).view(3, 10_000), x)
    assert files(tmp_path) == [("shelf-0-0", 2 * KB64)]


def test_payloads_that_nobody_has_read_lie_side_by_side(tmp_path):
    zero, one = two(tmp_path)
    values = [(torch.arange(20_000) + i).view(100, 200).t() for i in range(3)]
    names = [zero.put(x) for x in values]
    got = [one.take(0, name).view(torch.int64).view(200, 100) for name in reversed(names)]
    assert all(torch.equal(x, y) for x, y in zip(values, reversed(got), strict=True))
    assert len(files(tmp_path)) == 3


def test_a_shelf_is_for_payloads_of_at_least_half_its_size(tmp_path):
    zero, one = two(tmp_path)
    for kilobytes in (256, 128, 64):
        one.take(0, zero.put(torch.zeros(kilobytes * 1024, dtype=torch.uint8)))
    assert files(tmp_path) == [("shelf-0-0", 4 * KB64), ("shelf-0-1", KB64)]


def test_nobody_waits_for_a_shelf(tmp_path, monkeypatch):
    monkeypatch.setattr(shelves, "MOST", 3 * KB64)
    zero, one = two(tmp_path)
    x = torch.zeros(KB64 + 1, dtype=torch.uint8)
    first = zero.put(x)
    assert zero.put(x) is None  # would be 4 x 64 KiB
    one.take(0, first)
    assert zero.put(x) is not None


def test_where_there_is_no_room_for_a_shelf_there_is_none(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    zero, _ = two(tmp_path)
    monkeypatch.setattr("os.posix_fallocate", full)
    assert zero.put(torch.zeros(100_000)) is None
    assert not files(tmp_path)


class Counted(HostMemory):
    """Makes one shelf as it should, and then none that can be used."""

    def __init__(self, tmp_path, error, key):
        super().__init__(tmp_path, 0)
        self.asked, self.error, self.key = 0, error, key

    def make(self, nbytes):
        self.asked += 1
        if self.asked == 1:
            return super().make(nbytes)
        if self.error is not None:
            raise self.error
        return torch.empty(nbytes, dtype=torch.uint8), self.key


@pytest.mark.parametrize(
    ("error", "key"),
    [(OSError(28, "full"), b""), (torch.OutOfMemoryError(), b""), (None, b"k" * shelves.LONGEST)],
    ids=["full disk", "full GPU", "long key"],
)
def test_who_has_found_no_room_makes_no_more_shelves_and_keeps_its_own(error, key, tmp_path):
    """A shelf that was made for nothing is never freed on a GPU, as torch takes it for one that another process reads."""
    memory = Counted(tmp_path, error, key)
    mine = Shelves(memory, tmp_path / "shelves", 0, 2)
    small, large = torch.zeros(KB64 + 1, dtype=torch.uint8), torch.zeros(9 * KB64, dtype=torch.uint8)
    first = mine.put(small)
    assert [mine.put(large) for _ in range(3)] == [None] * 3
    assert memory.asked == 2
    two(tmp_path)[1].take(0, first)
    assert mine.put(small) is not None


class Closed(HostMemory):
    def open(self, key):
        raise RuntimeError("invalid device context")


class Unshared(GpuMemory):
    """A GPU whose memory CUDA does not share with other processes, as in WSL; the memory is the host's."""

    def __init__(self, tmp_path, rank):
        super().__init__(0, 1, Cuda())
        self.device = "cpu"

    def make(self, nbytes):
        raise RuntimeError("CUDA error: operation not supported")


class Far(HostMemory):
    def reaches_all(self):
        return False


@pytest.mark.parametrize(
    ("kind", "works", "said"),
    [
        (HostMemory, True, []),
        (Closed, False, ["a shelf of rank 0's cannot be read by rank 0: invalid device context"]),
        (Far, False, []),
        (Unshared, False, ["a shelf of rank 0's cannot be made: CUDA error: operation not supported"]),
    ],
)
def test_ranks_try_whether_they_can_share_memory(kind, works, said, tmp_path, monkeypatch):
    """One rank, which comes after itself."""
    sent, log, done = [], [], SimpleNamespace(wait=lambda: None)
    monkeypatch.setattr(shelves, "isend", lambda x, to, tag: sent.append(x) or done)
    monkeypatch.setattr(shelves, "irecv", lambda x, source, tag: x.copy_(sent.pop()) is None or done)
    monkeypatch.setattr("torch.distributed.all_reduce", lambda x, op: None)
    memory = kind(tmp_path, 0)
    assert tried(memory, Shelves(memory, tmp_path / "shelves", 0, 1), 0, 1, log.append) is works
    assert log == said


def test_servers_that_work_on_without_a_worker_share_no_memory(tmp_path):
    options = RealOptions(device="cpu", messages="shared", on_worker_loss="continue")
    said = (
        "backend.messages='shared': what a lost worker has sent goes with its memory: servers that work on receive by gloo"
    )
    with pytest.raises(BadInput, match=said):
        launch(job(AsyncPS(), 2, 2, SGD(0.05)), options, tmp_path)


def test_ranks_that_an_engine_starts_send_by_gloo():
    (problem,) = no_shared_memory(RealOptions(messages="shared"), False, "torchrun")
    assert str(problem) == "backend.messages='shared': ranks that torchrun starts send by gloo; take auto"
    assert not [*no_shared_memory(RealOptions(), True, "torchrun")]


class Cuda:
    """As torch.cuda and a shelf of it; writes down what it is asked, in order, and the GPUs with a context.

    A thread begins with the first GPU; after a stream's turn torch goes back to it, with a context there.
    """

    def __init__(self):
        self.asked, self.current, self.contexts, self.thread = [], "compute", set(), threading.local()

    def set_device(self, index):
        self.thread.index = index
        self.contexts.add(index)

    def Stream(self, index):
        return Queue(self, "side")

    def current_stream(self, index):
        return Queue(self, "compute")

    def can_device_access_peer(self, one, other):
        return {one, other} != {1, 3}

    @contextmanager
    def stream(self, stream):
        self.current = stream.name
        yield
        self.current = "compute"
        self.set_device(getattr(self.thread, "index", 0))

    def copy_(self, x):
        self.asked.append(f"copy in on {self.current}")

    def clone(self):
        self.asked.append(f"copy out on {self.current}")
        return self

    def record_stream(self, stream):
        self.asked.append(f"used by {stream.name}")


class Queue:
    def __init__(self, cuda, name):
        self.cuda, self.name = cuda, name

    def synchronize(self):
        self.cuda.asked.append(f"wait for {self.name}")


def test_a_gpu_has_copied_when_the_call_returns():
    """Into a shelf behind what computes the payload; out of one beside the computing, which uses the copy afterwards."""
    cuda = Cuda()
    memory = GpuMemory(1, 4, cuda)
    memory.put(cuda, None)
    memory.get(cuda)
    assert cuda.asked == ["copy in on compute", "wait for compute", "copy out on side", "wait for side", "used by compute"]


def test_a_thread_that_reads_a_shelf_touches_no_other_gpu():
    """A thread waits for messages; with a context of each rank's, the first GPU of a host would have less memory."""
    cuda = Cuda()
    memory = GpuMemory(1, 4, cuda)
    reading = threading.Thread(target=memory.get, args=(cuda,))
    reading.start()
    reading.join()
    assert cuda.contexts == {1}


def test_gpus_that_do_not_reach_each_other_share_nothing():
    assert [GpuMemory(index, 4, Cuda()).reaches_all() for index in range(4)] == [True, False, True, False]
    assert GpuMemory(1, 3, Cuda()).reaches_all()
