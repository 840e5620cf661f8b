"""Large payloads of messages through memory that both ranks map: the GPU's where ranks compute on GPUs, else the host's.

A sender copies a payload onto a shelf, a piece of its own memory that others can map, and then names the shelf in the frame
of the message. Frames travel as ever (see messages.py), so order, tags and receives from any rank are theirs. The receiver
copies the payload from the shelf and frees it, in a table that all ranks map. Rules:

- A copy is made when the call returns. No queue of a GPU waits for another rank, so none can wait in a circle; and what the
  host notes of a message's times is true.
- Nobody waits for a shelf: where none is free and no more may be made, the payload travels behind its frame. Who has once
  found no room makes no more.
- A shelf is kept, for payloads of like size: to map one takes longer than to copy it.
- What lies on a shelf goes with its owner's process, so servers that are to work on without a worker use none.

Why not NCCL, which reduces beside this: its sends and receives occupy a GPU until the peer's run, and it asks for one order
in which all GPUs start the operations of all communicators (its user guide, on several communicators); otherwise they may
wait in a circle. Here ranks send, receive and reduce in whichever order they like, in several flows, and what a receive
from any rank will match is not known before. Copies between GPUs (CUDA's IPC, over NVLink) ask for no order.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist

from distsim import durable
from distsim.backends.real.transport.gloo import irecv, isend

LONGEST = 1_024
"""Bytes of what names a shelf in a frame, at most."""
COUNT = 256
"""Shelves of a rank, at most."""
MOST = 2 << 30
"""Bytes of a rank's shelves, at most."""
_GRAIN = 65_536  # bytes that a shelf is a multiple of
_NAME = struct.Struct("<HqH")  # number of the shelf, bytes of the payload, bytes of the key
_KEY = struct.Struct("<qq")  # bytes of a GPU's shelf, and where it begins in what its handle opens


class Memory(Protocol):
    """Where shelves are; tensors of shelves are flat bytes."""

    device: str
    """As torch calls it."""

    def reaches_all(self) -> bool:
        """Whether this rank can read the shelves of all others."""

    def make(self, nbytes: int) -> tuple[torch.Tensor, bytes]:
        """A new shelf, and the key that others open it by. Raises `OSError` or OutOfMemoryError if it has no room."""

    def open(self, key: bytes) -> torch.Tensor:
        """Another rank's shelf. Raises `OSError` or `RuntimeError` if it cannot be mapped here."""

    def put(self, shelf: torch.Tensor, x: torch.Tensor) -> None:
        """Copy `x`, which what was called before on this device computes, onto a shelf."""

    def get(self, shelf: torch.Tensor) -> torch.Tensor:
        """A copy of a shelf."""


class HostMemory:
    """The host's, in files of the launch's private folder."""

    device = "cpu"

    def __init__(self, folder: Path, rank: int) -> None:
        self._folder = folder
        self._rank = rank
        self._made = 0

    def reaches_all(self) -> bool:
        """All ranks are on this host."""
        return True

    def make(self, nbytes: int) -> tuple[torch.Tensor, bytes]:
        """A file."""
        path = self._folder / f"shelf-{self._rank}-{self._made}"
        self._made += 1
        try:
            with path.open("xb") as file:
                durable.reserve(file.fileno(), nbytes, path)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        return self._map(path), path.name.encode()

    def open(self, key: bytes) -> torch.Tensor:
        """The other's file."""
        return self._map(self._folder / key.decode())

    def put(self, shelf: torch.Tensor, x: torch.Tensor) -> None:
        """At once."""
        shelf.copy_(x)

    def get(self, shelf: torch.Tensor) -> torch.Tensor:
        """At once."""
        return shelf.clone()

    def _map(self, path: Path) -> torch.Tensor:
        return torch.from_file(str(path), shared=True, size=path.stat().st_size, dtype=torch.uint8)


class GpuMemory:
    """A GPU's. `cuda` is torch.cuda, or something that behaves like it. Not verified on a GPU."""

    def __init__(self, index: int, gpus: int, cuda: Any = torch.cuda) -> None:
        """Ranks are on the first `gpus` of this host."""
        self.device = f"cuda:{index}"
        self._index = index
        self._gpus = gpus
        self._cuda = cuda
        self._side = cuda.Stream(index)

    def reaches_all(self) -> bool:
        """Not all GPUs read each other's memory: those of workstations do not."""
        return all(self._cuda.can_device_access_peer(self._index, i) for i in range(self._gpus) if i != self._index)

    def make(self, nbytes: int) -> tuple[torch.Tensor, bytes]:
        """The key is a handle of CUDA's; torch exports it."""
        shelf = torch.empty(nbytes, dtype=torch.uint8, device=self.device)
        storage: Any = shelf.untyped_storage()
        _, handle, size, offset, counter, *_ = storage._share_cuda_()
        # torch counts who uses it in a file, which a killed rank would leave behind; a shelf stays as long as its rank
        Path("/dev/shm", counter.decode().lstrip("/")).unlink(missing_ok=True)
        return shelf, _KEY.pack(size, offset) + handle

    def open(self, key: bytes) -> torch.Tensor:
        """Mapped for this GPU, which reads it over the wire between them; nothing of it is on the other GPU."""
        size, offset = _KEY.unpack_from(key)
        storage = torch.UntypedStorage._new_shared_cuda(self._index, key[_KEY.size :], size, offset, b"", 0, b"", False)
        return torch.empty(0, dtype=torch.uint8, device=self.device).set_(storage)

    def put(self, shelf: torch.Tensor, x: torch.Tensor) -> None:
        """On the compute stream; then the host waits for it."""
        shelf.copy_(x)
        self._cuda.current_stream(self._index).synchronize()

    def get(self, shelf: torch.Tensor) -> torch.Tensor:
        """Beside the compute stream; then the host waits for it."""
        self._cuda.set_device(self._index)  # a thread of messages begins with the first GPU: leave no context there
        compute = self._cuda.current_stream(self._index)
        with self._cuda.stream(self._side):
            copy = shelf.clone()
        self._side.synchronize()
        copy.record_stream(compute)  # whose work may still read it when it is freed
        return copy


