"""Pipeline schedules as data: the order of one rank's actions in a step, and the cut of a model into stages.

The model is a chain of p x v stages, where every one of p ranks holds v chunks. A schedule can be printed, drawn and tested
without running; `distsim.strategies.walker.walk` executes one. Within a chunk every kind of action takes the micro-batches
in ascending order, so messages need no numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Literal, NamedTuple

Kind = Literal["F", "B", "I", "W"]
_SPLIT: tuple[Kind, ...] = ("F", "I", "W")


class Action(NamedTuple):
    """Forward (F), backward (B), or a half of the backward: for the input (I), for the weights (W)."""

    kind: Kind
    microbatch: int
    chunk: int = 0

    def __str__(self) -> str:
        return f"{self.kind}{self.microbatch}" + (f".{self.chunk}" if self.chunk else "")


@dataclass(frozen=True)
class Schedule:
    """The order of every rank's actions, and which stage each of its chunks is."""

    order: Callable[[int, int, int, int], Iterator[Action]]
    """(rank, ranks, micro-batches, chunks) -> the rank's actions."""
    chunks: int = 1
    """v, the stages a rank holds."""
    is_folded: bool = False
    """Odd chunks lie in reverse, so that the chain turns round at the last rank and comes back (a V)."""

    def actions(self, rank: int, ranks: int, microbatches: int) -> Sequence[Action]:
        """What a rank does in a step of so many micro-batches."""
        return _actions(self.order, rank, ranks, microbatches, self.chunks)

    def stage(self, rank: int, chunk: int, ranks: int) -> int:
        """The stage of the chain that a rank's chunk is."""
        return chunk * ranks + (ranks - 1 - rank if self.is_folded and chunk % 2 else rank)

    @property
    def needs_rounds(self) -> bool:
        """Whether the number of micro-batches must be a multiple of the ranks: chunks take turns after that many."""
        return self.chunks > 1 and not self.is_folded

    def home(self, stage: int, ranks: int) -> int:
        """The rank that holds a stage."""
        chunk, place = divmod(stage, ranks)
        return ranks - 1 - place if self.is_folded and chunk % 2 else place


# ---- orders


@lru_cache(maxsize=64)
def _actions(
    order: Callable[[int, int, int, int], Iterator[Action]], rank: int, ranks: int, microbatches: int, chunks: int
) -> tuple[Action, ...]:
    """One object for all steps of a rank."""
    return tuple(order(rank, ranks, microbatches, chunks))


def gpipe(rank: int, ranks: int, microbatches: int, chunks: int) -> Iterator[Action]:
    """All forwards, then all backwards: all m micro-batches are held.

    Huang et al., "GPipe", NeurIPS 2019; backwards in ascending order, as in torch.
    """
    return _alternate(microbatches, ranks, microbatches, 1)


def one_f_one_b(rank: int, ranks: int, microbatches: int, chunks: int) -> Iterator[Action]:
    """Warm up with as many forwards as stages follow, then alternate: at most min(m, p - rank) are held.

    Narayanan et al., "Efficient Large-Scale Language Model Training", SC 2021, section 2.2.
    """
    return _alternate(ranks - 1 - rank, ranks, microbatches, 1)


def interleaved(rank: int, ranks: int, microbatches: int, chunks: int) -> Iterator[Action]:
    """1F1B over v chunks a rank, p micro-batches of one chunk and then of the next. m is a multiple of p.

    Twice as many forwards per rank that follows as in 1F1B keep all ranks busy. Narayanan et al., SC 2021, section 2.2.
    """
    if chunks == 1:
        return one_f_one_b(rank, ranks, microbatches, chunks)
    return _alternate(2 * (ranks - 1 - rank) + (chunks - 1) * ranks, ranks, microbatches, chunks)


def zb_h1(rank: int, ranks: int, microbatches: int, chunks: int) -> Iterator[Action]:
    """1F1B with the backward pass split in two; the halves for the weights are put off to where 1F1B waits.

    At most p are held. With several chunks m is a multiple of p. Qi et al., "Zero Bubble Pipeline Parallelism", ICLR 2024,
    section 2.1.
    """
    return _alternate(ranks - 1 - rank + (chunks - 1) * ranks, ranks, microbatches, chunks, put_off=rank)


