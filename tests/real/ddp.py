"""What torch itself does with compressed gradients: DistributedDataParallel on gloo with its own communication hooks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, multiprocessing, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from distsim.interface import Batch, PowerSGD
from distsim.numerics.codecs_sizes import matrices
from distsim.numerics.codecs_tensors import noise

RANKS = 2
WARM_UP = 2
"""Steps before PowerSGD may begin in DDP; here their gradients are thrown away."""


class Case(NamedTuple):
    """A rank makes it PowerSGD, else it is half precision."""

    workload: Any
    rank: int = 0
    has_feedback: bool = False


def train(folder: Path, cases: Sequence[Case], rate: float, steps: int) -> dict[Case, Tensor]:
    """The flat weights after `steps` steps of plain SGD by two processes, in each case."""
    multiprocessing.spawn(_train, (folder, cases, rate, steps), RANKS)
    first, second = (torch.load(folder / f"ddp-{process}.pt") for process in range(RANKS))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    return dict(zip(cases, first, strict=True))


def _train(process: int, folder: Path, cases: Sequence[Case], rate: float, steps: int) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "ddp.store"), RANKS)
    dist.init_process_group("gloo", store=store, rank=process, world_size=RANKS)
    torch.save([_weights(process, case, rate, steps) for case in cases], folder / f"ddp-{process}.pt")
    dist.destroy_process_group()


def _weights(process: int, case: Case, rate: float, steps: int) -> Tensor:
    task = case.workload.task(3)
    model = DistributedDataParallel(nn.Sequential(*task.blocks))
    if case.rank:
        model.register_comm_hook(*_power_sgd(case, list(model.parameters())))
    else:
        model.register_comm_hook(dist.group.WORLD, default_hooks.fp16_compress_hook)
    for step in range(-WARM_UP, steps):
        batch = Batch(max(step, 0), process, RANKS)
        model.zero_grad()
        task.loss(model(task.input(batch, RANKS)), task.target(batch, RANKS)).backward()
        if step >= 0:
            for p in model.parameters():
                p.data.add_(p.grad, alpha=-rate)
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def _power_sgd(case: Case, parameters: Sequence[nn.Parameter]) -> tuple[Any, Any]:
    """torch's hook, whose first Q is made ours."""
    state = powerSGD_hook.PowerSGDState(
        None, case.rank, start_powerSGD_iter=WARM_UP, min_compression_rate=1, use_error_feedback=case.has_feedback
    )
    blocks, sizes = case.workload.model().blocks, [p.numel() for p in parameters]
    found = matrices(PowerSGD(case.rank), sum(sizes), blocks)
    first = {m.start: q for m, q in zip(found, noise(parameters[0], found, blocks), strict=True)}
    of = {id(p): first.get(sum(sizes[:i])) for i, p in enumerate(parameters)}

    def hook(state: Any, bucket: Any) -> Any:
        if state.iter == WARM_UP:
            qs = [q for p in bucket.parameters() if (q := of[id(p)]) is not None]  # no two of one shape: in this order
            assert len({q.shape for q in qs}) == len(qs) == len(found)
            assert bucket.index() == 0
            state.q_memory_dict[0] = torch.cat([q.reshape(-1) for q in qs])
            state.p_memory_dict[0] = qs[0].new_empty(sum(m.rows * m.rank for m in found))
        return powerSGD_hook.powerSGD_hook(state, bucket)

    hook.__annotations__ = {"bucket": dist.GradBucket}  # DDP looks
    return state, hook