class Shelves:
    """One rank's shelves, and those of others that it has read from."""

    def __init__(self, memory: Memory, table: Path, rank: int, world_size: int) -> None:
        self._memory = memory
        self._begin = rank * COUNT
        self._own: list[tuple[torch.Tensor, bytes]] = []
        self._opened: dict[tuple[int, int], torch.Tensor] = {}
        self._is_full = False
        """There was no room for one more."""
        self._lock = threading.Lock()
        # a byte for each shelf of each rank: 1 from when its owner takes it until its reader frees it
        with os.fdopen(os.open(table, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
            durable.reserve(file.fileno(), world_size * COUNT, table)
            self._table = mmap.mmap(file.fileno(), world_size * COUNT)

    def put(self, x: torch.Tensor) -> bytes | None:
        """Copy a payload onto a shelf; what names it to its receiver, or None if there is no shelf to take."""
        with self._lock:
            number = self._free(x.nbytes)
            if number is None:
                return None
            self._table[self._begin + number] = 1
            shelf, key = self._own[number]
        self._memory.put(shelf[: x.nbytes], x.contiguous().view(-1).view(torch.uint8))
        return _NAME.pack(number, x.nbytes, len(key)) + key

    def take(self, source: int, name: bytes) -> torch.Tensor:
        """Copy the payload, as flat bytes, from a shelf of another rank's, and free it. `name` may be longer than it is."""
        number, nbytes, length = _NAME.unpack_from(name)
        with self._lock:
            shelf = self._opened.get((source, number))
            if shelf is None:
                shelf = self._opened[source, number] = self._memory.open(name[_NAME.size : _NAME.size + length])
        payload = self._memory.get(shelf[:nbytes])
        self._table[source * COUNT + number] = 0
        return payload

    def _free(self, nbytes: int) -> int | None:
        for number, (shelf, _) in enumerate(self._own):
            if not self._table[self._begin + number] and nbytes <= shelf.numel() <= 2 * nbytes:
                return number
        wanted = -(-nbytes // _GRAIN) * _GRAIN
        if self._is_full or len(self._own) == COUNT or sum(shelf.numel() for shelf, _ in self._own) + wanted > MOST:
            return None
        self._is_full = True  # unless it works: torch would free all that it keeps of a full GPU, each time
        try:
            shelf, key = self._memory.make(wanted)
        except (OSError, torch.OutOfMemoryError):
            return None
        if len(key) > LONGEST - _NAME.size:
            return None
        self._is_full = False
        self._own.append((shelf, key))
        return len(self._own) - 1


def tried(memory: Memory, shelves: Shelves, rank: int, world_size: int, log: Callable[[str], None] = print) -> bool:
    """Whether every rank can read what the rank before it has put; all ask together. The log says what failed here."""

    def sample(of: int) -> torch.Tensor:
        return torch.full((_GRAIN + 1,), of % 251, dtype=torch.uint8, device=memory.device)

    before, none, is_equal = (rank - 1) % world_size, bytes(LONGEST), False
    name = none
    try:
        name = shelves.put(sample(rank)) or none
    except RuntimeError as error:
        log(f"a shelf of rank {rank}'s cannot be made: {error}")
    ours = torch.frombuffer(bytearray(name.ljust(LONGEST, b"\0")), dtype=torch.uint8)
    theirs = torch.empty_like(ours)
    for request in [isend(ours, (rank + 1) % world_size, tag=0), irecv(theirs, before, tag=0)]:
        request.wait()
    name = theirs.numpy().tobytes()
    try:
        is_equal = name != none and memory.reaches_all() and torch.equal(shelves.take(before, name), sample(before))
    except (OSError, RuntimeError) as error:
        log(f"a shelf of rank {before}'s cannot be read by rank {rank}: {error}")
    verdict = torch.tensor([int(is_equal)])
    dist.all_reduce(verdict, dist.ReduceOp.MIN)
    return bool(verdict)
