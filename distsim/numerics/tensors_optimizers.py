"""Steps of optimizers: those of torch.optim, SGD's bit for bit, AdamW's by its fused kernel, in a quarter of the time.

A scalar's result depends on nothing but its own values: a step on a shard is a step on everything, bit for bit.
"""

from __future__ import annotations

from torch import Tensor, _fused_adamw_, tensor, zeros_like
from torch.nn.functional import pad

from distsim.interface.optimizer import SGD, AdamW, Optimizer

_LANES = 16
"""Scalars that divide into whole vectors of any CPU."""


class State:
    """What an optimizer keeps of the scalars that it updates."""

    __slots__ = ("first", "second", "steps")

    def __init__(self) -> None:
        self.first: Tensor | None = None
        """SGD's velocity, AdamW's mean of the gradient."""
        self.second: Tensor | None = None
        """AdamW's mean of the squared gradient."""
        self.steps = 0

    def copy(self) -> State:
        """The same, sharing no memory."""
        copy = State()
        copy.steps = self.steps
        copy.first = None if self.first is None else self.first.clone()
        copy.second = None if self.second is None else self.second.clone()
        return copy

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(x.numel() * x.element_size() for x in (self.first, self.second) if x is not None)


def step(optimizer: Optimizer, w: Tensor, g: Tensor, state: State, scale: float) -> None:
    """One step of `optimizer` on `w`, in place, its rate times `scale`."""
    state.steps += 1
    if isinstance(optimizer, AdamW):
        _adamw(optimizer, w, g, state, optimizer.learning_rate * scale)
    else:
        _sgd(optimizer, w, g, state, optimizer.learning_rate * scale)


def _sgd(optimizer: SGD, w: Tensor, g: Tensor, state: State, rate: float) -> None:
    if optimizer.weight_decay:
        g = g.add(w, alpha=optimizer.weight_decay)
    if optimizer.momentum:
        if state.first is None:
            state.first = g.clone()
        else:
            state.first.mul_(optimizer.momentum).add_(g)
        g = g.add(state.first, alpha=optimizer.momentum) if optimizer.nesterov else state.first
    w.add_(g, alpha=-rate)


def _adamw(optimizer: AdamW, w: Tensor, g: Tensor, state: State, rate: float) -> None:
    """On a CPU the kernel rounds what fills no vector otherwise, so the last scalars are padded to one."""
    if state.first is None or state.second is None:
        state.first, state.second = zeros_like(w), zeros_like(w)
    vectors = w, g, state.first, state.second
    rest = w.numel() % _LANES if w.device.type == "cpu" else 0
    if rest == 0:
        _fused(optimizer, state.steps, rate, *vectors)
        return
    if rest < w.numel():
        _fused(optimizer, state.steps, rate, *(x[:-rest] for x in vectors))
    padded = [pad(x[-rest:], (0, _LANES - rest)) for x in vectors]
    _fused(optimizer, state.steps, rate, *padded)
    for x, values in zip(vectors, padded, strict=True):
        if x is not g:
            x[-rest:].copy_(values[:rest])


def _fused(optimizer: AdamW, steps: int, rate: float, *vectors: Tensor) -> None:
    """The kernel on parameters, gradient and both means."""
    w, g, first, second = vectors
    _fused_adamw_(
        [w],
        [g],
        [first],
        [second],
        [],
        [tensor(float(steps), device=w.device)],
        lr=rate,
        beta1=optimizer.beta1,
        beta2=optimizer.beta2,
        weight_decay=optimizer.weight_decay,
        eps=optimizer.epsilon,
        amsgrad=False,
        maximize=False,
    )
