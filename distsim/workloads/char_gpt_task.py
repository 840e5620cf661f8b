"""The torch side of `char_gpt`: see distsim.workloads.char_gpt for what its blocks are.

The tensor forms are Megatron's: heads and hidden units are dealt out, the products back to `width` are cut by their inputs
(Shoeybi et al., arXiv 1909.08053, section 3). Embedding and scores are every rank's. Attention is written out in products:
no fused kernel, other on every device, decides what is counted and kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from distsim.workloads import text
from distsim.workloads.char_gpt import HIDDEN, CharGPT
from distsim.workloads.initial import draws, empty, fill
from distsim.workloads.shards import Dealt
from distsim.workloads.task import Data, Task


class Embedding(nn.Module):
    """The vector of each character plus that of its position."""

    def __init__(self, width: int, context: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.position = nn.Parameter(torch.empty(context, width, dtype=dtype))
        self.character = empty(nn.Embedding, text.VOCABULARY, width, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (samples, context) of whole numbers -> (samples, context, width)."""
        y: Tensor = self.character(x) + self.position
        return y


class Branch(Dealt):
    """x + branch(norm(x)) + bias; a shard's branch is a part of it."""

    def __init__(self, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(width, dtype=dtype))
        self.norm = nn.LayerNorm(width, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (samples, context, width), in and out."""
        y = self.branch(self.norm(x))
        return y if self.index else x + (y + self.bias)

    def branch(self, x: Tensor) -> Tensor:
        """Shape (samples, context, width), in and out."""
        raise NotImplementedError


class Attention(Branch):
    """Causal attention, cut by heads."""

    dealt: ClassVar[Mapping[str, int]] = {"query.weight": 0, "key.weight": 0, "value.weight": 0, "output.weight": 1}

    def __init__(self, width: int, heads: int, context: int, dtype: torch.dtype) -> None:
        super().__init__(width, dtype)
        self.ways = self.heads = heads
        self.query, self.key, self.value, self.output = (_linear(width, width, dtype) for _ in range(4))
        future = torch.full((context, context), -torch.inf, dtype=dtype).triu(1)
        self.register_buffer("future", future, persistent=False)

    def branch(self, x: Tensor) -> Tensor:
        """Each head attends to the past."""
        samples, context, width = x.shape
        heads, size = self.heads // self.count, width // self.heads

        def by_head(y: Tensor) -> Tensor:
            return y.view(samples, context, heads, size).transpose(1, 2).reshape(samples * heads, context, size)

        query, key, value = by_head(self.query(x)), by_head(self.key(x)), by_head(self.value(x))
        scores = torch.baddbmm(self.get_buffer("future"), query, key.transpose(1, 2), alpha=size**-0.5)
        seen = torch.bmm(torch.softmax(scores, dim=-1), value)
        merged = seen.view(samples, heads, context, size).transpose(1, 2).reshape(samples, context, heads * size)
        y: Tensor = self.output(merged)
        return y


class FeedForward(Branch):
    """Two layers, cut by hidden units."""

    dealt: ClassVar[Mapping[str, int]] = {"up.weight": 0, "up.bias": 0, "down.weight": 1}

    def __init__(self, width: int, dtype: torch.dtype) -> None:
        super().__init__(width, dtype)
        self.ways = HIDDEN * width
        self.up = empty(nn.Linear, width, HIDDEN * width, dtype=dtype)
        nn.init.zeros_(self.up.bias)
        self.down = _linear(HIDDEN * width, width, dtype)

    def branch(self, x: Tensor) -> Tensor:
        """Up, and down again."""
        y: Tensor = self.down(functional.gelu(self.up(x)))
        return y


class NormLinear(nn.Module):
    """The score of every character as the next one."""

    def __init__(self, width: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, dtype=dtype)
        self.linear = _linear(width, text.VOCABULARY, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (samples, context, width) -> (samples, context, vocabulary)."""
        y: Tensor = self.linear(self.norm(x))
        return y


def char_gpt_task(workload: CharGPT, seed: int) -> Task:
    """The blocks of `workload`, initialised from (seed, block), with the text."""
    dtype: torch.dtype = getattr(torch, workload.dtype)
    width, context, layers = workload.width, workload.context, workload.layers
    first = Embedding(width, context, dtype)
    generator = draws(seed, 0)
    fill(first.position, 0.1, generator)
    fill(first.character.weight, 1.0, generator)
    blocks: list[nn.Module] = [first]
    for _ in range(layers):
        generator = draws(seed, len(blocks))
        attention = Attention(width, workload.heads, context, dtype)
        for layer in (attention.query, attention.key, attention.value):
            fill(layer.weight, width**-0.5, generator)
        fill(attention.output.weight, (2 * layers * width) ** -0.5, generator)
        blocks.append(attention)
        generator = draws(seed, len(blocks))
        feed_forward = FeedForward(width, dtype)
        fill(feed_forward.up.weight, width**-0.5, generator)
        fill(feed_forward.down.weight, (2 * layers * HIDDEN * width) ** -0.5, generator)
        blocks.append(feed_forward)
    last = NormLinear(width, dtype)
    fill(last.linear.weight, 0.1 * width**-0.5, draws(seed, len(blocks)))
    return Task([*blocks, last], _data(context), next_character_loss, seed, workload.batch)


def next_character_loss(y: Tensor, target: Tensor) -> Tensor:
    """The mean cross entropy of all characters; shapes (samples, context, vocabulary) and (samples, context)."""
    return functional.cross_entropy(y.flatten(0, 1), target.flatten())


def _linear(inputs: int, outputs: int, dtype: torch.dtype) -> nn.Linear:
    """A linear layer without biases and without weights yet."""
    return empty(nn.Linear, inputs, outputs, bias=False, dtype=dtype)


@lru_cache(maxsize=2)
def _data(context: int) -> Data:
    """Windows of the text and the same one character later. Shared by all tasks of a process."""
    characters = torch.frombuffer(bytearray(text.load().numbers), dtype=torch.uint8).long()
    training, validation = (
        torch.stack([characters[start : start + context + 1] for start in starts]) for starts in text.windows(context)
    )
    return Data(training[:, :-1], training[:, 1:], validation[:, :-1], validation[:, 1:])
