"""Numerics of tensors: autograd over a list of blocks, run one block at a time.

- The parameters of a block are one flat tensor; those of its module are views of it. So reading, loading and updating are
  one operation a block, and running the module costs what it costs without distsim.
- The backward pass of a block uses the weights of its forward pass: while activations of a block are saved, a write to its
  parameters goes to a copy (copy on write) and the saved graph keeps the old tensor. With none saved it goes in place.
- Sums of a collective are taken in group order; results share no memory with each other or with what went in.
- The gradient of the first block's input is not computed; it is an empty tensor. So is what `part="weights"` gives.
- Safe to use from several threads: an operation on one rank holds that rank's lock.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from distsim.interface.errors import Diverged
from distsim.interface.fabric import Collective
from distsim.interface.numerics import Numerics, Part
from distsim.interface.optimizer import SGD
from distsim.interface.values import Batch, Region
from distsim.numerics.checks import Ledger, check_collective
from distsim.workloads.workload import Workload


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread: sums come out the same on any machine, and small blocks on busy cores ten times sooner."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(slots=True)
class _Saved:
    """One forward pass: its input and output, and the parameters that it used."""

    x: Tensor
    y: Tensor
    flat: Tensor
    parameters: list[nn.Parameter]
    g: Tensor | None = None
    """The output's gradient, kept from `part="input"` for `part="weights"`."""


