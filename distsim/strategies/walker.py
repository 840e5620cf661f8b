"""The one walker: it runs a rank's actions of a pipeline schedule over a runner.

- Receives are kept posted, `AHEAD` a direction and chunk unless fewer can be under way, and no send is awaited before the
  next action: then a hop's latency is paid as the closed forms say, and no schedule deadlocks that could run at all.
- Messages carry the stage that they are for in their tag. What stays on the rank is handed over without a message.
- The walker knows micro-batches and blocks. What running a block takes is the runner's affair, what becomes of gradients
  the caller's: it hears of each block as soon as its gradient is final.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import islice, tee
from typing import Generic

from distsim.interface import Batch, Message, Part, T, Work, Worker
from distsim.strategies.runners import Runner
from distsim.strategies.schedules import Schedule

AHEAD = 8
"""Messages that can be under way at once: what a latency of so many times a stage's work takes to hide."""

Ready = Callable[[int], Awaitable[None]]


async def walk(
    pipe: Worker[T],
    runner: Runner[T],
    chunks: Sequence[Sequence[int]],
    batches: Sequence[Batch],
    schedule: Schedule,
    ready: Ready | None = None,
) -> None:
    """Run one step of this rank of the group `pipe`: each of `chunks`, its blocks, on every micro-batch of `batches`.

    `ready(block)` is awaited once a step and block, when the last of its backward passes is over.
    """
    wires, actions = Wires(pipe), schedule.actions(pipe.rank, pipe.world_size, len(batches))
    as_one = runner is pipe and ready is None and not any(kind == "I" for kind, _, _ in actions)
    stages = [Stage(pipe, runner, wires, schedule, chunk, blocks, as_one) for chunk, blocks in enumerate(chunks)]
    for stage in stages:
        stage.expect(batches)
    left = [len(batches)] * len(stages)  # backward passes, by chunk
    for kind, microbatch, chunk in actions:
        stage, batch = stages[chunk], batches[microbatch]
        left[chunk] -= kind in "BW"
        tell = None if left[chunk] or kind == "I" else ready
        if kind == "F":
            await stage.forward(batch)
        elif kind == "W":
            await stage.weights(batch, tell)
        else:
            await stage.backward(batch, "both" if kind == "B" else "input", tell)
    await wires.settle()


