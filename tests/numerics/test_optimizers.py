"""Steps of optimizers against torch.optim; a step on a shard against the same slice of a step on everything."""

import pytest
import torch
from torch import nn

from distsim.interface import ALL, SGD, AdamW, Region
from distsim.numerics.tensors import TensorsFactory
from distsim.workloads.digits_mlp import DigitsMLP

OPTIMIZERS = [
    SGD(0.1),
    SGD(0.05, 0.9),
    SGD(0.05, 0.9, nesterov=True),
    SGD(0.1, weight_decay=0.01),
    SGD(0.05, 0.5, nesterov=True, weight_decay=0.1),
    AdamW(0.01),
    AdamW(0.003, 0.8, 0.99, 1e-6, 0.2),
    AdamW(0.01, weight_decay=0.0),
]


def of_torch(optimizer, w):
    if isinstance(optimizer, AdamW):
        betas = (optimizer.beta1, optimizer.beta2)
        rate, epsilon, decay = optimizer.learning_rate, optimizer.epsilon, optimizer.weight_decay
        return torch.optim.AdamW([w], lr=rate, betas=betas, eps=epsilon, weight_decay=decay, foreach=False)
    return torch.optim.SGD(
        [w],
        lr=optimizer.learning_rate,
        momentum=optimizer.momentum,
        nesterov=optimizer.nesterov,
        weight_decay=optimizer.weight_decay,
        foreach=False,
    )


def numerics_of(optimizer, dtype="float64"):
    return TensorsFactory(DigitsMLP(depth=3, width=4, dtype=dtype), 1, optimizer, 1)(0)


def noise(step, like):
    return torch.randn(like.shape, dtype=like.dtype, generator=torch.Generator().manual_seed(step))


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_steps_are_those_of_torch(optimizer, dtype):
    numerics = numerics_of(optimizer, dtype)
    w = nn.Parameter(numerics.read(ALL))
    torchs = of_torch(optimizer, w)
    for step in range(20):
        w.grad = noise(step, w)
        size = numerics.read(Region((0, 1))).numel()
        numerics.update(Region((0, 1)), w.grad[:size], None, 1.0)
        numerics.update(Region((2,)), w.grad[size:], None, 1.0)
        torchs.step()
        if isinstance(optimizer, SGD):
            assert torch.equal(numerics.read(ALL), w.detach())
        else:
            tolerance = 1e-12 if dtype == "float64" else 1e-6
            torch.testing.assert_close(numerics.read(ALL), w.detach(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_scale_multiplies_the_rate_of_one_step(optimizer):
    numerics = numerics_of(optimizer)
    w = nn.Parameter(numerics.read(ALL))
    torchs = of_torch(optimizer, w)
    for step, scale in enumerate((1.0, 0.25, 3.0)):
        w.grad = noise(step, w)
        torchs.param_groups[0]["lr"] = optimizer.learning_rate * scale
        torchs.step()
        numerics.update(ALL, noise(step, w), None, scale)
        torch.testing.assert_close(numerics.read(ALL), w.detach(), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
@pytest.mark.parametrize("is_released", [False, True])
def test_a_step_on_each_shard_is_a_step_on_everything(optimizer, is_released):
    """Bit for bit. 330 = 260 + 20 + 50 scalars in 4 shards of 83, padded by 2: shards 3 spans three blocks."""
    whole, region = numerics_of(optimizer), Region((0, 1, 2))
    pieces = [numerics_of(optimizer) for _ in range(4)]
    for step in range(5):
        g = noise(step, whole.read(ALL))
        whole.update(ALL, g, None, 1.0)
        expected = torch.cat([whole.read(ALL), g.new_zeros(2)])
        for numerics, shard, piece in zip(pieces, region.cut(4), whole.cut(g, 4), strict=True):
            if is_released:
                numerics.release(shard)
            numerics.update(shard, piece, None, 1.0)
        read = [numerics.read(shard) for numerics, shard in zip(pieces, region.cut(4), strict=True)]
        assert torch.equal(torch.cat(read), expected)


def test_states_are_kept_apart_by_optimizer_even_if_they_are_equal():
    """An outer optimizer that happens to equal the run's own has its own velocity."""
    optimizer = SGD(1.0, 0.5)
    numerics = numerics_of(optimizer)
    start, g = numerics.read(ALL), torch.ones(330, dtype=torch.float64)
    numerics.update(ALL, g, None, 1.0)  # velocity 1
    numerics.update(ALL, g, optimizer, 1.0)  # velocity 1 of another
    numerics.update(ALL, g, None, 1.0)  # velocity 1.5
    torch.testing.assert_close(numerics.read(ALL), start - 3.5, rtol=1e-14, atol=0)
