"""The values that strategies handle: payloads, batches, regions, messages.

Payloads carry the same operators whether they are tensors or byte counts, so one strategy text serves both. A strategy
branches on counts, versions and arrivals, never on the value of a payload: `bool` or `float` of a byte count raises.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, NamedTuple, Protocol, Self, TypeVar

from distsim.interface.errors import StrategyError


class Payload(Protocol):
    """What travels: a tensor or a byte count. Arithmetic between payloads needs equal sizes and gives that size."""

    def __add__(self, other: Self | float, /) -> Self: ...
    def __sub__(self, other: Self | float, /) -> Self: ...
    def __mul__(self, other: Self | float, /) -> Self: ...
    def __truediv__(self, other: Self | float, /) -> Self: ...
    def __pow__(self, exponent: float, /) -> Self: ...


T = TypeVar("T", bound=Payload)


class Batch(NamedTuple):
    """One of `parts` equal shares of the samples of global step `step`.

    It is data (a pure function of the seed and these numbers), the identity of saved activations, and the weight of its
    gradient in one. A global step holds P x b samples, where b is the workload's batch a worker; data parallelism is
    `Batch(step, rank, P)`, a pipeline's micro-batches are `Batch(step).split(m)`.
    """

    step: int
    part: int = 0
    parts: int = 1
    weight: float = 1.0
    """The share of this batch in the sum that its gradient joins; `loss` scales by it."""

    def split(self, pieces: int) -> list[Batch]:
        """Cut this share into `pieces` equal ones whose weighted gradients add up to this batch's."""
        if pieces == 1:
            return [self]
        first, parts, weight = self.part * pieces, self.parts * pieces, self.weight / pieces
        return [Batch(self.step, first + i, parts, weight) for i in range(pieces)]


@dataclass(frozen=True, slots=True)
class Region:
    """The parameters that an operation concerns, or their gradient: one flat vector, block after block.

    `blocks` are in ascending order; None: all placed here. With `shards` n the vector is padded with zeros until it cuts
    into n equal pieces, of which `shard` names one (None: all of them, joined). `replicated` narrows each block to the
    parameters that all its tensor shards hold. Raises `StrategyError` on a shard that does not exist.
    """

    blocks: tuple[int, ...] | None = None
    shards: int = 1
    shard: int | None = None
    replicated: bool = False

    def __post_init__(self) -> None:
        if self.shards < 1 or (self.shard is not None and not 0 <= self.shard < self.shards):
            raise StrategyError(f"a region has no shard {self.shard} of {self.shards}")
        if self.replicated and self.shards > 1:
            raise StrategyError("the replicated parameters of a region are not cut into shards")

    def cut(self, shards: int) -> list[Region]:
        """The equal pieces of this region: `read` of one gives a piece of the padded vector."""
        return [Region(self.blocks, shards, shard) for shard in range(shards)]

    @property
    def joined(self) -> Region:
        """All the shards of this shard's region, padding included: what an all-gather of them gives."""
        return Region(self.blocks, self.shards, None, self.replicated)


ALL = Region()


class Message(NamedTuple, Generic[T]):
    """What a receive gives: who sent it, the version stamped on it, its label, and a payload unless it is a signal."""

    source: int
    version: int
    label: str
    content: T | None

    @property
    def is_signal(self) -> bool:
        """True if the sender sent no payload."""
        return self.content is None

    @property
    def payload(self) -> T:
        """The payload, the receiver's own. Raises `StrategyError` on a signal."""
        if self.content is None:
            raise StrategyError(f"the message {self.label!r} from rank {self.source} is a signal: it has no payload")
        return self.content