class Stage(Generic[T]):
    """One stage of the chain: the blocks of a rank's chunk, between its neighbours.

    `as_one`: they run as one operation. That is for a runner that is the worker itself, where nothing is to be told of
    single blocks and backward passes are whole: halves of many blocks would compute what lies between them twice.
    """

    def __init__(
        self,
        pipe: Worker[T],
        runner: Runner[T],
        wires: Wires[T],
        schedule: Schedule,
        chunk: int,
        blocks: Sequence[int],
        as_one: bool,
    ) -> None:
        self._pipe, self._runner, self._wires, self._blocks = pipe, runner, wires, tuple(blocks)
        self._as_one = as_one
        ranks = pipe.world_size
        self._number = number = schedule.stage(pipe.rank, chunk, ranks)
        last = ranks * schedule.chunks - 1
        self._before = None if number == 0 else schedule.home(number - 1, ranks)
        self._after = None if number == last else schedule.home(number + 1, ranks)
        self._outputs = dict[Batch, T]()
        """Of the last stage: what the loss will be taken of."""
        self._halved = dict[Batch, T]()
        """Gradients of the output whose half for the weights is to come."""
        self._gradients: tuple[Iterable[object], int] | None = None
        """The receives of gradients that are to be posted, and how many at once."""
        self._ahead = 0
        """Activations sent of which no gradient has come."""

    def expect(self, batches: Iterable[object], warmup: int | None = None) -> None:
        """As many messages will come from either neighbour; `batches` is asked for its next when a receive is posted.

        A stage that has `warmup` more forward than backward passes behind it, and a neighbour before it with one more, need
        no more receives than this: then `batches` is not asked earlier than the first stage must ask for an input.
        """
        forwards, backwards = tee(batches)
        first, later, back = (AHEAD, AHEAD, AHEAD) if warmup is None else (warmup + 2, 2, warmup + 1)
        if self._before is not None:
            self._wires.expect(self._before, f"activation {self._number}", forwards, first, later)
        if self._after is not None:
            self._gradients = backwards, back

    async def forward(self, batch: Batch) -> None:
        """Take an input, give the output."""
        if self._before is None:
            x = self._pipe.input(batch)
        else:
            x = await self._wires.receive(f"activation {self._number}")
        if self._as_one:
            x = await self._pipe.forward(self._blocks, x, batch)
        else:
            for block in self._blocks:
                x = await self._runner.forward(block, x, batch)
        if self._after is None:
            self._outputs[batch] = x
            return
        self._wires.send(x, self._after, f"activation {self._number + 1}")
        self._ahead += 1
        if self._gradients is not None:  # none can come earlier, and others wait for the activation
            gradients, count = self._gradients
            self._wires.expect(self._after, f"gradient {self._number}", gradients, count, count)
            self._gradients = None

    async def backward(self, batch: Batch, part: Part = "both", ready: Ready | None = None) -> None:
        """Take the gradient of the output, give that of the input; tell `ready` of every block."""
        if self._after is not None:
            await self._wires.settle(f"activation {self._number + 1}", but=self._ahead)
            g = await self._wires.receive(f"gradient {self._number}")
            self._ahead -= 1
            if self._as_one:
                g = await self._pipe.backward(self._blocks, g, batch, part)
        elif self._as_one:
            g = await self._pipe.backward_of_loss(self._blocks, self._outputs.pop(batch), batch)
        else:
            g = await self._pipe.loss(self._outputs.pop(batch), batch)
        if part == "input":
            self._halved[batch] = g
        if not self._as_one:
            for block in reversed(self._blocks):
                g = await self._runner.backward(block, g, batch, part)
                if ready is not None:
                    await ready(block)
        if self._before is not None:
            self._wires.send(g, self._before, f"gradient {self._number - 1}")

    async def weights(self, batch: Batch, ready: Ready | None = None) -> None:
        """The half of the backward pass that nobody waits for; tell `ready` of every block."""
        g = self._halved.pop(batch)  # any will do: each block has kept its own
        for block in reversed(self._blocks):
            await self._runner.backward(block, g, batch, "weights")
            if ready is not None:
                await ready(block)


class Wires(Generic[T]):
    """What travels between the stages: to other ranks as messages, within a rank by hand."""

    def __init__(self, pipe: Worker[T]) -> None:
        self._pipe = pipe
        self._sends = defaultdict[str, deque[Work[None]]](deque)
        self._handed = dict[str, deque[T]]()
        self._receives = dict[str, Iterator[Work[Message[T]]]]()
        self._posted = dict[str, deque[Work[Message[T]]]]()
        self._later = dict[str, int]()

    def expect(self, source: int, tag: str, messages: Iterable[object], first: int = AHEAD, later: int = AHEAD) -> None:
        """As many messages of this tag will come from `source`. The receives of the `first` are posted now, and while one
        is awaited at least `later` are."""
        if source == self._pipe.rank:
            self._handed[tag] = deque()
        else:
            self._receives[tag] = (self._pipe.receive(source, tag) for _ in messages)
            self._posted[tag] = deque(islice(self._receives[tag], first))
            self._later[tag] = later

    async def receive(self, tag: str) -> T:
        """The next payload of this tag."""
        if tag in self._handed:
            return self._handed[tag].popleft()
        posted = self._posted[tag]
        posted.extend(islice(self._receives[tag], max(0, self._later[tag] - len(posted))))
        assert posted, "more receives than were announced"
        return (await posted.popleft()).payload

    def send(self, x: T, to: int, tag: str) -> None:
        """Give to a rank, without waiting."""
        if tag in self._handed:
            self._handed[tag].append(x)
        else:
            self._sends[tag].append(self._pipe.send(x, to, tag))

    async def settle(self, tag: str | None = None, but: int = 0) -> None:
        """Wait until everything sent has arrived, or all of one tag, but for the last so many of each."""
        for sends in self._sends.values() if tag is None else [self._sends[tag]]:
            while len(sends) > but:
                await sends.popleft()
