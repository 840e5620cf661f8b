"""Collectives on gloo (NCCL where every rank has its own GPU), in call order per group.

gloo's payloads are in host memory, wherever the ranks compute. Of NCCL nobody waits on the host: see devices.py.

A group is made at its first collective, by a thread: making it waits for all its members, and a call must not. Until then
its collectives queue. Different kinds or sizes within a group are found by the group's ledger.

Where ranks go on as a smaller group when one is lost (survivors.py), there are new groups after each loss.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch._C._distributed_c10d import Store
from torch.autograd.graph import increment_version

from distsim.backends.real.transport import gloo
from distsim.backends.real.transport.devices import CudaDevice, Mark
from distsim.backends.real.transport.handle import PeerLost, Pending, Ready, named
from distsim.backends.real.transport.ledger import Ledger, group_file
from distsim.backends.real.transport.wires import Wires, cut, noted
from distsim.backends.real.watching.board import Desk
from distsim.interface import Collective, Handle, StrategyError
from distsim.numerics.tensors import shares

R = TypeVar("R")
Meet = Callable[[str, int], Store]
"""The store, of this name, where so many ranks meet; a connection of the caller's own."""


class Losses(Protocol):
    """What a rank that goes on without others knows of them."""

    def check(self) -> None:
        """Raises what cuts the program off if one is lost."""

    def explain(self, error: PeerLost) -> None:
        """The same, once it is known; the error if it is not."""


_DIVIDED_FIRST = (torch.float32, torch.float64)
"""What a power of two divides exactly, so before the sum as well as after it (but for what is near the smallest number)."""


class Post:
    """A collective that gloo knows of, or that waits for its group to be made."""

    def __init__(
        self, call: Callable[[gloo.Group], gloo.Request], mark: Callable[[gloo.Request], Mark] | None = None
    ) -> None:
        self._call = call
        self._mark = mark
        self._called = threading.Event()
        self._request: gloo.Request | None = None
        self.end: Mark | None = None
        """Where it ends on the device, once it was called."""
        self._error: BaseException | None = None

    def call(self, group: gloo.Group | None, error: BaseException | None = None) -> None:
        """Hand it to the group, or say why there is none."""
        self._error = error
        try:
            if group is not None:
                self._request = self._call(group)
                if self._mark is not None:
                    self.end = self._mark(self._request)
        except Exception as failure:  # on the thread that makes a group, or the caller's: who waits is to hear of it
            self._error = failure
        self._called.set()

    def wait(self, gpu: CudaDevice | None = None) -> None:
        """Wait until it is over, or have the GPU wait. Raises `PeerLost` if a member is gone, and what the call raised."""
        self._called.wait()
        try:
            if self._error is not None:
                raise self._error
            if gpu is not None and self.end is not None:
                gpu.expect(self.end)
            elif self._request is not None:
                self._request.wait()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise PeerLost(str(error)) from error

    def is_over(self, gpu: CudaDevice) -> bool:
        """Whether the GPU has done it, or it could not be called."""
        return self._called.is_set() and (self.end is None or gpu.has_passed(self.end))


class Everyone(NamedTuple):
    """All who are there, and the group that they have."""

    ranks: tuple[int, ...]
    group: gloo.Group | None
    wires: Wires
    """Its connections."""
    epoch: int = 0
    """How many were lost before."""


class Group:
    """One group of ranks, in the order that its members give; in another order it is another group, as in the simulator."""

    def __init__(
        self, folder: Path, meet: Meet, ranks: tuple[int, ...], rank: int, everyone: Everyone, gpu: CudaDevice | None
    ) -> None:
        self.ranks = ranks
        self._rank = rank
        self._gpu = gpu
        self._meet = meet
        self._name = f"{group_file(folder, ranks).name}.{everyone.epoch}"
        self.ledger = Ledger(folder, ranks, rank, everyone.epoch << 32)
        self._lock = threading.Lock()
        self._queue: list[Post] = []
        self._error: BaseException | None = None
        self._group = everyone.group if ranks == everyone.ranks else None
        self._wires = everyone.wires if ranks == everyone.ranks else Wires()
        if self._group is None:
            threading.Thread(target=self._make, daemon=True).start()

    def post(self, call: Callable[[gloo.Group], gloo.Request], mark: Callable[[gloo.Request], Mark] | None = None) -> Post:
        """Start a collective, in call order."""
        post = Post(call, mark)
        with self._lock:
            if self._group is None and self._error is None:
                self._queue.append(post)
            else:
                post.call(self._group, self._error)
        return post

    def _make(self) -> None:
        error: BaseException | None = None
        made: gloo.Group | None = None
        try:
            if self._gpu is not None:
                self._gpu.enter()
            with noted(self._wires):
                made = gloo.make_group(
                    self._meet(f"{self._name}.store", len(self.ranks)),
                    self.ranks.index(self._rank),
                    len(self.ranks),
                    self._gpu is not None,
                )
            if self._gpu is not None:  # NCCL connects at the first collective, and a call must not wait for that
                with self._gpu.beside(self.ranks):
                    gloo.all_reduce(made, torch.zeros(1, device=self._gpu.name)).wait()
        except Exception as failure:
            error = failure
        with self._lock:
            if self._error is not None:  # cut meanwhile
                return
            for post in self._queue:
                post.call(made, error)
            self._queue.clear()
            self._group, self._error = made, error

    def cut(self) -> None:
        """A member is lost: end whatever is under way."""
        with self._lock:
            if self._group is None and self._error is None:
                self._error = RuntimeError("a member was lost before the group was made")
                for post in self._queue:
                    post.call(None, self._error)
                self._queue.clear()
        cut(self._wires)


