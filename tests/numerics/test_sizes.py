"""Byte counts: what they are, and what they refuse."""

import pickle
import subprocess
import sys

import pytest

from distsim.interface import ALL, Batch, Block, Collective, Model, Region, StrategyError
from distsim.numerics.sizes import Size, SizesFactory

# 3 scalars of input a sample, 4 bytes each; b = 4, P = 2: a step holds 8 samples.
MODEL = Model((Block(0, "a", 10, 5, 3, 1, 0, 1), Block(1, "b", 20, 7, 5, 1, 1, 1)), batch=4, input=3)
HALF = Batch(0, 1, 2)


@pytest.fixture
def numerics():
    return pickle.loads(pickle.dumps(SizesFactory(MODEL, 2)))(0)


def test_arithmetic_keeps_the_size():
    x, y = Size(8), Size(8)
    results = [x + y, x - y, x * y, x / y, x * 0.5, 2.0 * x, x**2, -x, abs(x), 1 - x, (x + y) / 2 - x * 3]
    assert {result.nbytes for result in results} == {8}


@pytest.mark.parametrize("operation", [lambda x, y: x + y, lambda x, y: x - y, lambda x, y: x * y, lambda x, y: x / y])
def test_unequal_sizes_do_not_mix(operation):
    with pytest.raises(StrategyError, match="payloads of equal size, these have 8 and 12 bytes"):
        operation(Size(8), Size(12))


@pytest.mark.parametrize("question", [bool, float, int])
def test_a_size_has_no_value(question):
    with pytest.raises(StrategyError, match="has a size \\(8 bytes\\) and no value"):
        question(Size(8))


def test_sizes_follow_the_samples_of_the_batch(numerics):
    assert numerics.input(HALF).nbytes == 4 * 3 * 4
    assert numerics.input(Batch(0)).nbytes == 8 * 3 * 4
    y = numerics.forward((0,), numerics.input(HALF), HALF)
    assert y.nbytes == 4 * 5 * 4
    y = numerics.forward((1,), y, HALF)
    g, loss = numerics.loss(y, HALF)
    assert (y.nbytes, g.nbytes, loss) == (4 * 7 * 4, 4 * 7 * 4, 0.0)
    g = numerics.backward((1,), g, HALF, "both")
    assert g.nbytes == 4 * 5 * 4
    assert numerics.backward((0,), g, HALF, "both").nbytes == 0  # nobody needs the gradient of the samples


def test_parameters_and_gradients_by_region(numerics):
    assert numerics.read(ALL).nbytes == numerics.accumulated(ALL).nbytes == 120
    assert numerics.read(Region((1,))).nbytes == 80
    numerics.place([0], (0, 1))
    assert numerics.read(ALL).nbytes == 40
    with pytest.raises(StrategyError, match="block 1 is not placed on this rank, which holds \\[0\\]"):
        numerics.read(Region((1,)))


@pytest.mark.parametrize("name", ["load", "update"])
def test_load_and_update_check_the_size(numerics, name):
    call = numerics.load if name == "load" else lambda region, x: numerics.update(region, x, None, 1.0)
    call(ALL, Size(120))
    call(Region((1,)), Size(80))
    with pytest.raises(StrategyError, match=f"{name} of blocks \\[1\\] takes 80 bytes, it was given 40"):
        call(Region((1,)), Size(40))


def test_collectives(numerics):
    xs = [Size(24), Size(24), Size(24)]
    sizes = {
        Collective("all_reduce", "mean"): 24,
        Collective("broadcast", root=1): 24,
        Collective("all_gather"): 72,
        Collective("reduce_scatter", "sum"): 8,
    }
    for collective, nbytes in sizes.items():
        assert [x.nbytes for x in numerics.combine(collective, xs)] == [nbytes] * 3
    with pytest.raises(StrategyError, match="all_reduce of payloads of different sizes, in group order: \\[24, 8\\] bytes"):
        numerics.combine(Collective("all_reduce", "sum"), [Size(24), Size(8)])
    with pytest.raises(StrategyError, match="reduce_scatter of 6 scalars does not divide by a group of 4"):
        numerics.combine(Collective("reduce_scatter", "sum"), [Size(24)] * 4)


def test_a_modeled_run_needs_no_torch():
    code = (
        "import sys; from distsim.numerics.sizes import SizesFactory; from distsim.workloads.digits_mlp import DigitsMLP; "
        "w = DigitsMLP(); w.fingerprint(); SizesFactory(w.model(), 4)(0); import distsim.workloads.user_module; "
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'pandas', 'plotly')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
