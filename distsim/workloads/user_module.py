"""A user's own model and data: `workload=module workload.module=my_package.my_file:build`. No torch here.

`build()` takes nothing and returns (blocks, data, loss):
- blocks: an nn.Sequential, cut into one block for each child that has parameters (a child without joins the block before
  it); or a list of modules, a block each; or any other module, which is one block and can only be data parallel. One tensor
  goes in and one comes out, the samples its first dimension. Blocks share no parameters. A block computes the same again on
  the same input, changes neither that nor its buffers, and stays on the device it is on; constants are its buffers. It
  finds its parameters where they are registered, each time it runs.
- data: (inputs, targets) or (inputs, targets, validation inputs, validation targets), tensors that fit into memory. Any
  number of samples will do: a step that comes to the end of an epoch goes on in the next.
- loss: a function (output, target) -> the mean over the samples.
torch's global generator is seeded with the run's seed before the call, so initial weights follow the seed. Whatever else it
draws from, numpy or `random`, it seeds itself: every rank calls it, and all must get the same. It starts no processes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

from distsim.interface.errors import Problem
from distsim.interface.model import Model
from distsim.workloads.workload import LARGEST_BATCH, Workload

if TYPE_CHECKING:
    from distsim.workloads.task import Task


@dataclass(frozen=True)
class UserModule(Workload):
    """The model and data that a function of the user's returns."""

    name: ClassVar[str] = "module"

    module: str = ""
    """`package.file:function`; importable, or below the current directory."""
    batch: int = 16
    """Samples a worker contributes to a step."""

    def problems(self) -> Iterable[Problem]:
        """What is wrong with its fields; whether the function can be imported shows when it is called."""
        if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", self.module):
            yield Problem(
                "workload.module", self.module, "must be package.file:function", "for instance my_package.my_file:build"
            )
        if not 1 <= self.batch <= LARGEST_BATCH:
            yield Problem("workload.batch", self.batch, f"must be from 1 to {LARGEST_BATCH}")

    def model(self) -> Model:
        """The description, counted by torch in one forward and backward pass of each block."""
        from distsim.workloads.user_task import function

        return _model(self, function(self))

    def fingerprint(self) -> str:
        """A hash of the data and of the code of the function, what it imports included."""
        from distsim.workloads.user_task import fingerprint

        return fingerprint(self)

    def task(self, seed: int) -> Task:
        """What the function returns, called under `seed`."""
        from distsim.workloads.user_task import user_task

        return user_task(self, seed)


@lru_cache(maxsize=8)
def _model(workload: UserModule, function: Callable[[], Any]) -> Model:
    """Counted once for every `function`: a reloaded module has another."""
    from distsim.workloads.describe import describe
    from distsim.workloads.user_loss import check_loss

    task = workload.task(0)
    model = describe(task.blocks, task.data.inputs, workload.batch, workload.module)
    check_loss(task, workload.module)
    return model
