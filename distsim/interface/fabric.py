"""The protocol of fabrics: when, and over what. One instance is one rank's access to time and transport.

A fabric starts an operation when it is called and gives a `Handle`. Compute operations queue per rank, collectives per
group, messages per (peer, tag), each in call order. A transfer starts when both sides have posted it (rendez-vous). The
fabric asks the numerics for the size, a copy or a combination of payloads and never looks into one. What arrives is the
receiver's own.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar

from distsim.interface.model import Cost
from distsim.interface.values import Batch, Message

R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class Handle(Protocol[R_co]):
    """An operation that a fabric has started. `begun` and `ended` are times on the rank's clock, set once it is over."""

    begun: float
    ended: float

    def __await__(self) -> Generator[Any, Any, R_co]: ...

    def over(self) -> bool:
        """True once the result is here. `compute(unless=)` asks, and whoever has called `detach`."""

    def detach(self) -> None:
        """Nobody will wait for it: let it end, and let go of its payload, by itself."""


class Envelope(NamedTuple, Generic[R]):
    """What `send` hands to the fabric; `payload` None makes it a signal of 0 bytes."""

    version: int
    label: str
    payload: R | None


Kind = Literal["all_reduce", "reduce_scatter", "all_gather", "broadcast", "all_to_all", "reduce", "barrier"]


class Collective(NamedTuple):
    """Which collective: its kind, its reduction where it has one, its root (a position in the group) where it has one."""

    kind: Kind
    op: Literal["mean", "sum", ""] = ""
    root: int = 0
    in_place: bool = False
    """Of an all-reduce: each result is what its rank gave, overwritten."""


class Fabric(Protocol):
    """One rank's access to time and transport. Ranks in arguments are ranks of the world."""

    rank: int

    def now(self) -> float:
        """Seconds since the run began."""

    def compute(
        self, cost: Cost, action: Callable[[Callable[[], bool]], R], batch: Batch | None, unless: Handle[Any] | None
    ) -> Handle[R | None]:
        """Run `action(stop)` on the rank's compute queue; None if `unless` was over first.

        A real fabric lets the action ask `stop()` between blocks; a simulated one runs the action when the operation starts
        on the queue, gives its result when the modeled time is over, and cancels at any instant. `batch` keys the
        straggler's draw; None draws none."""

    def send(self, to: int, tag: str, envelope: Envelope[Any]) -> Handle[None]:
        """Send; the payload is the fabric's until the handle is over."""

    def receive(self, source: int | None, tag: str) -> Handle[Message[Any]]:
        """Receive from `source`, or from any rank if None. `Message.source` is a rank of the world."""

    def collective(self, group: tuple[int, ...], collective: Collective, payload: Any) -> Handle[Any]:
        """Join the group's next collective; a barrier has no payload and no result. The payload is the fabric's until the
        handle is over.

        Raises `StrategyError` if kinds or sizes differ within the group."""

    def task(self, coroutine: Coroutine[Any, Any, R]) -> Handle[R]:
        """Run a second flow of control on this rank."""

    def decide(self, key: str, proposal: bool) -> bool:
        """Agree on `key` off the clock: the first rank to ask decides for all."""

    def count(self, key: str) -> int:
        """How often any rank has asked for `key` before, off the clock: each gets another number."""
