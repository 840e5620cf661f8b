"""A task: blocks of torch modules, their data and their loss. The torch side of a workload.

- The samples of a batch are a pure function of (seed, step, part, parts): the training samples are shuffled anew for every
  epoch by (seed, epoch), epochs follow each other without end, and global step s of P workers takes places s P b to
  (s + 1) P b of that stream; a share is a contiguous slice of them. So P workers of batch b see what one of batch P b sees.
  Where the samples are no multiple of P b, a step takes the last of one epoch and the first of the next: none is left out,
  none is padded, and a data set smaller than a step comes several times in it.
- Between blocks goes one tensor. Blocks share no parameters.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from random import Random
from typing import NamedTuple

import torch
from torch import Tensor, nn

from distsim.interface.errors import StrategyError
from distsim.interface.values import Batch
from distsim.workloads import shards

EVALUATED = 1 << 15
"""Scalars of input that are evaluated at once, or 64 samples: the memory of an evaluation stays small."""


class Data(NamedTuple):
    """Training and validation samples, the first dimension counting them. Without validation samples both are None."""

    inputs: Tensor
    targets: Tensor
    validation_inputs: Tensor | None = None
    validation_targets: Tensor | None = None


class Task:
    """What is trained, on what, towards what."""

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        data: Data,
        loss: Callable[[Tensor, Tensor], Tensor],
        seed: int,
        batch: int,
    ) -> None:
        self.blocks = list(blocks)
        self.data = data
        self.loss = loss
        """(output, target) -> the mean over the samples, a scalar."""
        self.seed = seed
        self.batch = batch
        self._evaluated: list[nn.Module] | None = None

    def places(self, batch: Batch, workers: int) -> Tensor:
        """The indices of the training samples of `batch`. Raises `StrategyError` if a step does not cut evenly."""
        step = self.batch * workers
        count, rest = divmod(step, batch.parts)
        if rest:
            raise StrategyError(f"the {step} samples of a step do not cut into {batch.parts} equal parts")
        first, size = batch.step * step + batch.part * count, self.data.inputs.shape[0]
        epoch, start = divmod(first, size)
        if start + count <= size:
            return _order(self.seed, epoch, size)[start : start + count]
        pieces = []
        while count:
            epoch, start = divmod(first, size)
            taken = min(count, size - start)
            pieces.append(_order(self.seed, epoch, size)[start : start + taken])
            first, count = first + taken, count - taken
        return torch.cat(pieces)

    def input(self, batch: Batch, workers: int) -> Tensor:
        """The inputs of `batch`."""
        return self.data.inputs.index_select(0, self.places(batch, workers))

    def target(self, batch: Batch, workers: int) -> Tensor:
        """The targets of `batch`."""
        return self.data.targets.index_select(0, self.places(batch, workers))

    def evaluate(self, values: Mapping[int, Tensor]) -> tuple[float, float | None]:
        """Validation loss and accuracy with the flat parameters `values` of every block; no accuracy unless targets are
        classes, the last dimension of the output. Leaves the task's own blocks alone."""
        inputs, targets = self.data.validation_inputs, self.data.validation_targets
        if inputs is None or targets is None:
            raise ValueError("this workload has no validation samples")
        if self._evaluated is None:
            self._evaluated = [copy.deepcopy(block).eval() for block in self.blocks]
        for index, block in enumerate(self._evaluated):
            shards.load(block, values[index].detach().cpu())
        rows = max(64, EVALUATED // max(1, inputs[0].numel()))
        loss = right = 0.0
        has_classes = targets.dtype == torch.int64
        with torch.no_grad():
            for x, target in zip(torch.split(inputs, rows), torch.split(targets, rows), strict=True):
                share = len(x) / len(inputs)
                for block in self._evaluated:
                    x = block(x)
                loss += float(self.loss(x, target)) * share
                has_classes = has_classes and x.shape[:-1] == target.shape
                if has_classes:
                    right += float((x.argmax(dim=-1) == target).double().mean()) * share
        return loss, right if has_classes else None


@lru_cache(maxsize=64)
def _order(seed: int, epoch: int, size: int) -> Tensor:
    """The order of the samples in `epoch`. From the standard library: the same for every version of torch."""
    order = list(range(size))
    Random(repr((seed, "epoch", epoch))).shuffle(order)
    return torch.tensor(order)
