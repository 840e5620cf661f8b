"""Graphs of autograd: what it keeps of a forward pass of blocks that ran as one, and what it gives for it.

Its engine is called as `torch.autograd.grad` and `backward` call it, once they have asked a dozen questions whose answers
are known here: those take as long as the engine does for a small loss.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import _engine_run_backward


def gradient(loss: Tensor, y: Tensor, weight: float = 1.0) -> Tensor:
    """The gradient of `y`, of `weight` times a loss that was taken of it."""
    given = torch.full_like(loss, weight)
    (g,) = _engine_run_backward((loss,), (given,), False, False, (y,), False, accumulate_grad=False)
    return g


@dataclass(slots=True)
class Graph:
    """What autograd keeps of a forward pass of blocks that ran as one."""

    x: Tensor
    y: Tensor
    g: Tensor | None = None
    """The output's gradient, kept from `of_input` for `of_weights`."""

    def gave(self, y: Tensor) -> bool:
        """Whether `y` is its output, with which autograd can go on here."""
        return self.y.requires_grad and y.data_ptr() == self.y.data_ptr() and y.shape == self.y.shape

    def backward(self, g: Tensor) -> Tensor | None:
        """Have autograd add to the gradients of parameters; the input's, if it has one."""
        if self.y.requires_grad or self.x.requires_grad:
            _engine_run_backward((self.y,), (g,), False, False, (), True, accumulate_grad=True)
        return taken(self.x).contiguous() if self.x.requires_grad else None

    def of_input(self) -> Tensor:
        """The gradient of the input alone; the graph is kept for that of the parameters."""
        (gx,) = torch.autograd.grad(self.y, self.x, self.g, retain_graph=True, materialize_grads=True)
        return gx.contiguous()

    def of_weights(self, parameters: list[nn.Parameter]) -> None:
        """Have autograd add to the gradients of parameters alone."""
        if parameters:
            torch.autograd.backward(self.y, self.g, inputs=parameters)


class Apart:
    """Gradients that can be added to: autograd may give views of one tensor to several, or of what it was given."""

    def __init__(self, *given: Tensor | None) -> None:
        self._given = given
        self._used: set[int] | None = None

    def __call__(self, gradients: list[Tensor]) -> list[Tensor]:
        """Each as a tensor that shares no memory with those before it, nor with what was given."""
        if self._used is None:
            self._used = {_storage(x) for x in self._given if x is not None}
        found = []
        for x in gradients:
            memory = _storage(x)
            found.append(x.clone() if memory in self._used else x)
            self._used.add(memory)
        return found


def taken(x: Tensor) -> Tensor:
    """The gradient that autograd has put there."""
    g, x.grad = x.grad, None
    return torch.zeros_like(x) if g is None else g


def _storage(x: Tensor) -> int:
    """Where its memory is."""
    return x.untyped_storage().data_ptr()
