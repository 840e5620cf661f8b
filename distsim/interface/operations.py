"""The kinds of operations that a rank starts, and what each writes into the rank's trace once it is over."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from distsim.interface.fabric import Handle
from distsim.interface.trace import Compute, Transfer
from distsim.interface.values import Batch, Message, T
from distsim.interface.work import Work

if TYPE_CHECKING:
    from distsim.interface.rank import Rank

R = TypeVar("R")


class Control(Work[R]):
    """A flow of control. It has no record: what it starts has its own."""

    __slots__ = ("_name",)

    def __init__(self, rank: Rank[Any], handle: Handle[Any], name: str) -> None:
        super().__init__(rank, handle)
        self._name = name

    @property
    def name(self) -> str:
        return self._name


class Computation(Work[R]):
    """An operation on the compute queue."""

    __slots__ = ("_batch", "_name")

    def __init__(self, rank: Rank[Any], handle: Handle[Any], name: str, batch: Batch | None) -> None:
        super().__init__(rank, handle)
        self._name = name
        self._batch = batch

    @property
    def name(self) -> str:
        return self._name

    def _end(self, awaited: float, value: Any) -> R:
        handle, batch = self.handle, self._batch
        step, part = (-1, -1) if batch is None else (batch.step, batch.part)
        self._rank.trace.compute.append(Compute(self._name, handle.begun, handle.ended, step, part))
        result: R = value
        return result


class Channel:
    """What happens in one order, from one rank's side: sends of a tag to one rank, receives from it, a group's collectives
    of a kind."""

    __slots__ = ("count", "kind", "name", "peers", "title")

    def __init__(self, kind: str, name: str, title: str, peers: tuple[int, ...] = (), first: int = 0) -> None:
        self.kind = kind
        self.name = name
        """As records call it, the same on all sides."""
        self.title = title
        """As messages to the user call an operation on it."""
        self.peers = peers
        """The ranks without which none can end, where they are known."""
        self.count = first
        """The number of the next operation."""

    def next(self) -> int:
        """The number of an operation that starts now."""
        number = self.count
        self.count = number + 1
        return number


class Exchange(Work[R]):
    """A send or a collective."""

    __slots__ = ("_channel", "_nbytes", "_number", "_posted")

    def __init__(
        self, rank: Rank[Any], handle: Handle[Any], channel: Channel, number: int, nbytes: float, posted: float
    ) -> None:
        super().__init__(rank, handle)
        self._channel = channel
        self._number = number
        self._nbytes = nbytes
        self._posted = posted

    @property
    def name(self) -> str:
        return self._channel.title

    @property
    def peers(self) -> tuple[int, ...]:
        return self._channel.peers

    def _end(self, awaited: float, value: Any) -> R:
        ended, channel = self.handle.ended, self._channel
        if awaited > ended:
            awaited = ended
        transfer = Transfer(channel.kind, channel.name, self._number, self._nbytes, self._posted, awaited, ended)
        self._rank.trace.transfers.append(transfer)
        result: R = value
        return result


class Receive(Exchange[Message[T]]):
    """A receive: who sent what is known when it is over."""

    __slots__ = ("tag", "then")

    tag: str
    then: Callable[[Message[T]], Message[T]]
    """What it gives for the message."""

    def _end(self, awaited: float, value: Message[T]) -> Message[T]:
        if not self._channel.name:  # from any rank
            self._channel = self._rank.channel("receive", value.source, self.tag)
            self._number = self._channel.next()
        if value.content is not None:
            self._nbytes = self._rank.numerics.nbytes(value.content)
        return self.then(super()._end(awaited, value))