class Joined(Pending[R]):
    """A collective under way."""

    def __init__(
        self,
        what: str,
        desk: Desk,
        finish: Callable[[], R],
        peers: tuple[int, ...],
        number: int,
        post: Post,
        gpu: CudaDevice | None,
    ) -> None:
        super().__init__(what, desk, finish, peers, number)
        self._post = post
        self._gpu = gpu

    def over(self) -> bool:
        """On a GPU once that has done it: who waits for it there is the compute stream, and not the host."""
        return super().over() if self._gpu is None else self.is_over or self._post.is_over(self._gpu)

    def moment(self) -> float:
        """When it has ended; on a GPU that is told later."""
        return super().moment() if self._post.end is None else self._post.end


class Collectives:
    """One rank's collectives; `gpu` if it is the rank's own."""

    def __init__(
        self,
        desk: Desk,
        folder: Path,
        meet: Meet,
        rank: int,
        everyone: Everyone,
        gpu: CudaDevice | None = None,
        losses: Losses | None = None,
    ) -> None:
        self._desk = desk
        self._folder = folder
        self._meet = meet
        self._rank = rank
        self._everyone = everyone
        self._gpu = gpu
        self._losses = losses
        self._lock = threading.Lock()
        self._is_cut = False
        self._groups: dict[tuple[int, ...], Group] = {}

    def cut(self) -> None:
        """A rank is lost: end whatever is under way, at once."""
        with self._lock:
            self._is_cut = True
            for group in self._groups.values():
                group.cut()

    def start(self, ranks: tuple[int, ...], collective: Collective, given: torch.Tensor | None) -> Handle[Any]:
        """Join the next collective of these ranks, in this order; a barrier's payload and result are None."""
        gpu, losses = self._gpu, self._losses
        if losses is not None:
            losses.check()
        payload = torch.zeros(1, device="cpu" if gpu is None else gpu.name) if given is None else given
        if collective.kind in ("reduce_scatter", "all_to_all") and payload.numel() % len(ranks):
            raise StrategyError(f"{collective.kind} of {payload.numel()} scalars does not divide by {len(ranks)} ranks")
        if len(ranks) == 1:
            now = self._desk.now()
            return Ready(given if given is None or collective.in_place else given.clone(), now, now)
        group = self._groups.get(ranks) or self._make(ranks)
        number = group.ledger.check(collective, str(payload.dtype).removeprefix("torch."), payload.numel())
        x = payload.detach().cpu() if gpu is None else payload.detach()
        x = x.contiguous()
        shape = {"all_gather": (len(ranks), *x.shape), "all_to_all": (x.numel(),)}.get(collective.kind)
        is_divided = collective.op == "mean" and x.dtype in _DIVIDED_FIRST and len(ranks).bit_count() == 1
        if shape is not None:
            out = torch.empty(shape, dtype=x.dtype, device=x.device)
        elif collective.in_place:
            out = x.div_(len(ranks)) if is_divided else x
        else:  # one pass over memory for the copy and the mean
            out = x / len(ranks) if is_divided else x.clone()

        def call(group: gloo.Group) -> gloo.Request:
            if collective.kind == "all_gather":
                return gloo.all_gather(group, list(out), x) if gpu is None else gloo.all_gather_flat(group, out, x)
            if collective.kind == "reduce_scatter" and gpu is not None:
                return gloo.reduce_scatter(group, shares(out, len(ranks))[ranks.index(self._rank)], out)
            if collective.kind == "all_to_all":
                return gloo.all_to_all(group, out, x.view(-1))
            if collective.kind == "broadcast":
                return gloo.broadcast(group, out, collective.root)
            if collective.kind == "reduce":
                return gloo.reduce(group, out, collective.root)
            return gloo.all_reduce(group, out)

        begin, mark = call, None
        if gpu is not None:
            posted = gpu.mark(self._desk.now())

            def begin(group: gloo.Group) -> gloo.Request:
                with gpu.beside(ranks, posted):
                    return call(group)

            def mark(request: gloo.Request) -> Mark:
                return gpu.ended(request, ranks, posted)

        post = group.post(begin, mark)

        def finish(keep: torch.Tensor = x) -> torch.Tensor | None:  # NCCL may read it until the stream has waited
            try:
                post.wait(gpu)
            except PeerLost as error:
                if losses is not None:
                    losses.explain(error)
                raise
            if given is None:
                if gpu is not None:
                    gpu.wait()
                return None
            result = _result(collective, out, len(ranks), ranks.index(self._rank), is_divided)
            if not collective.in_place:
                return result.to(payload.device)
            if result.data_ptr() != given.data_ptr():  # it was on a GPU, or not in one piece
                given.copy_(result)
            increment_version(given)  # so that torch refuses a backward pass that needs what was there
            return given

        name = f"{collective.kind} of ranks {','.join(map(str, ranks))}"
        return Joined(named(name), self._desk, finish, ranks, number, post, gpu)

    def _make(self, ranks: tuple[int, ...]) -> Group:
        with self._lock:
            group = Group(self._folder, self._meet, ranks, self._rank, self._everyone, self._gpu)
            self._groups[ranks] = group
            if self._is_cut:
                group.cut()
        return group


def _result(collective: Collective, out: torch.Tensor, members: int, position: int, is_divided: bool) -> torch.Tensor:
    """This rank's result from what the transport gave; gloo has no cheaper reduce-scatter than an all-reduce."""
    if collective.kind == "all_gather":
        return out.flatten(0, 1) if out.dim() > 1 else out
    if collective.kind in ("broadcast", "all_to_all"):
        return out
    if collective.kind == "reduce" and position != collective.root:
        return out.new_empty(0)
    if collective.op == "mean" and not is_divided:
        out.div_(members)
    if collective.kind == "reduce_scatter":
        return shares(out, members)[position].clone()
    return out