class _Block:
    """One block: its module over a flat tensor of parameters, its gradient, its saved forward passes, its momentum."""

    def __init__(self, module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
        self.module = module.to(device)
        self.slots: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
        for owner in module.modules():
            for name, parameter in owner.named_parameters(recurse=False, remove_duplicate=False):
                if parameter.requires_grad:
                    self.slots.setdefault(parameter, []).append((owner, name))
        self.parameters: list[nn.Parameter] = list(self.slots)
        self.saved: dict[Batch, _Saved] = {}
        self.gradient: Tensor | None = None
        self.velocity: Tensor | None = None
        empty = torch.empty(0, device=device, dtype=dtype)
        self.flat = empty
        self._attach(torch.cat([empty, *(p.detach().reshape(-1) for p in self.parameters)]))

    def _attach(self, flat: Tensor) -> None:
        """Make `flat` the parameters: the module's become views of it, new ones, as graphs may hold the old."""
        self.flat = flat
        slots: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {}
        for old, piece in zip(self.parameters, torch.split(flat, [p.numel() for p in self.parameters]), strict=True):
            parameter = nn.Parameter(piece.view(old.shape))
            for owner, name in self.slots[old]:
                setattr(owner, name, parameter)
            slots[parameter] = self.slots[old]
        self.slots, self.parameters = slots, list(slots)

    def _is_in_use(self) -> bool:
        """True while a saved forward pass needs the parameters as they are."""
        return any(saved.flat is self.flat for saved in self.saved.values())

    def write(self, value: Tensor) -> None:
        """Overwrite the parameters."""
        if self._is_in_use():
            self._attach(value.clone())
        else:
            self.flat.copy_(value)

    def step(self, g: Tensor, rate: float, momentum: float) -> None:
        """One step of SGD: the operations of torch.optim.SGD, in their order, so that results are equal bit for bit."""
        if momentum:
            if self.velocity is None:
                self.velocity = g.clone()
            else:
                self.velocity.mul_(momentum).add_(g)
            g = self.velocity
        if self._is_in_use():
            self._attach(torch.add(self.flat, g, alpha=-rate))
        else:
            self.flat.add_(g, alpha=-rate)

    def forward(self, x: Tensor, batch: Batch, is_first: bool) -> Tensor:
        """The output; the first block's input needs no gradient (and may be whole numbers)."""
        x = x.detach() if is_first else x.detach().requires_grad_()
        with torch.enable_grad():
            y: Tensor = self.module(x)
        self.saved[batch] = _Saved(x, y, self.flat, self.parameters)
        return y.detach().contiguous()

    def backward(self, g: Tensor, batch: Batch, part: Part) -> Tensor | None:
        """The gradient of the input, if it has one and it was not given before; accumulates that of the parameters."""
        saved = self.saved[batch]
        wanted: list[Tensor] = [saved.x] if saved.x.requires_grad and part != "weights" else []
        if part == "input":
            saved.g = g
        else:
            del self.saved[batch]
            wanted += saved.parameters
            g = g if saved.g is None else saved.g
        if not wanted:
            return None
        keep = part == "input" and bool(saved.parameters)
        found = list(torch.autograd.grad(saved.y, wanted, g, retain_graph=keep, materialize_grads=True))
        gx = found.pop(0).contiguous() if wanted[0] is saved.x else None
        if found:
            gradient = torch.cat([piece.reshape(-1) for piece in found])
            self.gradient = gradient if self.gradient is None else self.gradient.add_(gradient)
        return gx

    def accumulated(self) -> Tensor:
        """The gradient accumulated since it was forgotten; not a copy."""
        return torch.zeros_like(self.flat) if self.gradient is None else self.gradient


class Tensors:
    """The tensors of one rank. Implements `Numerics[torch.Tensor]`."""

    def __init__(self, workload: Workload, workers: int, optimizer: SGD, seed: int, device: str, rank: int) -> None:
        model = workload.model()
        self._ledger = Ledger(model, workers)
        self._itemsize = model.itemsize
        self._workers = workers
        self._optimizer = optimizer
        self._rank = rank
        self._device = torch.device(device)
        self._task = workload.task(seed)
        dtype = torch.float64 if model.itemsize == 8 else torch.float32
        self._nothing = torch.empty(0, device=self._device, dtype=dtype)
        self._blocks = {i: _Block(module, self._device, dtype) for i, module in enumerate(self._task.blocks)}
        self._lock = threading.RLock()

    def place(self, blocks: Sequence[int]) -> None:
        """Keep only `blocks` (ascending)."""
        with self._lock:
            self._ledger.place(blocks)
            self._blocks = {b: self._blocks[b] for b in blocks}
            for block in self._blocks.values():
                block.saved.clear()

    # ---- running

    def input(self, batch: Batch) -> Tensor:
        """The samples of `batch`."""
        return self._task.input(batch, self._workers).to(self._device)

    def forward(self, block: int, x: Tensor, batch: Batch) -> Tensor:
        """The output of `block`. Raises `StrategyError` on an input of another size."""
        with self._lock:
            self._ledger.forward(block, _nbytes(x), batch)
            return self._blocks[block].forward(x, batch, block == 0)

    def loss(self, y: Tensor, batch: Batch) -> tuple[Tensor, float]:
        """The gradient of the output, weighted, and the mean loss. Raises `Diverged` if the loss is not finite."""
        self._ledger.loss(_nbytes(y), batch)
        y = y.detach().requires_grad_()
        with torch.enable_grad():
            loss = self._task.loss(y, self._task.target(batch, self._workers).to(self._device))
        value = float(loss.detach())
        if not math.isfinite(value):
            raise Diverged(
                f"diverged at step {batch.step}: on rank {self._rank} the training loss is {value}; "
                f"try a learning rate below {self._optimizer.learning_rate:g}"
            )
        (g,) = torch.autograd.grad(loss, y)
        return g if batch.weight == 1.0 else g * batch.weight, value

    def backward(self, block: int, g: Tensor, batch: Batch, part: Part) -> Tensor:
        """The gradient of the input of `block`. Raises `StrategyError` before its forward and on another size."""
        with self._lock:
            self._ledger.backward(block, _nbytes(g), batch, part)
            gx = self._blocks[block].backward(g, batch, part)
            return self._nothing if gx is None else gx

    def forget(self, batch: Batch) -> None:
        """Drop the activations saved for `batch`."""
        with self._lock:
            self._ledger.forget(batch)
            for block in self._blocks.values():
                block.saved.pop(batch, None)

    # ---- parameters and gradients

    def read(self, region: Region) -> Tensor:
        """A copy of the parameters of `region`, flat."""
        with self._lock:
            return _joined([block.flat for block in self._blocks_of(region)], self._nothing)

    def load(self, region: Region, x: Tensor) -> None:
        """Overwrite the parameters of `region`. Raises `StrategyError` on another size."""
        with self._lock:
            for block, piece in self._pieces("load", region, x):
                block.write(piece)

    def accumulated(self, region: Region) -> Tensor:
        """A copy of the gradient accumulated since `zero`, flat."""
        with self._lock:
            return _joined([block.accumulated() for block in self._blocks_of(region)], self._nothing)

    def zero(self) -> None:
        """Forget the accumulated gradient."""
        with self._lock:
            for block in self._blocks.values():
                block.gradient = None

    def update(self, region: Region, gradient: Tensor, scale: float) -> None:
        """One step of the optimizer, its rate times `scale`. Raises `StrategyError` on a gradient of another size."""
        rate, momentum = self._optimizer.learning_rate * scale, self._optimizer.momentum
        with self._lock:
            for block, piece in self._pieces("update", region, gradient):
                block.step(piece, rate, momentum)

    def _blocks_of(self, region: Region) -> list[_Block]:
        return [self._blocks[b] for b in self._ledger.blocks_of(region)]

    def _pieces(self, name: str, region: Region, x: Tensor) -> list[tuple[_Block, Tensor]]:
        """The blocks of `region`, each with its piece of `x`."""
        self._ledger.check_region(name, region, _nbytes(x))
        blocks = self._blocks_of(region)
        pieces = torch.split(x.detach().reshape(-1), [block.flat.numel() for block in blocks])
        return list(zip(blocks, pieces, strict=True))

    # ---- payloads

    def nbytes(self, x: Tensor) -> float:
        """Bytes of a payload."""
        return _nbytes(x)

    def copy(self, x: Tensor) -> Tensor:
        """A payload of equal value that shares no memory with `x`."""
        return x.detach().clone()

    def combine(self, collective: Collective, values: Sequence[Tensor]) -> list[Tensor]:
        """The results of a collective. Raises `StrategyError` on unequal sizes and on one that does not divide."""
        check_collective(collective, [_nbytes(x) for x in values], self._itemsize)
        if collective.kind == "broadcast":
            return [values[collective.root].clone() for _ in values]
        if collective.kind == "all_gather":
            return [torch.cat(list(values)) for _ in values]
        total = values[0].clone()
        for value in values[1:]:
            total += value
        if collective.op == "mean":
            total /= len(values)
        if collective.kind == "reduce_scatter":
            return [piece.clone() for piece in total.chunk(len(values))]
        return [total, *(total.clone() for _ in values[1:])]


def _nbytes(x: Tensor) -> int:
    return x.numel() * x.element_size()


def _joined(pieces: Sequence[Tensor], nothing: Tensor) -> Tensor:
    """The pieces in one new tensor."""
    return torch.cat(list(pieces) or [nothing])


@dataclass(frozen=True)
class TensorsFactory:
    """Rank -> its tensors, which start as the same weights on every rank. `Job.numerics` of cosimulated and real runs."""

    workload: Workload
    workers: int
    optimizer: SGD = field(default_factory=SGD)
    seed: int = 0
    device: str = "cpu"

    def __call__(self, rank: int) -> Numerics[Tensor]:
        return Tensors(self.workload, self.workers, self.optimizer, self.seed, self.device, rank)
