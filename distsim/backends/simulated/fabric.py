"""The simulated fabric: one rank's access to the simulated cluster. It never looks into a payload."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from math import fsum
from typing import Any, TypeVar, cast

from distsim.backends.simulated.algorithms import Choice, Thresholds
from distsim.backends.simulated.collectives import Collectives, Mode
from distsim.backends.simulated.engine import Engine, Operation
from distsim.backends.simulated.folding import APART, Fold, SetApart
from distsim.backends.simulated.hosts import Hosts, build_hosts
from distsim.backends.simulated.messages import Messages
from distsim.backends.simulated.streams import Preemption, Stream
from distsim.interface import Batch, Cluster, Collective, Cost, Envelope, Handle, Job, Loopback, Message, Numerics

R = TypeVar("R")


@dataclass(frozen=True)
class SimulatedOptions:
    """How to simulate.

    preemption: `instant` cancels a gradient at any moment, as papers calculate; `block` between blocks, as real runs do.
    collectives: see distsim.backends.simulated.collectives. algorithm: see distsim.backends.simulated.algorithms.
    """

    preemption: Preemption = "instant"
    collectives: Mode = "auto"
    algorithm: Choice = "auto"
    ring_bytes: float = Thresholds.ring_bytes
    """With algorithm=auto, a ring for payloads of at least so many bytes a rank, unless it takes `ring_factor` times what
    takes least by latency and bandwidth; below, what takes least."""
    ring_factor: float = field(default=Thresholds.ring_factor, metadata={"at_least": 1})
    node_ranks: int = field(default=0, metadata={"at_least": 0})
    """Ranks a node, for algorithm=hierarchical; 0: as the topology says."""
    fold_ranks: int = field(default=512, metadata={"at_least": 0})
    """Simulate one of the ranks that do alike for all of them (see folding, marching), in modeled runs of at least so many
    workers; 0: never."""


class Simulation:
    """What the ranks of one run share."""

    def __init__(self, job: Job, options: SimulatedOptions, begin: float = 0.0, fold: Fold = APART) -> None:
        self.job = job
        self.options = options
        self.fold = fold
        self.engine = Engine(begin)
        self.hosts: Hosts = build_hosts(self.engine, job.cluster, fold)
        self.messages = Messages(self.engine, self.hosts, job.cluster.transport)
        self.collectives = Collectives(
            self.engine,
            self.hosts,
            self.messages,
            options.collectives,
            options.algorithm,
            Thresholds(options.ring_bytes, options.ring_factor),
            _nodes(job.cluster, options.node_ranks),
            fold,
        )
        self.decided: dict[str, bool] = {}
        self.counted: Counter[str] = Counter()
        self._seconds: dict[Cost, float] = {}

    def seconds(self, cost: Cost) -> float:
        """Uncontended seconds of an operation."""
        known = self._seconds.get(cost)
        if known is None:
            known = self._seconds[cost] = self.job.cluster.device.seconds(self.job.model, cost)
        return known


def _nodes(cluster: Cluster, node_ranks: int) -> Callable[[int], int]:
    """The node of each rank."""
    if node_ranks:
        return lambda rank: rank // node_ranks
    nearby = 1 if isinstance(cluster.network, Loopback) else max(1, cluster.network.nearby())
    return lambda rank: cluster.host(rank) // nearby


@dataclass
class SimulatedFabric:
    """One rank of a simulation."""

    simulation: Simulation
    rank: int
    numerics: Numerics[Any] = field(init=False)
    stream: Stream = field(init=False)

    def __post_init__(self) -> None:
        hosts, rank = self.simulation.hosts, self.rank
        self._engine = engine = self.simulation.engine
        self._pace = pace = self.simulation.job.pace(rank)

        def at_start(factor: float) -> float:
            return max(hosts.least_factor, factor * pace.episode(engine.now))

        self.stream = Stream(
            engine,
            rank,
            partial(hosts.work, rank),
            at_start if pace.has_episodes else None,
            self.simulation.job.straggler.burn,
        )

    def now(self) -> float:
        return self._engine.env._now  # as the engine does, without the call

    def compute(
        self, cost: Cost, action: Callable[[Callable[[], bool]], R], batch: Batch | None, unless: Handle[Any] | None
    ) -> Operation[R | None]:
        if unless is not None:
            self._first_of_two()
        simulation = self.simulation
        factor, delay = self._pace.take(None if batch is None else batch.step)
        if not self._pace.has_episodes:
            factor = max(simulation.hosts.least_factor, factor)
        pieces = [simulation.seconds(cost)]
        if unless is not None and simulation.options.preemption == "block":
            apart = [simulation.seconds(Cost((part,), cost.samples)) for part in cost.parts]
            total = fsum(apart)
            share = pieces[0] / total if total else 0.0  # run apart, each would pay the operation's overhead
            pieces = [seconds * share for seconds in apart]
        return self.stream.submit(pieces, factor, action, cast("Operation[Any] | None", unless), delay)

    def send(self, to: int, tag: str, envelope: Envelope[Any]) -> Operation[None]:
        payload = envelope.payload
        nbytes = 0.0 if payload is None else self.numerics.nbytes(payload)
        source, to = self.simulation.fold.seen_from(self.rank, to)
        return self.simulation.messages.send(source, to, tag, envelope, nbytes, self.numerics.copy)

    def receive(self, source: int | None, tag: str) -> Operation[Message[Any]]:
        if source is None:
            self._first_of_two()
        return self.simulation.messages.receive(self.rank, source, tag)

    def collective(self, group: tuple[int, ...], collective: Collective, payload: Any) -> Operation[Any]:
        nbytes = 0.0 if payload is None else self.numerics.nbytes(payload)
        return self.simulation.collectives.join(self.rank, group, collective, payload, nbytes, self.numerics.combine)

    def task(self, coroutine: Coroutine[Any, Any, R]) -> Operation[R]:
        if self.simulation.fold is not APART:
            coroutine.close()
        self._first_of_two()
        return self.simulation.engine.process(self.rank, coroutine)

    def decide(self, key: str, proposal: bool) -> bool:
        return self.simulation.decided.setdefault(key, proposal)

    def count(self, key: str) -> int:
        self._first_of_two()
        self.simulation.counted[key] += 1
        return self.simulation.counted[key] - 1

    def _first_of_two(self) -> None:
        """What follows depends on which of two comes first: at one instant, on an order of ranks. They are apart."""
        if self.simulation.fold is not APART:
            raise SetApart("who is first")
