"""Tasks: which samples a batch holds, what a seed decides, and that the digits are learnt."""

import os
import subprocess
import sys
from random import Random

import pytest
import torch

from distsim.interface import ALL, SGD, Batch, Region, StrategyError
from distsim.numerics.tensors import TensorsFactory
from distsim.workloads.digits_mlp import DigitsMLP
from distsim.workloads.task import Data, Task

WORKLOAD = DigitsMLP(batch=16, depth=4, width=32)


@pytest.mark.parametrize("step", [0, 7, 22, 1000])
@pytest.mark.parametrize("parts", [2, 4, 8])
def test_shares_are_slices_of_what_one_process_sees(step, parts):
    task = WORKLOAD.task(0)
    whole = task.places(Batch(step), 4)
    assert torch.equal(torch.cat([task.places(Batch(step, part, parts), 4) for part in range(parts)]), whole)
    assert torch.equal(DigitsMLP(batch=64, depth=4, width=32).task(0).places(Batch(step), 1), whole)


def test_micro_batches_are_slices_of_their_share():
    task = WORKLOAD.task(0)
    share = Batch(3, 1, 4)
    pieces = [task.places(piece, 4) for piece in share.split(8)]
    assert torch.equal(torch.cat(pieces), task.places(share, 4))


def test_an_epoch_holds_every_sample_once():
    task = WORKLOAD.task(0)
    stream = torch.cat([task.places(Batch(step), 4) for step in range(45)])  # 2880 places: two epochs of 1437, and 6
    for epoch in (stream[:1437], stream[1437:2874]):
        assert epoch.sort().values.tolist() == list(range(1437))
    assert not torch.equal(stream[:1437], stream[1437:2874])


def order(epoch, size):
    """The samples of an epoch, as the rule says it: (seed, epoch) shuffles them anew."""
    shuffled = list(range(size))
    Random(f"(0, 'epoch', {epoch})").shuffle(shuffled)
    return shuffled


def test_steps_that_do_not_divide_the_data_go_on_in_the_next_epoch():
    """10 samples, 3 workers of 4: step 0 takes 10 of one epoch and 2 of the next, step 1 the other 8 and 4 of a third."""
    task = Task([], Data(torch.arange(10), torch.arange(10)), torch.dot, seed=0, batch=4)
    a, b, c = (order(epoch, 10) for epoch in range(3))
    expected = [[a[0:4], a[4:8], [a[8], a[9], b[0], b[1]]], [b[2:6], b[6:10], c[0:4]]]
    for step in range(2):
        for worker in range(3):
            assert task.input(Batch(step, worker, 3), 3).tolist() == expected[step][worker]
            assert task.target(Batch(step, worker, 3), 3).tolist() == expected[step][worker]
    assert task.input(Batch(0, 2, 3).split(2)[1], 3).tolist() == [b[0], b[1]]  # its second micro-batch


def test_data_smaller_than_a_step_comes_several_times_in_it():
    task = Task([], Data(torch.arange(3), torch.arange(3)), torch.dot, seed=0, batch=4)
    a, b, c = (order(epoch, 3) for epoch in range(3))
    assert task.input(Batch(0), 2).tolist() == [*a, *b, c[0], c[1]]


def test_a_share_needs_whole_samples():
    with pytest.raises(StrategyError, match="the 64 samples of a step do not cut into 5 equal parts"):
        WORKLOAD.task(0).input(Batch(0, 0, 5), 4)


def test_inputs_are_scaled_and_belong_to_their_targets():
    task = WORKLOAD.task(0)
    x, y = task.data.inputs, task.data.targets
    assert x.dtype == torch.float32
    assert abs(float(x.mean())) < 1e-5
    assert float(x.std()) == pytest.approx(1, abs=1e-5)
    places = task.places(Batch(5, 1, 2), 4)
    assert torch.equal(task.input(Batch(5, 1, 2), 4), x[places])
    assert torch.equal(task.target(Batch(5, 1, 2), 4), y[places])


def test_both_dtypes_start_from_the_same_model():
    single, double = (DigitsMLP(dtype=dtype, width=8).task(1).blocks for dtype in ("float32", "float64"))
    for a, b in zip(single, double, strict=True):
        assert all(torch.equal(p, q.float()) for p, q in zip(a.parameters(), b.parameters(), strict=True))


DRAWS = """
import hashlib, torch
from distsim.interface import ALL, Batch
from distsim.numerics.tensors import TensorsFactory
from distsim.workloads.digits_mlp import DigitsMLP
torch.rand(%d)
numerics = TensorsFactory(DigitsMLP(width=16), 4, seed=7)(1)
values = [numerics.read(ALL), *(numerics.input(Batch(step, 1, 4)) for step in (30, 2))]
print(hashlib.sha256(b"".join(bytes(str(v.tolist()), "ascii") for v in values)).hexdigest())
"""


def test_a_seed_decides_weights_and_samples_in_any_process():
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", DRAWS % draws_before],
            env={**os.environ, "PYTHONHASHSEED": hashseed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for draws_before, hashseed in ((0, "1"), (3, "2"))
    ]
    one, two = (process.communicate()[0] for process in processes)
    assert one == two
    assert len(one) == 65


def test_another_seed_decides_other_weights_and_samples():
    one, other = (TensorsFactory(WORKLOAD, 4, seed=seed)(0) for seed in (7, 8))
    assert not torch.equal(one.read(ALL), other.read(ALL))
    assert not torch.equal(one.input(Batch(0)), other.input(Batch(0)))


def test_making_a_task_leaves_torchs_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    WORKLOAD.task(0)
    assert torch.equal(torch.rand(3), expected)


def test_evaluation_leaves_the_blocks_alone_and_knows_chance():
    task = WORKLOAD.task(0)
    values = {i: torch.zeros(b.parameters) for i, b in enumerate(WORKLOAD.model().blocks)}
    loss, accuracy = task.evaluate(values)
    assert loss == pytest.approx(2.302585, abs=1e-5)  # ln 10: all classes are equally likely
    assert accuracy == pytest.approx(36 / 360)  # the first class is taken
    assert float(task.blocks[0].linear.weight.detach().abs().sum()) > 0


@pytest.mark.parametrize(("depth", "rate", "momentum"), [(8, 0.1, 0.0), (8, 0.01, 0.9), (32, 0.1, 0.0)])
def test_the_digits_are_learnt(depth, rate, momentum):
    """A linear classifier has some .95 on these digits, so a model that trains at all passes .9 within five epochs."""
    torch.set_num_threads(1)
    workload = DigitsMLP(batch=64, depth=depth, width=64)
    numerics = TensorsFactory(workload, 1, SGD(rate, momentum), seed=1)(0)
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
