"""Workers that come and go while servers work on: what a lost one had under way is dropped, and servers are told.

The loss and the return reach every server as a signal with the label `lost` or `joined`, at once, through its receives from
any rank. Messages to a lost worker are over at once and reach nobody; those from it that have not arrived never do. When it
is back its program runs from the start.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from distsim.backends.simulated.fabric import SimulatedFabric, Simulation
from distsim.backends.simulated.messages import Told
from distsim.interface import JOINED, LOST, Interruption, Job, Rank, Start, Trace, Transfer

RankOf = dict[int, Rank[Any]]


class Membership:
    """Who of the workers is there, in one incarnation."""

    def __init__(self, simulation: Simulation, job: Job, start: Start, ranks: RankOf, tag: str) -> None:
        self._simulation = simulation
        self._job = job
        self._start = start
        self._ranks = ranks
        self._tag = tag
        self._servers = range(job.cluster.workers, job.cluster.world_size)
        self._told: list[tuple[Trace, Transfer, Told]] = []

    def lose(self, rank: int) -> None:
        """A worker is gone."""
        lost, engine = self._ranks[rank], self._simulation.engine
        engine.cut(rank)
        cast("SimulatedFabric", lost.fabric).stream.drop()
        dropped = self._simulation.messages.drop(rank)
        for kind, peer, tag, channel in lost.messages():
            if kind == "send" and dropped[peer, tag]:
                channel.count -= len(dropped[peer, tag])
                last, name = channel.count, channel.name  # sends that were over when posted are on record, and take it back
                kept = [each for each in lost.trace.transfers if each.channel != name or each.sequence < last]
                lost.trace.transfers[:] = kept
        envelopes = [envelope for sends in dropped.values() for envelope in sends]
        gradients = sum(envelope.label == "gradient" and envelope.payload is not None for envelope in envelopes)
        lost.trace.interruptions.append(Interruption(engine.now, rank, float("inf"), 0, gradients))
        self._tell(lost, LOST)

    def join(self, rank: int, begin: Callable[[Rank[Any]], None]) -> bool:
        """A worker is back, unless no server is left to serve it; `begin` runs its program."""
        if all(self._ranks[server].progress.is_over for server in self._servers):
            return False
        simulation, before = self._simulation, self._ranks[rank]
        simulation.messages.readmit(rank)
        fabric = SimulatedFabric(simulation, rank)
        start = replace(self._start, before={rank: before}, life=before.life + 1)
        back = self._ranks[rank] = self._job.rank(rank, fabric, start)
        fabric.numerics = back.numerics
        back.version, back.drawn = before.version, before.drawn
        for kind, peer, tag, channel in before.messages():
            if kind == "send":
                back.channel("send", peer, tag).count = channel.count
        for other in self._ranks.values():  # what they sent meanwhile is not expected
            for kind, peer, tag, channel in other.messages():
                if kind == "send" and peer == rank:
                    back.channel("receive", other.rank, tag).count = channel.count
        self._tell(back, JOINED)
        begin(back)
        return True

    def _tell(self, rank: Rank[Any], label: str) -> None:
        now = self._simulation.engine.now
        for server in self._servers:
            told = self._simulation.messages.tell(rank.rank, server, self._tag, label)
            channel = rank.channel("send", server, self._tag)
            record = Transfer("send", channel.name, channel.next(), 0.0, now, now, now)
            rank.trace.transfers.append(record)
            self._told.append((rank.trace, record, told))

    def close(self) -> None:
        """The incarnation is over: what no server was there to hear was not sent."""
        for trace, record, told in self._told:
            if not told.is_heard:
                trace.transfers.remove(record)
