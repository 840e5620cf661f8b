"""How much memory a rank holds: by formula where there are no values, counted where there are."""

from __future__ import annotations

from typing import NamedTuple


class Memory(NamedTuple):
    """Bytes that one rank holds, by what they are for.

    Payloads under way are not counted: a gathered block counts once it is loaded, a gradient while it accumulates.
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
