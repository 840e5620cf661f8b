"""Numerics of tensors: autograd over a list of blocks, one or several of which run as one graph (see tensors_block.py).

- The backward pass of a block uses the weights of its forward pass, whatever was written in between.
- Sums of a collective are taken in group order; results share no memory with each other or with what went in.
- The gradient of the first block's input is not computed; it is an empty tensor. So is what `part="weights"` gives.
- Memory is counted where tensors are made and dropped; what autograd keeps, once for a block and a number of samples.
- Safe to use from several threads: an operation on one rank holds that rank's lock.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from distsim.interface.codec import Codec
from distsim.interface.errors import Diverged
from distsim.interface.fabric import Collective
from distsim.interface.memory import Memory
from distsim.interface.model import Block
from distsim.interface.numerics import Blocks, Numerics, Part, Then, nothing
from distsim.interface.optimizer import SGD, Optimizer
from distsim.interface.precision import FLOAT32, Precision
from distsim.interface.values import ALL, Batch, Region
from distsim.numerics import codecs_tensors
from distsim.numerics.checks import Ledger, check_collective
from distsim.numerics.layout import Layout, Span
from distsim.numerics.tensors_block import Counts, TensorBlock
from distsim.numerics.tensors_graph import Apart, Graph, gradient
from distsim.numerics.tensors_precision import LossScale, Piece, cast, lower_type
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


class Tensors:
    """The tensors of one rank. Implements `Numerics[torch.Tensor]`."""

    has_values = True

    def __init__(
        self,
        workload: Workload,
        workers: int,
        optimizer: Optimizer,
        seed: int,
        device: str,
        rank: int,
        precision: Precision = FLOAT32,
    ) -> None:
        model = workload.model()
        self._ledger = Ledger(model, workers, precision)
        self._itemsize = model.itemsize
        self._workers = workers
        self._optimizer = optimizer
        self._rank = rank
        self._task = workload.task(seed)
        dtype = torch.float64 if model.itemsize == 8 else torch.float32
        self._nothing = torch.empty(0, device=torch.device(device), dtype=dtype)
        self._device = self._nothing.device
        self._low = lower_type(precision)
        self._loss = cast(self._task.loss, self._device.type, self._low)
        self._scale = LossScale(precision) if precision.is_scaled else None
        self._lock = threading.RLock()
        self._cut = (0, 1)
        """Which tensor shard of its blocks is here."""
        self._saved: tuple[Any, ...] | None = None
        """What is to be gone on from."""
        self._start(dict(enumerate(self._task.blocks)))

    def _start(self, modules: dict[int, nn.Module]) -> None:
        self._modules = modules
        self._counts = Counts()
        self._blocks = {b: TensorBlock(module, self._nothing, self._counts, self._low) for b, module in modules.items()}
        self._graphs: dict[tuple[Blocks, Batch], Graph] = {}
        """Of forward passes that await their backward pass."""
        self._shards: dict[Region, Tensor] = {}
        """What has accumulated for shards."""
        self._codecs: dict[tuple[Codec, Region], dict[str, Any]] = {}
        """What codecs keep."""

    def place(self, blocks: Sequence[int], shard: tuple[int, int]) -> None:
        """Keep only `blocks` (ascending), or a tensor shard of each that can be cut."""
        with self._lock:
            self._ledger.place(blocks, shard)
            self._start({b: self._shard(b, *shard) for b in blocks})
            self._cut = shard
            self._take_over()

    def _shard(self, block: int, index: int, count: int) -> nn.Module:
        module = self._modules[block]
        if count == 1 or not self._ledger.blocks[block].ways:
            return module
        shard: nn.Module = module.shard(index, count)  # type: ignore[operator]  # see distsim.workloads.parameters
        return shard

    # ---- running

    def input(self, batch: Batch) -> Tensor:
        """The samples of `batch`."""
        return self._task.input(batch, self._workers).to(self._device, non_blocking=True)

    def hold(self, batch: Batch) -> None:
        """The forward passes of `batch` use the parameters of now."""
        with self._lock:
            for block in self._blocks.values():
                block.hold(batch)

    def forward(self, blocks: Blocks, x: Tensor, batch: Batch, then: Then = nothing) -> Tensor:
        """The output of `blocks`. Raises `StrategyError` on an input of another size."""
        with self._lock, torch.enable_grad():
            ledger = self._ledger
            samples, inputs = ledger.forward(blocks, batch), ledger.inputs
            x = x.detach() if blocks[0] == 0 else x.detach().requires_grad_()  # the first may be whole numbers
            y = x
            for block in blocks:
                if y.nbytes != inputs[block] * samples:
                    ledger.check_input(block, y.nbytes, batch)
                y = self._blocks[block].forward(y, batch, samples)
            then()
            self._graphs[blocks, batch] = Graph(x, y)
            return y.detach().contiguous()

    def loss(self, y: Tensor, batch: Batch) -> tuple[Tensor, float]:
        """The gradient of the output, weighted, and the mean loss. Raises `Diverged` if the loss is not finite."""
        self._ledger.loss(y.nbytes, batch)
        y = y.detach().requires_grad_()
        loss, value = self._loss_of(y, batch)
        if self._scale is None:
            return gradient(loss, y, batch.weight), value
        return self._scale.scale(gradient(loss, y), batch) * batch.weight, value

    def _loss_of(self, y: Tensor, batch: Batch) -> tuple[Tensor, float]:
        """The mean loss, as autograd goes on with it, and as a number. Raises `Diverged` if it is not finite."""
        with torch.enable_grad():
            loss = self._loss(y, self._task.target(batch, self._workers).to(self._device, non_blocking=True))
        value = loss.item()
        if not math.isfinite(value):
            raise Diverged(
                f"diverged at step {batch.step}: on rank {self._rank} the training loss is {value}; "
                f"try a learning rate below {self._optimizer.learning_rate:g}"
            )
        return loss, value

    def backward(self, blocks: Blocks, g: Tensor, batch: Batch, part: Part, then: Then = nothing) -> Tensor:
        """The gradient of the input of `blocks`. Raises `StrategyError` before their forward and on another size."""
        with self._lock:
            self._ledger.backward(blocks, g.nbytes, batch, part)
            graph = self._graphs[blocks, batch]
            if part == "input":
                graph.g = g
                return graph.of_input() if graph.x.requires_grad else self._nothing
            return self._backward(blocks, graph, g, batch, part, then)

    def backward_of_loss(self, blocks: Blocks, y: Tensor, batch: Batch, then: Then = nothing) -> tuple[Tensor, float]:
        """The gradient of the input of `blocks`, which gave `y`, and the mean loss. Raises as `loss` and `backward`."""
        with self._lock:
            graph = self._graphs.get((blocks, batch))
            if graph is None or not graph.gave(y) or self._scale is not None:  # which scales what the loss gives
                g, value = self.loss(y, batch)
                return self.backward(blocks, g, batch, "both", then), value
            self._ledger.loss(y.nbytes, batch)
            self._ledger.backward(blocks, y.nbytes, batch, "both")
            graph.y, value = self._loss_of(graph.y, batch)
            g = torch.full_like(graph.y, batch.weight)
            return self._backward(blocks, graph, g, batch, "both", then), value

    def _backward(self, blocks: Blocks, graph: Graph, g: Tensor, batch: Batch, part: Part, then: Then) -> Tensor:
        del self._graphs[blocks, batch]
        modules = [self._blocks[block] for block in blocks]
        factor = None if self._scale is None else self._scale.inverse(batch, blocks[0] == 0)
        if factor is None:
            for module in modules:
                module.lend(batch)
        if part == "both":
            gx = graph.backward(g)
        else:
            graph.of_weights([parameter for module in modules for parameter in module.parameters(batch)])
            gx = None
        apart = Apart(g, graph.g, gx)
        self._ledger.end(blocks, batch)
        for module in reversed(modules):
            if module.take(batch, factor, apart):
                then()
        return self._nothing if gx is None else gx

    def forget(self, batch: Batch) -> None:
        """Drop the activations saved for `batch`."""
        with self._lock:
            self._ledger.forget(batch)
            if self._scale is not None:
                self._scale.forget(batch)
            for block in self._blocks.values():
                block.forget(batch)
            for key in [key for key in self._graphs if key[1] == batch]:
                del self._graphs[key]

    # ---- parameters

    def read(self, region: Region) -> Tensor:
        """A copy of the parameters of `region`, flat. Raises `StrategyError` where only a shard is here."""
        with self._lock:
            layout = self._ledger.read(region)
            return self._joined(layout, [self._blocks[b].part(start, stop) for b, start, stop in layout.spans])

    def load(self, region: Region, x: Tensor) -> None:
        """Overwrite the parameters of `region`. Raises `StrategyError` on another size."""
        with self._lock:
            layout = self._ledger.load(region, x.nbytes)
            for (b, start, stop), piece in _pieces(layout, x):
                self._blocks[b].load(start, stop, piece)

    def release(self, region: Region) -> None:
        """Keep only the shard that `region` names. Raises `StrategyError` if it names none, or another than before."""
        with self._lock:
            layout = self._ledger.release(region)
            here = {span.block: (span.start, span.stop) for span in layout.spans}
            for b in layout.blocks:
                self._blocks[b].release(*here.get(b, (0, 0)))

    def update(self, region: Region, gradient: Tensor | None, optimizer: Optimizer | None, scale: float) -> None:
        """One step of the optimizer, its rate times `scale`. Raises `StrategyError` on a gradient of another size."""
        chosen = self._optimizer if optimizer is None else optimizer
        with self._lock:
            layout = self._ledger.update(region, None if gradient is None else gradient.nbytes)
            if self._scale is None or optimizer is not None:  # what another optimizer takes was never scaled
                given = self._shards.get(layout.region) if gradient is None else gradient
                self._step(layout, given, optimizer, chosen, scale)
                return
            given = self.accumulated(region) if gradient is None else gradient
            for waited in self._scale.take(Piece(layout, given, scale, given._version), self._ledger.placed):
                self._step(waited.layout, waited.gradient, optimizer, chosen, waited.rate)

    def _step(
        self, layout: Layout, gradient: Tensor | None, key: Optimizer | None, optimizer: Optimizer, scale: float
    ) -> None:
        """By what has accumulated of whole blocks, unless a gradient is given."""
        pieces = ((span, None) for span in layout.spans) if gradient is None else _pieces(layout, gradient)
        for (b, start, stop), piece in pieces:
            self._blocks[b].step(start, stop, piece, key, optimizer, scale)

    # ---- gradients

    def accumulated(self, region: Region, scale: float = 1.0) -> Tensor:
        """A copy of what has accumulated for `region`, times `scale`, flat."""
        with self._lock:
            layout = self._ledger.layout(region)
            if (shard := self._shards.get(layout.region)) is not None:
                return shard.clone() if scale == 1.0 else shard * scale
            parts = (self._blocks[b].gradient(start, stop) for b, start, stop in layout.spans)
            found = self._joined(layout, list(chain.from_iterable(parts)), scale)
            if self._scale is not None:
                self._scale.read(found)
            return found

    def accumulate(self, region: Region, g: Tensor) -> None:
        """Add to the gradient of `region`. Raises `StrategyError` on another size."""
        with self._lock:
            layout = self._ledger.fitting("accumulate", region, g.nbytes)
            if region.shard is None:
                for (b, start, stop), piece in _pieces(layout, g):
                    self._blocks[b].accumulate(start, stop, piece)
            elif (shard := self._shards.get(layout.region)) is not None:
                shard.add_(g.detach().reshape(-1))
            else:
                self._shards[layout.region] = g.detach().reshape(-1).clone()
                self._counts.gradients += g.nbytes

    def zero(self, region: Region | None) -> None:
        """Forget the gradient of `region`; None: everything."""
        with self._lock:
            layout = self._ledger.layout(ALL if region is None else region)
            if self._scale is not None:
                self._scale.begin()
            for shard in list(self._shards) if region is None else [layout.region]:
                if shard in self._shards:
                    self._counts.gradients -= self._shards.pop(shard).nbytes
            if layout.region.shard is None:
                for b, start, stop in layout.spans:
                    self._blocks[b].zero(start, stop)

    # ---- payloads

    def nbytes(self, x: Tensor) -> float:
        """Bytes of a payload."""
        return x.nbytes

    def copy(self, x: Tensor) -> Tensor:
        """A payload of equal value that shares no memory with `x`."""
        return x.detach().clone()

    def cut(self, x: Tensor, pieces: int) -> list[Tensor]:
        """Equal pieces, the last padded with zeros; they may share memory with `x`."""
        x = x.reshape(-1)
        size = -(-x.numel() // pieces)
        if padding := size * pieces - x.numel():
            x = torch.cat([x, x.new_zeros(padding)])
        return list(torch.split(x, size)) if size else [x] * pieces

    def combine(self, collective: Collective, values: Sequence[Tensor]) -> list[Tensor]:
        """The results of a collective. Raises `StrategyError` on unequal sizes and on one that does not divide."""
        check_collective(collective, [x.nbytes for x in values], self._itemsize)
        if collective.kind == "broadcast":
            return [values[collective.root].clone() for _ in values]
        if collective.kind == "all_gather":
            return [torch.cat([value if value.dim() else value[None] for value in values]) for _ in values]
        if collective.kind == "all_to_all":
            parts = [value.reshape(len(values), -1) for value in values]
            return [torch.cat([part[i] for part in parts]) for i in range(len(values))]
        total = values[0] if collective.in_place else values[0].clone()
        for value in values[1:]:
            total += value
        if collective.op == "mean":
            total /= len(values)
        if collective.kind == "reduce_scatter":
            return [piece.clone() for piece in shares(total, len(values))]
        if collective.kind == "reduce":
            return [total if i == collective.root else total.new_empty(0) for i in range(len(values))]
        if collective.in_place:
            return [total, *(value.copy_(total) for value in values[1:])]
        return [total, *(total.clone() for _ in values[1:])]

    def encode(self, codec: Codec, x: Tensor, region: Region, received: Sequence[Tensor]) -> Tensor:
        """What `x` sends in the next round. Raises `StrategyError` on another size."""
        with self._lock:
            layout = self._ledger.fitting("encode", region, x.nbytes)
            state = self._codecs.setdefault((codec, layout.region), {})
            return codecs_tensors.encode(codec, x.detach().reshape(-1), self._described(layout), received, state)

    def decode(self, codec: Codec, region: Region, received: Sequence[Tensor], codes: int) -> Tensor:
        """The gradient of `region` that the results stand for."""
        with self._lock:
            layout = self._ledger.layout(region)
            state = self._codecs.setdefault((codec, layout.region), {})
            blocks, dtype = self._described(layout), self._nothing.dtype
            return codecs_tensors.decode(codec, layout.size, blocks, received, codes, state, dtype)

    # ---- checkpoints

    def save(self) -> tuple[Any, ...]:
        """A copy of every block's parameters and of its optimizers' state."""
        with self._lock:
            scale = None if self._scale is None else self._scale.save()
            return self._ledger.placed, self._cut, {b: block.save() for b, block in self._blocks.items()}, scale

    def restore(self, saved: tuple[Any, ...]) -> None:
        """Go on from there, at once or once the same blocks are placed."""
        with self._lock:
            self._saved = saved
            self._take_over()

    def _take_over(self) -> None:
        if self._saved is not None and self._saved[:2] == (self._ledger.placed, self._cut):
            for b, kept in self._saved[2].items():
                self._blocks[b].restore(kept)
            if self._scale is not None:
                self._scale.restore(self._saved[3])

    # ---- memory

    def memory(self) -> Memory:
        """What this rank holds, counted."""
        held = self._counts
        return Memory(held.parameters, held.gradients, held.optimizer, held.activations, held.versions)

    def _described(self, layout: Layout) -> list[Block]:
        return [self._ledger.blocks[b] for b in layout.blocks]

    def _joined(self, layout: Layout, parts: list[Tensor], scale: float = 1.0) -> Tensor:
        """The parts times `scale` in one new tensor, padded."""
        padding = layout.size - layout.scalars
        if scale == 1.0:
            return torch.cat([*parts, self._nothing.new_zeros(padding)] if padding or not parts else parts)
        joined = self._nothing.new_empty(layout.size)
        *pieces, rest = torch.split(joined, [*(part.numel() for part in parts), padding])
        for piece, part in zip(pieces, parts, strict=True):
            torch.mul(part, scale, out=piece)
        rest.zero_()
        return joined


def shares(x: Tensor, count: int) -> tuple[Tensor, ...]:
    """Equal parts of a payload: its rows, if they divide, else its scalars, flat; they share its memory."""
    return (x if x.dim() and len(x) % count == 0 else x.reshape(-1)).chunk(count)


def _pieces(layout: Layout, x: Tensor) -> Iterable[tuple[Span, Tensor]]:
    """The spans of `layout`, each with its piece of `x`."""
    x = x.detach().reshape(-1)
    if len(layout.spans) == 1:
        return [(layout.spans[0], x[: layout.scalars])]
    sizes = [span.stop - span.start for span in layout.spans]
    return zip(layout.spans, torch.split(x[: layout.scalars], sizes) if sizes else (), strict=True)


@dataclass(frozen=True)
class TensorsFactory:
    """Rank -> its tensors, which start as the same weights on every rank. `Job.numerics` of cosimulated and real runs."""

    workload: Workload
    workers: int
    optimizer: Optimizer = field(default_factory=SGD)
    seed: int = 0
    device: str = "cpu"
    precision: Precision = FLOAT32

    def __call__(self, rank: int) -> Numerics[Tensor]:
        return Tensors(self.workload, self.workers, self.optimizer, self.seed, self.device, rank, self.precision)
