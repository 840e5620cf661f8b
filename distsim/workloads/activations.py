"""What autograd keeps of a forward pass for its backward pass, in bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


class Kept:
    """Tensors kept for a backward pass, a storage once, however many views of it are kept. Parameters are not counted."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self._own = {p.untyped_storage().data_ptr() for p in parameters}
        self._storages: dict[int, tuple[int, dict[tuple[int, int], int]]] = {}

    def add(self, tensor: Tensor) -> tuple[Tensor, int]:
        """Count `tensor`; it and its version, for `_same`."""
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self._own:
            _, views = self._storages.setdefault(storage.data_ptr(), (storage.nbytes(), {}))
            views[tensor.data_ptr(), tensor.numel()] = tensor.numel() * tensor.element_size()
        return tensor, tensor._version

    @property
    def nbytes(self) -> int:
        """Bytes of all storages; of one that is larger than its views together, what those see."""
        return sum(min(size, sum(views.values())) for size, views in self._storages.values())


@contextmanager
def kept(parameters: Iterable[Tensor]) -> Iterator[Kept]:
    """Count what forward passes inside keep."""
    counted = Kept(parameters)
    with torch.autograd.graph.saved_tensors_hooks(counted.add, _same):
        yield counted


def _same(kept: tuple[Tensor, int]) -> Tensor:
    """What was kept, as torch gives it where nobody counts. Raises `RuntimeError` if it was changed in place meanwhile."""
    tensor, version = kept
    if tensor._version != version:
        raise RuntimeError("what the backward pass of a block needs has been modified by an inplace operation")
    return tensor
