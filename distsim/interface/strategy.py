"""What a strategy is: a frozen dataclass with one coroutine.

    @dataclass(frozen=True)
    class MyStrategy(Strategy):
        '''One sentence that says the rule.'''

        async def run(self, worker: Worker[T]) -> None:
            for step in worker.steps():
                gradient = await worker.gradient(Batch(step, worker.rank, worker.world_size))
                await worker.apply(await worker.all_reduce(gradient))
                worker.publish()

Its fields are its configuration (`strategy.bucket_bytes=1MB`); `distsim list strategies` and `distsim explain` show its
docstring, whose full form is told in distsim/catalogue.py. It imports `distsim.interface` only: time is the worker's
clock, randomness the worker's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, ClassVar

from distsim.interface.errors import Problem
from distsim.interface.failure import OnLoss
from distsim.interface.model import Model
from distsim.interface.values import T

if TYPE_CHECKING:
    from distsim.interface.worker import Worker


class Strategy:
    """Base of all strategies: what the rest of distsim may ask of one."""

    def server_count(self, workers: int) -> int:
        """Parameter servers that it needs for P workers; they are the last ranks."""
        return 0

    def servers_beside(self) -> bool:
        """Whether server i shares the host of worker i mod P."""
        return False

    def gradients_an_update(self, workers: int) -> int:
        """Worker gradients of b samples that one update consumes."""
        return workers

    def alike_every(self, workers: int) -> int:
        """The n for which worker r + n does what worker r does, all workers it names moved on by n (mod P).

        It names them in the same order, too: rank + 1 before rank - 1, for all or for none. Groups alone are named by all
        their members in one order. P, unless said otherwise: no two are alike. A large modeled run simulates one of those
        that are (`fold_ranks`). What a class says holds of the program that it has or inherits; one that overrides `run`
        or a method that `run` may call says it again.
        """
        return workers

    async def run(self, worker: Worker[T]) -> None:
        """The program of one rank."""
        raise NotImplementedError(f"{type(self).__name__} has no run()")

    def problems(self, workers: int, model: Model) -> Iterable[Problem]:
        """What makes this strategy impossible for P `workers` and `model`; nothing if it can run."""
        return ()

    def updates_whole(self, workers: int) -> bool:
        """Whether who updates parameters has the whole gradient of that update as it is: of all blocks, in no code, kept
        nowhere for later. Only then can an update be skipped by its gradient, as fp16 needs it."""
        return True

    hears_on: ClassVar[str | None] = None
    """The tag on which its servers hear, by `receive_any`, of workers that are lost or have joined: signals from these,
    labelled `lost` and `joined`. What a lost worker owes never comes; its program begins anew when it joins. None: servers
    cannot go on without a worker."""

    def on_loss(self, workers: int) -> tuple[OnLoss, ...]:
        """What a run with P workers can do when it loses a rank, the usual first; any can abort.

        Without servers `continue` begins again with those who are left, each of which must hold all that another needs.
        """
        return ("restart",)

    def can_resume(self, step: int) -> bool:
        """Whether the run can go on before update `step` from what its ranks' parameters and optimizers are then.

        Checkpoints wait for such a step. What `run` keeps in variables of its own is lost in a restart: residuals of
        compression do no harm, weights that all workers must agree on do.
        """
        return True

    def warnings(self, workers: int, model: Model) -> Iterable[str]:
        """What a user should know of this choice, though it runs: a line each."""
        return ()
