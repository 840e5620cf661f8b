"""Where the launchers of a world meet: a store of torch's, on the address that the engine names.

The store is the engine's where it has one (torchrun), else rank 0's launcher listens: on loopback, or on the address of the
interface that was named, and nowhere else. It knows no authentication, so what is read there is taken for values and never
for code. Writers and readers are launchers of one start, which the keys' prefix tells from others. The leading launcher
makes it up, and answers each of the others, who ask with a word that nobody has used before: torchrun's store outlives its
restarts, and its agents do not count these alike.
"""

from __future__ import annotations

import errno
import os
import platform
import socket
import time
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple
from uuid import uuid4

from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from distsim.backends.real import values
from distsim.backends.real.worlds.pulse import SILENT, LauncherLost, Pulse
from distsim.backends.real.worlds.world import World, address_of, is_loopback, resolve
from distsim.interface import BadInput, Problem

_OPERATION = timedelta(seconds=SILENT)  # of one operation on the store, all of which are short
_PIECE = 1 << 20  # bytes of a value; the store takes 8 MiB
_AHEAD = 4  # pieces that a sender may be ahead of the reader


class Hello(NamedTuple):
    """What a launcher says of itself."""

    host: str
    machine: str
    """Processes of equal ones share CLOCK_MONOTONIC."""
    does: dict[str, dict[str, str]]
    """The runs it can take part in, and what the first of them depends on."""
    refuses: list[str]
    """What is wrong with them here, a line each: then there are none."""


