"""Initial weights: a function of the seed and the block alone, whatever torch drew before. The torch side of workloads."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def empty(layer: Callable[..., M], *arguments: Any, dtype: torch.dtype, **keywords: Any) -> M:
    """A layer with memory and no values: torch's own initialisation would draw from its global generator."""
    return layer(*arguments, device="meta", dtype=dtype, **keywords).to_empty(device="cpu")


def draws(seed: int, block: int) -> torch.Generator:
    """The source of a block's initial weights."""
    key = blake2b(repr((seed, "weights", block)).encode(), digest_size=7).digest()
    return torch.Generator().manual_seed(int.from_bytes(key, "little"))


def fill(parameter: Tensor, deviation: float, generator: torch.Generator) -> None:
    """Normal values of mean 0. Drawn in double precision, so that all dtypes start from the same model."""
    values = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * deviation
    with torch.no_grad():
        parameter.copy_(values)
