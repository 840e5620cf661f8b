"""torch's own FSDP2 and DTensor on two ranks, for tests to compare with: `python referee.py RANK FOLDER`.

FOLDER/jobs.pt holds jobs: dicts of `kind` (fsdp or tensor), `blocks` (the initial state of each), `optimizer` (a class of
torch.optim and its arguments) and `batches` (inputs and targets of each step, whole). FOLDER/weights.pt gets, by job, the
state of every block after the steps. Knows nothing of distsim.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module


class TwoLayers(nn.Module):
    """x + W2 tanh(W1 norm(x) + b1) + b2."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.down(torch.tanh(self.up(self.norm(x))))
        return y


def build(blocks: list[dict[str, Tensor]]) -> nn.Sequential:
    """The network of these states: a linear layer by `weight`, else two layers."""
    made: list[nn.Module] = []
    for state in blocks:
        if "weight" in state:
            made.append(nn.Linear(state["weight"].shape[1], state["weight"].shape[0]))
        else:
            made.append(TwoLayers(state["up.weight"].shape[1], state["up.weight"].shape[0]))
        made[-1].to(next(iter(state.values())).dtype).load_state_dict(state)
    return nn.Sequential(*made)


def train(job: dict[str, Any], mesh: DeviceMesh) -> list[dict[str, Tensor]]:
    """The states of the blocks after all steps."""
    net, rank, size = build(job["blocks"]), mesh.get_local_rank(), mesh.size()
    if job["kind"] == "fsdp":
        for block in net:
            fully_shard(block, mesh=mesh)
        fully_shard(net, mesh=mesh)
    else:
        for block in net:
            if isinstance(block, TwoLayers):
                parallelize_module(block, mesh, {"up": ColwiseParallel(), "down": RowwiseParallel()})
    name, arguments = job["optimizer"]
    optimizer = getattr(torch.optim, name)(net.parameters(), **arguments, foreach=False)
    for inputs, targets in job["batches"]:
        if job["kind"] == "fsdp":
            inputs, targets = inputs.chunk(size)[rank], targets.chunk(size)[rank]
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(inputs), targets).backward()
        optimizer.step()
    return [{name: _whole(p) for name, p in block.named_parameters()} for block in net]


def _whole(p: Tensor) -> Tensor:
    return (p.full_tensor() if isinstance(p, DTensor) else p).detach().clone()


def main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(str(folder / "store"), 2), rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    weights = [train(job, mesh) for job in torch.load(folder / "jobs.pt")]
    if rank == 0:
        torch.save(weights, folder / "weights.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
