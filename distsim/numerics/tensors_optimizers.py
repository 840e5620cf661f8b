"""Steps of optimizers: those of torch.optim, SGD's bit for bit, by its fused kernels: AdamW takes a quarter of the time.

A scalar's result depends on nothing but its own values: a step on a shard is a step on everything, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, _fused_adamw_, _fused_sgd_, float32, full, zeros_like
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
    if not optimizer.momentum:
        w.add_(g.add(w, alpha=optimizer.weight_decay) if optimizer.weight_decay else g, alpha=-rate)
        return
    is_first = state.first is None
    state.first = zeros_like(w) if state.first is None else state.first

    def kernel(w: Tensor, g: Tensor, velocity: Tensor) -> None:
        _fused_sgd_(
            [w],
            [g],
            [velocity],
            weight_decay=optimizer.weight_decay,
            momentum=optimizer.momentum,
            lr=rate,
            dampening=0.0,
            nesterov=optimizer.nesterov,
            maximize=False,
            is_first_step=is_first,
        )

    _in_vectors(kernel, w, g, state.first)


def _adamw(optimizer: AdamW, w: Tensor, g: Tensor, state: State, rate: float) -> None:
    if state.first is None or state.second is None:
        state.first, state.second = zeros_like(w), zeros_like(w)

    def kernel(w: Tensor, g: Tensor, first: Tensor, second: Tensor) -> None:
        _fused_adamw_(
            [w],
            [g],
            [first],
            [second],
            [],
            [full((), float(state.steps), device=w.device, dtype=float32)],
            lr=rate,
            beta1=optimizer.beta1,
            beta2=optimizer.beta2,
            weight_decay=optimizer.weight_decay,
            eps=optimizer.epsilon,
            amsgrad=False,
            maximize=False,
        )

    _in_vectors(kernel, w, g, state.first, state.second)


def _in_vectors(kernel: Callable[..., None], w: Tensor, g: Tensor, *kept: Tensor) -> None:
    """Run the kernel, which leaves `g` alone. On a CPU it rounds what fills no vector otherwise: that is padded to one."""
    rest = w.numel() % _LANES if w.device.type == "cpu" else 0
    if rest == 0:
        kernel(w, g, *kept)
        return
    if rest < w.numel():
        kernel(*(x[:-rest] for x in (w, g, *kept)))
    padded = [pad(x[-rest:], (0, _LANES - rest)) for x in (w, g, *kept)]
    kernel(*padded)
    for x, values in zip((w, *kept), (padded[0], *padded[2:]), strict=True):
        x[-rest:].copy_(values[:rest])
