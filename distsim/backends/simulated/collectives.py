"""Collectives: who has come, what comes out, and when.

A rank takes part in its group's collectives in call order, one at a time: it comes to one when it has called it and is over
with the one before. From then on its transfers begin, each when its other end has come as well. A collective runs as
`flows`, transfer by transfer over the same links as everything else, or at a `price`: see prices.

`auto` takes the price where it is exact, and then only. Until something else uses a link that it uses, a priced collective
is nothing but the times of arrival; when something does, what it has done so far is replayed, and the rest runs as flows.
What else there is: messages, collectives of other groups, and transfers of its own that may meet on a link. `price` takes
whatever price there is, and counts those that were disturbed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

from distsim.backends.simulated.algorithms import USUAL, Choice, Plan, Thresholds
from distsim.backends.simulated.calls import Call, Combine, Group, Ranks
from distsim.backends.simulated.engine import Engine, Operation
from distsim.backends.simulated.folding import APART, Fold
from distsim.backends.simulated.hosts import Hosts
from distsim.backends.simulated.messages import Messages
from distsim.backends.simulated.plans import Plans
from distsim.backends.simulated.prices import Course
from distsim.backends.simulated.rounds import Done, Move, Replay, Rounds, Underway
from distsim.interface import Collective, StrategyError
from distsim.interface.deadlock import listed

Mode = Literal["auto", "flows", "price"]

_NAMES = 4_000_000
"""Ranks in all tuples that are kept to know groups by."""


class Collectives:
    """All collectives of a run."""

    def __init__(
        self,
        engine: Engine,
        hosts: Hosts,
        messages: Messages,
        mode: Mode = "auto",
        algorithm: Choice = "auto",
        thresholds: Thresholds = USUAL,
        node: Callable[[int], int] | None = None,
        fold: Fold = APART,
    ) -> None:
        """`node` of each rank: all on one unless given. `fold`: which ranks stand for others."""
        self._engine = engine
        self._hosts = hosts
        self._messages = messages
        self._mode = mode
        self._fold = fold
        self._plans = Plans(hosts.routes, self._fold, algorithm, thresholds, node or (lambda rank: 0))
        self._groups: dict[Ranks, Group] = {}
        self._named: dict[int, tuple[Ranks, Group]] = {}
        """By the identity of a tuple that names it: hashing a thousand ranks at every call costs more than all the rest."""
        self._names_kept = 0
        self._under_way: list[Call] = []  # has links, and some have come
        self._relations: dict[tuple[int, int], tuple[bool, bool]] = {}
        self.inexact = 0
        """Priced collectives during which something else used their links."""

    # ---- who has come

    def join(
        self, rank: int, ranks: Ranks, collective: Collective, payload: Any, nbytes: float, combine: Combine
    ) -> Operation[Any]:
        """A rank calls its next collective of the group `ranks`."""
        named = self._named.get(id(ranks))
        group = self._find(ranks) if named is None or named[0] is not ranks else named[1]
        position = group.position_of(rank)
        assert position is not None
        number = group.called[position]
        group.called[position] += 1
        call = group.call(number)
        if call is None:
            call = Call(group, collective, nbytes, combine)
            group.calls.append(call)
        elif nbytes != call.nbytes or collective != call.collective:
            first = next(r for r, operation in zip(group.simulated, call.operations, strict=True) if operation)
            raise StrategyError(
                f"collective {number} of ranks {listed(ranks)}: rank {first} called {_say(call.collective, call.nbytes)}, "
                f"rank {rank} {_say(collective, nbytes)}; a group calls the same collectives in the same order"
            )
        call.payloads[position] = payload
        call.called += 1
        if call.called == len(group.simulated):  # what it raises is this rank's
            call.results = call.payloads if collective.kind == "barrier" else group.combine(call)
        operation = call.operations[position] = self._engine.operation()
        if group.turn[position] == number:
            self._arrive(call, position)
        return operation

    def _find(self, ranks: Ranks) -> Group:
        group = self._groups.get(ranks)
        if group is None:
            group = self._groups[ranks] = Group(ranks, self._fold)
        self._names_kept += len(ranks)
        if self._names_kept > _NAMES:
            self._named.clear()
            self._names_kept = len(ranks)
        self._named[id(ranks)] = ranks, group
        return group

    def missing(self, rank: int) -> list[tuple[Ranks, list[int]]]:
        """The groups in which this rank waits, and the members that have not called: for the report of a deadlock."""
        found = []
        for ranks, group in self._groups.items():
            position = group.position_of(rank)
            if position is not None:
                for call in group.calls:
                    late = [r for r, operation in zip(group.simulated, call.operations, strict=True) if operation is None]
                    if late and rank not in late and not call.is_over[position]:
                        found.append((ranks, late))
        return found

    def _arrive(self, call: Call, position: int) -> None:
        """A rank comes to a collective."""
        rounds = call.rounds
        call.arrivals[position] = call.begun = self._engine.now
        call.come += 1
        size = len(call.arrivals)
        if len(call.group.members.ranks) == 1:
            self._finish(call, [position])
            return
        if call.come == 1:
            self._open(call)
        if call.is_watched:
            self._meet(call, call.group.simulated[position])
        if rounds is not None:
            rounds.arrive(position)
        elif call.rounds is None and call.come == size:
            self._price(call)

    def _open(self, call: Call) -> None:
        """The first rank has come."""
        call.plan, course = self.find_plan(call)
        call.course = course
        if self._mode == "flows":
            self._flow(call)
        if self._mode == "flows" or course is None:
            return
        if call.plan.is_rooted or (self._mode == "auto" and not course.is_apart and call.nbytes):
            self._engine.after(self._engine.window, lambda: self._start(call))
        if call.nbytes:
            for other in self._under_way:
                meets, takes_turns = self._relation(call, other)
                if meets and not (takes_turns and other.group is call.group):
                    call.rivals.append(other)
                    other.rivals.append(call)
            call.is_watched = True
            self._under_way.append(call)
            self._messages.watch = self._sent

    def find_plan(self, call: Call) -> tuple[Plan, Course | None]:
        """The plan of a call, and its course on the links if there are any."""
        return self._plans.find(call)

    # ---- at a price

    def _price(self, call: Call) -> None:
        """All have come: when each is over."""
        engine = self._engine
        if call.course is None:
            group, collective = call.group.simulated, call.collective
            everyone = list(range(len(group)))
            if not self._hosts.price(group, collective, call.nbytes, lambda: self._finish(call, everyone)):
                self._flow(call)
            return
        ends = call.course.ends(call.arrivals, call.nbytes, engine.window)
        if ends is None and self._mode == "price":
            offsets = call.course.in_step(call.nbytes)
            if offsets is not None:
                call.is_disturbed = True  # by its own transfers
                ends = [engine.now + offset for offset in offsets]
        if ends is None:
            self._flow(call)
            return
        call.is_priced = True
        now, window, last = engine.now, engine.window, max(ends)
        if last - min(ends) <= window:
            engine.after(max(0.0, last - now), partial(self._ring, call, call.alarms, range(len(ends))))
            return
        order = sorted(range(len(ends)), key=ends.__getitem__)
        together: list[int] = []
        for position, after in zip(order, (*order[1:], -1), strict=True):
            together.append(position)
            if after < 0 or ends[after] - ends[position] > window:
                engine.after(max(0.0, ends[position] - now), partial(self._ring, call, call.alarms, together))
                together = []

    def _ring(self, call: Call, alarm: int, over: Sequence[int]) -> None:
        if call.alarms == alarm:
            self._finish(call, over)

    # ---- as flows

    def _start(self, call: Call) -> None:
        """Some have come, and all did not come at once: transfers begin, for some ranks may be over before others come."""
        if call.rounds is not None or call.is_priced:
            return
        if self._mode == "auto":
            self._flow(call)
            return
        engine, nbytes, course = self._engine, call.nbytes, call.course
        assert course is not None
        call.is_priced = True

        def move(phase: int, which: int, done: Done) -> None:
            engine.after(course.hop(phase, which).seconds(nbytes), done)

        def resume(underway: Underway) -> None:
            seconds = course.hop(underway.phase, underway.which).seconds(nbytes)
            engine.after(max(0.0, underway.begun + seconds - engine.now), underway.done)

        self._carry(call, move, resume)

    def _flow(self, call: Call) -> None:
        """Carry what is left of the collective as flows."""
        plan, course, ranks, nbytes = call.plan, call.course, call.group.members.ranks, call.nbytes
        assert plan is not None
        call.is_priced = False

        def move(phase: int, which: int, done: Done) -> None:
            source, to = plan.phases[phase].ends(which)
            share = plan.phases[phase].transfers[which].share
            self._hosts.move(ranks[source], ranks[to], share * nbytes, done)

        def resume(underway: Underway) -> None:
            assert course is not None
            hop, elapsed = course.hop(underway.phase, underway.which), self._engine.now - underway.begun
            left = hop.share * nbytes
            if elapsed > hop.latency:
                left = max(0.0, left - (elapsed - hop.latency) * hop.rate)
            latency = max(0.0, hop.latency - elapsed)
            source, to = plan.phases[underway.phase].ends(underway.which)
            self._hosts.resume(ranks[source], ranks[to], left, latency, underway.done)

        self._carry(call, move, resume)

    def _carry(self, call: Call, move: Move, resume: Callable[[Underway], None]) -> None:
        """Go on, transfer by transfer, from where the collective would be now had nothing disturbed it."""
        plan, course, now = call.plan, call.course, self._engine.now
        assert plan is not None
        call.alarms += 1
        come = sorted((when, position) for position, when in enumerate(call.arrivals) if when >= 0.0)
        over: list[int] = []
        is_live = course is None or come[0][0] == now

        def finished(position: int) -> None:
            if call.is_over[position]:
                return  # at its price, which rounding has put before this
            if is_live:
                self._finish(call, [position])
            else:
                over.append(position)

        if course is None or is_live:
            call.rounds = Rounds(plan, move, finished)
            for _, position in come:
                call.rounds.arrive(position)
            return
        replay = Replay(plan, lambda phase, which: course.hop(phase, which).seconds(call.nbytes), finished)
        under_way = replay.until(now, come)
        call.rounds, is_live = replay.rounds, True
        replay.rounds.move = move
        self._finish(call, over)
        for underway in under_way:
            resume(underway)

    # ---- what else uses its links

    def _relation(self, call: Call, other: Call) -> tuple[bool, bool]:
        """Whether two calls share links, and whether over each of them some rank takes part in all transfers of both."""
        a, b = call.course, other.course
        assert a is not None
        assert b is not None
        known = self._relations.get((id(a), id(b)))
        if known is None:
            known = self._relations[id(a), id(b)] = a.meets(b), a.takes_turns_with(b)
        return known

    def _meet(self, call: Call, rank: int) -> None:
        """A rank has come to `call`: what uses its links now?"""
        for rival in call.rivals:
            _, takes_turns = self._relation(call, rival)
            if rival.is_busy(rank) if takes_turns else call.meets(rival):
                self._look_again(call)
                return
        if self._is_crossed(call):
            self._look_again(call)

    def _is_crossed(self, call: Call) -> bool:
        """A message is on a link that the call uses."""
        routes = self._hosts.routes
        assert routes is not None
        return any(
            any(map(call.is_using, routes.route(source, to).links)) for source, to in self._messages.on_the_way.values()
        )

    def _sent(self, source: int, to: int) -> None:
        """A message begins to travel."""
        routes = self._hosts.routes
        assert routes is not None
        links = routes.route(source, to).links
        for call in self._under_way:
            if any(map(call.is_using, links)):
                self._look_again(call)

    def _look_again(self, call: Call) -> None:
        """At the end of the instant, for what ends at it meets nothing that begins at it, whichever comes first."""
        if not call.is_in_doubt:
            call.is_in_doubt = True
            self._engine.at_end_of_instant(partial(self._look, call))

    def _look(self, call: Call) -> None:
        """What uses the call's links, at the end of an instant?"""
        call.is_in_doubt = False
        if call.over == len(call.is_over):
            return
        ranks = call.group.simulated
        for rival in list(call.rivals):
            _, takes_turns = self._relation(call, rival)
            if any(call.is_busy(r) and rival.is_busy(r) for r in ranks) if takes_turns else call.meets(rival):
                self._disturb(call)
                self._disturb(rival)
        if self._is_crossed(call):
            self._disturb(call)

    def _disturb(self, call: Call) -> None:
        """Something else uses a link that this call uses."""
        call.is_disturbed = True
        if self._mode == "auto" and call.rounds is None:
            self._flow(call)

    # ---- who is over

    def _finish(self, call: Call, over: Sequence[int]) -> None:
        """Ranks are over, and come to the next collective of the group if they have called it."""
        group = call.group
        for position in over:
            call.is_over[position] = True
            group.turn[position] += 1
        call.over += len(over)
        if call.over == len(call.is_over):
            self._close(call)
        for position in over:
            operation = call.operations[position]
            assert operation is not None
            operation.begun = call.begun if call.come == len(call.is_over) else call.arrivals[position]
            operation.finish(call.results[position] if call.results is not None else self._early(call, position))
        for position in over:
            after = group.call(group.turn[position])
            if after is not None and after.operations[position] is not None:
                self._arrive(after, position)

    def _early(self, call: Call, position: int) -> Any:
        """The result of a rank that is over before all have called. What it gave is its own again: keep a copy."""
        kind, op, root, _in_place = call.collective
        given = call.payloads[position]
        call.payloads[position] = call.combine(Collective("broadcast"), [given])[0]
        if kind == "broadcast":
            return call.combine(Collective("broadcast"), [call.payloads[root]])[0]
        return call.combine(Collective(kind, op, 1), [given, given])[0]

    def _close(self, call: Call) -> None:
        """All are over."""
        group = call.group
        while group.calls and group.calls[0].over == len(group.simulated):
            group.calls.popleft()
            group.first += 1
        if call.is_watched:
            self._under_way.remove(call)
            for rival in call.rivals:
                rival.rivals.remove(call)
            if not self._under_way:
                self._messages.watch = None
        if call.is_priced and call.is_disturbed:
            self.inexact += 1


def _say(collective: Collective, nbytes: float) -> str:
    how = f"{collective.op} in place" if collective.in_place else collective.op
    return f"{collective.kind} {how}".strip() + f" of {nbytes:g} bytes"
