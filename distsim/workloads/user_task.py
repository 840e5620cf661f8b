"""The torch side of a user's module: call the function, check what it returned, cut it into blocks."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import chdir
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from distsim.foreign import source_of
from distsim.interface.errors import BadInput, Problem
from distsim.workloads.describe import named
from distsim.workloads.task import Data, Task
from distsim.workloads.user_module import UserModule


def user_task(workload: UserModule, seed: int) -> Task:
    """What the user's function returns. Raises `BadInput` if it is not found or returns something else than it should."""
    threads = torch.get_num_threads()
    build = function(workload)
    try:
        with torch.random.fork_rng(devices=[]), chdir("."):  # wherever it goes, runs are written here
            torch.manual_seed(seed)
            returned = build()
    except (Exception, SystemExit) as error:  # theirs: it is named, not traced
        advice = "it must start no processes: num_workers=0" if "daemonic" in str(error) else ""
        raise _bad(workload, f"cannot be built: {type(error).__name__}: {error}", advice) from error
    finally:
        torch.set_num_threads(threads)  # those are backend.threads
    try:
        blocks, data, loss = returned
    except (TypeError, ValueError):
        raise _bad(workload, "must return (blocks, data, loss)") from None
    if not isinstance(data, Sequence) or len(data) not in (2, 4) or not all(isinstance(x, Tensor) for x in data):
        raise _bad(workload, "data must be (inputs, targets) or these and the validation's two, all tensors")
    data = Data(*data)
    for kind, pair in (("", data[:2]), ("validation ", data[2:])):
        counts = [len(x) if x.dim() else 0 for x in pair if x is not None]
        if 0 in counts:
            raise _bad(workload, f"there must be at least one sample, the {kind}inputs and targets have {counts}")
        if len(set(counts)) > 1:
            raise _bad(workload, f"{kind}inputs and targets must be equally many, not {counts[0]} and {counts[1]}")
    if not callable(loss):
        raise _bad(workload, "loss must be a function (output, target) -> mean")
    blocks = _cut(blocks)
    if not blocks or not all(isinstance(block, nn.Module) for block in blocks):
        raise _bad(workload, "blocks must be an nn.Sequential, a list of modules or one module")
    _refuse_ties(workload, blocks)
    return Task(blocks, data, loss, seed, workload.batch)


def fingerprint(workload: UserModule) -> str:
    """A hash of the data that the function returns under seed 0, and of its code with all that it imports.

    Raises `BadInput` if it returns something else when it is called again: then ranks would train different models."""
    task, again = user_task(workload, 0), user_task(workload, 0)
    for what, one, other in (("data", task.data, again.data), ("initial weights", _weights(task), _weights(again))):
        if _hash("", one) != _hash("", other):
            raise _bad(
                workload,
                f"must return the same {what} whenever it is called under one seed: every rank calls it",
                "in build(), seed what else it draws from: numpy.random.seed(0), random.seed(0)",
            )
    return _hash(source_of(function(workload)), task.data)


def _weights(task: Task) -> list[Tensor]:
    return [tensor for block in task.blocks for tensor in (*block.parameters(), *block.buffers())]


def _hash(start: str, tensors: Iterable[Tensor | None]) -> str:
    digest = sha256(start.encode())
    for tensor in tensors:
        if tensor is not None:
            digest.update(repr((tensor.dtype, tuple(tensor.shape))).encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def function(workload: UserModule) -> Callable[[], Any]:
    """The function that `workload.module` names."""
    name, _, attribute = workload.module.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:  # a console script does not look there, `python -m` does
        sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise _bad(workload, f"cannot be imported: {error}") from error
    if not callable(found):
        raise _bad(workload, f"{attribute} is no function")
    named: Callable[[], Any] = found
    return named


def _cut(blocks: Any) -> list[Any]:
    """The blocks of what the user returned."""
    if isinstance(blocks, nn.Sequential):
        pieces: list[list[nn.Module]] = []
        for child in blocks:
            holds_parameters = any(p.requires_grad for p in child.parameters())
            if not pieces or (holds_parameters and any(p.requires_grad for m in pieces[-1] for p in m.parameters())):
                pieces.append([])
            pieces[-1].append(child)
        return [piece[0] if len(piece) == 1 else nn.Sequential(*piece) for piece in pieces]
    if isinstance(blocks, nn.ModuleList | list | tuple):
        return list(blocks)
    return [blocks]


def _refuse_ties(workload: UserModule, blocks: Sequence[nn.Module]) -> None:
    """Raises `BadInput` if two blocks share memory of parameters: each would train a copy of its own."""
    owner: dict[int, str] = {}
    for index, block in enumerate(blocks):
        mine: dict[int, str] = {}
        for name, parameter in block.named_parameters():
            place = f"{name} of {named(index, block)}"
            memory = parameter.untyped_storage().data_ptr()
            if memory in owner:
                raise _bad(
                    workload,
                    f"ties {owner[memory]} and {place}, blocks must not share parameters",
                    "put both uses into one block, or return the whole model as one module for data parallelism",
                )
            mine[memory] = place
        owner.update(mine)


def _bad(workload: UserModule, what: str, suggestion: str = "") -> BadInput:
    return BadInput([Problem("workload.module", workload.module, what, suggestion)])
