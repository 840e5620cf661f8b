"""Graphs of autograd: what it keeps of a forward pass of blocks that ran as one, and what it gives for it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distsim.interface.numerics import Part


@dataclass(slots=True)
class Graph:
    """What autograd keeps of a forward pass of blocks that ran as one."""

    x: Tensor
    y: Tensor
    g: Tensor | None = None
    """The output's gradient, kept from `part="input"` for `part="weights"`."""

    def of_input(self, retain: bool) -> Tensor:
        """The gradient of the input alone; the graph is kept for that of the parameters if there are any."""
        (gx,) = torch.autograd.grad(self.y, self.x, self.g, retain_graph=retain, materialize_grads=True)
        return gx.contiguous()

    def backward(self, g: Tensor, parameters: list[nn.Parameter], part: Part) -> Tensor | None:
        """Have autograd add to the gradients of parameters; the input's, if it has one that was not given before."""
        has_gradient = self.x.requires_grad and part != "weights"
        if parameters or has_gradient:
            inputs = None if part == "both" else parameters
            torch.autograd.backward(self.y, g if self.g is None else self.g, inputs=inputs)
        return taken(self.x).contiguous() if has_gradient else None


def apart(gradients: list[Tensor], used: set[int]) -> list[Tensor]:
    """Gradients that can be added to: autograd may give views of one tensor to several, or of what it was given."""
    found = []
    for x in gradients:
        memory = storage(x)
        found.append(x.clone() if memory in used else x)
        used.add(memory)
    return found


def taken(x: Tensor) -> Tensor:
    """The gradient that autograd has put there."""
    g, x.grad = x.grad, None
    return torch.zeros_like(x) if g is None else g


def storage(x: Tensor) -> int:
    """Where its memory is."""
    return x.untyped_storage().data_ptr()
