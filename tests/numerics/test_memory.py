"""Memory: the formula of byte counts, and what tensors really hold, are equal after every operation, and right by hand."""

import random
from itertools import pairwise

import pytest
import torch

from distsim.interface import ALL, SGD, AdamW, Batch, Memory, Region
from distsim.numerics.sizes import SizesFactory
from distsim.numerics.tensors import TensorsFactory
from distsim.workloads.char_gpt import CharGPT
from distsim.workloads.digits_cnn import DigitsCNN
from distsim.workloads.digits_mlp import DigitsMLP
from numerics.two_layers import Chain

WORKLOADS = [Chain(), DigitsMLP(batch=4, depth=4, width=12), DigitsMLP(batch=6, depth=3, width=8, dtype="float64")]
OPTIMIZERS = [SGD(0.01), SGD(0.01, 0.9), AdamW(0.01)]


class Both:
    """The two numerics, doing the same; their memories are compared after each operation."""

    def __init__(self, workload, optimizer):
        torch.set_num_threads(1)
        self.sizes = SizesFactory(workload.model(), 2, optimizer)(0)
        self.tensors = TensorsFactory(workload, 2, optimizer, 3)(0)

    def do(self, action):
        """`action` of one numerics, on each."""
        results = [action(numerics) for numerics in (self.sizes, self.tensors)]
        assert self.sizes.memory() == self.tensors.memory()
        return results

    @property
    def memory(self) -> Memory:
        return self.tensors.memory()


class Walk:
    """Random operations on one numerics: micro-batches under way, writes in between, shards, releases, other optimizers."""

    def __init__(self, numerics, depth, seed):
        self.numerics, self.blocks, self.draw = numerics, range(depth), random.Random(seed)
        self.outputs = {}
        self.pieces = {}  # of each batch, what runs as one
        self.seen = []  # the memory after every block
        self.kinds = (
            self.forward,
            self.backward,
            self.forget,
            self.update,
            self.load,
            self.accumulate,
            self.zero,
            self.gather,
        )

    def go(self, step):
        self.draw.choice(self.kinds)(step)

    def region(self, *others):
        """Two blocks, whole, a piece of them or what all tensor shards hold."""
        blocks = tuple(sorted(self.draw.sample(self.blocks, 2)))
        piece = Region(blocks, 3, self.draw.randrange(3))
        return self.draw.choice((Region(blocks), piece, piece.joined, Region(blocks, replicated=True), *others))

    def cut(self):
        """All blocks, cut at random."""
        ends = sorted(self.draw.sample(range(1, len(self.blocks)), self.draw.randrange(len(self.blocks))))
        return [tuple(self.blocks[a:b]) for a, b in pairwise([0, *ends, len(self.blocks)])]

    def look(self):
        self.seen.append(self.numerics.memory())

    def waiting(self):
        """A batch whose backward pass has not run."""
        return self.draw.choice(list(self.outputs)) if self.outputs else None

    def forward(self, step):
        batch = Batch(step, 0, self.draw.choice((1, 2)))
        if batch not in self.outputs:  # else its backward pass is awaited as it was cut
            self.pieces[batch] = self.cut()
        x = self.numerics.input(batch)
        for blocks in self.pieces[batch]:
            x = self.numerics.forward(blocks, x, batch, self.look)
        self.outputs[batch] = x

    def backward(self, step):
        if batch := self.waiting():
            g = self.numerics.loss(self.outputs.pop(batch), batch)[0]
            for blocks in reversed(self.pieces[batch]):
                before, g = g, self.numerics.backward(blocks, g, batch, "input" if step % 2 else "both", self.look)
                if step % 2:
                    self.numerics.backward(blocks, before, batch, "weights", self.look)

    def forget(self, step):
        if batch := self.waiting():
            del self.outputs[batch]
            self.numerics.forget(batch)

    def update(self, step):
        region, optimizer = self.region(), self.draw.choice((None, SGD(0.01, 0.5), AdamW(0.001)))
        self.numerics.update(region, self.numerics.read(region) * 0.01, optimizer, 1.0)

    def load(self, step):
        region = self.region()
        self.numerics.load(region, self.numerics.read(region))

    def accumulate(self, step):
        region = self.region()
        self.numerics.accumulate(region, self.numerics.accumulated(region))

    def zero(self, step):
        self.numerics.zero(self.region(None))

    def gather(self, step):
        block = step % len(self.blocks)
        whole = self.numerics.read(Region((block,)))
        self.numerics.release(Region((block,), 2, 1))
        assert self.numerics.memory().parameters < self.numerics.nbytes(self.numerics.accumulated(ALL))
        self.numerics.load(Region((block,)), whole)


