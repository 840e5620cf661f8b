"""The private names of torch that are used. Another version may lack them, and tests on CPUs call few of the GPU's."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import Backend

PACKAGE = Path(__file__).parent.parent.parent / "distsim"
IMPORTED = {
    "torch": {"_fused_adamw_", "_fused_sgd_"},
    "torch.autograd.graph": {"_engine_run_backward"},
    "torch._C._distributed_c10d": {
        "AllToAllOptions",
        "AllgatherOptions",
        "AllreduceOptions",
        "BroadcastOptions",
        "FileStore",
        "PrefixStore",
        "ReduceOptions",
        "ReduceScatterOptions",
        "Store",
        "TCPStore",
    },
}


def test_no_other_is_imported() -> None:
    found = dict[str, set[str]]()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch":
                assert node.module is not None
                private = {a.name for a in node.names if "._" in f"{node.module}.{a.name}"}
                if private:
                    found.setdefault(node.module, set()).update(private)
    assert found == IMPORTED


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (torch.Tensor, "_version"),
        (torch.UntypedStorage, "_share_cuda_"),
        (torch.UntypedStorage, "_new_shared_cuda"),
        *((group, name) for group in (dist.ProcessGroup, Backend) for name in ("_allgather_base", "_reduce_scatter_base")),
    ],
)
def test_what_is_called_is_there(owner: type, name: str) -> None:
    assert hasattr(owner, name)


@pytest.mark.skipif(not dist.is_nccl_available(), reason="this build of torch has no NCCL")
def test_a_group_of_nccl_takes_a_timeout() -> None:
    assert hasattr(dist.ProcessGroupNCCL.Options(), "_timeout")
