"""What people write by hand: each program trains the same blocks on the same samples as one of our strategies, with torch.

Plain loops over torch's own engines, on gloo, with one thread a rank. The same steps give the weights of our strategy:
tests/benchmarks/test_overhead.py holds them against each other. What is tuned: DistributedDataParallel with a static graph
and gradients that are views of its buckets; fused optimizers everywhere but in `ddp_default`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._C._distributed_c10d import FileStore

from distsim.backends.real.allocator import keep_freed_memory
from distsim.bench.overhead_gate import Gate
from distsim.interface import SGD, AdamW, Batch, Optimizer
from distsim.strategies.pipeline import stages
from distsim.workloads.parameters import ordered
from distsim.workloads.task import Task
from distsim.workloads.workload import Workload


@dataclass(frozen=True)
class Setting:
    """What all programs of a comparison train."""

    workload: Workload
    ranks: int
    optimizer: Optimizer
    microbatches: int
    """Of a pipeline's step."""
    seed: int = 0


Step = Callable[[int], None]
Weights = Callable[[], dict[int, Tensor]]
"""By block, flat: those of this rank."""


def enter(setting: Setting, program: str, rank: int, store: Path, address: Path) -> None:
    """Run one rank of a program, whose steps are let through a gate; the target of a process."""
    train(setting, program, rank, store, Gate(address, program, rank).steps())


def train(setting: Setting, program: str, rank: int, store: Path, steps: Iterable[int]) -> dict[int, Tensor]:
    """Run one rank; its weights after the last of `steps`. Programs may have a copy number behind a dash."""
    keep_freed_memory()  # the C library's, and no engine's: what our ranks have, all have
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    met = FileStore(str(store), setting.ranks)
    dist.init_process_group("gloo", store=met, rank=rank, world_size=setting.ranks)
    try:
        step, weights = _PROGRAMS[program.partition("-")[0]](setting, rank)
        for number in steps:
            step(number)
        return weights()
    finally:
        dist.destroy_process_group()


# ---- data parallel


def _ddp(setting: Setting, rank: int, is_tuned: bool) -> tuple[Step, Weights]:
    from torch.nn.parallel import DistributedDataParallel

    task = setting.workload.task(setting.seed)
    how: dict[str, Any] = {"static_graph": True, "gradient_as_bucket_view": True} if is_tuned else {}
    model = DistributedDataParallel(nn.Sequential(*task.blocks), **how)
    return _data_parallel(setting, rank, task, model, _optimizer(setting.optimizer, model, "fused" if is_tuned else ""))


def _fsdp2(setting: Setting, rank: int) -> tuple[Step, Weights]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    task = setting.workload.task(setting.seed)
    mesh = init_device_mesh("cpu", (setting.ranks,))
    for block in task.blocks:
        fully_shard(block, mesh=mesh)
    model = nn.Sequential(*task.blocks)
    fully_shard(model, mesh=mesh)
    how = "fused" if isinstance(setting.optimizer, AdamW) else "foreach"  # there is no fused SGD of sharded parameters
    return _data_parallel(setting, rank, task, model, _optimizer(setting.optimizer, model, how))


def _data_parallel(
    setting: Setting, rank: int, task: Task, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[Step, Weights]:
    def step(number: int) -> None:
        batch = Batch(number, rank, setting.ranks)
        x, target = task.input(batch, setting.ranks), task.target(batch, setting.ranks)
        optimizer.zero_grad()
        loss = task.loss(model(x), target)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step, lambda: {index: _flat(block) for index, block in enumerate(task.blocks)}


# ---- pipelines


def _pipeline(setting: Setting, rank: int, name: str) -> tuple[Step, Weights]:
    from torch.distributed import pipelining

    task = setting.workload.task(setting.seed)
    mine = stages(setting.workload.model().blocks, setting.ranks)[rank]
    module = nn.Sequential(*(task.blocks[block] for block in mine))
    optimizer = _optimizer(setting.optimizer, module, "fused")
    stage = pipelining.PipelineStage(module, rank, setting.ranks, torch.device("cpu"))
    schedule = getattr(pipelining, name)(stage, setting.microbatches, loss_fn=task.loss)
    is_first, is_last = rank == 0, rank == setting.ranks - 1

    def step(number: int) -> None:
        batch = Batch(number)
        optimizer.zero_grad()
        given = (task.input(batch, setting.ranks),) if is_first else ()
        if is_last:
            schedule.step(*given, target=task.target(batch, setting.ranks), losses=[])
        else:
            schedule.step(*given)
        optimizer.step()

    return step, lambda: {block: _flat(task.blocks[block]) for block in mine}


# ---- both


def _optimizer(optimizer: Optimizer, model: nn.Module, how: str = "") -> torch.optim.Optimizer:
    """`how`: "fused", "foreach", or as torch chooses by itself."""
    fields: dict[str, Any] = {how: True} if how else {}
    given = asdict(optimizer)
    fields |= {"lr": given.pop("learning_rate"), "weight_decay": given.pop("weight_decay")}
    if isinstance(optimizer, SGD):
        return torch.optim.SGD(model.parameters(), **fields, **given)
    betas = (given.pop("beta1"), given.pop("beta2"))
    return torch.optim.AdamW(model.parameters(), **fields, betas=betas, eps=given.pop("epsilon"))


def _flat(block: nn.Module) -> Tensor:
    from torch.distributed.tensor import DTensor

    whole = [p.full_tensor() if isinstance(p, DTensor) else p for p in ordered(block).values()]
    return torch.cat([p.detach().reshape(-1) for p in whole])


_PROGRAMS: Mapping[str, Callable[[Setting, int], tuple[Step, Weights]]] = {
    "ddp_tuned": lambda setting, rank: _ddp(setting, rank, True),
    "ddp_default": lambda setting, rank: _ddp(setting, rank, False),
    "fsdp2": _fsdp2,
    "torch_gpipe": lambda setting, rank: _pipeline(setting, rank, "ScheduleGPipe"),
    "torch_1f1b": lambda setting, rank: _pipeline(setting, rank, "Schedule1F1B"),
}
