"""Tensors against plain torch: gradients of nn.Sequential, steps of torch.optim.SGD, weights as their forward saw them."""

import gc
import pickle
import threading
import time
import weakref

import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector

from distsim.interface import ALL, SGD, Batch, Block, Collective, Diverged, Model, Region, StrategyError
from distsim.interface.precision import FLOAT32, Precision
from distsim.numerics.tensors import TensorsFactory
from distsim.workloads.char_gpt import CharGPT
from distsim.workloads.digits_cnn import DigitsCNN
from distsim.workloads.digits_mlp import DigitsMLP
from distsim.workloads.task import Data, Task

WORKLOAD = DigitsMLP(batch=6, depth=4, width=9, dtype="float64")
WORKERS = 2
BLOCKS = range(4)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def numerics_of(rank=0, optimizer=SGD(0.1), seed=5):  # noqa: B008 - a frozen value
    return pickle.loads(pickle.dumps(TensorsFactory(WORKLOAD, WORKERS, optimizer, seed)))(rank)


def forward(numerics, batch, blocks=BLOCKS):
    x = numerics.input(batch)
    for block in blocks:
        x = numerics.forward((block,), x, batch)
    return numerics.loss(x, batch)


def backward(numerics, g, batch, blocks=BLOCKS):
    for block in reversed(blocks):
        g = numerics.backward((block,), g, batch, "both")


def gradient_of(numerics, batch):
    """The gradient and the loss of a batch, and nothing left of either."""
    numerics.zero(None)
    g, loss = forward(numerics, batch)
    backward(numerics, g, batch)
    gradient = numerics.accumulated(ALL)
    numerics.zero(None)
    return gradient, loss


def cuts(blocks):
    """All ways to cut a chain of blocks into pieces that run as one each."""
    *others, last = blocks
    if not others:
        return [[(last,)]]
    return [cut for rest in cuts(others) for cut in ([*rest, (last,)], [*rest[:-1], (*rest[-1], last)])]


WIDE = [DigitsCNN(batch=2, channels=8), CharGPT(batch=2, layers=1, width=16, context=8), DigitsMLP(batch=6, depth=4)]


@pytest.mark.parametrize("workload", WIDE, ids=lambda workload: type(workload).__name__)
@pytest.mark.parametrize("precision", [FLOAT32, Precision("bf16"), Precision("fp16")], ids=lambda each: each.name)
def test_however_blocks_are_cut_into_graphs_every_bit_is_the_same(workload, precision):
    blocks = range(len(workload.model().blocks))
    found = []
    for cut in cuts(blocks) if len(blocks) < 5 else [*cuts(blocks)[:: len(blocks)], [tuple(blocks)]]:
        numerics = TensorsFactory(workload, 2, SGD(0.1), 0, precision=precision)(0)
        parts = []
        for step in range(2):
            numerics.zero(None)
            for batch in Batch(step).split(2):
                x = numerics.input(batch)
                for piece in cut:
                    x = numerics.forward(piece, x, batch)
                g, _ = numerics.loss(x, batch)
                for piece in reversed(cut):
                    g = numerics.backward(piece, g, batch, "both")
            numerics.update(ALL, numerics.accumulated(ALL) if step else None, None, 1.0)
            parts += [x, numerics.accumulated(ALL), numerics.read(ALL)]
        found.append(torch.cat([part.reshape(-1) for part in parts]))
    assert len(found) > 3
    assert all(torch.equal(each, found[0]) for each in found[1:])


@pytest.mark.parametrize("workload", WIDE, ids=lambda workload: type(workload).__name__)
@pytest.mark.parametrize("precision", [FLOAT32, Precision("bf16"), Precision("fp16")], ids=lambda each: each.name)
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_the_loss_as_one_with_its_backward_pass_gives_the_same_bits(workload, precision, parts):
    """Weights of micro-batches are powers of two here: by those it makes no difference where a gradient is weighted."""
    *before, last = range(len(workload.model().blocks))
    before, last = tuple(before), (last,)
    found = []
    for as_one in (True, False):
        numerics, payloads = TensorsFactory(workload, 2, SGD(0.1), 0, precision=precision)(0), []
        for batch in Batch(3).split(parts):
            y = numerics.forward(last, numerics.forward(before, numerics.input(batch), batch), batch)
            if as_one:
                g, loss = numerics.backward_of_loss(last, y, batch)
            else:
                g, loss = numerics.loss(y, batch)
                g = numerics.backward(last, g, batch, "both")
            numerics.backward(before, g, batch, "both")
            payloads += [g.reshape(-1), torch.tensor([loss])]
        found.append(torch.cat([*payloads, numerics.accumulated(ALL)]))
        assert numerics.memory().activations == 0.0
    assert torch.equal(*found)


