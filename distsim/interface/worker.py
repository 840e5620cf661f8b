"""The Worker: the one interface that strategies are written against. Its rules:

- A method that gives `Work` has started its operation when it returns. Compute operations queue per rank, collectives per
  group, messages per (peer, tag), in call order.
- A compute operation reads the parameters when it starts on the queue, and its result is visible when awaited.
- `backward` uses the weights that its `forward` used, whatever was applied or loaded in between.
- A payload given to `send` or a collective is the fabric's until awaited; what arrives is the receiver's own.
- A transfer starts when both sides have posted it. Post receives ahead, or every hop is on the critical path.
- What gives no `Work` takes no time: `post`, `read`, `load`, `release`, `change`, `accumulated`, `accumulate`, `zero`,
  `cut`, `input`, `publish`.
- A message with the label `gradient` must be applied (`apply(of=...)`) or discarded, exactly once.
- There is no wait-any and no `done()`: servers use `receive_any`, cancellation uses `unless=`.

How it works: a Worker holds a `Numerics` (what values are) and a `Fabric` (when they are ready), both in its `Rank`, so
that naming, never-awaited checks, versions, staleness and views of groups are written once for all backends. A group is
this same worker, seen narrower: its `rank` and peers are positions in the group.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Sequence
from functools import lru_cache
from random import Random
from typing import Any, Generic, Literal, TypeVar, overload

from distsim.interface.backpropagation import start_buckets, start_gradient
from distsim.interface.codec import Codec
from distsim.interface.errors import StrategyError
from distsim.interface.fabric import Collective, Envelope
from distsim.interface.model import Block, Operation
from distsim.interface.numerics import Blocks, Part
from distsim.interface.operations import Channel
from distsim.interface.optimizer import Optimizer
from distsim.interface.rank import Parts, Rank, Stop
from distsim.interface.values import ALL, Batch, Message, Region, T
from distsim.interface.work import Work

R = TypeVar("R")

_LOSS: Parts = (("loss", -1),)
_BACKWARD: dict[Part, tuple[Operation, str]] = {
    "both": ("backward", "B"),
    "input": ("backward_input", "I"),
    "weights": ("backward_weights", "W"),
}


class Worker(Generic[T]):
    """One rank, seen within a group. See the module's text for the rules."""

    def __init__(self, state: Rank[T], ranks: Sequence[int]) -> None:
        self._state = state
        self._ranks = tuple(ranks)
        self.rank = self._position(state.rank)
        """This rank's position in the group; workers come first, parameter servers last."""
        self.world_size = len(self._ranks)
        """Ranks in the group."""
        self.workers = state.workers
        """P, the number of ranks that produce gradients, in the whole world."""
        self._channels: dict[str, Channel] = {}
        """Its collectives by kind: looking a large group up takes longer than all the rest of a call."""

    # ---- what it knows

    @property
    def blocks(self) -> Sequence[Block]:
        """The description of the whole model, in order."""
        return self._state.model.blocks

    @property
    def now(self) -> float:
        """Seconds since the run began, on this run's clock."""
        return self._state.fabric.now()

    @property
    def version(self) -> int:
        """How often `apply` was called on this rank."""
        return self._state.version

    @property
    def first(self) -> int:
        """The update that `steps` begins with: 0, or where the last checkpoint lets the run go on."""
        return self._state.progress.course.first

    @property
    def life(self) -> int:
        """How often this rank has joined again: what a server sent before it heard of that was meant for a former life."""
        return self._state.life

    def random(self, *key: int) -> Random:
        """A generator that depends on the seed, this rank and `key` only."""
        return Random(repr((self._state.seed, "strategy", self._state.rank, key)))

    # ---- groups

    def within(self, ranks: Sequence[int]) -> Worker[T]:
        """The group of these ranks of this view, in this order (another is another group). Its members alone call it.

        Raises `StrategyError` if this rank is not one of them, or a rank is named twice or does not exist.
        """
        if self.rank not in ranks or len(set(ranks)) < len(ranks) or not set(ranks) <= set(range(self.world_size)):
            raise StrategyError(f"rank {self.rank} of {self.world_size} cannot be within the group {list(ranks)}")
        return Worker(self._state, [self._ranks[r] for r in ranks])

    def grid(self, *inner: int) -> list[Worker[T]]:
        """One group an axis of a grid of this view's ranks: `grid(t, p)` gives [tensor, pipeline, data].

        The axis named first varies fastest; the last axis takes what is left. Raises `StrategyError` if it does not divide.
        """
        views, stride, rest = [], 1, self.world_size
        for size in inner:
            if rest % size:
                raise StrategyError(f"a grid of {inner} does not divide {self.world_size} ranks")
            rest //= size
        for size in (*inner, rest):
            start = self.rank - self.rank // stride % size * stride
            views.append(self.within(range(start, start + size * stride, stride)))
            stride *= size
        return views

    # ---- loop and data

    def steps(self) -> Iterator[int]:
        """Global updates 0, 1, ... until the budget is spent; every rank that iterates ends at the same step.

        After a restart they begin at `first`. The body of the loop is one update. With a parameter server only the server
        iterates.
        """
        return self._state.progress.steps()

    def turns(self) -> Iterator[int]:
        """Updates that ranks make each on its own, 0, 1, ..., counted together: each is begun by one rank alone.

        For workers that wait for nobody: a fast one makes more of them. The body of the loop is one update, and is numbered
        when it is over; a rank's loop ends when the budget leaves it none.
        """
        return self._state.progress.turns()

    def draw(self, part: int, parts: int) -> Batch:
        """The next batch of this rank's own stream; what is discarded later is not drawn again."""
        batch = Batch(self._state.drawn, part, parts)
        self._state.drawn += 1
        return batch

    def samples(self, batch: Batch) -> float:
        """How many samples `batch` holds."""
        return self._state.samples(batch)

    def continues(self, step: int) -> bool:
        """Whether `steps` will come to `step`: for those who work ahead of the update. All ranks get the same answer."""
        return self._state.progress.goes_on(step)

    # ---- compute

    def place(self, blocks: Sequence[int], shard: tuple[int, int] = (0, 1)) -> None:
        """Keep only these blocks (ascending) on this rank; call it before the first step.

        `shard` (which, of how many) keeps a tensor shard of each block that can be cut. A shard's output and input gradient
        are partial sums over the shards, and so is its gradient of the parameters that all shards hold.
        """
        self._state.placed, self._state.shard = tuple(blocks), shard
        self._state.numerics.place(blocks, shard)

    def input(self, batch: Batch) -> T:
        """The samples of `batch`."""
        return self._state.numerics.input(batch)

    def forward(self, blocks: int | Sequence[int], x: T, batch: Batch) -> Work[T]:
        """Run one block, or several that follow each other as one operation; the output.

        What ran as one has one backward pass.
        """
        state, ran = self._state, _run(blocks)
        parts = _parts("forward", ran)
        return state.start_compute(_named("F", ran), parts, batch, lambda stop: state.forward(ran, x, batch), passes=1)

    def loss(self, y: T, batch: Batch) -> Work[T]:
        """Record the mean loss of the model's output; give its gradient, weighted by `batch.weight`."""
        state = self._state
        return state.start_compute("loss", _LOSS, batch, lambda stop: state.loss(y, batch), passes=1)

    def backward(self, blocks: int | Sequence[int], g: T, batch: Batch, part: Part = "both") -> Work[T]:
        """Accumulate the gradient of a block, or of several that ran as one; the gradient of their input.

        `part="input"` gives the input's gradient only, a later `part="weights"` accumulates the rest.
        """
        state, ran = self._state, _run(blocks)
        operation, letter = _BACKWARD[part]
        parts = _parts(operation, ran[::-1])
        return state.start_compute(
            _named(letter, ran), parts, batch, lambda stop: state.backward(ran, g, batch, part), passes=1
        )

    def backward_of_loss(self, blocks: int | Sequence[int], y: T, batch: Batch) -> Work[T]:
        """`backward` of the `loss` of `y`, which the last `blocks` gave, as one operation; the gradient of their input.

        It takes less time than the two, for it is one backward pass.
        """
        state, ran = self._state, _run(blocks)
        parts = _LOSS + _parts("backward", ran[::-1])
        return state.start_compute(
            _named("B", ran), parts, batch, lambda stop: state.backward_of_loss(ran, y, batch), passes=1
        )

    @overload
    def gradient(self, batch: Batch, *, microbatches: int = 1) -> Work[T]: ...
    @overload
    def gradient(self, batch: Batch, unless: Work[Any], *, microbatches: int = 1) -> Work[T | None]: ...
    def gradient(self, batch: Batch, unless: Work[Any] | None = None, *, microbatches: int = 1) -> Work[Any]:
        """The gradient of all blocks placed here, as one operation: zero, forward, loss, backward, read.

        With `unless`, None if that was over first: at any instant in the simulator, between blocks in a real run. The batch
        runs as so many `microbatches`, one after the other, to save memory.
        """
        return start_gradient(self._state, batch, unless, microbatches)

    def gradients(
        self, batch: Batch, bucket_bytes: float = 0.0, *, microbatches: int = 1, shards: int = 1, scale: float = 1.0
    ) -> Iterator[tuple[Region, Work[T]]]:
        """The same gradient a bucket at a time, last blocks first: a bucket is closed once it holds `bucket_bytes`.

        A bucket's backward pass starts when the iterator reaches it, all that comes before with the first. Each is padded
        to cut into `shards` equal pieces, and multiplied by `scale` as it is copied, at no cost.
        """
        return start_buckets(self._state, batch, bucket_bytes, microbatches, shards, scale)

    def apply(
        self,
        gradient: T | None = None,
        region: Region = ALL,
        scale: float = 1.0,
        of: Sequence[Message[T]] = (),
        optimizer: Optimizer | None = None,
    ) -> Work[None]:
        """One step on `region` of `optimizer` (the run's own unless given), its rate times `scale`; `version` grows by one.

        Without a `gradient` it takes what has accumulated for `region` when it begins, and no copy is made of that.
        Its state is kept by (optimizer, region) on this rank. `of` names the gradient messages that went into it: their
        staleness is recorded, and none may be named twice.
        """
        state = self._state
        for message in of:
            state.decide(message, self._ranks[message.source], applied=True)
        state.version += 1
        rate = state.progress.rate(optimizer, scale)

        def action(stop: Stop) -> None:
            with state.lock:
                state.numerics.update(region, gradient, optimizer, rate)
            state.weigh()

        parts: Parts = tuple(("apply", b) for b in state.blocks_of(region))
        share = 1.0 if region.shard is None else 1.0 / region.shards
        return state.start_compute("apply", parts, None, action, share=share)

    def discard(self, message: Message[T]) -> None:
        """Say that this gradient will not be applied."""
        self._state.decide(message, self._ranks[message.source], applied=False)

    def compute(self, name: str, function: Callable[..., R], *inputs: T) -> Work[R]:
        """Payload arithmetic that costs time, by the bytes of its inputs: encode, decode, average."""
        nbytes = sum(self._state.numerics.nbytes(x) for x in inputs)
        return self._state.start_compute(name, (), None, lambda stop: function(*inputs), nbytes=nbytes)

    def encode(self, codec: Codec, x: T, region: Region = ALL, received: Sequence[T] = ()) -> Work[T]:
        """What a gradient `x` of `region` sends in round number `len(received)` of `codec`; costs time by its bytes.

        `received` are the results of the collectives of the rounds before.
        """
        numerics = self._state.numerics
        return self.compute("encode", lambda x, *received: numerics.encode(codec, x, region, received), x, *received)

    def decode(self, codec: Codec, received: Sequence[T], region: Region = ALL, codes: int = 1) -> Work[T]:
        """The gradient of `region` that the results of all rounds stand for; costs time by their bytes.

        An all-gather joined `codes` codes: their mean.
        """
        numerics = self._state.numerics
        return self.compute("decode", lambda *received: numerics.decode(codec, region, received, codes), *received)

    def cut(self, x: T, pieces: int) -> list[T]:
        """Equal pieces of a flat payload, which is padded with zeros to divide; no time."""
        return self._state.numerics.cut(x, pieces)

    # ---- parameters

    def read(self, region: Region = ALL) -> T:
        """A copy of the parameters, flat; yours. Raises `StrategyError` where only a shard of them is here."""
        with self._state.lock:
            return self._state.numerics.read(region)

    def load(self, x: T, region: Region = ALL) -> None:
        """Overwrite the parameters; what was released is whole again."""
        with self._state.lock:
            self._state.numerics.load(region, x)
        self._state.weigh()

    def release(self, region: Region) -> None:
        """Keep nothing of these blocks but the shard that `region` names: until the next `load` they cannot run."""
        with self._state.lock:
            self._state.numerics.release(region)

    def change(self, function: Callable[[T], T], region: Region = ALL) -> T:
        """Read, change and write the parameters as one, atomically against tasks and `apply`; the new value."""
        with self._state.lock:
            value = function(self._state.numerics.read(region))
            self._state.numerics.load(region, value)
            return value

    def accumulated(self, region: Region = ALL, scale: float = 1.0) -> T:
        """A copy of the gradient accumulated since `zero`, times `scale`, flat."""
        return self._state.numerics.accumulated(region, scale)

    def accumulate(self, gradient: T, region: Region = ALL) -> None:
        """Add to the accumulated gradient. A shard's is kept apart from that of whole blocks."""
        self._state.numerics.accumulate(region, gradient)
        self._state.weigh()

    def zero(self, region: Region | None = None) -> None:
        """Forget the accumulated gradient: all of it, or that of whole blocks, or that of one shard."""
        self._state.numerics.zero(region)

    def publish(self, *regions: Region) -> None:
        """Show these parameters, all unless named, to the evaluation, off the clock; call it last in an update.

        Ignored unless a snapshot is due. The evaluated model is the union of what all ranks publish for an update; shards
        will do.
        """
        self._state.progress.publish(regions or (ALL,))

    # ---- messages

    def send(self, x: T | None, to: int, tag: str = "", version: int = 0, label: str = "") -> Work[None]:
        """Send to a rank of this view; over when it has arrived. None makes it a signal.

        The label (at most 128 bytes) `gradient` obliges the receiver to apply or discard it.
        """
        return self._state.start_send(self._peer(to, "send to"), tag, Envelope(version, label, x))

    def post(self, x: T | None, to: int, tag: str = "", version: int = 0, label: str = "") -> None:
        """Send a copy that nobody waits for; the end of the run does."""
        copy = None if x is None else self._state.numerics.copy(x)
        self._state.post(self._peer(to, "send to"), tag, Envelope(version, label, copy))

    def receive(self, source: int, tag: str = "") -> Work[Message[T]]:
        """Receive the next message with this tag from a rank of this view."""
        return self._state.start_receive(self._peer(source, "receive from"), tag, self._arrived)

    def receive_any(self, tag: str = "") -> Work[Message[T]]:
        """Receive the next message with this tag from any rank. Do not mix it with `receive` on one tag."""
        return self._state.start_receive(None, tag, self._arrived)

    # ---- collectives

    def all_reduce(self, x: T, op: Literal["mean", "sum"] = "mean", *, in_place: bool = False) -> Work[T]:
        """The mean or sum over the group, on every rank of it.

        With `in_place` the result is `x` itself, overwritten: that saves a copy, and `x` must be yours, no more needed.
        What a `forward` gave is needed until the `backward` of its block and the next, which raise if it was overwritten.
        """
        return self._join(Collective("all_reduce", op, in_place=in_place), x)

    def reduce_scatter(self, x: T, op: Literal["mean", "sum"] = "mean") -> Work[T]:
        """This rank's equal part of the mean or sum over the group. The size must divide by the group's; rows stay whole if
        their number does, too.
        """
        return self._join(Collective("reduce_scatter", op), x)

    def all_gather(self, x: T) -> Work[T]:
        """The payloads of the group in its order, joined."""
        return self._join(Collective("all_gather"), x)

    def broadcast(self, x: T, root: int) -> Work[T]:
        """The payload of `root`, on every rank; the others' `x` says the size."""
        return self._join(Collective("broadcast", root=root), x)

    def reduce(self, x: T, root: int, op: Literal["mean", "sum"] = "mean") -> Work[T]:
        """The mean or sum over the group, on `root`; an empty payload on the others."""
        return self._join(Collective("reduce", op, root), x)

    def all_to_all(self, x: T) -> Work[T]:
        """This rank's equal part of every payload of the group, in its order, joined. The size must divide by its own."""
        return self._join(Collective("all_to_all"), x)

    def barrier(self) -> Work[None]:
        """Over when the whole group has called it: a collective of 0 bytes."""
        return self._join(Collective("barrier"), None)

    def _join(self, collective: Collective, x: R) -> Work[R]:
        kind = collective.kind
        channel = self._channels.get(kind)
        if channel is None:
            channel = self._channels[kind] = self._state.collectives(kind, self._ranks)
        return self._state.start_collective(self._ranks, collective, channel, x)

    # ---- flow

    def start(self, coroutine: Coroutine[Any, Any, R]) -> Work[R]:
        """Several operations in a row as one Work: to the first wait now, the rest when it is awaited."""
        return self._state.start_flow(coroutine)

    def task(self, coroutine: Coroutine[Any, Any, R]) -> Work[R]:
        """A second flow of control on this rank: a process in the simulator, a thread in a real run.

        Where tasks run, parameters change through `apply`, `load` and `change` only.
        """
        return self._state.start_task(coroutine)

    async def settle(self) -> None:
        """Wait for what was posted, then check the rules that can only be checked at the end. Backends call it."""
        self._state.trace.ended = self.now
        self._state.progress.publish_last()
        await self._state.settle()

    def _peer(self, rank: int, what: str) -> int:
        if rank == self.rank or not 0 <= rank < self.world_size:
            peers = f"its peers are the other {self.world_size - 1} ranks of its group"
            raise StrategyError(f"rank {self.rank} cannot {what} rank {rank}: {peers}")
        return self._ranks[rank]

    def _arrived(self, message: Message[T]) -> Message[T]:
        source = message.source
        position = self._position(source)
        if position != source:
            message = message._replace(source=position)
        return self._state.owe(message)

    def _position(self, rank: int) -> int:
        """Of a rank of the world in this group; in the whole world every rank's is its own."""
        ranks = self._ranks
        if rank < len(ranks) and ranks[rank] == rank:
            return rank
        try:
            return ranks.index(rank)
        except ValueError:
            raise StrategyError(f"a message from rank {rank} reached a group without it: {ranks}") from None


def _run(blocks: int | Sequence[int]) -> Blocks:
    """What runs as one."""
    ran = (blocks,) if isinstance(blocks, int) else tuple(blocks)
    if not ran:
        raise StrategyError("forward and backward take one block at least")
    return ran


@lru_cache
def _parts(operation: Operation, blocks: Blocks) -> Parts:
    return tuple((operation, b) for b in blocks)


@lru_cache
def _named(letter: str, blocks: Blocks) -> str:
    """`F2`, or `F2-4`."""
    return f"{letter}{blocks[0]}" if len(blocks) == 1 else f"{letter}{blocks[0]}-{blocks[-1]}"
