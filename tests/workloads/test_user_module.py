"""A user's own model and data: cut into blocks, described, trained; and what is refused, in which words."""

import importlib
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from distsim.interface import ALL, SGD, BadInput, Batch
from distsim.numerics.sizes import SizesFactory
from distsim.numerics.tensors import TensorsFactory
from distsim.workloads.user_module import UserModule

SOURCE = """
import random

import torch
from torch import nn

def data(columns=6, dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    x, y = torch.randn(50, columns, generator=g, dtype=dtype), torch.randint(0, 3, (50,), generator=g)
    return x[:40], y[:40], x[40:], y[40:]

class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 5)
    def forward(self, x):
        return self.linear(torch.tanh(self.linear(x)))

def sequential():
    net = nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.ReLU(inplace=True), Twice(), Twice(), nn.Tanh(), nn.Linear(5, 3))
    return net, data(), nn.functional.cross_entropy

def listed():
    return [nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)], data(), nn.functional.cross_entropy

def whole():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(6, 4), nn.Linear(4, 3)
        def forward(self, x):
            return self.two(torch.relu(self.one(x)))
    return Net(), data()[:2], nn.functional.cross_entropy

def tied():
    first, last = nn.Linear(6, 6), nn.Linear(6, 6)
    last.weight = first.weight
    return [first, nn.Tanh(), last], data(), nn.functional.cross_entropy

def same_module_twice():
    layer = nn.Linear(6, 6)
    return [layer, nn.Tanh(), layer], data(), nn.functional.cross_entropy

def batch_norm():
    return nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6)), data(), nn.functional.cross_entropy

def dropout():
    return nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5)), data(), nn.functional.cross_entropy

def in_place():
    return [nn.Linear(6, 6), nn.ReLU(inplace=True)], data(), nn.functional.cross_entropy

def two_outputs():
    return [nn.LSTM(6, 6)], data(), nn.functional.cross_entropy

def wrong_shape():
    return [nn.Linear(6, 6), nn.Linear(7, 3)], data(), nn.functional.cross_entropy

def mixed():
    return [nn.Linear(6, 6), nn.Linear(6, 3).double()], data(), nn.functional.cross_entropy

def two_things():
    return nn.Linear(6, 3), data()

def three_tensors():
    return nn.Linear(6, 3), data()[:3], nn.functional.cross_entropy

def summed():
    return nn.Linear(6, 3), data(), nn.CrossEntropyLoss(reduction="sum")

def one_a_sample():
    return nn.Linear(6, 3), data(), nn.CrossEntropyLoss(reduction="none")

def a_number():
    return nn.Linear(6, 3), data(), lambda y, target: nn.functional.cross_entropy(y, target).item()

def detached():
    return nn.Linear(6, 3), data(), lambda y, target: nn.functional.cross_entropy(y, target).detach()

def too_few_classes():
    return nn.Linear(6, 1), data(), nn.functional.cross_entropy

def missing_values():
    x, y = data()[:2]
    x[2, 1] = torch.nan
    return nn.Linear(6, 3), (x, y), nn.functional.cross_entropy

def no_samples():
    return nn.Linear(6, 3), [x[:0] for x in data()], nn.functional.cross_entropy

def uneven_validation():
    x, y, v, w = data()
    return nn.Linear(6, 3), (x, y, v, w[:4]), nn.functional.cross_entropy

def narrow_validation():
    x, y, v, w = data()
    return nn.Linear(6, 3), (x, y, v[:, :4], w), nn.functional.cross_entropy

def frozen():
    return nn.Linear(6, 3).requires_grad_(False), data(), nn.functional.cross_entropy

def sparse():
    x, y = data()[:2]
    return [nn.EmbeddingBag(9, 3, sparse=True)], (x.long().abs(), y), nn.functional.cross_entropy

def hooked():
    net = nn.Linear(6, 3)
    net.weight.register_hook(lambda g: 2 * g)
    return net, data(), nn.functional.cross_entropy

class Remembers(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6, 3))
        self.all = [self.weight]
    def forward(self, x):
        return x @ self.all[0]

def remembers():
    return Remembers(), data(), nn.functional.cross_entropy

def trained_loss():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))
        def forward(self, y, target):
            return nn.functional.cross_entropy(self.scale * y, target)
    return nn.Linear(6, 3), data(), Scaled()

def fails():
    raise AssertionError("daemonic processes are not allowed to have children")

def elsewhere():
    import os
    os.chdir("/")
    torch.set_num_threads(2)
    return nn.Linear(6, 3), data(), nn.functional.cross_entropy

def other_data():
    x, y = data()[:2]
    return nn.Linear(6, 3), (x + random.random(), y), nn.functional.cross_entropy

def other_weights():
    net = nn.Linear(6, 3)
    nn.init.constant_(net.weight, random.random())
    return net, data(), nn.functional.cross_entropy

def frozen_and_tied():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.utils.parametrizations.weight_norm(nn.Linear(6, 6)), nn.Linear(6, 6)
            self.two.weight, self.rest = self.one.bias, nn.LSTM(6, 3)
            self.two.bias.requires_grad_(False)
            self.never = nn.Parameter(torch.ones(2))
        def forward(self, x):
            return self.rest(self.one(x) * self.two.weight + self.two.bias)[0]
    return Net(), data(), nn.functional.cross_entropy
"""