def zb_h2(rank: int, ranks: int, microbatches: int, chunks: int) -> Iterator[Action]:
    """As ZB-H1 with twice the forwards to warm up, which fill what is left of the bubble: at most 2p-1 are held.

    Qi et al., ICLR 2024, section 2.2.
    """
    return _alternate(2 * (ranks - 1 - rank), ranks, microbatches, 1, put_off=2 * rank)


def zb_v(rank: int, ranks: int, microbatches: int, chunks: int) -> Iterator[Action]:
    """Two chunks a rank, folded: the rank of the first stage has the last one too, so no gradient waits for its way back.

    At most as many activations are held as by 1F1B's first rank. Qi et al., ICLR 2024, section 6.
    """
    here = ranks - rank  # ranks from this one to the last, where the chain turns
    m = max(2 * ranks - 1, microbatches)  # the order of fewer is what remains of this one
    f0, i0, w0, f1, i1, w1 = (Action(kind, 0, chunk) for chunk in (0, 1) for kind in _SPLIT)
    order = [f0] * (2 * here - 1) + [f1, f0] * rank + [f1, i1, w1] * here
    order += [f0, i0, w0, f1, i1, w1] * (m - 2 * ranks + 1 + rank) + [i0, w0, f1, i1, w1] * (here - 1)
    order += [i0, i1] * rank + [i0, w0] * here + [w1] * rank + [w0] * rank
    seen = Counter[Action]()
    for action in order:
        if seen[action] < microbatches:
            yield action._replace(microbatch=seen[action])
        seen[action] += 1


def _alternate(warmup: int, ranks: int, microbatches: int, chunks: int, put_off: int | None = None) -> Iterator[Action]:
    """`warmup` forwards, then one forward and one backward in turn, then what backwards are left.

    Given `put_off`, a backward is split and its half for the weights comes so many backwards later. Chunks take turns,
    forwards from the first, backwards from the last, with `ranks` micro-batches at a time.
    """
    assert chunks == 1 or microbatches % ranks == 0, "chunks take turns after as many micro-batches as there are ranks"
    total = microbatches * chunks
    warmup = min(warmup, total)

    def action(kind: Kind, number: int) -> Action:
        first, place = number // (ranks * chunks) * ranks, number % (ranks * chunks)
        chunk = place // ranks
        return Action(kind, first + place % ranks, chunk if kind == "F" else chunks - 1 - chunk)

    for number in range(warmup + total):
        backward = number - warmup
        if number < total:
            yield action("F", number)
        if backward >= 0:
            yield action("B" if put_off is None else "I", backward)
            if put_off is not None and backward >= put_off:
                yield action("W", backward - put_off)
    for number in range(max(0, total - (put_off or 0)), total):
        yield action("W", number)


# ---- cuts


def cut(costs: Sequence[float], stages: int) -> list[range]:
    """Cut a chain of blocks into `stages` non-empty contiguous ranges so that the most expensive one is cheapest.

    Among equally good cuts the earlier stages get fewer blocks. Needs at least as many blocks as stages.
    """
    return list(_cut(tuple(costs), stages))


@cache
def _cut(costs: tuple[float, ...], stages: int) -> tuple[range, ...]:
    """By dynamic programming over (stages, end of the last one); every rank of a run asks for the same."""
    n = len(costs)
    total = [0.0]
    for cost in costs:
        total.append(total[-1] + cost)
    worst = [[float("inf")] * (n + 1) for _ in range(stages + 1)]
    start = [[0] * (n + 1) for _ in range(stages + 1)]
    worst[0][0] = 0.0
    for s in range(1, stages + 1):
        for end in range(s, n + 1):
            for begin in range(s - 1, end):
                candidate = max(worst[s - 1][begin], total[end] - total[begin])
                if candidate < worst[s][end]:
                    worst[s][end], start[s][end] = candidate, begin
    ranges, end = list[range](), n
    for s in range(stages, 0, -1):
        ranges.append(range(start[s][end], end))
        end = start[s][end]
    return tuple(ranges[::-1])
