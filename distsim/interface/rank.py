"""One rank's state and bookkeeping, shared by all views of it: versions, open work, debts, records.

A Worker turns a strategy's call into one of the `start_*` methods here; they start the operation on the fabric and write
its record to the trace once it is over. Backends make a Rank (see `Job.rank`) and read its trace.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import InitVar, dataclass, field, fields, replace
from functools import lru_cache
from typing import Any, Generic, Literal, NamedTuple, TypeVar, cast

from distsim.interface.deadlock import listed
from distsim.interface.errors import StrategyError
from distsim.interface.fabric import Collective, Envelope, Fabric, Kind
from distsim.interface.flow import Flow
from distsim.interface.model import Cost, Model, Operation
from distsim.interface.numerics import Blocks, Numerics, Part
from distsim.interface.operations import Channel, Computation, Control, Exchange, Receive
from distsim.interface.outcome import Piece, Snapshot
from distsim.interface.progress import Course, Progress
from distsim.interface.trace import Arrival, Loss, Trace
from distsim.interface.values import Batch, Message, Region, T
from distsim.interface.work import Work

R = TypeVar("R")
Parts = tuple[tuple[Operation, int], ...]
Stop = Callable[[], bool]


class Saved(NamedTuple):
    """What a checkpoint keeps of one rank."""

    numerics: Any
    version: int
    drawn: int


@dataclass
class Rank(Generic[T]):
    """One rank of a run."""

    rank: int
    workers: int
    world_size: int
    model: Model
    numerics: Numerics[T]
    fabric: Fabric
    course: InitVar[Course]
    seed: int = 0
    trace: Trace = field(init=False)
    progress: Progress = field(init=False)
    placed: tuple[int, ...] = field(init=False)
    shard: tuple[int, int] = (0, 1)
    """Which tensor shard of the blocks is placed here, of how many."""
    version: int = 0
    has_tasks: bool = False
    """A second flow of control may change the parameters while a gradient is computed."""
    drawn: int = 0
    open_work: dict[Work[Any], None] = field(default_factory=dict)
    posted: dict[int, deque[Work[None]]] = field(default_factory=dict)
    """By destination, what nobody awaits and was not over when last looked at."""
    owed: dict[int, Message[T]] = field(default_factory=dict)
    """By identity: equal messages are not the same."""
    numbered_from: int = 0
    """The first number of every channel: more than any before, where this rank goes on for one that was lost."""
    life: int = 0
    """How often it was lost while others worked on."""
    before: Rank[T] | None = None
    """What this one goes on for, which was lost: its records go on, too."""
    lock: threading.RLock = field(default_factory=threading.RLock)
    now: Callable[[], float] = field(init=False)
    """The rank's clock."""
    _channels: dict[tuple[str, int | None, str], Channel] = field(default_factory=dict)
    _collectives: dict[tuple[str, tuple[int, ...]], Channel] = field(default_factory=dict)
    _peak: float = 0.0

    def __post_init__(self, course: Course) -> None:
        self.now = self.fabric.now
        before = self.before
        self.trace = Trace(self.rank) if before is None else before.trace
        self.progress = Progress(course, self.fabric, self.trace, self.pieces, course.first)
        if before is not None:
            self.progress.snapshots, self._peak, self.before = before.progress.snapshots, before._peak, None
        self.placed = tuple(range(len(self.model.blocks)))

    def samples(self, batch: Batch) -> float:
        """How many samples `batch` holds."""
        return self.model.batch * self.workers / batch.parts

    def blocks_of(self, region: Region) -> tuple[int, ...]:
        """The blocks that `region` names on this rank."""
        return self.placed if region.blocks is None else region.blocks

    # ---- parameters

    def pieces(self, regions: tuple[Region, ...]) -> list[Piece]:
        """The parameters of these regions as they are now, their blocks named."""
        named = [replace(region, blocks=self.blocks_of(region)) for region in regions]
        with self.lock:
            return [Piece(region, self.shard, self.numerics.read(region)) for region in named]

    def weights(self) -> dict[int, T]:
        """The parameters of every block that is whole here (of one that is cut, its tensor shard)."""
        found = dict[int, T]()
        for block in self.placed:
            with suppress(StrategyError):  # only a shard is here
                found[block] = self.numerics.read(Region((block,)))
        return found

    # ---- checkpoints

    def save(self) -> Saved:
        """What a checkpoint keeps of this rank."""
        with self.lock:
            return Saved(self.numerics.save(), self.version, self.drawn)

    def restore(self, saved: Saved) -> None:
        """Go on from there; called before the strategy's program runs."""
        self.numerics.restore(saved.numerics)
        self.version, self.drawn = saved.version, saved.drawn

    def recall(self, trace: Trace, snapshots: list[Snapshot]) -> None:
        """Let its records go on after these; called before anything is recorded."""
        for each in fields(Trace):
            setattr(self.trace, each.name, getattr(trace, each.name))
        self.progress.snapshots, self._peak = snapshots, sum(trace.peak)

    # ---- values

    def forward(self, blocks: Blocks, x: T, batch: Batch) -> T:
        """Run the forward pass of blocks, as one, and account for what it saves."""
        return self.numerics.forward(blocks, x, batch, self.weigh)

    def backward(self, blocks: Blocks, g: T, batch: Batch, part: Part) -> T:
        """Run their backward pass, or a half of it, on what their forward pass saved."""
        return self.numerics.backward(blocks, g, batch, part, self.weigh)

    def weigh(self) -> None:
        """Note the memory held now if it is more than ever before; called after whatever adds to it."""
        memory, trace = self.numerics.memory(), self.trace
        if memory.activations > trace.peak_activations:
            trace.peak_activations = memory.activations
        total = sum(memory)
        if total > self._peak:
            self._peak, trace.peak = total, memory

    def loss(self, y: T, batch: Batch) -> T:
        """Record the loss of an output; give its gradient."""
        g, value = self.numerics.loss(y, batch)
        self.trace.losses.append(Loss(batch.step, batch.part, batch.parts, value, self.now()))
        return g

    def backward_of_loss(self, blocks: Blocks, y: T, batch: Batch) -> T:
        """Record the loss of an output that `blocks` gave, and run their backward pass."""
        g, value = self.numerics.backward_of_loss(blocks, y, batch, self.weigh)
        self.trace.losses.append(Loss(batch.step, batch.part, batch.parts, value, self.now()))
        return g

    # ---- gradients that travel

    def owe(self, message: Message[T]) -> Message[T]:
        """Note a gradient that arrived: it must be applied or discarded."""
        if message.label == "gradient" and not message.is_signal:
            self.owed[id(message)] = message
        return message

    def decide(self, message: Message[T], source: int, applied: bool) -> None:
        """Take the decision about a gradient that arrived; `source` is a rank of the world."""
        if self.owed.pop(id(message), None) is None:  # those owed are kept alive: nothing else has their identity
            raise StrategyError(
                f"the message {message.label!r} from rank {source} is no gradient that waits for a decision: "
                "each carries the label 'gradient' and is applied or discarded exactly once"
            )
        staleness = self.version - message.version
        self.trace.arrivals.append(Arrival(source, message.version, staleness, applied, self.now()))

    # ---- starting operations

    def start_compute(
        self,
        name: str,
        parts: Parts,
        batch: Batch | None,
        action: Callable[[Stop], R],
        unless: Work[Any] | None = None,
        *,
        pieces: int = 1,
        nbytes: float = 0.0,
        share: float = 1.0,
        passes: int = 0,
    ) -> Work[Any]:
        """Queue `action` on the rank's compute queue. `parts` run on each of `pieces` micro-batches of `batch`."""
        if unless is not None and isinstance(unless.handle, Flow):
            raise StrategyError(f"unless={unless!r} cannot end first: it goes on only while it is awaited")
        samples = 0.0 if batch is None else self.samples(batch) / pieces
        cost = Cost(parts * pieces, samples, nbytes, self.shard[1], share, passes)
        handle = self.fabric.compute(cost, action, batch, None if unless is None else unless.handle)
        return Computation(self, handle, name, batch)

    def start_send(self, to: int, tag: str, envelope: Envelope[T]) -> Work[None]:
        """Send to a rank of the world."""
        if len(envelope.label) > 32 and (length := len(envelope.label.encode())) > 128:
            raise StrategyError(f"a label has at most 128 bytes, this one {length}: {envelope.label[:40]!r}...")
        payload = envelope.payload
        self.trace.gradients += envelope.label == "gradient" and payload is not None
        nbytes = 0.0 if payload is None else self.numerics.nbytes(payload)
        channel = self.channel("send", to, tag)
        number, posted = channel.next(), self.now()
        return Exchange(self, self.fabric.send(to, tag, envelope), channel, number, nbytes, posted)

    def post(self, to: int, tag: str, envelope: Envelope[T]) -> None:
        """Send to a rank of the world what nobody awaits; record and let go of what went there before and is over."""
        posted = self.posted.setdefault(to, deque())
        with self.lock:  # a second flow may post there, too
            while posted and posted[0].collect():
                del posted[0]
            posted.append(self.start_send(to, tag, envelope))
            posted[-1].handle.detach()

    def start_receive(self, source: int | None, tag: str, then: Callable[[Message[T]], Message[T]]) -> Work[Message[T]]:
        """Receive from a rank of the world, or from any."""
        channel, posted = self.channel("receive", source, tag), self.now()
        number = -1 if source is None else channel.next()
        receive: Receive[T] = Receive(self, self.fabric.receive(source, tag), channel, number, 0.0, posted)
        receive.tag, receive.then = tag, then
        return receive

    def start_collective(self, group: tuple[int, ...], collective: Collective, channel: Channel, x: R) -> Work[R]:
        """Join the next collective of a group of ranks of the world, on its channel; a barrier's `x` is None."""
        number, posted = channel.next(), self.now()
        nbytes = 0.0 if x is None else self.numerics.nbytes(cast("T", x))
        return Exchange(self, self.fabric.collective(group, collective, x), channel, number, nbytes, posted)

    def start_task(self, coroutine: Coroutine[Any, Any, R]) -> Work[R]:
        """Run a second flow of control."""
        self.has_tasks = True
        return Control(self, self.fabric.task(coroutine), "task")

    def start_flow(self, coroutine: Coroutine[Any, Any, R]) -> Work[R]:
        """Run a coroutine to its first wait; the rest when it is awaited."""
        return Control(self, Flow(coroutine, self.now), "start")

    async def settle(self) -> None:
        """Wait for what was posted. Raises `StrategyError` for Work never awaited, and for gradients neither applied nor
        discarded."""
        for posted in self.posted.values():
            for work in posted:
                await work
        forgotten = [work for work in self.open_work if not work.is_awaited]
        if forgotten:
            raise StrategyError(f"rank {self.rank} never awaited: " + ", ".join(map(repr, forgotten)))
        if self.owed:
            owed = ", ".join(f"version {m.version} from rank {m.source}" for m in self.owed.values())
            raise StrategyError(f"rank {self.rank} neither applied nor discarded the gradients of {owed}")

    def channel(self, kind: Literal["send", "receive"], peer: int | None, tag: str) -> Channel:
        """Messages of one tag to or from a rank of the world. Those from any rank have no name until they have arrived."""
        channel = self._channels.get((kind, peer, tag))
        if channel is None:
            name, title, first = "", f"receive {tag!r} from any rank", self.numbered_from
            if peer is not None:
                source, to = (self.rank, peer) if kind == "send" else (peer, self.rank)
                name = f"message {source}>{to} {tag}"
                title = f"send {tag!r} to rank {to}" if kind == "send" else f"receive {tag!r} from rank {source}"
            channel = Channel(kind, name, title, () if peer is None else (peer,), first)
            self._channels[kind, peer, tag] = channel
        return channel

    def messages(self) -> Iterator[tuple[str, int, str, Channel]]:
        """Its channels with one other rank each: `send` or `receive`, that rank, the tag."""
        for (kind, peer, tag), channel in self._channels.items():
            if peer is not None:
                yield kind, peer, tag, channel

    def collectives(self, kind: Kind, group: tuple[int, ...]) -> Channel:
        """A group's collectives of one kind."""
        channel = self._collectives.get((kind, group))
        if channel is None:
            channel = self._collectives[kind, group] = Channel(kind, *_names(kind, group), (), self.numbered_from)
        return channel


@lru_cache(maxsize=64)
def _names(kind: str, group: tuple[int, ...]) -> tuple[str, str]:
    """The name and the title of a group's collectives, one text for all ranks: a large group's is long."""
    members = ",".join(map(str, group))
    return f"{kind} {members}", f"{kind} of ranks {listed(group)}"