class Meeting:
    """One launcher's access to the store. Nothing blocks for longer than the network does."""

    def __init__(self, world: World, store: TCPStore, server: TCPStore | None, address: str, port: int) -> None:
        self.world = world
        self.address = address
        self.port = port
        self.hellos: list[Hello] = []
        """Of all launchers, by rank; for the one that leads, once they are there."""
        self.machines: tuple[int, ...] = ()
        """A number for each rank, equal for those on one machine; known once all have met."""
        self._tcp = store
        self._server = server
        self._door = PrefixStore(f"distsim/{world.start}", store)
        self._word = uuid4().hex
        self._asked = False
        self._answered: dict[int, str] = {}
        self._begin(self._word if world.leads else "")
        self.pulse = Pulse(self)

    def _begin(self, start: str) -> None:
        self._start = start
        self.prefix = f"distsim/{self.world.start}/{start}"
        """Of all keys of this start."""
        self._store = PrefixStore(self.prefix, self._tcp)

    def has_come(self, rank: int) -> bool:
        """The launcher of this rank has said hello in this start; it is answered, or asked, before."""
        if self.world.leads and rank != 0:
            self._answer(rank)
        elif not self._start:
            self._ask()
        return bool(self._start) and self.has(f"hello/{rank}")

    def _ask(self) -> None:
        key = f"start/{self._word}"
        if not self._asked:
            self._asked = True
            self._do(self._door.set, f"ask/{self.world.rank}", values.dumps(self._word))
        if self._do(self._door.check, [key]):
            self._begin(self._read(key, self._do(self._door.get, key)))

    def _answer(self, rank: int) -> None:
        key = f"ask/{rank}"
        if not self._do(self._door.check, [key]):
            return
        word = self._read(key, self._do(self._door.get, key))
        if word != self._answered.get(rank):  # else it is that of a launcher from before, or was heard
            self._do(self._door.set, f"start/{word}", values.dumps(self._start))
            self._answered[rank] = word

    def know(self, hellos: list[Hello]) -> None:
        """All have met: `hellos` by rank."""
        numbers: dict[str, int] = {}
        self.machines = tuple(numbers.setdefault(hello.machine, len(numbers)) for hello in hellos)
        self.hellos = hellos

    def places(self) -> str:
        """The hosts and their ranks, in words."""
        ranks: dict[str, list[int]] = {}
        for rank, hello in enumerate(self.hellos):
            ranks.setdefault(hello.host, []).append(rank)
        return "; ".join(f"{host}: rank {', '.join(map(str, found))}" for host, found in ranks.items())

    def put(self, key: str, value: Any) -> None:
        """Write a value of less than 8 MiB."""
        self._do(self._store.set, key, values.dumps(value))

    def has(self, *keys: str) -> bool:
        """All of them have been written."""
        return bool(self._do(self._store.check, list(keys)))

    def get(self, *keys: str) -> list[Any]:
        """Values of keys that are there. Raises `LauncherLost` if one is nothing that a launcher writes."""
        return [self._read(*found) for found in zip(keys, self._do(self._store.multi_get, list(keys)), strict=True)]

    def drop(self, key: str) -> None:
        """Forget it."""
        self._do(self._store.delete_key, key)

    def send(self, key: str, data: bytes, receiver: int) -> None:
        """Write any number of bytes, as fast as rank `receiver`'s launcher takes them."""
        count = -(-len(data) // _PIECE)
        self.put(f"{key}/count", count)
        for i in range(count):
            self.put(f"{key}/{i}", data[i * _PIECE : (i + 1) * _PIECE])
            if i >= _AHEAD:
                self.await_key(f"{key}/{i - _AHEAD}/taken", receiver)

    def receive(self, key: str, sender: int) -> bytes:
        """Take what rank `sender`'s launcher sends."""
        data = bytearray()
        for i in range(self.await_key(f"{key}/count", sender)):
            data += self.await_key(f"{key}/{i}", sender)
            self.drop(f"{key}/{i}")
            self.put(f"{key}/{i}/taken", True)
        return bytes(data)

    def await_key(self, key: str, writer: int) -> Any:
        """The value, once it is there. Raises `LauncherLost` if the launcher of rank `writer` is gone before."""
        while not self.has(key):
            self.pulse.check(writer)
            time.sleep(0.01)
        return self.get(key)[0]

    def _read(self, key: str, data: bytes) -> Any:
        try:
            return values.loads(data)
        except values.Unknown as error:
            where = f"{self.address}:{self.port}, where all launchers meet"
            raise LauncherLost(f"somebody else has written {key} at {where} ({error})") from error

    def _do(self, operation: Any, *arguments: Any) -> Any:
        try:
            return operation(*arguments)
        except RuntimeError as error:
            raise LauncherLost(f"{self.address}:{self.port}, where all launchers meet, is gone") from error


def meet(world: World, interface: str | None, seconds: float) -> Meeting:
    """Open or reach the store. Raises `BadInput` if that cannot be, or not within `seconds`."""
    server = None
    address, port = world.address, world.port
    if world.leads and not world.hosted:
        is_local = is_loopback(world.address)  # or how this host calls itself, as Debian's 127.0.1.1
        listens = interface is not None and (world.spans_hosts or not is_local)
        address = (address_of(interface) or "") if listens and interface else "127.0.0.1"
        if resolve(world.address) != address and not is_local:
            allowed = f"is not this host's address on the interface {interface}, which rank 0 listens on"
            raise BadInput([Problem("MASTER_ADDR", world.address, allowed, f"set MASTER_ADDR={address} on every process")])
        server = _listen(address, port)
    else:
        _reach(world, seconds)
    return Meeting(world, TCPStore(address, port, None, False, _OPERATION, False), server, address, port)


def connect(address: str, port: int, prefix: str, timeout: timedelta) -> Store:
    """A connection of one's own: what blocks there blocks nobody else."""
    return PrefixStore(prefix, TCPStore(address, port, None, False, timeout, False))


def machine() -> str:
    """Names the kernel, and the clock within it, that this process runs on."""
    parts = [Path("/proc/sys/kernel/random/boot_id").read_text().strip()]
    try:
        parts.append(str(Path("/proc/self/ns/time").readlink()))
    except OSError:
        parts.append(platform.node())
    return " ".join(parts)


def _listen(address: str, port: int) -> TCPStore:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((address, port))
        listener.listen(1024)
    except OSError as error:
        why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be listened on ({os.strerror(error.errno or 0)})"
        raise BadInput([Problem("MASTER_PORT", port, f"{why} at {address}", "set another on every process")]) from None
    return TCPStore(address, port, None, True, _OPERATION, False, master_listen_fd=listener.detach())


def _reach(world: World, seconds: float) -> None:
    """Wait until somebody listens where all meet."""
    until = time.monotonic() + seconds
    while True:
        try:
            left = max(0.1, min(3.0, until - time.monotonic()))
            with socket.create_connection((world.address, world.port), timeout=left):
                return
        except OSError as error:
            why = error.strerror or str(error)
        if time.monotonic() >= until:
            allowed = f"nothing answers at port {world.port} within {seconds:g} s ({why.lower()})"
            remedy = "is rank 0 started there, and MASTER_PORT the same? backend.start_seconds is how long to wait"
            raise BadInput([Problem("MASTER_ADDR", world.address, allowed, remedy)])
        time.sleep(0.1)
