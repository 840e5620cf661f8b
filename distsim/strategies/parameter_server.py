"""Data parallelism over parameter servers: members of one family, each a few rules (see parameter_server_program)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

from distsim.interface import Message, Model, Problem, T, Worker
from distsim.strategies.parameter_server_program import Desk, Late, ParameterServer, outside


@dataclass(frozen=True)
class SyncPS(ParameterServer):
    """The server waits for one gradient of the current model from each worker, then updates once with their mean.

    Staleness 0. n exponential workers of mean 1/mu take H_n/mu a step; P gradients of M bytes enter and leave S servers'
    links in P M/(S B) each way. Li et al., "Scaling Distributed Machine Learning with the Parameter Server", OSDI 2014.
    """

    def collect(self, workers: int) -> int:
        return workers


@dataclass(frozen=True)
class BackupWorkers(ParameterServer):
    """Of P workers `backups` are spare: the server updates with the first P - b gradients of the current model.

    Staleness 0. N + b exponential workers take (H_{N+b} - H_b)/mu a step if the late are cancelled, longer if they finish.
    Chen et al., "Revisiting Distributed Synchronous SGD", arXiv:1604.00981.
    """

    backups: int = 1
    """b, how many of the workers' gradients an update does not wait for."""
    late: Literal["cancel", "drop"] = "cancel"
    """What becomes of them: their workers stop computing, or finish, and the server drops what they send."""

    def collect(self, workers: int) -> int:
        return workers - self.backups

    def on_late(self) -> Late:
        return self.late

    def problems(self, workers: int, model: Model) -> Iterable[Problem]:
        yield from super().problems(workers, model)
        yield from outside("backups", self.backups, 0, workers - 1, f"of {workers} workers one at least must count")


@dataclass(frozen=True)
class _TakesK(ParameterServer):
    """An update takes K gradients."""

    k: int = 2
    """K, how many gradients an update waits for."""

    def collect(self, workers: int) -> int:
        return self.k

    def problems(self, workers: int, model: Model) -> Iterable[Problem]:
        yield from super().problems(workers, model)
        yield from outside("k", self.k, 1, workers, f"an update takes so many gradients of {workers} workers")


@dataclass(frozen=True)
class KSync(_TakesK):
    """The server updates with the first K gradients of the current model, from K distinct workers.

    Staleness 0. P exponential workers take (H_P - H_{P-K})/mu a step if the late are cancelled; K = P is sync_ps. Dutta et
    al., "Slow and Stale Gradients Can Win the Race", AISTATS 2018.
    """

    late: Literal["cancel", "drop"] = "cancel"
    """What becomes of the others: their workers stop computing, or finish, and the server drops what they send."""

    def on_late(self) -> Late:
        return self.late


@dataclass(frozen=True)
class KBatchSync(KSync):
    """The server updates with the first K gradients of the current model; a worker goes on with it, and may give several.

    Staleness 0. P exponential workers take K/(P mu) an update if the late are cancelled. Dutta et al., "Slow and Stale
    Gradients Can Win the Race", AISTATS 2018; with late=drop the rule of Tyurin and Richtarik, "Optimal Time Complexities
    of Parallel Stochastic Optimization Methods", NeurIPS 2023 (Rennala SGD).
    """

    waits: ClassVar[bool] = False


@dataclass(frozen=True)
class KAsync(_TakesK):
    """The server updates with one gradient each of the first K workers, however old; those K alone get the new model.

    Mean staleness (P-K)/K, for any delays. P exponential workers take (H_P - H_{P-K})/mu an update. Dutta et al., "Slow and
    Stale Gradients Can Win the Race", AISTATS 2018.
    """


@dataclass(frozen=True)
class KBatchAsync(_TakesK):
    """The server updates with any K gradients, however old; nobody waits, and a fast worker gives several.

    Mean staleness (P-1)/K, for any delays; K E[X]/P an update. Dutta et al., "Slow and Stale Gradients Can Win the Race",
    AISTATS 2018; also n-softsync (Zhang et al., IJCAI 2016) and FedBuff (Nguyen et al., AISTATS 2022).
    """

    waits: ClassVar[bool] = False