def test_parameters_that_no_pass_uses_any_more_are_freed_though_their_gradient_accumulates():
    numerics, blocks, batches = numerics_of(), tuple(BLOCKS), Batch(0).split(2)
    for batch in batches:
        y = numerics.forward(blocks, numerics.input(batch), batch)
        if batch is batches[1]:
            old = weakref.ref(numerics._blocks[0]._now.flat)
            numerics.load(ALL, numerics.read(ALL))
        numerics.backward_of_loss(blocks, y, batch)
        del y
    gc.collect()
    assert old() is None


def test_the_loss_of_an_output_that_was_changed_is_the_changed_ones():
    numerics, batch = numerics_of(), Batch(0)
    y = numerics.forward(tuple(BLOCKS), numerics.input(batch), batch)
    _, loss = numerics.backward_of_loss(tuple(BLOCKS), 2.0 * y, batch)
    assert loss == numerics_of().loss(2.0 * y, batch)[1] != numerics_of().loss(y, batch)[1]


def plain(batch, weights=None, seed=5):
    """The gradient and the loss of one nn.Sequential in plain torch, and its parameters."""
    task = WORKLOAD.task(seed)
    net = nn.Sequential(*task.blocks)
    if weights is not None:
        nn.utils.vector_to_parameters(weights, net.parameters())
    loss = task.loss(net(task.input(batch, WORKERS)), task.target(batch, WORKERS))
    loss.backward()
    return torch.cat([p.grad.reshape(-1) for p in net.parameters()]), loss.item(), parameters_to_vector(net.parameters())


@pytest.mark.parametrize("batch", [Batch(0), Batch(3, 1, 2), Batch(7, 2, 3)])
def test_the_gradient_is_that_of_plain_torch(batch):
    numerics = numerics_of()
    expected, loss, weights = plain(batch)
    gradient, value = gradient_of(numerics, batch)
    assert torch.equal(numerics.read(ALL), weights)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-15)
    assert value == pytest.approx(loss, rel=1e-13)


def test_all_ranks_start_from_weights_that_only_the_seed_decides():
    assert torch.equal(numerics_of(0).read(ALL), numerics_of(3).read(ALL))
    assert not torch.equal(numerics_of(0).read(ALL), numerics_of(0, seed=6).read(ALL))


def test_shares_of_a_batch_make_the_gradient_of_the_whole():
    numerics = numerics_of()
    whole, _ = gradient_of(numerics, Batch(2))
    shares = [gradient_of(numerics, Batch(2, part, 4))[0] for part in range(4)]
    torch.testing.assert_close(sum(shares) / 4, whole, rtol=1e-12, atol=1e-15)


