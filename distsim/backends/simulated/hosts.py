"""Where ranks are and what lies between them: who computes on which cores, and how bytes get from one rank to another.

`RoutedHosts`: hosts with links between them, one a rank unless servers live beside workers (`Cluster.host`). The topology
says which links lie between two hosts, whichever of their ranks it is; a message within a host takes no network time.
Every rank has a device of its own, so ranks of one host do not slow each other's computing.
`SharedHost`: all ranks on one machine. Its cores are shared as processors, and over loopback a transfer is CPU work too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from distsim.backends.simulated.engine import Engine
from distsim.backends.simulated.folding import APART, Fold
from distsim.backends.simulated.network import Network
from distsim.backends.simulated.processors import Processors
from distsim.backends.simulated.routes import Routes
from distsim.interface import Cluster, Collective, Loopback, Topology, Transport

Done = Callable[[], None]


class Hosts(Protocol):
    """What the simulated fabric needs to know of a cluster."""

    least_factor: float
    """The smallest factor that a straggler's draw can have on a compute operation."""

    @property
    def routes(self) -> Routes | None:
        """The ways between ranks; None where there are no links: the price of a collective is measured there, and competes
        with whatever else is under way."""

    def work(self, rank: int, seconds: float, done: Done) -> Callable[[], None]:
        """Compute for `seconds` of uncontended time on the rank's host; calling the result stops it."""

    def move(self, source: int, to: int, nbytes: float, done: Done, waited: float = 0.0) -> None:
        """Carry a message that has waited for so many seconds behind another of its channel."""

    def resume(self, source: int, to: int, nbytes: float, latency: float, done: Done) -> None:
        """Carry what is left of a message that has begun to travel."""

    def price(self, group: tuple[int, ...], collective: Collective, nbytes: float, done: Done) -> bool:
        """Carry a whole collective as it was measured from now, when all have come, or say that it was not measured."""

    def drop(self, done: Done) -> bool:
        """Take a message off its way, by what is to be called when it is over; False if it goes on, in vain."""

    def limit(self, shares: Mapping[int, float]) -> None:
        """From now on each of these links has such a share of its capacity; 0: nothing moves on it."""

    def unaccounted(self) -> float:
        """Share of the accepted bytes that is neither delivered nor under way: 0 if bytes are conserved."""


class RoutedHosts:
    """Hosts with links between them."""

    least_factor = 0.0

    def __init__(
        self,
        engine: Engine,
        topology: Topology,
        hosts: Sequence[int],
        transport: Transport | None = None,
        fold: Fold = APART,
    ) -> None:
        """Of each rank its host; `fold` as in `Routes`."""
        self._engine = engine
        self._transport = transport or Transport()
        self.routes = Routes(topology, hosts, self._transport, fold)
        self.route = self.routes.route
        self._network = Network(engine, self.routes.capacities)

    def work(self, rank: int, seconds: float, done: Done) -> Callable[[], None]:
        self._engine.after(seconds, done)
        return _nothing

    def move(self, source: int, to: int, nbytes: float, done: Done, waited: float = 0.0) -> None:
        """Bytes of a channel follow each other; the latency of a message runs while it waits for those before it."""
        links, latency, limit = self.route(source, to)
        if not links:
            self._engine.after(0.0, done)
            return
        if waited:
            latency = max(self._transport.message_seconds, latency - waited)
        self._network.start(links, nbytes, latency, done, limit)

    def resume(self, source: int, to: int, nbytes: float, latency: float, done: Done) -> None:
        links, _, limit = self.route(source, to)
        if links:
            self._network.start(links, nbytes, latency, done, limit)
        else:
            self._engine.after(0.0, done)

    def price(self, group: tuple[int, ...], collective: Collective, nbytes: float, done: Done) -> bool:
        return False

    def drop(self, done: Done) -> bool:
        return self._network.drop(done)

    def limit(self, shares: Mapping[int, float]) -> None:
        self._network.change({link: self.routes.capacity(link) * share for link, share in shares.items()})

    def unaccounted(self) -> float:
        return self._network.unaccounted()


