"""From the traces of a calibration to a profile. Pure: reads what the ranks recorded, and nothing else.

A probe's record lies between two marks. Within one round its repetitions give a mean, for a run pays for the slow ones
too; rounds in which other processes used the machine are rejected, and the median over the rest is the point of a curve.

How blocks are told apart: an operation costs `overhead` plus its blocks, in the trace the time from the end of the one
before to its own end. A pass costs `pass_overhead` besides: by so much a pass, n blocks and the loss one by one take longer
than a whole gradient, which is one forward and one backward pass, 2n - 1 passes fewer. What a whole gradient takes beyond
that (drawing the input, reading the gradient out) is spread over backward passes by parameters, so that blocks add up to
the whole that a strategy asks for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, pairwise
from statistics import fmean, median

from distsim.calibration.bench import COPY, MATMUL, Bench
from distsim.calibration.host import QUIET
from distsim.interface.cluster import Curve, Roofline
from distsim.interface.errors import DistsimError
from distsim.interface.trace import Compute, Trace, Transfer

ENOUGH = 3
"""Rounds to keep at least, the quietest ones: a busy machine gives a profile too, and the profile says so."""


@dataclass(frozen=True)
class Segment:
    """What one rank recorded while a probe ran, in time order."""

    begun: float
    compute: list[Compute]
    transfers: list[Transfer]

    def steps(self) -> list[float]:
        """Seconds from the end of each compute operation to the end of the next."""
        ends = [self.begun, *(span.ended for span in self.compute)]
        return [b - a for a, b in pairwise(ends)]


Segments = dict[tuple[str, int], Segment]
"""(probe, round) -> one rank's record of it."""


def segments(trace: Trace) -> Segments:
    """Cut one rank's trace at the marks."""
    found: Segments = {}
    spans = sorted(trace.compute, key=lambda span: span.ended)
    transfers = sorted(trace.transfers, key=lambda transfer: transfer.ended)
    inside: list[Compute] | None = None
    for span in spans:
        if span.name.startswith("begin "):
            _, round_, name = span.name.split(" ", 2)
            inside, begun = [], span.ended
        elif span.name == "end" and inside is not None:
            moved = [t for t in transfers if t.posted >= begun and t.ended <= span.begun]
            found[name, int(round_)] = Segment(begun, inside, moved)
            inside = None
        elif inside is not None:
            inside.append(span)
    return found


def quiet_rounds(trace: Trace) -> tuple[list[int], dict[int, float]]:
    """The rounds to keep, and the share of CPU that others used in each. The first round only warms up."""
    used = [float(span.name.split()[1]) for span in trace.compute if span.name.startswith("others ")]
    shares = dict(enumerate(used))
    if len(shares) > 1:
        del shares[0]
    if not shares:
        raise DistsimError("the calibration ended before its first round did: give it more seconds")
    by_noise = sorted(shares, key=lambda round_: (shares[round_], round_))
    quiet = [round_ for round_ in by_noise if shares[round_] <= QUIET]
    return sorted(quiet if len(quiet) >= ENOUGH else by_noise[:ENOUGH]), shares


