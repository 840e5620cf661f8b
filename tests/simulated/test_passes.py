"""How often autograd is called: a device on which a pass takes a second, and nothing else takes any time."""

from dataclasses import dataclass, field
from typing import Any

from distsim.backends.simulated.run import simulate
from distsim.interface import Batch, Block, Budget, Cluster, Job, Measured, Model, Roofline, Strategy, Switch, Worker
from distsim.interface.cluster import Curve
from distsim.numerics.sizes import SizesFactory

FREE = Curve(((0.0, 0.0),))
BLOCKS = 3
KINDS = ("forward", "backward", "loss", "apply")
DEVICE = Measured({(each, "block"): FREE for each in KINDS}, Roofline(1e9, 1e9), pass_overhead=1.0)
MODEL = Model(tuple(Block(i, "block", 1, 1, 1, 1.0, 1.0, 1.0) for i in range(BLOCKS)), batch=4, input=1)


@dataclass(frozen=True)
class Noted(Strategy):
    """Notes how long each way to a gradient takes."""

    seconds: dict[str, float] = field(default_factory=dict)

    async def run(self, worker: Worker[Any]) -> None:
        async def note(name: str, *works: Any) -> None:
            before = worker.now
            for work in works:
                await work
            self.seconds[name] = worker.now - before

        for _ in worker.steps():
            if worker.rank == 1:
                await worker.receive(0)
                await worker.send(None, 0)
                continue
            await note("gradient", worker.gradient(Batch(0)))
            await note("micro-batches", worker.gradient(Batch(0), microbatches=4))
            for number, (_, work) in enumerate(worker.gradients(Batch(0))):
                await note(f"bucket {number}", work)
            await note("one bucket", *(work for _, work in worker.gradients(Batch(0), 1e9, microbatches=2)))
            x = worker.input(Batch(0))
            await note("forward", worker.forward(range(BLOCKS), x, Batch(0)))
            await note("backward", worker.backward(range(BLOCKS), x, Batch(0)))
            news = worker.receive(1)
            await note("may be cancelled", worker.gradient(Batch(0), unless=news))
            await worker.send(None, 1)
            await news


def test_a_pass_is_all_blocks_between_which_nothing_can_happen():
    strategy = Noted()
    cluster = Cluster(2, 0, DEVICE, Switch(1e9, 0.0))
    outcome = simulate(Job(strategy, MODEL, cluster, Budget(updates=1), SizesFactory(MODEL, 2)))
    assert outcome.status == "done", outcome.message
    assert strategy.seconds == {
        "gradient": 2.0,  # forward, backward
        "micro-batches": 4 * 2.0,
        "bucket 0": 3.0 + 1.0,  # forward a bucket at a time, as their graphs are apart
        "bucket 1": 1.0,
        "bucket 2": 1.0,
        "one bucket": 2 * 2.0,
        "forward": 1.0,
        "backward": 1.0,
        "may be cancelled": 2 * 3.0,  # between any two blocks
    }
