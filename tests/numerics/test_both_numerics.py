"""What byte counts and tensors have in common: every size, hence modeled time = cosimulated time, and every refusal."""

import pytest
import torch

from distsim.interface import ALL, SGD, Batch, Collective, Region, StrategyError
from distsim.numerics.sizes import SizesFactory
from distsim.numerics.tensors import TensorsFactory
from distsim.workloads.digits_mlp import DigitsMLP

WORKLOADS = [DigitsMLP(batch=4, depth=3, width=5), DigitsMLP(batch=6, depth=7, width=10, dtype="float64")]
COLLECTIVES = [
    Collective("all_reduce", "mean"),
    Collective("all_reduce", "sum"),
    Collective("broadcast", root=1),
    Collective("all_gather"),
]


def both(workload, workers=2):
    torch.set_num_threads(1)
    return SizesFactory(workload.model(), workers)(0), TensorsFactory(workload, workers, SGD(0.1, 0.9), seed=3)(0)


def walk(numerics, workload, batch, halves):
    """Every payload of a step, in order, as bytes."""
    payloads, blocks = [], range(workload.depth)
    numerics.zero(None)
    payloads.append(numerics.input(batch))
    for block in blocks:
        payloads.append(numerics.forward((block,), payloads[-1], batch))
    payloads.append(numerics.loss(payloads[-1], batch)[0])
    for block in reversed(blocks):
        g = payloads[-1]
        payloads.append(numerics.backward((block,), g, batch, "input" if halves else "both"))
        if halves:
            numerics.backward((block,), g, batch, "weights")
    gradient = numerics.accumulated(ALL)
    numerics.update(ALL, gradient, None, 0.5)
    payloads += [gradient, numerics.read(ALL), numerics.copy(gradient), gradient * 2.0 - gradient]
    payloads += [numerics.read(Region((b,))) for b in blocks]
    payloads += [x for kind in COLLECTIVES for x in numerics.combine(kind, [gradient, gradient, gradient])]
    payloads += numerics.combine(Collective("reduce_scatter", "mean"), [gradient] * 5)  # of 415 or 1310 scalars
    return [numerics.nbytes(x) for x in payloads]


@pytest.mark.parametrize("workload", WORKLOADS)
@pytest.mark.parametrize("batch", [Batch(0), Batch(1, 1, 2), Batch(2, 3, 4, 0.5)])
@pytest.mark.parametrize("halves", [False, True])
def test_every_payload_has_the_same_bytes(workload, batch, halves):
    sizes, tensors = both(workload)
    assert walk(sizes, workload, batch, halves) == walk(tensors, workload, batch, halves)


ONE, HALF = Batch(0), Batch(0, 0, 2)


def started(numerics, batch=ONE):
    """The output of block 0, whose forward pass has run."""
    return numerics.forward((0,), numerics.input(batch), batch)


def backward_twice(numerics):
    g = started(numerics)
    numerics.backward((0,), g, ONE, "both")
    numerics.backward((0,), g, ONE, "both")


def joint_backward_after_a_half(numerics):
    g = started(numerics)
    numerics.backward((0,), g, ONE, "input")
    numerics.backward((0,), g, ONE, "both")


def backward_of_what_was_forgotten(numerics):
    g = started(numerics)
    numerics.forget(ONE)
    numerics.backward((0,), g, ONE, "both")


def backward_of_another_size(numerics):
    started(numerics)
    numerics.backward((0,), started(numerics, HALF), ONE, "both")


def started_as_one(numerics):
    """The output of blocks 0 and 1, whose forward passes have run as one."""
    return numerics.forward((0, 1), numerics.input(ONE), ONE)


def use_of_a_block_elsewhere(numerics):
    numerics.place([0, 1], (0, 1))
    numerics.read(Region((2,)))


# (what the message says, what was done). Blocks of 325, 30 and 60 parameters, 5, 5 and 10 outputs; a step of 8 samples.
MISUSES = [
    ("backward of block 1, .* before its forward", lambda n: n.backward((1,), started(n), ONE, "both")),
    ("backward of block 0, .* before its forward", backward_twice),
    ("backward of block 0, .* before its forward", backward_of_what_was_forgotten),
    ("part='weights' before part='input'", lambda n: n.backward((0,), started(n), ONE, "weights")),
    ("part='both' after part='input'", joint_backward_after_a_half),
    ("forward of block 1, .* takes 160 bytes, it was given 80", lambda n: n.forward((1,), started(n, HALF), ONE)),
    ("loss, .* takes 320 bytes, it was given 160", lambda n: n.loss(started(n), ONE)),
    ("backward of block 0, .* takes 160 bytes, it was given 80", backward_of_another_size),
    (
        r"backward of block 1, .* by itself: its forward ran as one with those of blocks \[0, 1\]",
        lambda n: n.backward((1,), started_as_one(n), ONE, "both"),
    ),
    (
        r"forward of block 0, .* by itself: its forward ran as one with those of blocks \[0, 1\]",
        lambda n: (started_as_one(n), started(n)),
    ),
    (
        r"backward of block 0, .* as one with those of blocks \[0, 1\]: its forward ran by itself",
        lambda n: n.backward((0, 1), started(n), ONE, "both"),
    ),
    (r"follow each other, and \[0, 2\] do not", lambda n: n.forward((0, 2), n.input(ONE), ONE)),
    ("8 samples of a step do not cut into 3 equal parts", lambda n: n.input(Batch(0, 0, 3))),
    ("block 2 is not placed", use_of_a_block_elsewhere),
    ("ascending order", lambda n: n.place([1, 0], (0, 1))),
    ("blocks of 0 to 2", lambda n: n.place([3], (0, 1))),
    ("load of blocks .0, 1, 2. takes 1660 bytes, it was given 1300", lambda n: n.load(ALL, n.read(Region((0,))))),
    ("update of blocks .1. takes 120 bytes, it was given 1660", lambda n: n.update(Region((1,)), n.read(ALL), None, 1.0)),
    ("different sizes", lambda n: n.combine(Collective("all_gather"), [n.read(ALL), n.read(Region((1,)))])),
    (
        "415 scalars does not divide by a group of 2",
        lambda n: n.combine(Collective("reduce_scatter", "sum"), [n.read(ALL)] * 2),
    ),
]


@pytest.mark.parametrize(("message", "misuse"), MISUSES)
@pytest.mark.parametrize("kind", [0, 1], ids=["sizes", "tensors"])
def test_the_same_misuse_is_refused_in_the_same_words(message, misuse, kind):
    numerics = both(WORKLOADS[0])[kind]
    with pytest.raises(StrategyError, match=message):
        misuse(numerics)