def test_by_hand():
    """Two blocks of 2 x 3 + 2 x 3 x 4 + 4 = 34 scalars of 8 bytes; each keeps 10 a sample of 4. AdamW keeps two each."""
    both = Both(Chain(depth=2), AdamW(0.01))
    block, kept = 34 * 8, 10 * 4 * 8
    assert both.memory == Memory(parameters=2 * block)
    x = both.do(lambda n: n.forward((0,), n.input(Batch(0)), Batch(0)))
    assert both.memory == Memory(parameters=2 * block, activations=kept)
    both.do(lambda n: n.update(Region((0,)), n.read(Region((0,))), None, 1.0))  # the forward keeps the old weights
    assert both.memory == Memory(2 * block, 0, 2 * block, kept, block)
    both.do(lambda n: n.update(Region((0,), 2, 1), n.read(Region((0,), 2, 1)), SGD(0.1, 0.9), 1.0))  # nobody used the new
    assert both.memory == Memory(2 * block, 0, 2 * block + block / 2, kept, block)
    both.do(lambda n: n.backward((0,), x[n is both.tensors], Batch(0), "both"))
    assert both.memory == Memory(2 * block, block, 2 * block + block / 2)
    both.do(lambda n: n.accumulate(Region((0, 1), 3, 0), n.read(Region((0, 1), 3, 0))))  # 23 of 69 scalars
    assert both.memory == Memory(2 * block, block + 23 * 8, 2 * block + block / 2)
    both.do(lambda n: n.zero(Region((0,))))
    assert both.memory == Memory(2 * block, 23 * 8, 2 * block + block / 2)
    both.do(lambda n: n.zero(Region((0, 1), 3, 0)))
    assert both.memory == Memory(2 * block, 0, 2 * block + block / 2)
    both.do(lambda n: n.release(Region((0, 1), 3, 2)))  # 22 scalars and one of padding
    assert both.memory == Memory(22 * 8, 0, 2 * block + block / 2)
    both.do(lambda n: n.load(Region((1,)), n.accumulated(Region((1,)))))  # block 0 had nothing of that shard
    assert both.memory == Memory(block, 0, 2 * block + block / 2)


@pytest.mark.parametrize("workload", WORKLOADS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
@pytest.mark.parametrize("shard", [(0, 1), (1, 2)])
@pytest.mark.parametrize("seed", range(3))
def test_equal_after_every_operation(workload, optimizer, shard, seed):
    both = Both(workload, optimizer)
    both.do(lambda n: n.place(range(workload.depth), shard))
    walks = {n: Walk(n, workload.depth, seed) for n in (both.sizes, both.tensors)}
    for step in range(80):
        both.do(lambda n, step=step: walks[n].go(step))
    assert walks[both.sizes].seen == walks[both.tensors].seen
    assert len(walks[both.sizes].seen) > workload.depth
    for batch in walks[both.sizes].outputs:
        both.do(lambda n, batch=batch: n.forget(batch))
    both.do(lambda n: n.zero(None))
    held = workload.model().sharded(shard[1]).parameter_bytes
    assert both.memory[:2] == (held, 0)
    assert both.memory[3:] == (0, 0)


@pytest.mark.parametrize(
    "workload", [*WORKLOADS, DigitsCNN(batch=2, channels=8), CharGPT(batch=2, layers=2, width=16, context=8)]
)
@pytest.mark.parametrize("shard", [(0, 1), (0, 2), (1, 2)])
@pytest.mark.parametrize("parts", [1, 2])
def test_activations_of_every_block_are_as_described(workload, shard, parts):
    both, batch = Both(workload, SGD()), Batch(0, 0, parts)
    blocks = range(len(workload.model().blocks))
    both.do(lambda n: n.place(blocks, shard))
    x = both.do(lambda n: n.input(batch))
    for block in blocks:
        before, scalars = both.memory.activations, workload.model().sharded(shard[1]).blocks[block].saved
        x = both.do(lambda n, x=x, block=block: n.forward((block,), x[n is both.tensors], batch))
        assert both.memory.activations - before == scalars * workload.model().itemsize * workload.batch * 2 // parts


def test_a_released_block_holds_no_memory_even_where_a_backward_pass_awaits_it():
    numerics = TensorsFactory(DigitsMLP(batch=4, depth=3, width=8), 2)(0)
    block = numerics._blocks[1]  # the one look inside: what torch has allocated
    numerics.forward((1,), torch.zeros(8, 8), Batch(0))
    flat = block.part(0, 72)
    assert flat.untyped_storage().nbytes() == 72 * 4
    numerics.release(Region((1,), 4, 2))
    assert flat.untyped_storage().nbytes() == 0
    assert block.part(36, 54).untyped_storage().nbytes() == 18 * 4


def test_sending_and_reading_hold_nothing():
    both = Both(Chain(), SGD(0.1))
    before = both.memory
    both.do(lambda n: n.copy(n.read(ALL)))
    both.do(lambda n: n.cut(n.accumulated(ALL), 2))
    assert both.memory == before
