"""digits_cnn: its blocks against torch's own functions, samples apart from each other, and that it learns."""

import pytest
import torch
from torch.nn import functional

from distsim.interface import ALL, SGD, Batch, Region
from distsim.numerics.tensors import TensorsFactory
from distsim.workloads import digits
from distsim.workloads.digits_cnn import DigitsCNN

SMALL = DigitsCNN(batch=4, depth=4, channels=8, dtype="float64")


def shaken(workload, seed=5):
    """The blocks of a task, no bias at zero."""
    task = workload.task(seed)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for block in task.blocks:
            for p in block.parameters():
                p += 0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return task


def test_it_is_the_model_that_torchs_functions_make():
    task = shaken(SMALL)
    w = [dict(block.named_parameters()) for block in task.blocks]
    images = task.data.inputs[:5]
    x = functional.conv2d(images, w[0]["conv.weight"], w[0]["conv.bias"], padding=1)
    for p in w[1:-1]:
        h = functional.relu(functional.group_norm(x, 4, p["norm.weight"], p["norm.bias"]))
        x = x + 2**0.5 * functional.conv2d(h, p["conv.weight"], p["conv.bias"], padding=1)  # sqrt(8 / 4 blocks)
    h = functional.relu(functional.group_norm(x, 4, w[-1]["norm.weight"], w[-1]["norm.bias"]))
    h = h.unflatten(2, (4, 2)).unflatten(4, (4, 2)).mean((3, 5))
    y = functional.linear(h.flatten(1), w[-1]["linear.weight"], w[-1]["bias"])
    torch.testing.assert_close(torch.nn.Sequential(*task.blocks)(images), y, rtol=1e-12, atol=1e-12)


def test_images_are_the_digits():
    data = SMALL.task(0).data
    assert data.inputs.shape == (1437, 1, 8, 8)
    assert data.validation_inputs.shape == (360, 1, 8, 8)
    start = 64 * digits.split(digits.load().labels)[0][0]
    pixels = torch.tensor(list(digits.load().pixels[start : start + 64])).double()
    assert torch.corrcoef(torch.stack([data.inputs[0].flatten(), pixels]))[0, 1] > 1 - 1e-12  # but for their scale


def test_a_samples_output_depends_on_no_other():
    net = torch.nn.Sequential(*shaken(SMALL).blocks)
    images = SMALL.task(0).data.inputs[:6]
    with torch.no_grad():
        torch.testing.assert_close(torch.cat([net(images[:2]), net(images[2:])]), net(images), rtol=1e-12, atol=1e-12)


def test_both_dtypes_start_from_the_same_model():
    single, double = (DigitsCNN(channels=4, depth=3, dtype=dtype).task(1).blocks for dtype in ("float32", "float64"))
    for a, b in zip(single, double, strict=True):
        assert all(torch.equal(p, q.float()) for p, q in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("depth", [3, 12])
def test_the_digits_are_learnt(depth):
    """A linear classifier has some .95 on these digits, so a model that trains at all passes .9 within five epochs."""
    torch.set_num_threads(1)
    workload = DigitsCNN(batch=64, depth=depth, channels=8)
    numerics = TensorsFactory(workload, 1, SGD(0.1), seed=1)(0)
    for step in range(112):
        batch = Batch(step)
        numerics.zero(None)
        x = numerics.input(batch)
        for block in range(depth):
            x = numerics.forward((block,), x, batch)
        g, _ = numerics.loss(x, batch)
        for block in reversed(range(depth)):
            g = numerics.backward((block,), g, batch, "both")
        numerics.update(ALL, numerics.accumulated(ALL), None, 1.0)
    loss, accuracy = workload.task(1).evaluate({b: numerics.read(Region((b,))) for b in range(depth)})
    assert accuracy > 0.9
    assert loss < 0.4
