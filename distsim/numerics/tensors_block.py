"""One block of torch: its module over a flat vector of parameters, its gradient, what its forward passes used.

- The parameters are one flat tensor; those of the module are views of it. So reading, loading and updating are one
  operation a block, and running the module costs what it costs without distsim.
- While a saved forward pass uses the parameters, a write goes to a copy (copy on write) and the graph keeps the old tensor.
- A released block's tensor keeps its place in the module, and in graphs that use it, but no memory; what is left of it is a
  tensor of its own. As FSDP does: the load that makes it whole again gives the graphs back what they used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from distsim.interface.optimizer import Optimizer
from distsim.numerics.tensors_graph import apart, taken
from distsim.numerics.tensors_optimizers import State, step
from distsim.numerics.tensors_precision import cast
from distsim.workloads.activations import kept
from distsim.workloads.parameters import places


@dataclass(slots=True)
class Counts:
    """Bytes of the tensors that a rank holds, by what they are for."""

    parameters: int = 0
    gradients: int = 0
    optimizer: int = 0
    activations: int = 0
    versions: int = 0


@dataclass(slots=True, eq=False)
class _Version:
    """The parameters between two writes."""

    flat: Tensor
    parameters: list[nn.Parameter]
    users: int = 0
    """Saved forward passes that used them."""


class _Saved(NamedTuple):
    """One forward pass: the parameters that it used, and what it keeps."""

    version: _Version
    nbytes: int


class TensorBlock:
    """One block on one rank; `counts` is the rank's."""

    def __init__(self, module: nn.Module, empty: Tensor, counts: Counts, low: torch.dtype | None = None) -> None:
        self.module = module.to(empty.device)
        self._call = cast(self.module, empty.device.type, low)
        slots = places(module)
        self._slots = [(parameter.shape, where) for parameter, where in slots.items()]
        """By parameter, in the order of the flat vector, its shape and where the module has it."""
        self._sizes = [parameter.numel() for parameter in slots]
        self._counts = counts
        self._saved: dict[object, _Saved] = {}
        self._held: dict[object, _Version] = {}
        """The parameters that forward passes to come will use."""
        self._kept: dict[int, int] = {}
        """Samples -> bytes that a forward pass keeps."""
        self._gradient: list[Tensor] = []
        """What has accumulated, one a parameter: to which autograd adds."""
        self._vector: Tensor | None = None
        """The one that these are views of, once it was asked for."""
        self._states: dict[tuple[Optimizer | None, int, int], State] = {}
        self._left: tuple[int, Tensor] | None = None
        """Where what is left of a released block starts, and its scalars."""
        self._attach(torch.cat([empty, *(p.detach().reshape(-1) for p in slots)]))
        counts.parameters += nbytes(self._now.flat)

    def _attach(self, flat: Tensor) -> None:
        """Make `flat` the parameters: the module's become views of it, new ones, as graphs may hold the old."""
        self._now = _Version(flat, [nn.Parameter(piece) for piece in self._pieces(flat)])
        self._put(self._now)

    def _pieces(self, flat: Tensor) -> list[Tensor]:
        """The views of a flat vector that are the parameters."""
        pieces = torch.split(flat, self._sizes) if self._sizes else ()
        return [piece.view(shape) for piece, (shape, _) in zip(pieces, self._slots, strict=True)]

    def _put(self, version: _Version) -> None:
        """Make these the module's parameters."""
        for parameter, (_, where) in zip(version.parameters, self._slots, strict=True):
            for owner, name in where:
                setattr(owner, name, parameter)

    # ---- parameters

    def part(self, start: int, stop: int) -> Tensor:
        """The parameters from `start` to `stop`; not a copy."""
        if self._left is not None:
            first, left = self._left
            return left[start - first : stop - first]
        flat = self._now.flat
        return flat if stop - start == flat.numel() else flat[start:stop]

    def writable(self, start: int, stop: int) -> Tensor:
        """The same, to be written to: a copy if a saved forward pass needs the parameters as they are."""
        if self._now.users:
            self._counts.versions += nbytes(self._now.flat)
            self._attach(self._now.flat.clone())
        return self.part(start, stop)

    def load(self, start: int, stop: int, value: Tensor) -> None:
        """Overwrite parameters; all of them make a released block whole again."""
        flat = self._now.flat
        if self._left is None or stop - start < flat.numel():
            self.writable(start, stop).copy_(value)
            return
        self._counts.parameters += nbytes(flat) - nbytes(self._left[1])
        self._left = None
        flat.untyped_storage().resize_(nbytes(flat))
        flat.data.copy_(value)  # .data: graphs that use it must not take this for a change

    def release(self, start: int, stop: int) -> None:
        """Keep only the parameters from `start` to `stop`."""
        if self._left is None:
            flat = self._now.flat
            self._left = start, flat[start:stop].clone()
            flat.untyped_storage().resize_(0)
            self._counts.parameters -= nbytes(flat) - nbytes(self._left[1])

    def step(
        self, start: int, stop: int, g: Tensor | None, key: Optimizer | None, optimizer: Optimizer, scale: float
    ) -> None:
        """One step of `optimizer` from `start` to `stop`, by what has accumulated unless `g` is given; its state is kept
        under `key` and these."""
        w = self.writable(start, stop)
        state = self._states.get((key, start, stop))
        is_new = state is None
        if state is None:
            state = self._states[key, start, stop] = State()
        step(optimizer, w, self.gradient(start, stop) if g is None else [g], state, scale)
        if is_new:
            self._counts.optimizer += state.nbytes

    # ---- checkpoints

    def save(self) -> tuple[int, Tensor, dict[tuple[Optimizer | None, int, int], State]]:
        """A copy of the parameters that are here, where they start, and of the optimizers' state."""
        start, here = (0, self._now.flat) if self._left is None else self._left
        return start, here.clone(), {key: state.copy() for key, state in self._states.items()}

    def restore(self, saved: tuple[int, Tensor, dict[tuple[Optimizer | None, int, int], State]]) -> None:
        """Take what `save` gave into a whole block that has not run."""
        start, here, states = saved
        self._now.flat[start : start + here.numel()].copy_(here)
        self._states = {key: state.copy() for key, state in states.items()}
        self._counts.optimizer += sum(state.nbytes for state in states.values())

    # ---- running

    def hold(self, batch: object) -> None:
        """The forward pass of `batch` will use the parameters of now."""
        self.forget(batch)
        self._now.users += 1
        self._held[batch] = self._now

    def forward(self, x: Tensor, batch: object, samples: int) -> Tensor:
        """The output, as autograd goes on with it."""
        version = self._held.pop(batch, None)
        if version is None:
            if batch in self._saved:
                self.forget(batch)
            version = self._now
            version.users += 1
        if version is self._now:
            return self._forward(x, batch, samples, version)
        self._put(version)
        try:
            return self._forward(x, batch, samples, version)
        finally:
            self._put(self._now)

    def _forward(self, x: Tensor, batch: object, samples: int, version: _Version) -> Tensor:
        """The output with the parameters of `version`, which are the module's now."""
        if samples in self._kept:
            y: Tensor = self._call(x)
        else:
            with kept(self.module.parameters()) as counted:
                y = self._call(x)
            self._kept[samples] = counted.nbytes
        self._saved[batch] = _Saved(version, self._kept[samples])
        self._counts.activations += self._kept[samples]
        return y

    def parameters(self, batch: object) -> list[nn.Parameter]:
        """Those that the forward pass of `batch` used."""
        return self._saved[batch].version.parameters

    def lend(self, batch: object) -> None:
        """Let autograd add to what has accumulated."""
        if self._gradient:  # there is none at first
            for parameter, mine in zip(self._saved[batch].version.parameters, self._gradient, strict=True):
                parameter.grad = mine

    def take(self, batch: object, factor: float | None, used: set[int]) -> None:
        """Keep what autograd has added; or, if nothing was lent, add what it gave, times `factor`. Forgets the pass.

        `used` are the storages that others' gradients lie in.
        """
        parameters = self._saved[batch].version.parameters
        self.forget(batch)
        if factor is None and self._gradient:
            for parameter in parameters:
                parameter.grad = None
            return
        found = [taken(parameter) for parameter in parameters]
        if factor is not None:
            found = [piece * factor for piece in found]
            for mine, piece in zip(self._gradient, found, strict=False):
                mine.add_(piece)
        if not self._gradient:
            self._hold(apart(found, used))

    def forget(self, batch: object) -> None:
        """Drop what a forward pass saved, or what was held for it."""
        saved, version = self._saved.pop(batch, None), self._held.pop(batch, None)
        if saved is not None:
            self._counts.activations -= saved.nbytes
            version = saved.version
        if version is None:
            return
        version.users -= 1
        if version is not self._now and not version.users:
            self._counts.versions -= nbytes(version.flat)

    # ---- gradient

    def gradient(self, start: int, stop: int) -> list[Tensor]:
        """What has accumulated from `start` to `stop`, in flat pieces; not a copy."""
        if not self._gradient:
            return [self._now.flat.new_zeros(stop - start)]
        if self._vector is None and stop - start == self._now.flat.numel():
            return [piece.reshape(-1) for piece in self._gradient]
        return [self._joined()[start:stop]]

    def accumulate(self, start: int, stop: int, g: Tensor) -> None:
        """Add to it."""
        if not self._gradient and stop - start == self._now.flat.numel():
            self._hold(self._pieces(g.clone()))
        elif start < stop:
            if not self._gradient:
                self._hold(self._pieces(torch.zeros_like(self._now.flat)))
            self._joined()[start:stop].add_(g)

    def zero(self, start: int, stop: int) -> None:
        """Forget it; all of it is freed."""
        if not self._gradient:
            return
        if stop - start == self._now.flat.numel():
            self._counts.gradients -= nbytes(self._now.flat)
            self._gradient, self._vector = [], None
        else:
            self._joined()[start:stop].zero_()

    def _hold(self, gradient: list[Tensor]) -> None:
        self._gradient = gradient
        self._counts.gradients += nbytes(self._now.flat)

    def _joined(self) -> Tensor:
        """All of it as one vector."""
        if self._vector is None:
            self._vector = torch.cat([piece.reshape(-1) for piece in self._gradient])
            self._gradient = self._pieces(self._vector)
        return self._vector


def nbytes(x: Tensor) -> int:
    """Bytes of a tensor's values."""
    return x.nbytes
