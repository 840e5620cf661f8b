"""How much memory a rank holds: by formula where there are no values, counted where there are."""

from __future__ import annotations

from typing import NamedTuple


class Memory(NamedTuple):
    """Bytes that one rank holds, by what they are for.

    Payloads are not counted: a gathered block counts once it is loaded, a gradient while it accumulates. Nor is what a
    strategy keeps between updates (residuals of error feedback, a server's copies of models that it handed out, the weights
    that DiLoCo's workers agreed on), nor PowerSGD's Q: a residual is as large as the gradient, a copy as the parameters.
    """

    parameters: float = 0.0
    gradients: float = 0.0
    optimizer: float = 0.0
    activations: float = 0.0
    """Kept between a forward pass and its backward pass."""
    versions: float = 0.0
    """Older parameters that a forward pass has used and its backward pass still needs."""

    @property
    def total(self) -> float:
        """All of it."""
        return sum(self)
