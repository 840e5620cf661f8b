"""One block of torch: its module over a flat vector of parameters, its gradient, what its forward passes used.

- The parameters are one flat tensor; those of the module are views of it. So reading, loading and updating are one
  operation a block, and running the module costs what it costs without distsim.
- While a saved forward pass uses the parameters, a write goes to a copy (copy on write) and the graph keeps the old tensor.
- A released block's tensor keeps its place in the module, and in graphs that use it, but no memory; what is left of it is a
  tensor of its own. As FSDP does: the load that makes it whole again gives the graphs back what they used.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distsim.interface.optimizer import Optimizer
from distsim.numerics.tensors_graph import Apart, taken
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
        self._saved: dict[object, tuple[_Version, int]] = {}
        """By forward pass the parameters that it used, and the bytes that it keeps."""
        self._held: dict[object, _Version] = {}
        """The parameters that forward passes to come will use."""
        self._kept: dict[int, int] = {}
        """Samples -> bytes that a forward pass keeps."""
        self._gradient: list[Tensor] = []
        """What has accumulated, one a parameter: to which autograd adds."""
        self._lent: _Version | None = None
        """Whose parameters autograd has it as the gradients of."""
        self._vector: Tensor | None = None
        """The one that these are views of, once it was asked for."""
        self._states: dict[tuple[Optimizer | None, int, int], State] = {}
        self._left: tuple[int, Tensor] | None = None
        """Where what is left of a released block starts, and its scalars."""
        self._attach(torch.cat([empty, *(p.detach().reshape(-1) for p in slots)]))
        counts.parameters += self._now.flat.nbytes

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
            self._counts.versions += self._now.flat.nbytes
            self._attach(self._now.flat.clone())
        return self.part(start, stop)

    def load(self, start: int, stop: int, value: Tensor) -> None:
        """Overwrite parameters; all of them make a released block whole again."""
        flat = self._now.flat
        if self._left is None or stop - start < flat.numel():
            self.writable(start, stop).copy_(value)
            return
        self._counts.parameters += flat.nbytes - self._left[1].nbytes
        self._left = None
        flat.untyped_storage().resize_(flat.nbytes)
        flat.data.copy_(value)  # .data: graphs that use it must not take this for a change

    def release(self, start: int, stop: int) -> None:
        """Keep only the parameters from `start` to `stop`."""
        if self._left is None:
            flat = self._now.flat
            self._left = start, flat[start:stop].clone()
            flat.untyped_storage().resize_(0)
            self._counts.parameters -= flat.nbytes - self._left[1].nbytes

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
        version = self._held.pop(batch, None) if self._held else None
        if version is None:
            if batch in self._saved:
                self.forget(batch)
            version = self._now
            version.users += 1
        if version is self._now and samples in self._kept:
            y: Tensor = self._call(x)
        else:
            y = self._forward(x, samples, version)
        nbytes = self._kept[samples]
        self._saved[batch] = version, nbytes
        self._counts.activations += nbytes
        return y

    def _forward(self, x: Tensor, samples: int, version: _Version) -> Tensor:
        """The output with the parameters of `version`; what a pass of so many samples keeps is known after it."""
        self._put(version)
        try:
            if samples in self._kept:
                return self._call(x)
            with kept(self.module.parameters()) as counted:
                y: Tensor = self._call(x)
        finally:
            self._put(self._now)
        self._kept[samples] = counted.nbytes
        return y

    def parameters(self, batch: object) -> list[nn.Parameter]:
        """Those that the forward pass of `batch` used."""
        return self._saved[batch][0].parameters

    def lend(self, batch: object) -> None:
        """Let autograd add to what has accumulated, from now on."""
        version = self._saved[batch][0]
        if version is not self._lent and self._gradient:  # there is none at first
            self._take_back()
            for parameter, mine in zip(version.parameters, self._gradient, strict=True):
                parameter.grad = mine
            self._lent = version

    def _take_back(self) -> None:
        """Autograd adds to it no more."""
        if self._lent is not None:
            for parameter in self._lent.parameters:
                parameter.grad = None
            self._lent = None

    def take(self, batch: object, factor: float | None, apart: Apart) -> bool:
        """Keep what autograd has added; or, if nothing was lent, add what it gave, times `factor`. Forgets the pass.

        Whether a gradient is held that was not before, `apart` from those of other blocks.
        """
        version, nbytes = self._saved.pop(batch)
        self._counts.activations -= nbytes
        self._leave(version)
        if factor is None and self._gradient:
            return False
        found = [taken(parameter) for parameter in version.parameters]
        if factor is not None:
            found = [piece * factor for piece in found]
            for mine, piece in zip(self._gradient, found, strict=False):
                mine.add_(piece)
        if self._gradient:
            return False
        self._hold(apart(found))
        return True

    def forget(self, batch: object) -> None:
        """Drop what a forward pass saved, or what was held for it."""
        saved, version = self._saved.pop(batch, None), self._held.pop(batch, None)
        if saved is not None:
            version, nbytes = saved
            self._counts.activations -= nbytes
        if version is not None:
            self._leave(version)

    def _leave(self, version: _Version) -> None:
        """A forward pass has no more use for it."""
        version.users -= 1
        if version is not self._now and not version.users:
            self._counts.versions -= version.flat.nbytes
            if version is self._lent:  # else its parameters would stay as long as the gradient does
                self._take_back()

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
            self._counts.gradients -= self._now.flat.nbytes
            self._take_back()
            self._gradient, self._vector = [], None
        else:
            self._joined()[start:stop].zero_()

    def _hold(self, gradient: list[Tensor]) -> None:
        self._gradient = gradient
        self._counts.gradients += self._now.flat.nbytes

    def _joined(self) -> Tensor:
        """All of it as one vector."""
        if self._vector is None:
            self._take_back()
            self._vector = torch.cat([piece.reshape(-1) for piece in self._gradient])
            self._gradient = self._pieces(self._vector)
        return self._vector