@dataclass(frozen=True)
class Record:
    """All ranks' segments of the rounds that count."""

    bench: Bench
    ranks: Sequence[Segments]
    rounds: Sequence[int]

    def of(self, name: str, rank: int = 0) -> list[Segment]:
        """A probe's segments on one rank, a round each."""
        return [self.ranks[rank][name, r] for r in self.rounds if (name, r) in self.ranks[rank]]

    # ---- computing

    @cached_property
    def overhead(self) -> float:
        """Seconds of an operation that computes nothing."""
        return median(fmean(s.steps()) for s in self.of("nothing"))

    def chain(self, parts: int) -> dict[tuple[str, int], float]:
        """(operation, block) -> seconds beyond the overhead, by one share of `parts`."""
        blocks = self.bench.blocks
        order = [("forward", b) for b in blocks] + [("loss", blocks[-1])] + [("backward", b) for b in reversed(blocks)]
        return self._per_operation(f"chain {parts}", order)

    @cached_property
    def pass_overhead(self) -> float:
        """Seconds of a forward or backward pass beyond its blocks, and of the loss's own where that is an operation."""
        saved = 2 * len(self.bench.blocks) - 1
        chains = {parts: self.chain(parts) for parts in self.bench.shares}
        found = [(sum(chain.values()) - self.gradient(parts)) / saved for parts, chain in chains.items()]
        shortest = min(min(chain.values()) for chain in chains.values())
        return min(max(0.0, median(found)), shortest)

    def applying(self) -> dict[tuple[str, int], float]:
        """("apply", block) -> seconds, scaled so that they add up to one operation on all blocks."""
        order = [("apply", b) for b in (*self.bench.blocks, -1)]
        found = self._per_operation("apply", order)
        whole, parts = found.pop(("apply", -1)), sum(found.values())
        return {key: value * whole / parts if parts else 0.0 for key, value in found.items()}

    def gradient(self, parts: int) -> float:
        """Seconds of the whole gradient of one share of `parts` beyond the overhead of its one operation."""
        seconds = median(fmean(s.steps()[1::2]) for s in self.of(f"whole {parts}"))  # each repetition begins with a mark
        return max(0.0, seconds - self.overhead)

    def _per_operation(self, name: str, order: Sequence[tuple[str, int]]) -> dict[tuple[str, int], float]:
        collected: dict[tuple[str, int], list[float]] = defaultdict(list)
        for segment in self.of(name):
            steps, length = segment.steps(), len(order) + 1  # each repetition begins with a mark
            for i, key in enumerate(order):
                collected[key].append(fmean(steps[i + 1 :: length]))
        return {key: max(0.0, median(values) - self.overhead) for key, values in collected.items()}

    def blocks(self) -> dict[tuple[str, str], Curve]:
        """(operation, kind) -> samples -> seconds. Blocks of one kind count together."""
        model = self.bench.model
        points: dict[tuple[str, str], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
        for parts in self.bench.shares:
            seconds = self.chain(parts)
            for operation, b in seconds:
                seconds[operation, b] -= self.pass_overhead
            rest = max(0.0, self.gradient(parts) - 2.0 * self.pass_overhead - sum(seconds.values()))
            total = sum(model.blocks[b].parameters for b in self.bench.blocks)
            for (operation, b), value in seconds.items():
                block = model.blocks[b]
                share = block.parameters / total if total else 1 / len(self.bench.blocks)
                extra = rest * share if operation == "backward" else 0.0
                points[operation, block.kind][self.bench.samples(parts)].append(value + extra)
        for (operation, b), value in self.applying().items():
            points[operation, model.blocks[b].kind][0.0].append(value)
        return {key: _rising(by_samples) for key, by_samples in points.items()}

    def cores(self) -> Curve:
        """Ranks that compute at once -> ranks' worth of work done together."""
        workers, share = self.bench.workers, self.bench.share
        points = {1.0: [1.0]}
        for n in range(2, workers + 2):
            for i in self.rounds:
                alone = self.ranks[0].get((f"gradients {share} 1", i))
                together = [self.ranks[rank].get((f"gradients {share} {n}", i)) for rank in range(n)]
                spans = [s.compute for s in together if s is not None]
                if alone is None or len(spans) < n:
                    continue
                done = _throughput(spans) * fmean(alone.steps())
                points.setdefault(float(n), []).append(min(float(n), done))
        last = workers + 1.0
        measured = _points(points)
        return Curve((*measured.points, (1000.0, measured(last))))  # beyond what was measured it stays

    # ---- communication

    def message(self) -> Curve:
        """Bytes -> seconds of a message: half of there and back."""
        if self.bench.workers == 1:  # nobody to talk to: the machine's memory moves it
            return Curve(((0.0, 0.0), (1e9, 2e9 / self.fallback().bytes_per_second)))
        return _rising({self._bytes(b): self._messages(b) for b in self.bench.payloads})

    def delay(self) -> float:
        """How much longer a message takes while all other ranks compute than its share of the cores explains; the median
        over all sizes."""
        others = self.bench.workers - 1
        if not others:
            return 0.0
        cores = self.cores()
        stretch = max(1.0, (1 + others) / cores(1 + others))
        found = []
        for block in self.bench.payloads:
            crowded = self._crowded(f"message {block} {others}", 2 + others)
            found += [median(crowded) - stretch * median(self._messages(block))] if crowded else []
        return max(0.0, median(found)) if found else 0.0

    def all_reduce(self, size: int) -> Curve:
        """Bytes -> seconds of an all-reduce by `size` ranks, from the last rank's call until all have the result."""
        return _rising({self._bytes(b): self._reductions(f"all_reduce {size} {b}", size) for b in self.bench.payloads})

    def _messages(self, block: int) -> list[float]:
        """Seconds of a message, a round each, nothing else running."""
        return [_per_repetition(s, "receive") / 2 for s in self.of(f"message {block} 0")]

    def _crowded(self, name: str, size: int) -> list[float]:
        """Seconds of a message, a round each, while all ranks from 2 on compute."""
        found = []
        for i in self.rounds:
            ranks = [s for rank in range(size) if (s := self.ranks[rank].get((name, i)))]
            if len(ranks) < size:
                continue
            begun = max([ranks[0].begun, *(s.compute[0].begun for s in ranks[2:])])
            ended = min(s.compute[-1].ended for s in ranks[2:])
            ends = [t.ended for t in ranks[0].transfers if t.kind == "receive" and begun <= t.ended <= ended]
            found += [(ends[-1] - ends[0]) / (len(ends) - 1) / 2] if len(ends) > 1 else []
        return found

    def _reductions(self, name: str, size: int) -> list[float]:
        """Seconds of an all-reduce, a round each: its ranks share a clock."""
        found = []
        for i in self.rounds:
            ranks = [self.ranks[rank].get((name, i)) for rank in range(size)]
            calls = zip(*([t for t in s.transfers if t.kind == "all_reduce"] for s in ranks if s), strict=True)
            took = [max(t.ended for t in call) - max(t.posted for t in call) for call in calls]
            found += [fmean(took[1:] or took)] if took else []  # before the first, the ranks did not come from one
        return found

    def _bytes(self, block: int) -> float:
        return float(self.bench.model.nbytes([block]))

    # ---- the bare machine, and the noise

    def fallback(self) -> Roofline:
        """The rates of a matrix product and of a copy; an operation starts in the shortest forward pass seen."""
        matmul, copy = (
            median(median(s.steps()) for s in self.of(f"machine {b}")) - self.overhead for b in self.bench.machine
        )
        smallest = self.chain(self.bench.shares[-1])
        return Roofline(
            flops_per_second=2.0 * MATMUL**3 / matmul,
            bytes_per_second=2.0 * COPY * self.bench.model.itemsize / copy,
            overhead=min(value for (operation, _), value in smallest.items() if operation == "forward")
            - self.pass_overhead,
        )

    def noise(self) -> float:
        """A/A: how far the medians of two halves of the rounds lie apart, relative, on average over all halvings."""
        return halves_apart(self.steps())

    def steps(self) -> list[float]:
        """Seconds of a whole synchronous step, a round each."""
        return [_per_repetition(s, "all_reduce") for s in self.of("steps")]


def halves_apart(times: Sequence[float]) -> float:
    """The mean over all ways to halve `times` (at most 12 of them) of the relative difference of the halves' medians."""
    times = times[:12]
    half = len(times) // 2
    if half == 0:
        return 0.0
    differences = []
    for chosen in combinations(range(2 * half), half):
        a = median(times[i] for i in chosen)
        b = median(times[i] for i in range(2 * half) if i not in chosen)
        differences.append(abs(a - b) / ((a + b) / 2))
    return sum(differences) / len(differences)


def _per_repetition(segment: Segment, kind: str) -> float:
    """The mean time from the end of one transfer of `kind` to the end of the next; of a single one, from the start."""
    ends = [t.ended for t in segment.transfers if t.kind == kind]
    ends = ends if len(ends) > 1 else [segment.begun, *ends]
    return (ends[-1] - ends[0]) / (len(ends) - 1)


def _throughput(ranks: Sequence[Sequence[Compute]]) -> float:
    """Operations a second of all ranks together, from whole operations while all of them compute."""
    begun = max(spans[0].begun for spans in ranks)
    ended = min(spans[-1].ended for spans in ranks)
    total = 0.0
    for spans in ranks:
        ends = [span.ended for span in spans if begun <= span.ended <= ended]
        if len(ends) < 2:  # too few to tell: the whole record, its edges included
            ends = [spans[0].begun, *(span.ended for span in spans)]
        total += (len(ends) - 1) / (ends[-1] - ends[0])
    return total


def _points(found: Mapping[float, Sequence[float]]) -> Curve:
    """The median at every x."""
    return Curve(tuple((x, median(found[x])) for x in sorted(found)))


def _rising(found: Mapping[float, Sequence[float]]) -> Curve:
    """The median at every x, where more never takes less: values that fall are replaced by their mean (isotonic regression
    by pooling adjacent violators; Ayer et al., Ann. Math. Stat. 26, 1955)."""
    xs = sorted(found)
    pools: list[tuple[float, int]] = []  # mean, how many
    for x in xs:
        mean, count = median(found[x]), 1
        while pools and pools[-1][0] > mean:
            before, n = pools.pop()
            mean, count = (before * n + mean * count) / (n + count), n + count
        pools.append((mean, count))
    values = [mean for mean, count in pools for _ in range(count)]
    return Curve(tuple(zip(xs, values, strict=True)))
