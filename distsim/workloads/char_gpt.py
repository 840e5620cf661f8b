"""A small GPT that predicts the next character of a play, cut where tensor parallelism communicates.

Blocks: `embedding` (characters and positions), then `layers` times `attention` and `feed_forward`, then `norm_linear` (one
score for each character of the vocabulary). Attention is x + W heads(norm(x)) + b, causal, its queries, keys and values
without biases; feed-forward is x + W gelu(V norm(x) + c) + b with 4 x `width` hidden units. Norms are layer norms, as in
GPT-2 (Radford et al., 2019). A sample is a window of `context` characters. Loss: cross entropy, the mean over characters.

The description is a formula for any size: layers=32 heads=32 width=4096 context=2048 dtype=bfloat16 can be modeled, too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from distsim.interface.errors import BadInput, Problem
from distsim.interface.model import Block, Model
from distsim.workloads import text
from distsim.workloads.workload import LARGEST_BATCH, Workload

if TYPE_CHECKING:
    from distsim.workloads.task import Task

HIDDEN = 4
"""Hidden units of a feed-forward block, in widths."""
_ITEMSIZE = {"float32": 4, "float64": 8, "bfloat16": 2}
_INDEX_BYTES = 8


@dataclass(frozen=True)
class CharGPT(Workload):
    """A GPT on the characters of a play."""

    name: ClassVar[str] = "char_gpt"

    batch: int = 8
    """Samples, windows of text, that a worker contributes to a step."""
    layers: int = 4
    """Pairs of an attention and a feed-forward block; the model has two blocks more."""
    heads: int = 4
    width: int = 64
    context: int = 64
    """Characters a sample."""
    dtype: str = "float32"
    """bfloat16 only where nothing is trained: in modeled runs."""

    def problems(self) -> Iterable[Problem]:
        """What is wrong with its fields."""
        limits = {
            "batch": (1, LARGEST_BATCH),
            "layers": (1, 10_000),
            "heads": (1, 10_000),
            "width": (1, 1_000_000),
            "context": (1, 10_000_000),
        }
        for key, (least, most) in limits.items():
            if not least <= getattr(self, key) <= most:
                yield Problem(f"workload.{key}", getattr(self, key), f"must be from {least} to {most}")
        if 1 <= self.heads <= 10_000 and self.width >= 1 and self.width % self.heads:
            divisors = [n for n in range(1, 10_001) if self.width % n == 0]
            below, above = [n for n in divisors if n < self.heads], [n for n in divisors if n > self.heads]
            nearest = " or ".join(map(str, [*below[-1:], *above[:1]]))
            yield Problem("workload.heads", self.heads, f"must divide workload.width={self.width}", f"nearest: {nearest}")
        if self.dtype not in _ITEMSIZE:
            yield Problem("workload.dtype", self.dtype, "must be float32 or float64, or bfloat16 in modeled runs")

    def obstacles(self) -> Iterable[Problem]:
        """What keeps it from being trained."""
        if self.dtype == "bfloat16":
            yield Problem("workload.dtype", self.dtype, "only modeled: nothing trains in it", "take float32 or float64")
        if self.context >= text.VALIDATION:
            allowed = f"the text has {text.VALIDATION} characters for validation, and only modeled runs need none"
            yield Problem("workload.context", self.context, allowed, f"at most {text.VALIDATION - 1}")

    def model(self) -> Model:
        """The description that torch would count: see tests/workloads/test_description.py."""
        itemsize = _ITEMSIZE[self.dtype]
        blocks = [self._embedding()]
        for _ in range(self.layers):
            blocks += [self._attention(len(blocks)), self._feed_forward(len(blocks) + 1)]
        blocks.append(self._norm_linear(len(blocks)))
        return Model(tuple(blocks), self.batch, self.context * _INDEX_BYTES // itemsize, itemsize)

    def fingerprint(self) -> str:
        """The hash of the text's file. Raises `BadInput` if that is missing or torn."""
        text.load()
        return text.SHA256

    def task(self, seed: int) -> Task:
        """The blocks, initialised from `seed`, with the text. Raises `BadInput` for what is only modeled."""
        if problems := list(self.obstacles()):
            raise BadInput(problems)
        from distsim.workloads.char_gpt_task import char_gpt_task

        return char_gpt_task(self, seed)

    def _embedding(self) -> Block:
        """It keeps the characters' numbers. Looking up and adding are no FLOPs that are counted."""
        width, context = self.width, self.context
        return Block(
            index=0,
            kind=f"embedding({text.VOCABULARY},{width},{context}) {self.dtype}",
            parameters=(text.VOCABULARY + context) * width,
            activation=context * width,
            saved=context * _INDEX_BYTES // _ITEMSIZE[self.dtype],
            flops=0.0,
            input_flops=0.0,
            weight_flops=0.0,
            shapes=((context, width), (text.VOCABULARY, width)),
        )

    def _attention(self, index: int) -> Block:
        """Four products with weights; two of the sequence with itself, whose gradients are two each, both on the way to the
        input. Kept by every shard: the input with a mean and a deviation a character, and the normed input; by heads:
        queries, keys, values, the attention of all pairs, and what it gave."""
        width, context = self.width, self.context
        products, pairs = 8.0 * context * width * width, 4.0 * context * context * width
        kept_by_all = 2 * context * width + 2 * context
        return Block(
            index=index,
            kind=f"attention({width},{self.heads},{context}) {self.dtype}",
            parameters=4 * width * width + 3 * width,
            activation=context * width,
            saved=kept_by_all + 4 * context * width + self.heads * context * context,
            flops=products + pairs,
            input_flops=products + 2 * pairs,
            weight_flops=products,
            ways=self.heads,
            replicated=3 * width,
            replicated_saved=kept_by_all,
            shapes=((width,), (width,), (width,), *[(width, width)] * 4),
        )

    def _feed_forward(self, index: int) -> Block:
        """Two products. Kept by every shard: as above; by hidden units: those before and after the nonlinearity."""
        width, context, hidden = self.width, self.context, HIDDEN * self.width
        products = 4.0 * context * width * hidden
        kept_by_all = 2 * context * width + 2 * context
        return Block(
            index=index,
            kind=f"feed_forward({width},{context}) {self.dtype}",
            parameters=2 * width * hidden + hidden + 3 * width,
            activation=context * width,
            saved=kept_by_all + 2 * context * hidden,
            flops=products,
            input_flops=products,
            weight_flops=products,
            ways=hidden,
            replicated=3 * width,
            replicated_saved=kept_by_all,
            shapes=((width,), (width,), (width,), (hidden, width), (hidden,), (width, hidden)),
        )

    def _norm_linear(self, index: int) -> Block:
        """One product, without a bias."""
        width, context = self.width, self.context
        product = 2.0 * context * width * text.VOCABULARY
        return Block(
            index=index,
            kind=f"norm_linear({width},{text.VOCABULARY},{context}) {self.dtype}",
            parameters=2 * width + width * text.VOCABULARY,
            activation=context * text.VOCABULARY,
            saved=2 * context * width + 2 * context,
            flops=product,
            input_flops=product,
            weight_flops=product,
            shapes=((width,), (width,), (text.VOCABULARY, width)),
        )
