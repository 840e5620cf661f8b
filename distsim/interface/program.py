"""What every backend runs on a rank, and how a coroutine is driven where awaiting never suspends."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

from distsim.interface.errors import StrategyError, foreign_await
from distsim.interface.strategy import Strategy
from distsim.interface.values import T
from distsim.interface.worker import Worker

R = TypeVar("R")


async def finish(strategy: Strategy, worker: Worker[T]) -> None:
    """Run the strategy, wait for what it posted, then check the rules that can only be checked at the end.

    Raises `StrategyError` for a `run` that is no coroutine, for Work that was never awaited and for gradients that were
    neither applied nor discarded.
    """
    program = strategy.run(worker)
    if not isinstance(program, Coroutine):
        name = f"{type(strategy).__name__}.run"
        raise StrategyError(f"{name} must be `async def` and yield nothing; called, it gave a {type(program).__name__}")
    await program
    await worker.settle()


def drive(coroutine: Coroutine[Any, Any, R]) -> R:
    """Run a coroutine whose awaits wait in place, as those of the real fabric do.

    Raises `StrategyError` if it suspends: then it awaited something that is not its worker's Work.
    """
    try:
        foreign = coroutine.send(None)
    except StopIteration as end:
        result: R = end.value
        return result
    coroutine.close()
    raise StrategyError(foreign_await(foreign))
