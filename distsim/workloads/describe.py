"""The description of a list of torch modules, counted by torch: shapes, FLOPs (FlopCounterMode), what autograd saves.

Blocks that count alike and print alike are of one kind. The FLOPs of the two halves of a backward pass add up to those of
the joint one; `part="weights"` of a block of several layers repeats some of the first half, which is not counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from distsim.interface.errors import BadInput, Problem
from distsim.interface.model import Block, Model
from distsim.workloads.activations import kept
from distsim.workloads.parameters import Places, ordered, places
from distsim.workloads.shards import replicated


class _Refused(Exception):
    """What is wrong with a block, and what to do about it."""

    def __init__(self, what: str, suggestion: str = "") -> None:
        super().__init__(what)
        self.what, self.suggestion = what, suggestion


def describe(blocks: Sequence[nn.Module], inputs: Tensor, batch: int, source: str = "") -> Model:
    """The description of `blocks`, which `source` names, on samples like `inputs`.

    Raises `BadInput`, naming the block, for one that cannot be run as such: several outputs, an output without one row a
    sample, state that changes as it runs, noise, no gradient, another device, mixed dtypes.
    """
    try:
        return _model(blocks, inputs, batch)
    except _Refused as error:
        raise BadInput([Problem("workload.module", source, error.what, error.suggestion)]) from error.__cause__


def _model(blocks: Sequence[nn.Module], inputs: Tensor, batch: int) -> Model:
    dtype = _dtype(blocks)
    itemsize = torch.empty(0, dtype=dtype).element_size()
    x = torch.cat([inputs] * -(-batch // len(inputs)))[:batch]
    scalars, rest = divmod(x[0].numel() * x.element_size(), itemsize)
    if rest:
        raise _Refused(f"a sample of the inputs must be whole scalars of {itemsize} bytes; pad or convert the inputs")
    described = []
    for index, block in enumerate(blocks):
        y = _run(index, block, x, dtype)
        described.append(_describe(index, block, x, itemsize))
        x = y.detach()
    return Model(tuple(described), batch, scalars, itemsize)


def named(index: int, block: nn.Module) -> str:
    """A block as its author may find it: its number and its class, or those that it was put together from."""
    parts = [type(child).__name__ for child in block] if type(block) is nn.Sequential else []
    return f"block {index} ({' + '.join(parts) or type(block).__name__})"


def _dtype(blocks: Sequence[nn.Module]) -> torch.dtype:
    """The one dtype of all parameters."""
    dtypes = {p.dtype: named(i, block) for i, block in reversed([*enumerate(blocks)]) for p in block.parameters()}
    if not any(p.requires_grad for block in blocks for p in block.parameters()):
        raise _Refused(
            f"no block has parameters to train, of {len(blocks)}",
            "assign them to self as modules or nn.Parameter; those that requires_grad is off for are frozen",
        )
    if len(dtypes) != 1 or not dtypes.keys() <= {torch.float32, torch.float64}:
        told = ", ".join(f"{dtype} in {where}" for dtype, where in sorted(dtypes.items(), key=str))
        raise _Refused(
            f"all parameters must be float32 or all float64, not {sorted(map(str, dtypes))}: {told}",
            "convert them in build()",
        )
    return next(iter(dtypes))


def _run(index: int, block: nn.Module, x: Tensor, dtype: torch.dtype) -> Tensor:
    """The output of `block`, checked."""
    name = named(index, block)
    if moved := [key for key, p in block.named_parameters() if p.device != x.device]:
        raise _Refused(
            f"{name} must be on the {x.device} when build() returns it, {moved[0]} is not", "distsim moves it to its device"
        )
    before, buffers = x.clone(), {key: buffer.clone() for key, buffer in block.named_buffers()}
    try:
        with torch.no_grad():
            y, again = block(x), block(x)
    except Exception as error:  # whatever it raises
        raise _Refused(f"{name} cannot run on an input of shape {tuple(x.shape)}: {error}") from error
    if not isinstance(y, Tensor):
        raise _Refused(
            f"{name} must return one tensor, not {type(y).__name__}", "wrap it in a module whose forward picks one of them"
        )
    if y.device != x.device:
        raise _Refused(f"{name} must not move to another device, its output is on {y.device}", "leave out .to(device)")
    if y.dim() < 1 or len(y) != len(x):
        raise _Refused(
            f"{name} must return one row a sample, of {len(x)} samples it returned shape {tuple(y.shape)}",
            "the first dimension counts the samples, in and out",
        )
    if y.dtype != dtype:
        raise _Refused(f"{name} must return {dtype} as its parameters are, not {y.dtype}")
    if not _equal(x, before):
        raise _Refused(f"{name} must not change its input", "use inplace=False")
    if changed := [key for key, buffer in block.named_buffers() if not _equal(buffer, buffers[key])]:
        raise _Refused(
            f"{name} must not change its buffers, it changes {changed[0]}",
            "use LayerNorm or GroupNorm in place of batch norm",
        )
    if not _equal(y, again):
        noisy = [f"{key or 'itself'}: {type(part).__name__}" for key, part in block.named_modules() if _is_noisy(part)]
        where = f" ({', '.join(noisy)})" if noisy else ""
        raise _Refused(
            f"{name} must give equal outputs for equal inputs{where}", "remove dropout: its noise is not yet replayed"
        )
    return y


def _equal(a: Tensor, b: Tensor) -> bool:
    """All values are; NaN is NaN."""
    return a.shape == b.shape and bool(((a == b) | ((a != a) & (b != b))).all())


def _is_noisy(part: nn.Module) -> bool:
    return "Dropout" in type(part).__name__ and bool(getattr(part, "p", 1.0))


class _Count(NamedTuple):
    """What torch counts of one block and a batch."""

    y: Tensor
    saved: int
    """Bytes."""
    forward: int
    by_input: int
    both: int


def _describe(index: int, block: nn.Module, x: Tensor, itemsize: int) -> Block:
    """Count one block. The first block's input gets no gradient."""
    counted = _count(index, block, x)
    shapes = tuple(tuple(p.shape) for p in ordered(block).values())
    samples = len(x)
    scalars = -(-counted.saved // (itemsize * samples))
    ways, held_by_all, kept_by_all = _forms(index, block, x, counted, itemsize)
    told = (
        [tuple(p.shape) for p in block.parameters() if p.requires_grad],
        tuple(x.shape[1:]),
        tuple(counted.y.shape[1:]),
        scalars,
        counted.forward / samples,  # a profile of one batch size holds for others
        counted.by_input / samples,
        counted.both / samples,
        repr(block),
        *([ways] if ways else []),
    )
    digest = blake2b(repr(told).encode(), digest_size=4).hexdigest()
    sizes = ",".join("x".join(map(str, shape[1:])) or "1" for shape in (x.shape, counted.y.shape))
    return Block(
        index=index,
        kind=f"{type(block).__name__}({sizes}) {str(counted.y.dtype).removeprefix('torch.')} #{digest}",
        parameters=sum(prod(shape) for shape in shapes),
        activation=counted.y[0].numel(),
        saved=scalars,
        flops=counted.forward / samples,
        input_flops=counted.by_input / samples,
        weight_flops=(counted.both - counted.by_input) / samples,
        ways=ways,
        replicated=held_by_all,
        replicated_saved=kept_by_all,
        shapes=shapes,
    )


def _forms(index: int, block: nn.Module, x: Tensor, whole: _Count, itemsize: int) -> tuple[int, int, int]:
    """Into how many shards `block` can be cut, and the scalars that each has of its parameters and of what it keeps.

    These are counted on as few shards as can be: n of them keep together n times what all keep, and once the rest."""
    ways: int = getattr(block, "ways", 0)
    if ways < 2:
        return ways, 0, 0
    count = next(n for n in range(2, ways + 1) if ways % n == 0)
    shards = [_count(index, block.shard(i, count), x) for i in range(count)]  # type: ignore[operator]
    total = sum((shard.y for shard in shards[1:]), shards[0].y)
    if not torch.allclose(total, whole.y, rtol=1e-3, atol=1e-3 * float(whole.y.abs().max())):
        raise _Refused(f"the outputs of the {count} shards of {named(index, block)} must add up to the block's")
    both = max(0, sum(shard.saved for shard in shards) - whole.saved) // (count - 1)
    return ways, replicated(block), -(-both // (itemsize * len(x)))


def _count(index: int, block: nn.Module, x: Tensor) -> _Count:
    """One forward and one backward pass of a block."""
    x = x.detach().clone().requires_grad_(index > 0)
    with FlopCounterMode(display=False) as forward, kept(block.parameters()) as saved:
        y = block(x)
    if not y.requires_grad and (index or len(ordered(block))):
        raise _Refused(
            f"{named(index, block)} must pass gradients on, its output has none", "leave out detach() and no_grad()"
        )
    by_input, _ = _backward(y, [x] if index else [])
    both, gradients = _backward(y, [*([x] if index else []), *ordered(block).values()])
    _check_parameters(index, block, x, gradients[index > 0 :])
    return _Count(y.detach(), saved.nbytes, int(forward.get_total_flops()), by_input, both)


def _backward(y: Tensor, inputs: Sequence[Tensor]) -> tuple[int, Sequence[Tensor | None]]:
    """FLOPs of the gradient of `y` with respect to `inputs`, and that; None for what `y` does not depend on."""
    if not inputs:
        return 0, ()
    with FlopCounterMode(display=False) as backward:
        gradients = torch.autograd.grad(y, inputs, torch.ones_like(y), retain_graph=True, allow_unused=True)
    return int(backward.get_total_flops()), gradients


def _check_parameters(index: int, block: nn.Module, x: Tensor, gradients: Sequence[Tensor | None]) -> None:
    """Training puts parameters of its own in the place of these: all uses must find them there."""
    slots = places(block)
    for name, p, gradient in zip(ordered(block), slots, gradients, strict=True):
        if gradient is not None and gradient.layout != torch.strided:
            raise _Refused(f"{named(index, block)} must have dense gradients, that of {name} is sparse", "use sparse=False")
        if p._backward_hooks or p._post_accumulate_grad_hooks:
            raise _Refused(f"{named(index, block)} has a hook on {name}, which would not run", "scale it in forward()")
    others = [nn.Parameter(p.detach().clone()) for p in slots]
    try:
        _put(slots.values(), others)
        found = _backward(block(x), others)[1] if others else ()
    finally:
        _put(slots.values(), slots)
    for name, one, other in zip(ordered(block), gradients, found, strict=True):
        if one is not None and other is None:
            raise _Refused(
                f"{named(index, block)} must find {name} where it is registered, each time it runs: it uses a copy of "
                "the reference, which training would not change",
                "in forward(), take it from self",
            )


def _put(places: Iterable[Places], parameters: Iterable[nn.Parameter]) -> None:
    for each, parameter in zip(places, parameters, strict=True):
        for owner, name in each:
            setattr(owner, name, parameter)
