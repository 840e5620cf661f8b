"""No strategy deadlocks, loses a gradient or leaves work unawaited, on whatever cluster and with whatever stragglers.

Every strategy runs 200 times, 25 of them in the quick suite: other numbers of workers, settings of its own (any that its
`problems` lets pass), models, bandwidths, latencies, stragglers and options of the simulator. All modeled.
"""

from __future__ import annotations

from dataclasses import fields
from random import Random
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest

from distsim import registry
from distsim.backends.simulated import SimulatedOptions, simulate
from distsim.interface import (
    SGD,
    Block,
    Budget,
    Cluster,
    Curve,
    Job,
    Loopback,
    Model,
    Roofline,
    Straggler,
    Strategy,
    Switch,
)
from distsim.numerics.sizes import SizesFactory
from distsim.results.conservation import check_conservation

RUNS, PARTS = 200, 8
JITTERS = ("none", "exponential", "lognormal", "pareto", "bernoulli")


def a_model(random: Random) -> Model:
    blocks = [
        Block(
            index=i,
            kind=f"block {i}",
            parameters=random.choice([8, 24, 4000]),
            activation=random.choice([4, 64]),
            saved=8,
            flops=10.0 ** random.uniform(3, 6),
            input_flops=10.0 ** random.uniform(3, 6),
            weight_flops=10.0 ** random.uniform(3, 6),
            ways=random.choice([0, 4, 12]),
            replicated=random.choice([0, 4]),
            shapes=random.choice([(), ((2, 2), (4,))]),
        )
        for i in range(random.randint(1, 16))
    ]
    return Model(tuple(blocks), batch=random.choice([1, 4, 12]), input=8)


def a_value(random: Random, kind: Any, default: Any) -> Any:
    """Some value of a field's type, possible or not."""
    if get_origin(kind) is Literal:
        return random.choice(get_args(kind))
    if kind is bool:
        return random.random() < 0.5
    if kind is int:
        return random.choice([default, *range(9)])
    return random.choice([default, default * 1e-3])


def a_strategy(random: Random, cls: type[Any], workers: int, model: Model) -> Strategy | None:
    kinds = get_type_hints(cls)
    chosen = {f.name: a_value(random, kinds[f.name], f.default) for f in fields(cls) if random.random() < 0.7}
    strategy: Strategy = cls(**chosen)
    return None if list(strategy.problems(workers, model)) else strategy


def a_job(random: Random, cls: type[Any]) -> Job:
    for _ in range(1000):
        workers, model = random.randint(1, 6), a_model(random)
        if strategy := a_strategy(random, cls, workers, model):
            break
    else:
        pytest.fail(f"{cls.__name__} refuses nearly everything")
    network = random.choice(
        [
            Switch(10.0 ** random.uniform(3, 9), random.choice([0.0, 1e-6, 1e-2])),
            Loopback(Curve(((1.0, 1.0), (2.0, 1.5))), Curve(((0.0, 1e-5), (1e6, 1e-2))), {2: Curve(((0.0, 1e-4),))}, 1e-4),
        ]
    )
    slow = {random.randrange(workers): random.choice([0.1, 3.0, 100.0])} if random.random() < 0.5 else {}
    servers = strategy.server_count(workers)
    return Job(
        strategy=strategy,
        model=model,
        cluster=Cluster(workers, servers, Roofline(1e9, 1e9, 1e-6), network, beside=strategy.servers_beside()),
        budget=random.choice(
            [Budget(updates=random.randint(1, 7)), Budget(seconds=10.0 ** random.uniform(-4, -2), updates=9)]
        ),
        numerics=SizesFactory(model, workers, SGD(0.1)),
        straggler=Straggler(random.choice(JITTERS), slow=slow),
        seed=random.randrange(100),
    )


@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.slow) for part in range(1, PARTS))])
@pytest.mark.parametrize("name", registry.BUILT_IN["strategy"])
def test_it_ends_and_conserves(name: str, part: int) -> None:
    cls = registry.load("strategy", name)
    for i in range(part, RUNS, PARTS):
        random = Random(f"{name} {i}")
        job = a_job(random, cls)
        options = SimulatedOptions(random.choice(["instant", "block"]), random.choice(["auto", "flows"]))
        outcome = simulate(job, options)
        assert outcome.status == "done", f"run {i}: {job.strategy} on {job.cluster}: {outcome.message}"
        check_conservation(outcome.traces)
