"""A small convolutional model on random data: it has parameters of one, two and four dimensions."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional


def build(dtype: torch.dtype = torch.float64) -> tuple[nn.Sequential, tuple[Tensor, Tensor], object]:
    """Three blocks, 240 samples of 8 x 8 pixels, the cross entropy of ten classes."""
    model = nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(1, 12, 3, stride=2, dtype=dtype),
            activation=nn.ReLU(),
            flat=nn.Flatten(),
            hidden=nn.Linear(108, 24, dtype=dtype),
            tanh=nn.Tanh(),
            last=nn.Linear(24, 10, dtype=dtype),
        )
    )
    noise = torch.Generator().manual_seed(17)
    inputs = torch.randn(240, 1, 8, 8, generator=noise, dtype=dtype)
    targets = torch.randint(10, (240,), generator=noise)
    return model, (inputs, targets), functional.cross_entropy


def build_single() -> tuple[nn.Sequential, tuple[Tensor, Tensor], object]:
    """The same in single precision."""
    return build(torch.float32)