def test_weighted_micro_batches_accumulate_to_the_gradient_of_the_whole():
    numerics = numerics_of()
    whole, _ = gradient_of(numerics, Batch(2, 1, 2))
    for batch in Batch(2, 1, 2).split(3):
        g, _ = forward(numerics, batch)
        backward(numerics, g, batch)
    torch.testing.assert_close(numerics.accumulated(ALL), whole, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("optimizer", [SGD(0.1), SGD(0.05, 0.9)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_updates_are_those_of_torch_sgd_bit_for_bit(optimizer, dtype):
    workload = DigitsMLP(depth=3, width=4, dtype=str(dtype).removeprefix("torch."))
    numerics = TensorsFactory(workload, 1, optimizer, 1)(0)
    w = nn.Parameter(numerics.read(ALL))
    torch_sgd = torch.optim.SGD([w], lr=optimizer.learning_rate, momentum=optimizer.momentum)
    for step in range(20):
        w.grad = torch.randn(w.shape, dtype=dtype, generator=torch.Generator().manual_seed(step))
        for region in (Region((0, 1)), Region((2,))):
            size = numerics.read(region).numel()
            numerics.update(region, w.grad[:size] if region.blocks == (0, 1) else w.grad[-size:], None, 1.0)
        torch_sgd.step()
        assert torch.equal(numerics.read(ALL), w.detach())


def test_scale_multiplies_the_rate():
    numerics = numerics_of(optimizer=SGD(0.5))
    before = numerics.read(ALL)
    numerics.update(ALL, torch.ones_like(before), None, 0.25)
    assert torch.equal(numerics.read(ALL), before - 0.125)


@pytest.mark.parametrize("write", ["update", "load"])
def test_a_backward_uses_the_weights_of_its_forward(write):
    numerics = numerics_of()
    old = numerics.read(ALL)
    new = old + 0.01
    first, second = Batch(0, 0, 2), Batch(0, 1, 2)
    g_first, _ = forward(numerics, first)
    if write == "load":
        numerics.load(ALL, new)
    else:
        numerics.update(ALL, torch.full_like(old, -0.1), None, 1.0)
    g_second, _ = forward(numerics, second)  # two versions of the weights are in use now
    numerics.update(ALL, torch.ones_like(old), None, 1.0)
    for batch, g, weights in ((first, g_first, old), (second, g_second, new)):
        numerics.zero(None)
        backward(numerics, g, batch)
        torch.testing.assert_close(numerics.accumulated(ALL), plain(batch, weights)[0], rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(numerics.read(ALL), new - 0.1, rtol=1e-14, atol=1e-16)


def test_the_two_halves_of_a_backward_make_the_whole():
    whole, _ = gradient_of(numerics_of(), Batch(1))
    numerics = numerics_of()
    g, _ = forward(numerics, Batch(1))
    for block in reversed(BLOCKS):
        g = numerics.backward((block,), g, Batch(1), "input")
    assert not numerics.accumulated(ALL).any()
    numerics.update(ALL, torch.ones_like(whole), None, 1.0)
    for block in BLOCKS:
        assert numerics.backward((block,), torch.zeros(0), Batch(1), "weights").numel() == 0
    torch.testing.assert_close(numerics.accumulated(ALL), whole, rtol=1e-12, atol=1e-15)


def test_the_input_gradient_of_a_stage_and_none_of_the_first_block():
    numerics = numerics_of()
    g, _ = forward(numerics, Batch(0))
    for block in (3, 2, 1):
        g = numerics.backward((block,), g, Batch(0), "both")
        assert g.shape == (12, 9)
    assert numerics.backward((0,), g, Batch(0), "both").numel() == 0


def test_stages_on_two_ranks_make_the_gradient_of_one():
    expected, loss, _ = plain(Batch(4))
    early, late = numerics_of(0), numerics_of(1)
    early.place([0, 1], (0, 1))
    late.place([2, 3], (0, 1))
    x = early.input(Batch(4))
    for numerics, block in ((early, 0), (early, 1), (late, 2), (late, 3)):
        x = numerics.forward((block,), x, Batch(4))
    g, value = late.loss(x, Batch(4))
    for numerics, block in ((late, 3), (late, 2), (early, 1), (early, 0)):
        g = numerics.backward((block,), g, Batch(4), "both")
    gradient = torch.cat([early.accumulated(ALL), late.accumulated(ALL)])
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-15)
    assert value == pytest.approx(loss, rel=1e-13)


def test_what_is_read_is_a_copy():
    numerics = numerics_of()
    before = numerics.read(ALL)
    numerics.read(ALL).zero_()
    numerics.read(Region((0,))).zero_()
    numerics.accumulated(Region((0,))).fill_(1.0)
    assert torch.equal(numerics.read(ALL), before)
    assert not numerics.accumulated(ALL).any()
    value = before.clone()
    numerics.load(ALL, value)
    value.zero_()
    assert torch.equal(numerics.read(ALL), before)


def test_collectives_combine_in_group_order_and_share_no_memory():
    numerics = numerics_of()
    values = [torch.tensor(row, dtype=torch.float32) for row in ([1e8, 2.0], [-1e8, 4.0], [1.0, 6.0])]  # order decides
    expected = {
        Collective("all_reduce", "sum"): [[1.0, 12.0]] * 3,
        Collective("all_reduce", "mean"): [[1.0 / 3.0, 4.0]] * 3,
        Collective("broadcast", root=2): [[1.0, 6.0]] * 3,
        Collective("all_gather"): [[1e8, 2.0, -1e8, 4.0, 1.0, 6.0]] * 3,
    }
    originals = [value.clone() for value in values]
    for collective, rows in expected.items():
        results = numerics.combine(collective, values)
        torch.testing.assert_close(torch.stack(results), torch.tensor(rows), rtol=1e-7, atol=0)
        for result in results:
            result.fill_(-1.0)
            assert sum(bool((other == -1.0).any()) for other in results) == 1
            result.fill_(0.0)
        assert all(torch.equal(a, b) for a, b in zip(values, originals, strict=True))
    pairs = [torch.arange(4.0), torch.ones(4)]
    results = numerics.combine(Collective("reduce_scatter", "sum"), pairs)
    assert [r.tolist() for r in results] == [[1.0, 2.0], [3.0, 4.0]]


def test_a_loss_that_is_not_finite_names_step_rank_and_rate():
    numerics = numerics_of(rank=1)
    numerics.load(ALL, numerics.read(ALL) * float("nan"))
    with pytest.raises(Diverged, match=r"diverged at step 9: on rank 1 the training loss is nan; try .* below 0.1"):
        forward(numerics, Batch(9))


def test_what_is_forgotten_is_gone():
    numerics = numerics_of()
    g, _ = forward(numerics, Batch(0))
    forward(numerics, Batch(1))
    numerics.forget(Batch(0))
    with pytest.raises(StrategyError, match="before its forward"):
        numerics.backward((3,), g, Batch(0), "both")
    numerics.backward((3,), g, Batch(1), "both")


class UsesItsWeightTwice(nn.Module):
    """x w, then, after a thread has had its chance to write to w, times w again."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.full((1,), 3.0))
        self.is_inside = threading.Event()

    def forward(self, x):
        y = x * self.weight
        self.is_inside.set()
        time.sleep(0.05)
        return y * self.weight


class OneBlock:
    """A workload of that block; its whole interface, as no other workload can be interrupted in its middle."""

    name = "one_block"
    module = UsesItsWeightTwice()

    def model(self):
        return Model((Block(0, "slow", 1, 1, 1, 2.0, 0.0, 2.0),), batch=2, input=1)

    def task(self, seed):
        data = Data(torch.ones(2, 1), torch.zeros(2, 1))
        return Task([self.module], data, nn.functional.mse_loss, seed, batch=2)


def test_a_write_of_a_second_thread_waits_until_the_forward_pass_is_through():
    numerics = TensorsFactory(OneBlock(), 1)(0)

    def write():
        OneBlock.module.is_inside.wait()
        numerics.load(ALL, torch.full((1,), 5.0))

    thread = threading.Thread(target=write)
    thread.start()
    y = numerics.forward((0,), numerics.input(Batch(0)), Batch(0))
    thread.join()
    assert y.tolist() == [[9.0], [9.0]]  # 1 x 3 x 3
    numerics.backward((0,), torch.ones(2, 1), Batch(0), "both")
    assert numerics.accumulated(ALL).tolist() == [12.0]  # two samples of 2 x 3
    assert numerics.read(ALL).tolist() == [5.0]


class AddsViews(nn.Module):
    """x + a + b: autograd gives views of one tensor as all three gradients, and they are views of what it was given."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))

    def forward(self, x):
        return x + self.a.view(1, 2) + self.b.view(1, 2)


class Views(OneBlock):
    """A workload of that block."""

    def model(self):
        return Model((Block(0, "views", 4, 2, 0, 4.0, 4.0, 4.0),) * 2, batch=1, input=2)

    def task(self, seed):
        return Task([AddsViews(), AddsViews()], Data(torch.zeros(1, 2), torch.zeros(1, 2)), nn.functional.mse_loss, seed, 1)


def test_gradients_that_are_views_of_one_tensor_are_added_up_apart():
    numerics, g = TensorsFactory(Views(), 1)(0), torch.tensor([[1.0, 2.0]])
    for step in range(3):
        numerics.forward((1,), torch.zeros(1, 2), Batch(step))
        assert numerics.backward((1,), g, Batch(step), "both").tolist() == [[1.0, 2.0]]
    assert numerics.accumulated(Region((1,))).tolist() == [3.0, 6.0, 3.0, 6.0]
    assert g.tolist() == [[1.0, 2.0]]


def test_gradients_that_are_views_of_one_tensor_are_added_up_apart_where_two_blocks_run_as_one():
    numerics, g = TensorsFactory(Views(), 1)(0), torch.tensor([[1.0, 2.0]])
    for step in range(3):
        numerics.forward((0, 1), torch.zeros(1, 2), Batch(step))
        assert numerics.backward((0, 1), g, Batch(step), "both").numel() == 0
    assert numerics.accumulated(ALL).tolist() == [3.0, 6.0] * 4
    assert g.tolist() == [[1.0, 2.0]]


def test_a_held_forward_pass_uses_the_parameters_of_then():
    numerics, plain_one = numerics_of(), numerics_of()
    batch = Batch(0, 1, 2)
    expected = plain_one.forward((0,), plain_one.input(batch), batch)
    numerics.hold(batch)
    held = numerics.memory()
    numerics.load(Region((0,)), numerics.read(Region((0,))) + 1.0)
    assert numerics.memory().versions == held.versions + numerics.nbytes(numerics.read(Region((0,))))
    assert torch.equal(numerics.forward((0,), numerics.input(batch), batch), expected)
    numerics.forget(batch)
    assert numerics.memory().versions == held.versions
    assert not torch.equal(numerics.forward((0,), numerics.input(batch), batch), expected)  # the module has what was loaded