@dataclass(frozen=True)
class AsyncPS(ParameterServer):
    """The server updates with every gradient at once, however old the model it was computed on; nobody waits.

    Mean staleness P-1, for any delays; E[X]/P an update. Every comparison needs the control: the same at rate/P. Dean et
    al., "Large Scale Distributed Deep Networks", NIPS 2012 (Downpour SGD).
    """

    weight: Literal["constant", "inverse", "polynomial"] = "constant"
    """What the rate of a gradient of staleness tau is multiplied by: 1, 1/max(1, tau) or (1 + tau)^-exponent. Zhang et al.,
    "Staleness-aware async-SGD", IJCAI 2016; Xie et al., "Asynchronous Federated Optimization", arXiv:1903.03934."""
    exponent: float = 0.5
    """Of the polynomial weight."""

    def collect(self, workers: int) -> int:
        return 1

    def weigh(self, staleness: int, workers: int) -> float:
        if self.weight == "polynomial":
            return float((1 + staleness) ** -self.exponent)
        return 1.0 if self.weight == "constant" else 1.0 / max(1, staleness)

    def problems(self, workers: int, model: Model) -> Iterable[Problem]:
        yield from super().problems(workers, model)
        if not self.exponent >= 0.0:
            yield Problem("strategy.exponent", self.exponent, "must be at least 0", "for example strategy.exponent=0.5")


@dataclass(frozen=True)
class SSP(ParameterServer):
    """The server updates with every gradient at once, and a worker may be at most `bound` gradients ahead of the slowest.

    Staleness is bounded: at clock c a worker reads all updates of clocks up to c-s-1. Two exponential workers make
    4(s+1)mu/(2s+3) gradients a second. Each counts 1/P: with plain SGD s=0 is sync_ps, and s=inf is async_ps at rate/P. Ho
    et al., "More Effective Distributed ML via a Stale Synchronous Parallel Parameter Server", NIPS 2013.
    """

    bound: int = 2
    """s: a worker that has given c gradients goes on iff the slowest has given at least c - s."""

    def admit(self, ahead: int) -> bool:
        return ahead <= self.bound

    def collect(self, workers: int) -> int:
        return 1

    def weigh(self, staleness: int, workers: int) -> float:
        return 1.0 / workers

    def problems(self, workers: int, model: Model) -> Iterable[Problem]:
        yield from super().problems(workers, model)
        if self.bound < 0:
            yield Problem("strategy.bound", self.bound, "must be at least 0", "0 keeps all workers in step")


@dataclass(frozen=True)
class DCASGD(ParameterServer):
    """The server updates with every gradient g at once, plus lambda g g dw, dw being what changed since its model was read.

    Mean staleness P-1, for any delays; the server keeps the model of every worker. Lambda 0 is async_ps; `adaptive` divides
    lambda by the root of the gradients' mean square. Zheng et al., "Asynchronous Stochastic Gradient Descent with Delay
    Compensation", ICML 2017.
    """

    compensation: float = 0.04
    """Lambda; on CIFAR-10 the paper takes 0.04, and 2 where it is adaptive."""
    adaptive: bool = False
    """Divide lambda by the root of a moving mean of squared gradients, plus 1e-7."""
    decay: float = 0.95
    """m, the share of the past in that mean."""

    def collect(self, workers: int) -> int:
        return 1

    def updates_whole(self, workers: int) -> bool:
        return super().updates_whole(workers) and not self.adaptive  # the mean square would keep what overflowed

    def desk(self, server: Worker[T]) -> Desk[T]:
        return _Compensating(server, self)

    def problems(self, workers: int, model: Model) -> Iterable[Problem]:
        yield from super().problems(workers, model)
        if not self.compensation >= 0.0:
            yield Problem("strategy.compensation", self.compensation, "must be at least 0", "0 is async_ps")
        if not 0.0 <= self.decay < 1.0:
            yield Problem("strategy.decay", self.decay, "must be at least 0 and below 1", "for example strategy.decay=0.95")


class _Compensating(Desk[T]):
    """Corrects gradients for their delay; keeps the mean square of all it has seen."""

    def __init__(self, server: Worker[T], strategy: DCASGD) -> None:
        super().__init__(server, strategy)
        self._rule = strategy
        self._mean_square: T | None = None

    async def gradient(self, message: Message[T], model: T) -> T:
        gradient, newest = await super().gradient(message, model), self.server.read(self.region)
        return await self.server.compute("compensate", self._compensate, gradient, newest, model)

    def _compensate(self, gradient: T, newest: T, read: T) -> T:
        square = gradient * gradient
        correction = square * (newest - read) * self._rule.compensation
        if self._rule.adaptive:
            seen = square * (1.0 - self._rule.decay)
            self._mean_square = seen if self._mean_square is None else self._mean_square * self._rule.decay + seen
            correction = correction / (self._mean_square + 1e-7) ** 0.5
        return gradient + correction
