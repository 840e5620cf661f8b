"""Steps of optimizers: those of torch.optim, SGD's bit for bit, by its fused kernels: AdamW takes a quarter of the time.

A scalar's result depends on nothing but its own values: a step on a shard is a step on everything, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, _fused_adamw_, _fused_sgd_, cat, float32, full, split, zeros_like
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


def step(optimizer: Optimizer, w: Tensor, g: Sequence[Tensor], state: State, scale: float) -> None:
    """One step of `optimizer` on `w`, in place, its rate times `scale`; `g` are flat pieces, in the order of `w`."""
    state.steps += 1
    if isinstance(optimizer, AdamW):
        _adamw(optimizer, w, g, state, optimizer.learning_rate * scale)
    else:
        _sgd(optimizer, w, g, state, optimizer.learning_rate * scale)


def _sgd(optimizer: SGD, w: Tensor, g: Sequence[Tensor], state: State, rate: float) -> None:
    if not optimizer.momentum:
        for mine, piece in zip(_like(g, w), g, strict=True):
            mine.add_(piece.add(mine, alpha=optimizer.weight_decay) if optimizer.weight_decay else piece, alpha=-rate)
        return
    is_first = state.first is None
    state.first = zeros_like(w) if state.first is None else state.first

    def kernel(w: list[Tensor], g: list[Tensor], velocity: list[Tensor]) -> None:
        _fused_sgd_(
            w,
            g,
            velocity,
            weight_decay=optimizer.weight_decay,
            momentum=optimizer.momentum,
            lr=rate,
            dampening=0.0,
            nesterov=optimizer.nesterov,
            maximize=False,
            is_first_step=is_first,
        )

    _in_vectors(kernel, g, w, state.first)


def _adamw(optimizer: AdamW, w: Tensor, g: Sequence[Tensor], state: State, rate: float) -> None:
    if state.first is None or state.second is None:
        state.first, state.second = zeros_like(w), zeros_like(w)
    steps = full((), float(state.steps), device=w.device, dtype=float32)

    def kernel(w: list[Tensor], g: list[Tensor], first: list[Tensor], second: list[Tensor]) -> None:
        _fused_adamw_(
            w,
            g,
            first,
            second,
            [],
            [steps] * len(w),
            lr=rate,
            beta1=optimizer.beta1,
            beta2=optimizer.beta2,
            weight_decay=optimizer.weight_decay,
            eps=optimizer.epsilon,
            amsgrad=False,
            maximize=False,
        )

    _in_vectors(kernel, g, w, state.first, state.second)


def _in_vectors(kernel: Callable[..., None], g: Sequence[Tensor], w: Tensor, *kept: Tensor) -> None:
    """Run the kernel, which leaves `g` alone. On a CPU it rounds what fills no vector otherwise: the ends of all pieces are
    joined, and padded to whole ones."""
    columns = [_like(g, w), list(g), *(_like(g, x) for x in kept)]
    rests = [piece.numel() % _LANES if w.device.type == "cpu" else 0 for piece in g]
    if not any(rests):
        kernel(*columns)
        return
    if sum(rests) < w.numel():
        kernel(*([x[: x.numel() - rest] for x, rest in zip(column, rests, strict=True)] for column in columns))
    ends = [[x[x.numel() - rest :] for x, rest in zip(column, rests, strict=True)] for column in columns]
    joined = [pad(cat(column), (0, -sum(rests) % _LANES)) for column in ends]
    kernel(*([x] for x in joined))
    for column, values in zip((ends[0], *ends[2:]), (joined[0], *joined[2:]), strict=True):
        for x, value in zip(column, split(values[: sum(rests)], rests), strict=True):
            x.copy_(value)


def _like(g: Sequence[Tensor], x: Tensor) -> list[Tensor]:
    """`x` in pieces as those of `g`."""
    return [x] if len(g) == 1 else list(x.split_with_sizes([piece.numel() for piece in g]))
