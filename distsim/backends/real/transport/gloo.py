"""What is used of torch.distributed, with types that hold here: whoever calls is a member, so a request always comes back.

Groups are made without `dist.new_group`: with local synchronization it names a group by how many groups this process has
made before, so that ranks which make theirs in another order, or other numbers of them, wait for each other for ever.

The threads of a group do not displace others. gloo's loop skips a connection that another thread has locked, and is
called for it again at once: where it was woken in place of that very thread, it spins for a slice of the scheduler's.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Protocol, cast

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import (
    AllgatherOptions,
    AllreduceOptions,
    AllToAllOptions,
    BroadcastOptions,
    ReduceOptions,
    ReduceScatterOptions,
)
from torch._C._distributed_c10d import Store as TorchStore

_IN_HALVES = 8 * 2**20
"""Bytes from which on an all-reduce is two: experiments/07_overhead says what that saves."""
FOREVER = timedelta(days=7)
"""Timeout of gloo and NCCL: the launcher judges who hangs, and ends ranks that outlive it."""


class Request(Protocol):
    """A transfer that the transport has started."""

    def wait(self) -> object:
        """Wait until it is over. Raises `RuntimeError` if the peer is gone."""


class Store(Protocol):
    """Where ranks agree."""

    def compare_set(self, key: str, expected: str, desired: str, /) -> bytes:
        """Set `key` to `desired` if it has the value `expected` (or none); the value it has then."""

    def add(self, key: str, amount: int, /) -> int:
        """Add to the number at `key`, 0 before the first time; the number it is then."""


class Group(Protocol):
    """A process group or one backend of it. Collectives match in call order."""

    def allreduce(self, tensors: list[torch.Tensor], options: AllreduceOptions, /) -> Request | None:
        """Sum in place."""

    def broadcast(self, tensors: list[torch.Tensor], options: BroadcastOptions, /) -> Request | None:
        """Overwrite with the root's."""

    def allgather(
        self, outputs: list[list[torch.Tensor]], inputs: list[torch.Tensor], options: AllgatherOptions, /
    ) -> Request | None:
        """Gather into one output a member."""

    def _allgather_base(self, output: torch.Tensor, x: torch.Tensor, options: AllgatherOptions, /) -> Request | None:
        """Gather into one flat output, of all members' one after the other."""

    def _reduce_scatter_base(
        self, output: torch.Tensor, x: torch.Tensor, options: ReduceScatterOptions, /
    ) -> Request | None:
        """Sum this member's equal part of every member's flat `x`; the output may be that part."""

    def reduce(self, tensors: list[torch.Tensor], options: ReduceOptions, /) -> Request | None:
        """Sum in place on the root."""

    def alltoall_base(
        self, output: torch.Tensor, x: torch.Tensor, to: list[int], source: list[int], options: AllToAllOptions, /
    ) -> Request | None:
        """Exchange parts along the first dimension, equal ones where no sizes are given."""


def listen_on(interface: str) -> None:
    """Let gloo and NCCL listen on this interface alone, and NCCL do what groups are used for here, whatever a cluster's
    environment says; before either starts."""
    os.environ["GLOO_SOCKET_IFNAME"] = interface
    os.environ["NCCL_SOCKET_IFNAME"] = f"={interface}"  # else it is a prefix: eth1 would be eth10, too
    os.environ["TORCH_NCCL_BLOCKING_WAIT"] = "0"  # else a transfer would be waited for when it starts
    os.environ.setdefault("NCCL_RUNTIME_CONNECT", "0")  # else the first of each algorithm would wait for all members


def make_group(store: TorchStore, position: int, size: int, nccl: bool) -> Group:
    """Connect to the other members, which meet in `store`; waits for all of them."""
    if not nccl:
        with _batch_threads():
            return cast(Group, dist.ProcessGroupGloo(store, position, size, timeout=FOREVER))
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = FOREVER
    return cast(Group, dist.ProcessGroupNCCL(store, position, size, options))


@contextlib.contextmanager
def _batch_threads() -> Iterator[None]:
    """Threads that are made in here wait for a core until nobody has it, or the scheduler's next turn (SCHED_BATCH); where
    the system knows that and allows it, and has not been told to schedule this thread otherwise."""
    is_set = False
    if hasattr(os, "SCHED_BATCH") and os.sched_getscheduler(0) == os.SCHED_OTHER:
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
            is_set = True
    try:
        yield
    finally:
        if is_set:
            os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


class _Both:
    """Two transfers as one."""

    def __init__(self, first: Request, second: Request) -> None:
        self._requests = first, second

    def wait(self) -> None:
        for request in self._requests:
            request.wait()


def all_reduce(group: Group, x: torch.Tensor) -> Request:
    """Start to sum `x` over the group, in place. gloo does a large one in halves: it adds one up while the other moves."""
    if x.is_cuda or x.nbytes < _IN_HALVES:
        return _checked(group.allreduce([x], AllreduceOptions()))
    return _Both(*(_checked(group.allreduce([half], AllreduceOptions())) for half in x.view(-1).chunk(2)))


def broadcast(group: Group, x: torch.Tensor, root: int) -> Request:
    """Start to overwrite `x` with that of the member at position `root`."""
    options = BroadcastOptions()
    options.rootRank = root
    return _checked(group.broadcast([x], options))


def all_gather(group: Group, outputs: Sequence[torch.Tensor], x: torch.Tensor) -> Request:
    """Start to gather `x` of every member."""
    return _checked(group.allgather([list(outputs)], [x], AllgatherOptions()))


def all_gather_flat(group: Group, output: torch.Tensor, x: torch.Tensor) -> Request:
    """The same into one tensor, without the copy that NCCL makes of several."""
    return _checked(group._allgather_base(output.view(-1), x.view(-1), AllgatherOptions()))


def reduce_scatter(group: Group, output: torch.Tensor, x: torch.Tensor) -> Request:
    """Start to sum this member's equal part of `x` over the group; `output` may be that part."""
    return _checked(group._reduce_scatter_base(output.view(-1), x.view(-1), ReduceScatterOptions()))


def reduce(group: Group, x: torch.Tensor, root: int) -> Request:
    """Start to sum `x` over the group, in place on the member at position `root`; the others' is undefined after it."""
    options = ReduceOptions()
    options.rootRank = root
    return _checked(group.reduce([x], options))


def all_to_all(group: Group, output: torch.Tensor, x: torch.Tensor) -> Request:
    """Start to gather this member's equal part of every member's flat `x`."""
    return _checked(group.alltoall_base(output, x, [], [], AllToAllOptions()))


def isend(x: torch.Tensor, to: int, tag: int) -> Request:
    """Start to send."""
    return _checked(_world().send([x], to, tag))


def irecv(x: torch.Tensor, source: int | None, tag: int) -> Request:
    """Post a receive, from any rank if `source` is None."""
    return _checked(_world().recv_anysource([x], tag) if source is None else _world().recv([x], source, tag))


def _world() -> dist.ProcessGroup:
    """All ranks. `dist.isend` and `irecv` ask a dozen questions first, whose answers are known here."""
    world = dist.group.WORLD
    assert world is not None
    return world


def _checked(request: Request | None) -> Request:
    assert request is not None
    return request
