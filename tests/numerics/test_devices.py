"""Numerics on a device that is not the host: torch's meta device, of shapes without values, stands for a GPU.

What CUDA would refuse, operations on tensors of two devices, is refused here; and a GPU's host is not to wait for it in the
middle of a step, as it does in a plain copy: but for the loss, which is asked whether it is finite.
"""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from distsim.backends.real.saving.plain import plain, restored
from distsim.interface import SGD, AdamW, Batch, Half, PowerSGD, Region, TopK
from distsim.numerics import tensors_optimizers
from distsim.numerics.tensors import TensorsFactory
from distsim.numerics.tensors_optimizers import State
from distsim.workloads.char_gpt import CharGPT
from distsim.workloads.digits_cnn import DigitsCNN
from distsim.workloads.digits_mlp import DigitsMLP

WORKLOADS = [DigitsMLP(batch=8), DigitsCNN(batch=8), CharGPT(batch=4, layers=1, heads=2, width=16, context=8)]
ALL = Region()
COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class Gpu(TorchDispatchMode):
    """Refuses what is said above; `waits` counts copies from the host that it waits for."""

    waits = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        keywords = keywords or {}
        found = [x for x in tree_leaves((arguments, keywords)) if isinstance(x, torch.Tensor) and x.dim()]
        devices = {x.device.type for x in found}
        result = function(*arguments, **keywords)
        if function in COPIES:
            both = {*devices, result.device.type}
            non_blocking = keywords.get("non_blocking") or (function is COPIES[1] and arguments[2:] == (True,))
            self.waits += len(both) > 1 and not non_blocking
        else:
            assert len(devices) <= 1, f"{function} on {devices}"
        return result


@pytest.fixture
def gpu(monkeypatch):
    def kernel(*lists, **settings):  # has no form for this device
        assert {x.device.type for x in tree_leaves(lists)} == {"meta"}

    monkeypatch.setattr(tensors_optimizers, "_fused_sgd_", kernel)
    monkeypatch.setattr(tensors_optimizers, "_fused_adamw_", kernel)
    monkeypatch.setattr(torch.Tensor, "item", lambda x: 1.0)
    with Gpu() as gpu:
        yield gpu


def numerics(workload, optimizer=SGD(0.1), device="meta"):  # noqa: B008
    return TensorsFactory(workload, 2, optimizer, 0, device)(0)


def gradient(numerics, workload, batch):
    blocks = tuple(range(len(workload.model().blocks)))
    numerics.zero(None)
    y = numerics.forward(blocks, numerics.input(batch), batch)
    numerics.backward_of_loss(blocks, y, batch)
    return numerics.accumulated(ALL)


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda each: type(each).__name__)
@pytest.mark.parametrize("optimizer", [SGD(0.1), SGD(0.1, momentum=0.9), AdamW(0.1)], ids=str)
def test_a_step_is_the_devices_and_its_host_waits_for_the_loss_alone(workload, optimizer, gpu):
    ours = numerics(workload, optimizer)
    gpu.waits = 0
    for step in range(2):
        ours.update(ALL, gradient(ours, workload, Batch(step, 0, 2)), None, 1.0)
        ours.load(ALL, ours.read(ALL))
    assert gpu.waits == 0


def test_what_was_saved_lies_on_the_device_again(gpu):
    """The optimizer's state, too: a checkpoint holds what is on the host."""
    workload, optimizer = WORKLOADS[0], AdamW(0.1)
    placed, cut, blocks, scale = numerics(workload, device="cpu").save()
    for _, here, states in blocks.values():
        states[None, 0, len(here)] = state = State()
        state.first, state.second = torch.zeros_like(here), torch.zeros_like(here)
    ours = numerics(workload, optimizer)
    ours.restore(restored(plain((placed, cut, blocks, scale)), torch.device("meta")))
    ours.update(ALL, gradient(ours, workload, Batch(0, 0, 2)), None, 1.0)
    assert ours.read(ALL).device.type == "meta"


@pytest.mark.parametrize("codec", [TopK(0.1), Half(), PowerSGD(2)], ids=str)
def test_codecs_work_on_the_device(codec, gpu):
    workload = WORKLOADS[0]
    ours = numerics(workload)
    x = gradient(ours, workload, Batch(0, 0, 2))
    codes = []
    for _ in codec.rounds:
        codes.append(ours.encode(codec, x, ALL, codes))
    assert ours.decode(codec, ALL, codes, 1).device.type == "meta"


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda each: type(each).__name__)
def test_shards_are_the_devices(workload, gpu):
    """Of tensors, and as ZeRO keeps them."""
    ours = numerics(workload)
    blocks = tuple(range(len(workload.model().blocks)))
    shard = Region(None, 2, 0)
    ours.release(shard)
    assert ours.read(shard).device.type == "meta"
    ours.load(ALL, torch.cat([ours.read(shard)] * 2)[: sum(b.parameters for b in workload.model().blocks)])
    ours.place(blocks, (1, 2))
    assert gradient(ours, workload, Batch(0, 0, 2)).device.type == "meta"