class SharedHost:
    """All ranks on one machine: computing and moving bytes share its cores."""

    least_factor = 1.0  # as in a real run here, which can wait but not compute faster than it does
    routes: Routes | None = None

    def __init__(self, engine: Engine, network: Loopback) -> None:
        self._costs = network
        self._processors = Processors(engine, network.cores)
        self._engine = engine
        self._computing = 0  # ranks that compute
        self._turns: list[Done] = []  # of messages that wait for a core, the oldest first
        self._queue: list[tuple[int, int, float, Done]] = []  # messages that wait for a transport, the oldest first
        self._busy: set[int] = set()  # ranks whose transport carries a message; only membership is asked

    def work(self, rank: int, seconds: float, done: Done) -> Callable[[], None]:
        self._computing += 1

        def left() -> None:
            self._computing -= 1
            if self._turns:  # unless the rank goes on at this instant
                self._engine.at_end_of_instant(self._give_turns)

        def worked() -> None:
            left()
            done()

        stop = self._processors.run(seconds, worked)

        def stopped() -> None:
            if stop():
                left()

        return stopped

    def move(self, source: int, to: int, nbytes: float, done: Done, waited: float = 0.0) -> None:
        """A rank's transport is one thread: it carries a message at a time. Where ranks compute on all cores, the message
        waits for its turn first, for its threads have to be scheduled: until one of them stops, or for the delay."""
        self._queue.append((source, to, nbytes, done))
        self._carry()

    def _carry(self) -> None:
        """Start every message, the oldest first, whose two transports are free."""
        for message in list(self._queue):
            source, to, nbytes, done = message
            if not self._busy & {source, to}:
                self._queue.remove(message)
                self._busy |= {source, to}
                self._start(source, to, nbytes, done)

    def _start(self, source: int, to: int, nbytes: float, done: Done) -> None:
        def turn() -> None:
            self._processors.run(self._costs.message(nbytes), arrived)

        def arrived() -> None:
            self._busy -= {source, to}
            done()
            self._carry()

        if self._has_free_core():
            turn()
            return
        self._turns.append(turn)
        self._engine.after(self._costs.delay, lambda: self._give(turn))

    def _has_free_core(self) -> bool:
        """With another job, at most half a core's work less would be done than if each had a core."""
        return self._costs.cores(self._computing + 1) >= self._computing + 0.5

    def _give_turns(self) -> None:
        if self._has_free_core():
            for turn in list(self._turns):
                self._give(turn)

    def _give(self, turn: Done) -> None:
        if turn in self._turns:  # it has not had it
            self._turns.remove(turn)
            turn()

    def resume(self, source: int, to: int, nbytes: float, latency: float, done: Done) -> None:
        self.move(source, to, nbytes, done)

    def price(self, group: tuple[int, ...], collective: Collective, nbytes: float, done: Done) -> bool:
        """Every member works; alone on the machine that takes the measured time of the collective."""
        size = len(group)
        curve = self._costs.all_reduce.get(size)
        if curve is None or collective.kind not in ("all_reduce", "reduce_scatter"):  # measured: these two cost the same
            return False
        work = curve(nbytes) * min(1.0, self._costs.cores(size) / size)
        left = size

        def worked() -> None:
            nonlocal left
            left -= 1
            if not left:
                done()

        for _ in group:
            self._processors.run(work, worked)
        return True

    def drop(self, done: Done) -> bool:
        waiting = [message for message in self._queue if message[3] is done]
        for message in waiting:
            self._queue.remove(message)
        return bool(waiting)  # what a transport has begun to carry, it carries

    def limit(self, shares: Mapping[int, float]) -> None:
        raise IndexError("one host has no links")

    def unaccounted(self) -> float:
        return 0.0


def build_hosts(engine: Engine, cluster: Cluster, fold: Fold) -> Hosts:
    """The hosts of a cluster, as far as they are simulated. Raises `SetApart` if the network is not alike for the rest."""
    network = cluster.network
    if isinstance(network, Loopback):
        return SharedHost(engine, network)
    hosts = [cluster.host(rank) for rank in range(cluster.world_size)]
    return RoutedHosts(engine, network, hosts, cluster.transport, fold)


def _nothing() -> None:
    pass
