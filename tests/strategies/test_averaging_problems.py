"""What averaging strategies say of settings, workers and models that they cannot run on."""

from math import inf, nan

import pytest

from distsim.interface import Block, Model, Strategy
from distsim.strategies.ad_psgd import ADPSGD
from distsim.strategies.diloco import DiLoCo, SlowMo, StreamingDiLoCo
from distsim.strategies.gossip import Gossip
from distsim.strategies.local_sgd import LocalSGD

FOUR_BLOCKS = Model(tuple(Block(i, "block", 10, 4, 4, 1.0, 1.0, 1.0) for i in range(4)), batch=6, input=4)


@pytest.mark.parametrize(
    "strategy",
    [
        LocalSGD(),
        LocalSGD(1, after=100),
        SlowMo(),
        SlowMo(1, 1.0, 0.0),
        DiLoCo(),
        DiLoCo(1, 1.0, 0.0, nesterov=True),
        StreamingDiLoCo(),
        StreamingDiLoCo(every=3, fragments=4, delay=2, alpha=1.0),
        StreamingDiLoCo(every=1, fragments=1, delay=0, alpha=0.0),
    ],
)
@pytest.mark.parametrize("workers", [1, 2, 64])
def test_they_run_on_any_number_of_workers(strategy: Strategy, workers: int) -> None:
    assert list(strategy.problems(workers, FOUR_BLOCKS)) == []


@pytest.mark.parametrize("strategy", [Gossip(), Gossip("exponential"), ADPSGD(), ADPSGD("complete")])
def test_gossip_needs_a_neighbour(strategy: Strategy) -> None:
    (problem,) = strategy.problems(1, FOUR_BLOCKS)
    assert str(problem) == "cluster.workers=1: averaging with a neighbour needs at least 2 workers; take 2 or more"
    for workers in (2, 3, 64):
        assert list(strategy.problems(workers, FOUR_BLOCKS)) == []


@pytest.mark.parametrize(
    ("strategy", "said"),
    [
        (LocalSGD(0), "strategy.every=0: steps from one average to the next: at least 1; take 1"),
        (LocalSGD(after=-1), "strategy.after=-1: updates before the first local ones: at least 0; take 0"),
        (SlowMo(-3), "strategy.every=-3: steps from one outer step to the next: at least 1; take 1"),
        (SlowMo(slow_momentum=1.0), "strategy.slow_momentum=1.0: at least 0 and less than 1; try 0.5"),
        (SlowMo(slow_learning_rate=nan), "strategy.slow_learning_rate=nan: greater than 0 and finite; try 1"),
        (DiLoCo(outer_learning_rate=0.0), "strategy.outer_learning_rate=0.0: greater than 0 and finite; try 0.7"),
        (DiLoCo(outer_learning_rate=inf), "strategy.outer_learning_rate=inf: greater than 0 and finite; try 0.7"),
        (DiLoCo(outer_momentum=-0.1), "strategy.outer_momentum=-0.1: at least 0 and less than 1; try 0.9"),
        (
            StreamingDiLoCo(fragments=5),
            "strategy.fragments=5: a fragment holds blocks, of which this model has 4: from 1 to 4; take 4",
        ),
        (
            StreamingDiLoCo(fragments=0),
            "strategy.fragments=0: a fragment holds blocks, of which this model has 4: from 1 to 4; take 1",
        ),
        (
            StreamingDiLoCo(every=4, delay=4),
            "strategy.delay=4: an average is used before its fragment is sent again, every 4 steps: from 0 to 3; take 3",
        ),
        (
            StreamingDiLoCo(every=4, delay=-1),
            "strategy.delay=-1: an average is used before its fragment is sent again, every 4 steps: from 0 to 3; take 0",
        ),
        (
            StreamingDiLoCo(alpha=1.5),
            "strategy.alpha=1.5: the share of a worker's own parameters: from 0 to 1; the paper: 0.5",
        ),
        (
            StreamingDiLoCo(alpha=nan),
            "strategy.alpha=nan: the share of a worker's own parameters: from 0 to 1; the paper: 0.5",
        ),
    ],
)
def test_what_cannot_be_is_said_in_one_line(strategy: Strategy, said: str) -> None:
    assert [str(problem) for problem in strategy.problems(4, FOUR_BLOCKS)] == [said]


def test_all_problems_are_said_at_once() -> None:
    strategy = StreamingDiLoCo(0, -1.0, 2.0, fragments=9, alpha=-1.0)
    assert [problem.key for problem in strategy.problems(4, FOUR_BLOCKS)] == [
        "strategy.every",
        "strategy.outer_learning_rate",
        "strategy.outer_momentum",
        "strategy.fragments",
        "strategy.alpha",
    ]


@pytest.mark.parametrize(
    ("strategy", "gradients"),
    [(LocalSGD(), 4), (SlowMo(), 4), (DiLoCo(), 4), (StreamingDiLoCo(), 4), (Gossip(), 4), (ADPSGD(), 1)],
)
def test_what_an_update_consumes(strategy: Strategy, gradients: int) -> None:
    assert (strategy.server_count(4), strategy.gradients_an_update(4)) == (0, gradients)
