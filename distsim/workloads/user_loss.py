"""A user's loss and validation samples, tried before anything runs: what is wrong with them would show in every rank."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distsim.interface.errors import BadInput, Problem
from distsim.workloads.task import Task


def check_loss(task: Task, source: str) -> None:
    """Take the loss of the first samples, of training and of validation, with the initial weights of blocks that can run.

    Raises `BadInput` where it fails, is no mean, has no gradient or is not finite.
    """
    if isinstance(task.loss, nn.Module) and any(p.requires_grad for p in task.loss.parameters()):
        what, advice = "the loss has parameters, and none of them would be trained", "put them into the last block"
        raise BadInput([Problem("workload.module", source, what, advice)])
    data = task.data
    _check(task, source, "", data.inputs, data.targets)
    if data.validation_inputs is not None and data.validation_targets is not None:
        _check(task, source, "validation ", data.validation_inputs, data.validation_targets)


def _check(task: Task, source: str, kind: str, inputs: Tensor, targets: Tensor) -> None:
    def refuse(what: str, suggestion: str = "") -> BadInput:
        return BadInput([Problem("workload.module", source, what, suggestion)])

    x, target = inputs[: task.batch], targets[: task.batch]
    shapes = f"{kind}inputs of shape {tuple(x.shape)}, targets of shape {tuple(target.shape)} and {target.dtype}"
    try:
        y = x
        with torch.no_grad():
            for block in task.blocks:
                y = block(y)
    except Exception as error:
        raise refuse(
            f"the blocks cannot run on {shapes}: {error}", "validation samples are like those of training"
        ) from None
    y = y.detach().requires_grad_()
    try:
        loss, twice = task.loss(y, target), task.loss(torch.cat([y, y]), torch.cat([target, target]))
    except Exception as error:  # whatever it raises
        said = f"{type(error).__name__}: {error}"
        raise refuse(f"the loss of an output of shape {tuple(y.shape)} fails on {shapes}: {said}") from error
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise refuse(f"the loss must return the mean over the samples, a tensor of one number, not {got}")
    if not loss.requires_grad:
        raise refuse("the loss must pass gradients on, what it returns has none", "drop detach(), item() and no_grad()")
    once = float(loss.detach())
    if not torch.isfinite(loss):
        nans = [name for name, each in (("inputs", x), ("targets", target)) if bool((each != each).any())]
        where = f"; the {kind}{' and '.join(nans)} have NaN" if nans else ""
        raise refuse(f"the loss of the first {kind}samples is {once} before any update{where}")
    if once and abs(float(twice.detach()) / once - 2) < 1e-3:
        raise refuse(
            "the loss must be the mean over the samples: of the same samples twice it is twice as much", "reduction='mean'"
        )