@pytest.fixture(autouse=True)
def package(tmp_path, monkeypatch):
    folder = tmp_path / "users_own"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "models.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for name in ("users_own", "users_own.models"):
        monkeypatch.delitem(sys.modules, name, raising=False)


def workload(name, batch=4):
    return UserModule(module=f"users_own.models:{name}", batch=batch)


def test_a_sequential_is_cut_where_parameters_are():
    model = workload("sequential").model()
    assert [b.parameters for b in model.blocks] == [35, 30, 30, 18]
    assert [b.activation for b in model.blocks] == [5, 5, 5, 3]
    assert [b.flops for b in model.blocks] == [60.0, 100.0, 100.0, 30.0]
    # The two linear layers of the middle blocks: 50 a product. The first block needs no gradient of its input.
    assert [b.input_flops for b in model.blocks] == [0.0, 100.0, 100.0, 30.0]
    assert [b.weight_flops for b in model.blocks] == [60.0, 100.0, 100.0, 30.0]
    assert (model.batch, model.input, model.itemsize) == (4, 6, 4)
    kinds = [b.kind for b in model.blocks]
    assert kinds[1] != kinds[0] != kinds[3]


def test_equal_blocks_are_of_one_kind():
    kinds = [b.kind for b in workload("listed").model().blocks]
    assert len(set(kinds)) == 3
    assert kinds == [b.kind for b in UserModule("users_own.models:listed", 4).model().blocks]


def test_a_block_is_of_one_kind_whatever_the_batch():
    first, second = (UserModule("users_own.models:sequential", batch).model().blocks for batch in (4, 12))
    assert [b.kind for b in first] == [b.kind for b in second]


def test_a_reloaded_module_is_described_anew(tmp_path):
    assert len(workload("listed").model().blocks) == 3
    file = tmp_path / "users_own" / "models.py"
    file.write_text(SOURCE.replace("nn.Tanh(), nn.Linear(5, 3)], data()", "nn.Linear(5, 3)], data() "))
    importlib.reload(sys.modules["users_own.models"])
    assert len(workload("listed").model().blocks) == 2


@pytest.mark.parametrize(("name", "parameters"), [("listed", [35, 0, 18]), ("whole", [43])])
def test_a_list_is_taken_as_it_is_and_a_module_is_one_block(name, parameters):
    assert [b.parameters for b in workload(name).model().blocks] == parameters


@pytest.mark.parametrize("name", ["sequential", "listed", "whole", "frozen_and_tied"])
def test_it_trains_as_plain_torch_does(name):
    torch.set_num_threads(1)
    task = workload(name).task(3)
    net, initial = nn.Sequential(*task.blocks), TensorsFactory(workload(name), 2, SGD(0.1), 3)(0)
    trained = [p for p in net.parameters() if p.requires_grad]
    numerics, sizes = TensorsFactory(workload(name), 2, SGD(0.1), 3)(0), SizesFactory(workload(name).model(), 2)(0)
    assert torch.equal(initial.read(ALL), nn.utils.parameters_to_vector(trained))
    optimizer = torch.optim.SGD(trained, lr=0.1)
    for step in range(12):  # more than an epoch of 40 samples
        batch = Batch(step)
        optimizer.zero_grad()
        task.loss(net(task.input(batch, 2)), task.target(batch, 2)).backward()
        optimizer.step()
        numerics.zero(None)
        x, size = numerics.input(batch), sizes.input(batch)
        for block in range(len(task.blocks)):
            x, size = numerics.forward((block,), x, batch), sizes.forward((block,), size, batch)
            assert numerics.nbytes(x) == sizes.nbytes(size)
        g, _ = numerics.loss(x, batch)
        for block in reversed(range(len(task.blocks))):
            g = numerics.backward((block,), g, batch, "both")
        numerics.update(ALL, numerics.accumulated(ALL), None, 1.0)
    torch.testing.assert_close(numerics.read(ALL), nn.utils.parameters_to_vector(trained), rtol=1e-6, atol=1e-7)


