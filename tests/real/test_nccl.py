"""How NCCL is asked, by a group that does what NCCL says and no more; expectations by hand."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch

from distsim.backends.real import rank
from distsim.backends.real.transport import gloo
from distsim.backends.real.transport.collectives import Collectives, Everyone, Post
from distsim.backends.real.transport.devices import CudaDevice
from distsim.backends.real.transport.handle import PeerLost
from distsim.backends.real.transport.wires import Wires
from distsim.interface import Collective
from real.test_devices import Cuda, Flow, Request


class Done:
    def wait(self):
        """The stream waits."""


class Group:
    """Two ranks, of which this is the second. The first gives ones, or halves where it divides by two before the sum."""

    def __init__(self, theirs):
        self.theirs = theirs

    def _reduce_scatter_base(self, output, x, options):
        """In place if the output is this rank's part of the input; what else is in there then is not said."""
        assert output.dim() == x.dim() == 1
        assert output.data_ptr() == x.data_ptr() + x.nbytes // 2
        output += self.theirs
        x[: len(x) // 2] = torch.nan
        return Done()

    def _allgather_base(self, output, x, options):
        assert output.dim() == x.dim() == 1
        output.copy_(torch.cat([torch.full_like(x, self.theirs), x]))
        return Done()


def started(folder, cuda, group, collective, x):
    """The collective as it is under way on the second of two ranks, whose GPU is the host."""
    device = CudaDevice(3, cuda)
    device.start(lambda: cuda.now)
    return Collectives(Flow(cuda), folder, None, 1, Everyone((0, 1), group, Wires()), device).start((0, 1), collective, x)


def second_of_two(folder, collective, x, theirs=1.0):
    """What it gives."""
    handle = started(folder, Cuda(), Group(theirs), collective, x)
    with pytest.raises(StopIteration) as over:
        handle.__await__().send(None)
    return over.value.value


@pytest.mark.parametrize(
    ("op", "shape", "expected"),
    [
        ("sum", (4,), [4.0, 5.0]),
        ("mean", (4,), [2.0, 2.5]),
        ("sum", (2, 2), [[4.0, 5.0]]),
        ("sum", (1, 4), [4.0, 5.0]),
    ],
)
def test_a_reduce_scatter_sums_this_ranks_part_alone(op, shape, expected, tmp_path):
    """It moves half of what an all-reduce does."""
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).view(shape)
    part = second_of_two(tmp_path, Collective("reduce_scatter", op), x, theirs=0.5 if op == "mean" else 1.0)
    assert part.tolist() == expected
    assert x.flatten().tolist() == [1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize(("given", "expected"), [([[2.0], [3.0]], [[1.0], [1.0], [2.0], [3.0]]), (2.0, [1.0, 2.0])])
def test_an_all_gather_gives_one_tensor(given, expected, tmp_path):
    """Of a list of tensors NCCL would gather into another one first, and copy from that."""
    assert second_of_two(tmp_path, Collective("all_gather"), torch.tensor(given)).tolist() == expected


def test_a_transfer_is_over_when_the_gpu_has_done_it(tmp_path):
    """Who asks (`unless=`) is told so then, and neither host nor compute stream waits for the sake of that."""
    cuda = Cuda()
    group = SimpleNamespace(allreduce=lambda tensors, options: Request(cuda, 5.0))
    handle = started(tmp_path, cuda, group, Collective("all_reduce", "sum"), torch.ones(4))
    assert not handle.over()
    cuda.now = 4.9
    assert not handle.over()
    assert cuda.compute.free == 0.0
    cuda.now = 5.0
    assert handle.over()
    handle.complete()
    assert (handle.over(), cuda.now) == (True, 5.0)


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        (RuntimeError("Connection closed by peer"), PeerLost),
        (torch.OutOfMemoryError("CUDA out of memory"), torch.OutOfMemoryError),
        (TypeError("Input tensor data type is not supported for NCCL process group: Short"), TypeError),
    ],
)
def test_who_waits_for_a_collective_hears_why_there_is_none(raised, said):
    """Whoever has called it: the thread that makes its group does, for those that came before. A lost rank is not the cause
    of every error."""

    def call(group):
        raise raised

    post = Post(call)
    post.call(object())
    with pytest.raises(said, match=str(raised)):
        post.wait()


def test_gloo_and_nccl_listen_on_the_named_interface_alone(monkeypatch):
    """NCCL takes a name for the beginning of names, unless an equals sign is before it. A cluster's own settings would have
    the host wait for each transfer as it starts; an algorithm that was not connected with its group has it wait, too."""
    monkeypatch.setattr(os, "environ", {"NCCL_SOCKET_IFNAME": "eth", "TORCH_NCCL_BLOCKING_WAIT": "1"})
    gloo.listen_on("eth1")
    assert os.environ == {
        "GLOO_SOCKET_IFNAME": "eth1",
        "NCCL_SOCKET_IFNAME": "=eth1",
        "TORCH_NCCL_BLOCKING_WAIT": "0",
        "NCCL_RUNTIME_CONNECT": "0",
    }


def test_members_of_a_group_wait_for_each_other_as_long_as_the_launcher_does(tmp_path):
    """NCCL's wait in the store, whose own time is 300 s."""
    order = SimpleNamespace(elsewhere=None, private=tmp_path)
    assert rank._store(order, "group.store", 2).timeout == gloo.FOREVER
