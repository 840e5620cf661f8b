"""The model that is evaluated, put together from what ranks published."""

import pytest
import torch

from distsim.interface import ALL, SGD, Piece, Region
from distsim.numerics.tensors import TensorsFactory
from distsim.numerics.tensors_assemble import assemble
from distsim.workloads.digits_mlp import DigitsMLP
from numerics.two_layers import Chain

WORKLOAD = Chain()
MODEL, MODULES = WORKLOAD.model(), WORKLOAD.task(0).blocks
BLOCKS = (0, 1, 2)


def tensors(shard=(0, 1), workload=WORKLOAD):
    numerics = TensorsFactory(workload, 2, SGD(0.1), 5)(0)
    numerics.place(range(workload.depth), shard)
    return numerics


def joined(values):
    return torch.cat([values[b] for b in sorted(values)])


def published(numerics, regions, shard=(0, 1)):
    return [Piece(region, shard, numerics.read(region)) for region in regions]


@pytest.mark.parametrize(
    "regions",
    [
        [Region(BLOCKS)],
        [Region((b,)) for b in BLOCKS],
        Region(BLOCKS).cut(4),
        [Region(BLOCKS, 5)],
        [*Region((0, 2)).cut(3), Region((1,))],
    ],
)
def test_what_covers_the_model_is_the_model(regions):
    numerics = tensors()
    assert torch.equal(joined(assemble(MODEL, MODULES, published(numerics, regions))), numerics.read(ALL))
    for left_out in regions:
        rest = [region for region in regions if region != left_out]
        assert assemble(MODEL, MODULES, published(numerics, rest)) is None


@pytest.mark.parametrize("workload", [WORKLOAD, DigitsMLP(depth=3, width=8)])
@pytest.mark.parametrize("count", [2, 4])
def test_tensor_shards_make_the_model(workload, count):
    blocks = tuple(range(workload.depth))
    pieces = []
    for index in range(count):
        regions = [Region(blocks)] if index else [*Region(blocks[:2]).cut(3), *(Region((b,)) for b in blocks[2:])]
        pieces += published(tensors((index, count), workload), regions, (index, count))
    model, modules = workload.model(), workload.task(0).blocks
    expected = tensors(workload=workload).read(ALL)
    torch.testing.assert_close(joined(assemble(model, modules, pieces)), expected, rtol=0, atol=0)
    assert assemble(model, modules, pieces[1:]) is None


def test_what_overlaps_is_averaged_scalar_by_scalar():
    numerics = tensors()
    whole = torch.zeros(102, dtype=torch.float64)
    half = Region((0, 1), 4, 1)  # scalars 17 to 34
    pieces = [Piece(Region(BLOCKS), (0, 1), whole), Piece(half, (0, 1), numerics.read(half) * 0.0 + 3.0)]
    values = joined(assemble(MODEL, MODULES, [*pieces, Piece(Region((1,)), (0, 1), whole[:34] + 1.0)]))
    assert values.tolist() == [0.0] * 17 + [1.5] * 17 + [0.5] * 34 + [0.0] * 34


def test_a_replicated_part_is_the_mean_of_what_the_tensor_shards_say():
    pieces = []
    for index in range(2):
        numerics = tensors((index, 2))
        values = numerics.read(Region(BLOCKS))
        values[:6] = float(index)  # block 0: of scale and shift
        pieces.append(Piece(Region(BLOCKS), (index, 2), values))
    assert joined(assemble(MODEL, MODULES, pieces))[:6].tolist() == [0.5] * 6
