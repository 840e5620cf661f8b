"""The torch-free descriptions against what torch counts in the real modules, and against counts by hand."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from distsim.interface import Block, StrategyError
from distsim.workloads.char_gpt import CharGPT
from distsim.workloads.describe import describe
from distsim.workloads.digits_cnn import DigitsCNN
from distsim.workloads.digits_mlp import DigitsMLP

WORKLOADS = [
    DigitsMLP(batch=3, depth=2, width=5),
    DigitsMLP(batch=4, depth=3, width=4, dtype="float64"),
    DigitsMLP(batch=16, depth=8, width=256),
    DigitsMLP(batch=1, depth=70, width=7),
    DigitsCNN(batch=3, depth=2, channels=4),
    DigitsCNN(batch=2, depth=3, channels=12, dtype="float64"),
    DigitsCNN(),
    DigitsCNN(batch=1, depth=20, channels=8),
    CharGPT(batch=3, layers=1, heads=2, width=6, context=7),
    CharGPT(batch=1, layers=2, heads=3, width=12, context=9, dtype="float64"),
    CharGPT(),
    CharGPT(batch=2, layers=1, heads=8, width=16, context=1),
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
    assert model.blocks[0].saved * model.itemsize * 2 == 1088


def test_a_convolution_by_hand():
    _, hidden, last = DigitsCNN(batch=2, depth=3, channels=8).model().blocks
    # 8 x 8 x 3 x 3 weights, 8 biases, 2 x 8 of the norm; 2 x 9 x 8 x 8 a pixel; input, normed input, 2 x 4 groups
    assert (hidden.parameters, hidden.flops, hidden.saved) == (600, 64 * 1152.0, 64 * 8 * 2 + 8)
    assert (last.parameters, last.flops) == (16 + 10 * 8 * 16 + 10, 2560.0)  # 16 squares of 2 x 2 pixels a channel


def test_a_transformer_by_hand():
    """GPT-3's 175 B: 96 layers of 12 width^2 (and 10 width here, 13 there) parameters and 24 width^2 FLOPs a token and, for
    2,048 tokens, 4 x 2,048 width of attention (Brown et al., arXiv 2005.14165, table 2.1; Narayanan et al., arXiv
    2104.04473, appendix, counts 24 b s h^2 + 4 b s^2 h for a forward pass of a layer)."""
    workload = CharGPT(batch=1, layers=96, heads=96, width=12288, context=2048, dtype="bfloat16")
    assert not list(workload.problems())
    model, width = workload.model(), 12288
    layers = model.blocks[1:-1]
    assert sum(b.parameters for b in layers) == 96 * (12 * width**2 + 10 * width)
    assert sum(b.parameters for b in layers) == pytest.approx(175e9, rel=0.01)
    assert sum(b.flops for b in layers) == 96 * 2048 * (24 * width**2 + 4 * 2048 * width)
    assert model.itemsize == 2
    assert model.input == 4 * 2048  # eight bytes a token


@pytest.mark.parametrize("workload", WORKLOADS, ids=str)
def test_block_by_block_as_torch_counts(workload):
    task = workload.task(0)
    counted = describe(task.blocks, task.data.inputs, workload.batch)
    described = workload.model()
    assert [replace(b, kind="") for b in described.blocks] == [replace(b, kind="") for b in counted.blocks]
    assert (described.batch, described.input, described.itemsize) == (counted.batch, counted.input, counted.itemsize)
    kinds = dict(zip([b.kind for b in described.blocks], [b.kind for b in counted.blocks], strict=True))
    assert [kinds[b.kind] for b in described.blocks] == [b.kind for b in counted.blocks]  # equal kinds on both sides
    assert len(set(kinds.values())) == len(kinds)


@pytest.mark.parametrize(
    ("workload", "count"),
    [
        (DigitsMLP(batch=3, depth=3, width=8), 4),
        (DigitsCNN(batch=2, depth=3, channels=8), 4),
        (CharGPT(batch=2, layers=1, heads=4, width=8, context=6), 2),
        (CharGPT(batch=2, layers=1, heads=4, width=8, context=6), 4),
    ],
    ids=str,
)
def test_every_shard_as_torch_counts(workload, count):
    task, described = workload.task(0), workload.model().sharded(count)
    for index in range(count):
        blocks = [block.shard(index, count) if getattr(block, "ways", 0) else block for block in task.blocks]
        counted = describe(blocks, task.data.inputs, workload.batch)
        for a, b in zip(described.blocks, counted.blocks, strict=True):
            for key in ("parameters", "activation", "saved", "flops", "input_flops", "weight_flops"):
                assert getattr(a, key) == getattr(b, key), (a.kind, key)


@pytest.mark.parametrize("workload", WORKLOADS, ids=str)
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
    problems = list(DigitsCNN(batch=0, depth=1, channels=3, dtype="bfloat16").problems())
    assert [p.key for p in problems] == ["workload.batch", "workload.depth", "workload.channels", "workload.dtype"]
    problems = list(CharGPT(batch=0, layers=0, heads=0, width=0, context=0, dtype="float16").problems())
    assert [p.key for p in problems] == [f"workload.{k}" for k in ("batch", "layers", "heads", "width", "context", "dtype")]
    for workload in (DigitsMLP, DigitsCNN, CharGPT):
        assert not list(workload().problems())
        assert not list(workload().obstacles())


def test_what_does_not_divide_is_told_with_what_would():
    (problem,) = DigitsCNN(channels=30).problems()
    assert str(problem) == "workload.channels=30: must divide by the 4 groups of its norms; nearest: 28 or 32"
    (problem,) = CharGPT(heads=3).problems()
    assert str(problem) == "workload.heads=3: must divide workload.width=64; nearest: 2 or 4"
    (problem,) = CharGPT(heads=40).problems()
    assert str(problem) == "workload.heads=40: must divide workload.width=64; nearest: 32 or 64"


def test_shards_that_do_not_divide_are_refused():
    with pytest.raises(StrategyError, match=r"block 1 \(attention.*cannot be cut into 8 tensor shards: they must divide 4"):
        CharGPT().model().sharded(8)
    with pytest.raises(StrategyError, match="Attention has no shard 0 of 8: they must divide 4"):
        CharGPT().task(0).blocks[1].shard(0, 8)
