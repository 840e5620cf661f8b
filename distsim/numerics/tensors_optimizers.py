"""Steps of optimizers: the operations of torch.optim, in their order, so that results are equal bit for bit."""

from __future__ import annotations

from torch import Tensor, zeros_like

from distsim.interface.optimizer import SGD, AdamW, Optimizer


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
    if state.first is None or state.second is None:
        state.first, state.second = zeros_like(w), zeros_like(w)
    if optimizer.weight_decay:
        w.mul_(1 - rate * optimizer.weight_decay)
    state.first.lerp_(g, 1 - optimizer.beta1)
    state.second.mul_(optimizer.beta2).addcmul_(g, g, value=1 - optimizer.beta2)
    first = 1 - optimizer.beta1**state.steps
    second: float = (1 - optimizer.beta2**state.steps) ** 0.5
    w.addcdiv_(state.first, (state.second.sqrt() / second).add_(optimizer.epsilon), value=-(rate / first))
