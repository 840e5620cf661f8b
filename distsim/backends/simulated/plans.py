"""Which plan a collective follows, and its course on the links between the ranks of its group."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

from distsim.backends.simulated.algorithms import Choice, Plan, Thresholds, choose, make_plan
from distsim.backends.simulated.calls import Call, Group
from distsim.backends.simulated.folding import Fold
from distsim.backends.simulated.prices import Course
from distsim.backends.simulated.quotient import quotient
from distsim.backends.simulated.routes import Routes


class Plans:
    """The plans of one run. Each is made once for a group, an algorithm, a kind and a root."""

    def __init__(
        self, routes: Routes | None, fold: Fold, algorithm: Choice, thresholds: Thresholds, node: Callable[[int], int]
    ) -> None:
        """`routes` None: there are no links, and no course. `node`: of each rank."""
        self._routes = routes
        self._fold = fold
        self._algorithm: Choice = algorithm
        self._thresholds = thresholds
        self._node = node

    def find(self, call: Call) -> tuple[Plan, Course | None]:
        """The plan of a call among its simulated members, and its course."""
        group, kind, root = call.group, call.collective.kind, call.collective.root
        size = len(group.members.ranks)
        algorithm: Choice = self._algorithm
        if algorithm == "auto":
            if group.hop is None:
                group.hop = self._slowest(group)
            algorithm = choose(kind, size, call.nbytes, *group.hop, self._thresholds)
        known = group.plans.get((algorithm, kind, root))
        if known is None:
            nodes: dict[int, list[int]] = {}
            for position, rank in enumerate(group.members.ranks):
                nodes.setdefault(self._node(rank), []).append(position)
            plan = make_plan(algorithm, kind, size, root, list(nodes.values()))
            known = group.plans[algorithm, kind, root] = self._on_links(group, plan)
        return known

    def _on_links(self, group: Group, plan: Plan) -> tuple[Plan, Course | None]:
        routes, members = self._routes, group.members
        if routes is None:
            return plan, None
        if not members.is_whole:
            plan = quotient(plan, members, routes)
        return plan, Course(routes, members.ranks, plan)

    def _slowest(self, group: Group) -> tuple[float, float]:
        """The latency and bandwidth that predictions count with: the worst between neighbours."""
        routes, ranks = self._routes, group.members.ranks
        if routes is None:
            return 0.0, 1.0
        pairs = list(zip(ranks, (*ranks[1:], ranks[0]), strict=True))
        if group.members.turns:  # the others' neighbours are images of these
            pairs = [(rank, after) for rank, after in pairs if rank == self._fold.standing_for(rank)]
        ways = [routes.route(rank, after) for rank, after in pairs]
        bandwidth = min(min(way.limit, *map(routes.capacity, way.links), inf) for way in ways)
        return max(way.latency for way in ways), bandwidth
