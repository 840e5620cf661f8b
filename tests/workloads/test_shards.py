"""Tensor shards are exact: outputs, input gradients and shared parameters' gradients add up, dealt ones join."""

import pytest
import torch
from torch import nn

from distsim.interface import BadInput
from distsim.workloads import shards
from distsim.workloads.char_gpt import CharGPT
from distsim.workloads.describe import describe
from distsim.workloads.digits_cnn import DigitsCNN
from distsim.workloads.digits_mlp import DigitsMLP
from distsim.workloads.parameters import ordered

WORKLOADS = [
    DigitsMLP(batch=3, depth=3, width=8, dtype="float64"),
    DigitsCNN(batch=3, depth=3, channels=8, dtype="float64"),
    CharGPT(batch=3, layers=1, heads=4, width=8, context=6, dtype="float64"),
]
BLOCKS = [
    (workload, index)
    for workload in WORKLOADS
    for index, block in enumerate(workload.model().blocks)
    if block.ways  # embedding and scores of the GPT are whole on every rank
]


def flat(module):
    return torch.cat([p.detach().reshape(-1) for p in ordered(module).values()])


def run(module, x, g):
    """Output, gradient of the input, flat gradient of the parameters."""
    x = x.clone().requires_grad_(x.is_floating_point())
    y = module(x)
    found = torch.autograd.grad(y, [x, *ordered(module).values()], g, materialize_grads=True)
    return y.detach(), found[0], torch.cat([piece.reshape(-1) for piece in found[1:]])


def perturbed(workload, index):
    """A block with no parameter at its special initial value, and an input of it."""
    task = workload.task(3)
    x = task.data.inputs[: workload.batch]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for block in task.blocks[: index + 1]:
            for p in block.parameters():
                p += 0.3 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
        for block in task.blocks[:index]:
            x = block(x)
    return task.blocks[index], x


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize(("workload", "index"), BLOCKS, ids=str)
def test_the_sum_over_shards_is_the_block(workload, index, count):
    block, x = perturbed(workload, index)
    with torch.no_grad():
        g = torch.randn(block(x).shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y, gx, gradient = run(block, x, g)
    parts = [run(block.shard(t, count), x, g) for t in range(count)]
    torch.testing.assert_close(sum(part[0] for part in parts), y, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(sum(part[1] for part in parts), gx, rtol=1e-12, atol=1e-12)
    both = workload.model().blocks[index].replicated
    summed = sum(part[2][:both] for part in parts)
    merged = shards.merge(block, [torch.cat([summed, part[2][both:]]) for part in parts])
    torch.testing.assert_close(merged, gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize(("workload", "index"), BLOCKS, ids=str)
def test_shards_put_together_are_the_whole_vector(workload, index, count):
    block, _ = perturbed(workload, index)
    pieces = [flat(block.shard(t, count)) for t in range(count)]
    described = workload.model().blocks[index].sharded(count)
    assert {len(piece) for piece in pieces} == {described.parameters}
    assert torch.equal(shards.merge(block, pieces), flat(block))
    for t, piece in enumerate(pieces):
        assert torch.equal(shards.cut(block, flat(block), t, count), piece)


@pytest.mark.parametrize("workload", WORKLOADS, ids=str)
def test_what_all_shards_hold_comes_first_and_in_the_modules_own_order(workload):
    for block, described in zip(workload.task(0).blocks, workload.model().blocks, strict=True):
        assert list(ordered(block)) == [name for name, _ in block.named_parameters()]
        assert shards.replicated(block) == (described.replicated if described.ways else described.parameters)


def test_a_shard_has_its_own_memory():
    block = WORKLOADS[0].task(0).blocks[1]
    before, shard = flat(block), block.shard(1, 2)
    with torch.no_grad():
        for p in shard.parameters():
            p.zero_()
    assert torch.equal(flat(block), before)
    assert shard.linear.weight.is_contiguous()


def test_loading_is_the_inverse_of_reading():
    block = WORKLOADS[2].task(0).blocks[1]
    values = torch.arange(float(len(flat(block))), dtype=torch.float64)
    shards.load(block, values)
    assert torch.equal(flat(block), values)
    assert torch.equal(block.query.weight.detach().reshape(-1), values[24:88])  # after bias, norm weight and norm bias


class Halves(nn.Module):
    """A user's own form: W x, cut by outputs; `lost` scales what the second shard gives."""

    dealt = {"weight": 0}  # noqa: RUF012

    def __init__(self, lost=1.0):
        super().__init__()
        self.ways, self.lost = 2, lost
        self.weight = nn.Parameter(torch.eye(4))

    def forward(self, x):
        return x @ self.weight.T

    def shard(self, index, count):
        shard = nn.Sequential(nn.Linear(4, 4, bias=False))
        with torch.no_grad():
            shard[0].weight.zero_()
            shard[0].weight[2 * index : 2 * index + 2] = self.weight[2 * index : 2 * index + 2] * (self.lost**index)
        return shard


def test_a_users_own_form_is_described_and_checked():
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    (block,) = describe([Halves()], x, 2).blocks
    assert (block.ways, block.replicated, block.parameters, block.shapes) == (2, 0, 16, ((4, 4),))
    with pytest.raises(BadInput, match=r"the outputs of the 2 shards of block 0 .Halves. must add up to the block's"):
        describe([Halves(0.5)], x, 2, "a:b")