def test_evaluation_and_fingerprint(tmp_path):
    task = workload("sequential").task(0)
    loss, accuracy = task.evaluate({b.index: torch.zeros(b.parameters) for b in workload("sequential").model().blocks})
    assert loss == pytest.approx(1.098612, abs=1e-5)  # ln 3
    assert accuracy == pytest.approx(float((task.data.validation_targets == 0).double().mean()))
    before = workload("sequential").fingerprint()
    assert before == workload("sequential").fingerprint()
    (tmp_path / "users_own" / "models.py").write_text(SOURCE + "\n# changed\n")
    assert workload("sequential").fingerprint() != before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "tied",
            "ties weight of block 0 .Linear. and weight of block 2 .Linear., blocks must not share parameters; put both",
        ),
        ("same_module_twice", "ties weight of block 0 .Linear. and weight of block 2 .Linear."),
        (
            "batch_norm",
            "users_own.models:batch_norm.*block 1 .BatchNorm1d. must not change its buffers, it changes running_mean; use",
        ),
        ("dropout", "block 0 .Linear . Dropout. must give equal outputs for equal inputs .1: Dropout.; remove dropout"),
        ("in_place", "block 1 .ReLU. must not change its input; use inplace=False"),
        ("two_outputs", "block 0 .LSTM. must return one tensor, not tuple; wrap it in a module"),
        ("wrong_shape", "block 1 .Linear. cannot run on an input of shape .4, 6.: .*mat1 and mat2"),
        (
            "mixed",
            "not .'torch.float32', 'torch.float64'.: torch.float32 in block 0 .Linear., torch.float64 in",
        ),
        ("two_things", "must return .blocks, data, loss."),
        ("three_tensors", "data must be .inputs, targets. or"),
        ("missing", "cannot be imported: .* has no attribute 'missing'"),
        ("summed", "must be the mean over the samples: of the same samples twice it is twice as much; reduction='mean'"),
        ("one_a_sample", "the loss must return the mean over the samples, a tensor of one number, not .* shape .4,."),
        ("a_number", "the loss must return the mean over the samples, a tensor of one number, not a float"),
        ("detached", "the loss must pass gradients on, what it returns has none; drop detach"),
        ("too_few_classes", "the loss of an output of shape .4, 1. fails on inputs of shape .*: IndexError: Target"),
        ("missing_values", "the loss of the first samples is nan before any update; the inputs have NaN"),
        ("no_samples", "there must be at least one sample, the inputs and targets have .0, 0."),
        ("uneven_validation", "validation inputs and targets must be equally many, not 10 and 4"),
        ("narrow_validation", "the blocks cannot run on validation inputs of shape .4, 4."),
        ("frozen", "no block has parameters to train, of 1; .* requires_grad is off"),
        ("sparse", "block 0 .EmbeddingBag. must have dense gradients, that of weight is sparse; use sparse=False"),
        ("hooked", "block 0 .Linear. has a hook on weight, which would not run"),
        ("trained_loss", "the loss has parameters, and none of them would be trained; put them into the last block"),
        ("fails", "cannot be built: AssertionError: daemonic .*; it must start no processes: num_workers=0"),
        ("remembers", "block 0 .Remembers. must find weight where it is registered"),
    ],
)
def test_what_is_refused(name, message):
    with pytest.raises(BadInput, match=message):
        workload(name).model()


def test_what_it_does_to_the_process_is_undone(tmp_path):
    torch.set_num_threads(1)
    workload("elsewhere").fingerprint()
    assert (Path.cwd(), torch.get_num_threads()) == (tmp_path, 1)


@pytest.mark.parametrize(("name", "what"), [("other_data", "data"), ("other_weights", "initial weights")])
def test_ranks_that_would_train_different_things_are_refused(name, what):
    with pytest.raises(BadInput, match=f"must return the same {what} whenever it is called .* random.seed"):
        workload(name).fingerprint()


def test_fields_out_of_range_are_named():
    assert [p.key for p in UserModule("no colon", 0).problems()] == ["workload.module", "workload.batch"]
    assert not list(UserModule("a.b:build", 1).problems())
    with pytest.raises(BadInput, match="cannot be imported: No module named 'nowhere'"):
        UserModule("nowhere:build").model()
