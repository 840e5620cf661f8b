"""The torch-free description of digits_mlp against what torch counts in the real modules."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from distsim.interface import Block
from distsim.workloads.describe import describe
from distsim.workloads.digits_mlp import DigitsMLP

SHAPES = [
    DigitsMLP(batch=3, depth=2, width=5),
    DigitsMLP(batch=4, depth=3, width=4, dtype="float64"),
    DigitsMLP(batch=16, depth=8, width=256),
    DigitsMLP(batch=1, depth=70, width=7),
]


def test_by_hand():
    first, hidden, last = DigitsMLP(batch=2, depth=3, width=4).model().blocks
    # 64 x 4 + 4 parameters; 2 x 64 x 4 FLOPs; every shard keeps the input
    assert first == Block(
        0, "linear_relu(64,4) float32", 260, 4, 68, 512.0, 0.0, 512.0, 4, 0, replicated_saved=64, shapes=((4, 64), (4,))
    )
    assert hidden == Block(
        1, "residual(4) float32", 20, 4, 4, 32.0, 32.0, 32.0, 4, 0, replicated_saved=4, shapes=((4, 4), (4,))
    )
    assert last == Block(2, "linear(4,10) float32", 50, 10, 4, 80.0, 80.0, 80.0, 4, 10, shapes=((10,), (10, 4)))


def test_a_shard_by_hand():
    first, hidden, last = DigitsMLP(batch=2, depth=3, width=4).model().sharded(2).blocks
    assert (first.kind, first.parameters, first.activation, first.saved) == ("linear_relu(64,4) float32 / 2", 130, 4, 66)
    assert (hidden.parameters, hidden.saved, hidden.flops, hidden.input_flops) == (10, 4, 16.0, 16.0)
    assert (last.parameters, last.activation, last.saved, last.weight_flops) == (30, 10, 2, 40.0)  # 10 + 40 / 2


def test_bytes_by_hand():
    model = DigitsMLP(batch=2, depth=3, width=4, dtype="float64").model()
    assert (model.itemsize, model.input, model.parameter_bytes) == (8, 64, 2640)
    assert model.saved_bytes(0, 2) == 1088


@pytest.mark.parametrize("workload", SHAPES)
def test_block_by_block_as_torch_counts(workload):
    task = workload.task(0)
    counted = describe(task.blocks, task.data.inputs, workload.batch)
    described = workload.model()
    assert [replace(b, kind="") for b in described.blocks] == [replace(b, kind="") for b in counted.blocks]
    assert (described.batch, described.input, described.itemsize) == (counted.batch, counted.input, counted.itemsize)
    kinds = dict(zip([b.kind for b in described.blocks], [b.kind for b in counted.blocks], strict=True))
    assert [kinds[b.kind] for b in described.blocks] == [b.kind for b in counted.blocks]  # equal kinds on both sides


@pytest.mark.parametrize("workload", SHAPES)
def test_the_whole_model_as_torch_counts(workload):
    task = workload.task(0)
    net = torch.nn.Sequential(*task.blocks)
    blocks, samples = workload.model().blocks, workload.batch
    assert sum(p.numel() for p in net.parameters()) == sum(b.parameters for b in blocks)
    with FlopCounterMode(display=False) as forward:
        y = net(task.data.inputs[:samples])
    assert forward.get_total_flops() == samples * sum(b.flops for b in blocks)
    with FlopCounterMode(display=False) as backward:
        y.sum().backward()
    assert backward.get_total_flops() == samples * sum(b.input_flops + b.weight_flops for b in blocks)


def test_fields_out_of_range_are_named():
    problems = list(DigitsMLP(batch=0, depth=1, width=0, dtype="float16").problems())
    assert [p.key for p in problems] == ["workload.batch", "workload.depth", "workload.width", "workload.dtype"]
    assert not list(DigitsMLP().problems())
