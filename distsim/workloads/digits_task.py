"""The torch side of `digits_mlp`: see distsim.workloads.digits_mlp for what its blocks are."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b

import torch
from torch import Tensor, nn
from torch.nn import functional

from distsim.workloads import digits
from distsim.workloads.digits_mlp import DigitsMLP
from distsim.workloads.task import Data, Task


class Residual(nn.Module):
    """x + scale (W relu(x) + b)."""

    def __init__(self, width: int, scale: float, dtype: torch.dtype) -> None:
        super().__init__()
        self.scale = scale
        self.linear = _empty_linear(width, width, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (samples, width), in and out."""
        return torch.add(x, self.linear(torch.relu(x)), alpha=self.scale)


def digits_task(workload: DigitsMLP, seed: int) -> Task:
    """The blocks of `workload`, initialised from (seed, block), with the digits."""
    dtype: torch.dtype = getattr(torch, workload.dtype)
    width, depth = workload.width, workload.depth
    first = _empty_linear(digits.PIXELS, width, dtype)
    hidden = [Residual(width, (8 / depth) ** 0.5, dtype) for _ in range(depth - 2)]
    last = _empty_linear(width, digits.CLASSES, dtype)
    # With these deviations and scales the same learning rates train 4 to 96 blocks: however many there are, the branches
    # start as a small part of the trunk and a step changes the function of the whole model by as much.
    _initialise(first, (3 * digits.PIXELS) ** -0.5, seed, 0)
    for i, block in enumerate(hidden, start=1):
        _initialise(block.linear, (2 / width) ** 0.5 / (8 * depth) ** 0.5, seed, i)
    _initialise(last, 0.1 * width**-0.5, seed, depth - 1)
    blocks = [nn.Sequential(first, nn.ReLU()), *hidden, last]
    return Task(blocks, _data(workload.dtype), functional.cross_entropy, seed, workload.batch)


def _empty_linear(inputs: int, outputs: int, dtype: torch.dtype) -> nn.Linear:
    """A linear layer with memory and no values: torch's own initialisation would draw from its global generator."""
    return nn.Linear(inputs, outputs, device="meta", dtype=dtype).to_empty(device="cpu")


def _initialise(layer: nn.Linear, deviation: float, seed: int, block: int) -> None:
    """Normal weights, zero biases. Drawn in double precision, so that both dtypes start from the same model."""
    key = blake2b(repr((seed, "weights", block)).encode(), digest_size=7).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key, "little"))
    weight = torch.randn(layer.weight.shape, generator=generator, dtype=torch.float64) * deviation
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.zero_()


@lru_cache(maxsize=2)
def _data(dtype: str) -> Data:
    """The digits, scaled to zero mean and unit deviation over all training pixels. Shared by all tasks of a process."""
    pixels, labels = digits.load()
    training, validation = digits.split(labels)
    x = torch.frombuffer(bytearray(pixels), dtype=torch.uint8).view(digits.SAMPLES, digits.PIXELS).double()
    y = torch.frombuffer(bytearray(labels), dtype=torch.uint8).long()
    deviation, mean = torch.std_mean(x[training])
    x = ((x - mean) / deviation).to(getattr(torch, dtype))
    return Data(x[training], y[training], x[validation], y[validation])
