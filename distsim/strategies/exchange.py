"""Averaging gradients over a group of workers, compressed or not: what `compression` means on any strategy.

Each region of the model has its own codes and its own error feedback: what a code leaves out of a gradient is kept, as a
residual of the gradient's size, and added to the next one. So nothing is lost, only late: P times what was applied, plus
the residuals of all ranks, is the sum of all gradients (but for what fp16's sums round on the way). Seide et al., "1-Bit
SGD", Interspeech 2014; Stich, Cordonnier and Jaggi, "Sparsified SGD with Memory", NeurIPS 2018.

The first code is on its way when `start` returns, so that it overlaps the rest of the backward pass; a second round and the
decoding follow when the result is awaited.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Generic, Literal

from distsim.interface import ALL, Codec, Half, Model, PowerSGD, Problem, Region, Strategy, T, TopK, Work, Worker


@dataclass(frozen=True, kw_only=True)
class Compressed(Strategy):
    """A strategy whose gradients may travel compressed."""

    compression: Literal["none", "top_k", "fp16", "powersgd"] = "none"
    """What travels in place of a gradient: its largest scalars, half precision, or products of rank `compression_rank`."""
    density: float = 0.01
    """The share of the scalars that `top_k` sends, each with its place."""
    compression_rank: int = 4
    """Columns of the two matrices that `powersgd` sends in place of one."""
    error_feedback: bool = True
    """Keep what a code leaves out, and add it to the next gradient."""

    def codec(self) -> Codec | None:
        """What `compression` stands for; None sends gradients as they are."""
        match self.compression:
            case "none":
                return None
            case "top_k":
                return TopK(self.density)
            case "fp16":
                return Half()
            case "powersgd":
                return PowerSGD(self.compression_rank)

    def updates_whole(self, workers: int) -> bool:
        return self.compression == "none"

    def problems(self, workers: int, model: Model) -> Iterable[Problem]:
        if not 0.0 < self.density <= 1.0:
            yield Problem("strategy.density", self.density, "must be above 0 and at most 1", "for example 0.01")
        if self.compression_rank < 1:
            yield Problem("strategy.compression_rank", self.compression_rank, "must be at least 1", "for example 4")


class Feedback(Generic[T]):
    """What the codes of one rank have left out so far, by region. One a rank, kept for the whole run."""

    def __init__(self, is_on: bool) -> None:
        self.is_on = is_on
        self._residuals: dict[Region, T] = {}

    def add(self, gradient: T, region: Region) -> T:
        """The gradient, and what was left out of those before."""
        residual = self._residuals.get(region)
        return gradient if residual is None else gradient + residual

    def keep(self, wanted: T, sent: T, region: Region) -> None:
        """Note that of `wanted` only `sent` counts."""
        if self.is_on:
            self._residuals[region] = wanted - sent


class Exchange(Generic[T]):
    """The mean of gradients over a group."""

    def __init__(self, group: Worker[T], compressed: Compressed) -> None:
        self._group = group
        self._codec = compressed.codec()
        self._is_divided = self._codec is None and group.world_size.bit_count() == 1
        self.scale = 1.0 / group.world_size if self._is_divided else 1.0
        """What gradients are multiplied by as they are copied for this. Dividing by a power of two rounds nothing: then the
        mean is a sum, to the last bit, and no pass over memory divides it. Codes are of gradients as they are."""
        self.feedback = Feedback[T](compressed.error_feedback)

    async def start(self, gradient: T, region: Region = ALL) -> Work[T]:
        """The mean over the group of this gradient of `region`, which is multiplied by `scale` already, under way: encoding
        it is over when this returns.

        The gradient is given away.
        """
        if self._codec is None:
            return self._group.all_reduce(gradient, "sum" if self._is_divided else "mean", in_place=True)
        wanted = self.feedback.add(gradient, region)
        code = await self._group.encode(self._codec, wanted, region)
        mean = self._gather if "all_gather" in self._codec.rounds else self._sum
        return self._group.start(mean(self._codec, wanted, code, region))

    async def _sum(self, codec: Codec, wanted: T, code: T, region: Region) -> T:
        """Codes are added up on the way, after dividing them: half precision ends at 65,504."""
        group = self._group
        reducing, own = group.all_reduce(code / group.world_size, "sum"), self._own(codec, code, region)
        received = [await reducing]
        for _ in codec.rounds[1:]:
            code = await group.encode(codec, wanted, region, received)
            received.append(await group.all_reduce(code / group.world_size, "sum"))
        mean = await group.decode(codec, received, region)
        self.feedback.keep(wanted, mean if own is None else await own, region)
        return mean

    async def _gather(self, codec: Codec, wanted: T, code: T, region: Region) -> T:
        """Everybody gets every code."""
        gathering, own = self._group.all_gather(code), self._own(codec, code, region)
        codes = await gathering
        if own is not None:
            self.feedback.keep(wanted, await own, region)
        return await self._group.decode(codec, [codes], region, self._group.world_size)

    def _own(self, codec: Codec, code: T, region: Region) -> Work[T] | None:
        """What this rank's code stands for, if its error is counted by that: decoded while the code travels."""
        return self._group.decode(codec, [code], region) if codec.is_own and self.feedback.is_on else None


class Outbox(Generic[T]):
    """Gradients on their way to a server, which decodes each by itself: what a worker's code leaves out, it keeps."""

    def __init__(self, worker: Worker[T], compressed: Compressed) -> None:
        self._worker = worker
        self._codec = compressed.codec()
        self.feedback = Feedback[T](compressed.error_feedback)
        self._sent: list[tuple[Region, T, T]] = []

    async def encode(self, gradient: T, region: Region) -> T:
        """What travels in place of a gradient of `region`."""
        if self._codec is None:
            return gradient
        wanted = self.feedback.add(gradient, region)
        code = await self._worker.encode(self._codec, wanted, region)
        self._sent.append((region, wanted, code))
        return code

    async def keep(self) -> None:
        """Note what the codes since the last time leave out; call it while they travel."""
        for region, wanted, code in self._sent:
            if self._codec is not None and self.feedback.is_on:
                self.feedback.keep(wanted, await self._worker.decode(self._codec, [code], region), region)
        self._sent.clear()


async def decoded(server: Worker[T], compressed: Compressed, payload: T, region: Region) -> T:
    """The gradient of `region` that a worker's message brings."""
    codec = compressed.codec()
    return payload if codec is None else await server.decode(codec, [payload], region)
