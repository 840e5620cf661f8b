"""Models as others write them, and what it takes to bring them: `workload.module=own_models:resnet` and so on.

The networks know nothing of distsim; only the `build` functions at the end do, and the small adapters that make a block of
what returns a tuple or a dict.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

# ---- a residual network


class BasicBlock(nn.Module):
    """Two convolutions and a short cut, as in He et al., CVPR 2016, with group norm in place of batch norm."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.GroupNorm(2, outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(2, outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride > 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.GroupNorm(2, outputs))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.conv2(self.relu(self.norm1(self.conv1(x)))))
        y = y + (x if self.downsample is None else self.downsample(x))
        out: Tensor = self.relu(y)
        return out


class ResNet(nn.Module):
    """A stem, two stages of blocks, pooling, one linear layer."""

    def __init__(self, classes: int = 5, width: int = 4) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), nn.GroupNorm(2, width), nn.ReLU())
        self.layer1 = nn.Sequential(BasicBlock(width, width, 1), BasicBlock(width, width, 1))
        self.layer2 = nn.Sequential(BasicBlock(width, 2 * width, 2), BasicBlock(2 * width, 2 * width, 1))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(self.pool(self.layer2(self.layer1(self.stem(x)))).flatten(1))
        return y


# ---- a language model, in the style of Hugging Face's


@dataclass
class LMConfig:
    """What `LM.from_config` needs."""

    vocab_size: int = 11
    hidden_size: int = 12
    num_attention_heads: int = 3
    num_hidden_layers: int = 2
    max_position_embeddings: int = 6
    hidden_dropout_prob: float = 0.0
    tie_word_embeddings: bool = False


class Attention(nn.Module):
    """Causal; returns (output, weights)."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)
        size = config.max_position_embeddings
        self.register_buffer("mask", torch.ones(size, size, dtype=torch.bool).triu(1), persistent=False)

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        samples, length, width = hidden_states.shape
        q, k, v = self.qkv(hidden_states).view(samples, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(-1, -2)) / (width // self.heads) ** 0.5
        weights = scores.masked_fill(self.get_buffer("mask")[:length, :length], -torch.inf).softmax(dim=-1)
        return self.output((weights @ v).transpose(1, 2).reshape(samples, length, width)), weights


class Layer(nn.Module):
    """Attention and a perceptron; returns a tuple, the weights of attention last if they are asked for."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(config)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden_states: Tensor, output_attentions: bool = False) -> tuple[Tensor, ...]:
        attended, weights = self.attention(self.norm1(hidden_states))
        hidden_states = hidden_states + self.dropout(attended)
        hidden_states = hidden_states + self.dropout(self.down(functional.gelu(self.up(self.norm2(hidden_states)))))
        return (hidden_states, weights) if output_attentions else (hidden_states,)


class LM(nn.Module):
    """Embeddings, layers, head; returns a dict."""

    def __init__(self, config: LMConfig) -> None:
        super().__init__()
        self.tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.tokens.weight

    def embed(self, input_ids: Tensor) -> Tensor:
        """The vectors of tokens and of their positions."""
        y: Tensor = self.tokens(input_ids) + self.positions(torch.arange(input_ids.shape[1], device=input_ids.device))
        return y

    def forward(self, input_ids: Tensor) -> dict[str, Any]:
        states = (self.embed(input_ids),)
        for layer in self.layers:
            states += layer(states[-1])
        return {"logits": self.lm_head(self.norm(states[-1])), "hidden_states": states}


# ---- bringing them


class Embed(nn.Module):
    """The embeddings of an LM as a block."""

    def __init__(self, model: LM) -> None:
        super().__init__()
        self.tokens, self.positions = model.tokens, model.positions

    forward = LM.embed


class First(nn.Module):
    """Of what a module returns, the first."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.module(x)[0]
        return y


class Logits(First):
    """Of what a model returns, the logits."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.module(x)["logits"]
        return y


def images() -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(1)
    return torch.randn(40, 3, 8, 8, generator=g, dtype=torch.float64), torch.randint(0, 5, (40,), generator=g)


def tokens() -> tuple[Tensor, Tensor]:
    text = torch.randint(0, 11, (40, 7), generator=torch.Generator().manual_seed(2))
    return text[:, :-1], text[:, 1:]


def next_token(logits: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())


def resnet() -> Any:
    net = ResNet().double()
    return (
        nn.Sequential(net.stem, *net.layer1, *net.layer2, net.pool, nn.Flatten(), net.fc),
        images(),
        functional.cross_entropy,
    )


def lm(**settings: Any) -> Any:
    model = LM(LMConfig(**settings)).double()
    blocks = [Embed(model), *map(First, model.layers), nn.Sequential(model.norm, model.lm_head)]
    return blocks, tokens(), next_token


def whole_lm() -> Any:
    """One block, as its first and last weights are the same."""
    return Logits(LM(LMConfig(tie_word_embeddings=True)).double()), tokens(), next_token
