"""Shards of regions and tensor shards: what they hold, what runs, what is refused. In both numerics where it is sizes."""

import pytest
import torch

from distsim.interface import ALL, SGD, Batch, Region, StrategyError
from distsim.numerics.sizes import Size, SizesFactory
from distsim.numerics.tensors import TensorsFactory
from numerics.two_layers import Chain, flat

WORKLOAD = Chain()
"""Three blocks of 34 scalars, 6 of them replicated; a step holds 4 samples of 3 scalars, 8 bytes each."""
BLOCKS = (0, 1, 2)
ONE = Batch(0)


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def tensors(optimizer=SGD(0.1)):  # noqa: B008 - a frozen value
    return TensorsFactory(WORKLOAD, 2, optimizer, 5)(0)


def both():
    return [SizesFactory(WORKLOAD.model(), 2)(0), tensors()]


def forward(n, batch=ONE):
    x = n.input(batch)
    for b in BLOCKS:
        x = n.forward((b,), x, batch)
    return n.loss(x, batch)[0]


def backward(n, g, batch=ONE):
    for b in reversed(BLOCKS):
        g = n.backward((b,), g, batch, "both")


def gradient():
    n = tensors()
    backward(n, forward(n))
    return n.accumulated(ALL)


def test_the_flat_vector_holds_replicated_parameters_first():
    blocks = WORKLOAD.task(5).blocks
    assert torch.equal(tensors().read(ALL), torch.cat([flat(block) for block in blocks]))
    assert torch.equal(tensors().read(Region((1,), replicated=True)), flat(blocks[1])[:6])


@pytest.mark.parametrize("shards", [1, 2, 3, 4, 7, 40, 200])
def test_shards_joined_are_the_padded_vector(shards):
    n = tensors()
    region = Region((0, 2))
    size = -(-68 // shards)
    padded = torch.cat([n.read(region), torch.zeros(size * shards - 68, dtype=torch.float64)])
    pieces = [n.read(shard) for shard in region.cut(shards)]
    assert all(piece.numel() == size for piece in pieces)
    assert torch.equal(torch.cat(pieces), padded)
    assert torch.equal(n.read(Region((0, 2), shards)), padded)
    for piece, cut in zip(pieces, n.cut(n.read(region), shards), strict=True):
        assert torch.equal(piece, cut)
    other = tensors()
    other.load(ALL, torch.zeros(102, dtype=torch.float64))
    for piece, shard in zip(pieces, region.cut(shards), strict=True):
        other.load(shard, piece)
    assert torch.equal(other.read(region), n.read(region))
    assert not other.read(Region((1,))).any()
    other.load(Region((0, 2), shards), padded * 2.0)
    assert torch.equal(other.read(region), n.read(region) * 2.0)


@pytest.mark.parametrize("shards", [1, 2, 5, 60])
@pytest.mark.parametrize("blocks", [None, (0,), (1, 2)])
def test_sizes_of_shards_are_those_of_their_tensors(shards, blocks):
    for region in (*Region(blocks).cut(shards), Region(blocks, shards), Region(blocks, replicated=True)):
        sizes, values = both()
        assert sizes.nbytes(sizes.read(region)) == values.nbytes(values.read(region))
        assert sizes.nbytes(sizes.accumulated(region)) == values.nbytes(values.accumulated(region))
    cuts = [[n.nbytes(x) for x in n.cut(n.read(Region(blocks)), shards)] for n in both()]
    assert cuts[0] == cuts[1]


def test_what_was_released_is_whole_after_a_load():
    for shard in range(3):
        n = tensors()
        before = n.read(ALL)
        region = Region((0, 1), 3, shard)
        piece = n.read(region)
        n.release(region)
        n.release(region)  # again: nothing happens
        assert torch.equal(n.read(region), piece)
        n.load(region.joined, torch.cat([before[:68], torch.zeros(1, dtype=torch.float64)]))
        assert torch.equal(n.read(ALL), before)
        backward(n, forward(n))
        assert torch.equal(n.accumulated(ALL), gradient())
        n.release(region)
        n.load(Region((0, 1)), before[:68] + 1.0)  # without padding, too, and other values
        assert torch.equal(n.read(Region((0, 1))), before[:68] + 1.0)


def test_a_block_may_be_released_between_forward_and_backward():
    """As ZeRO-3 does: the weights are gathered again, and the gradient is that of a rank that keeps them."""
    n = tensors()
    whole = {b: n.read(Region((b,))) for b in BLOCKS}
    x = n.input(ONE)
    for b in BLOCKS:
        n.release(Region((b,), 2, 0))
    for b in BLOCKS:
        n.load(Region((b,)), whole[b])
        x = n.forward((b,), x, ONE)
        n.release(Region((b,), 2, 0))
    g = n.loss(x, ONE)[0]
    for b in reversed(BLOCKS):
        n.load(Region((b,)), whole[b])
        g = n.backward((b,), g, ONE, "both")
        n.release(Region((b,), 2, 0))
    assert torch.equal(n.accumulated(ALL), gradient())


@pytest.mark.parametrize("shards", [1, 3])
def test_a_backward_uses_old_weights_though_a_shard_was_written(shards):
    n = tensors()
    old = n.read(ALL)
    g = forward(n)
    for shard in Region(BLOCKS).cut(shards):
        n.update(shard, torch.ones_like(n.read(shard)), None, 1.0)
    new = n.read(ALL)
    torch.testing.assert_close(new, old - 0.1, rtol=1e-14, atol=1e-15)
    backward(n, g)
    assert torch.equal(n.accumulated(ALL), gradient())
    assert torch.equal(n.read(ALL), new)


def test_gradients_of_shards_are_kept_apart_from_those_of_blocks():
    n = tensors()
    region = Region((0, 1))
    first, second = region.cut(2)
    n.accumulate(region, torch.arange(68.0, dtype=torch.float64))
    assert n.accumulated(second).tolist() == list(range(34, 68))  # nothing was given for it: its piece of the blocks'
    n.accumulate(second, torch.ones(34, dtype=torch.float64))
    n.accumulate(second, torch.ones(34, dtype=torch.float64))
    assert n.accumulated(second).tolist() == [2.0] * 34
    assert n.accumulated(first).tolist() == list(range(34))
    assert n.accumulated(region).tolist() == list(range(68))
    n.zero(region)
    assert n.accumulated(second).tolist() == [2.0] * 34
    assert not n.accumulated(region).any()
    n.accumulate(region, torch.ones(68, dtype=torch.float64))
    n.zero(second)
    assert n.accumulated(second).tolist() == [1.0] * 34
    n.accumulate(first, torch.ones(34, dtype=torch.float64))
    n.zero(None)
    assert not n.accumulated(first).any()
    assert not n.accumulated(region).any()


def test_a_gradient_that_was_given_is_not_shared():
    n = tensors()
    for region in (Region((0,)), Region((0,), 2, 1)):
        g = torch.ones_like(n.read(region))
        n.accumulate(region, g)
        n.accumulated(region).fill_(7.0)
        n.accumulate(region, g)
        assert g.tolist() == [1.0] * len(g)
        assert n.accumulated(region).tolist() == [2.0] * len(g)


def test_the_replicated_part_of_a_gradient_can_be_replaced():
    n = tensors()
    region = Region((1,), replicated=True)
    n.accumulate(Region((1,)), torch.ones(34, dtype=torch.float64))
    total = n.accumulated(region) * 5.0
    n.zero(region)
    n.accumulate(region, total)
    assert n.accumulated(Region((1,))).tolist() == [5.0] * 6 + [1.0] * 28


def whole_of(shards, count):
    """The flat vector of one block from those of its tensor shards, by hand; what is replicated is the sum."""
    n, h = WORKLOAD.width, WORKLOAD.hidden
    part = h // count
    replicated = sum(shard[: 2 * n] for shard in shards)
    first = torch.cat([shard[2 * n : 2 * n + part * n] for shard in shards])
    bias = torch.cat([shard[2 * n + part * n : 2 * n + part * n + part] for shard in shards])
    second = torch.cat([shard[-n * part :].view(n, part) for shard in shards], dim=1)
    return torch.cat([replicated, first, bias, second.reshape(-1)])


@pytest.mark.parametrize("count", [2, 4])
def test_tensor_shards_add_up_to_the_block(count):
    whole = tensors()
    ranks = [tensors() for _ in range(count)]
    for index, n in enumerate(ranks):
        n.place(BLOCKS, (index, count))
    x = whole.input(ONE)
    for b in BLOCKS:
        y = whole.forward((b,), x, ONE)
        torch.testing.assert_close(sum(n.forward((b,), x, ONE) for n in ranks), y, rtol=1e-12, atol=1e-14)
        x = y
    g = whole.loss(x, ONE)[0]
    for b in reversed(BLOCKS):
        gx = whole.backward((b,), g, ONE, "both")
        parts = [n.backward((b,), g, ONE, "both") for n in ranks]
        torch.testing.assert_close(sum(parts), gx, rtol=1e-12, atol=1e-14)
        gradients = whole_of([n.accumulated(Region((b,))) for n in ranks], count)
        torch.testing.assert_close(gradients, whole.accumulated(Region((b,))), rtol=1e-12, atol=1e-14)
        g = gx


# Each of these runs on both numerics. `n.read` of a region gives a payload of its size.
def released(n):
    n.release(Region((0, 1), 2, 0))


def forward_of_a_released_block(n):
    released(n)
    n.forward((0,), n.input(ONE), ONE)


def backward_of_a_released_block(n):
    g = forward(n)
    n.release(Region((2,), 2, 0))
    n.backward((2,), g, ONE, "both")


def read_what_was_released(n):
    released(n)
    n.read(Region((1,)))


def read_another_shard(n):
    released(n)
    n.read(Region((0, 1), 2, 1))


def update_what_was_released(n):
    gradient = n.read(Region((0, 1)))
    released(n)
    n.update(Region((0, 1)), gradient, None, 1.0)


def load_another_shard(n):
    piece = n.read(Region((0, 1), 2, 1))
    released(n)
    n.load(Region((0, 1), 2, 1), piece)


def release_another_shard(n):
    whole = n.read(Region((0, 1)))
    released(n)
    n.load(Region((0, 1)), whole)
    n.release(Region((1,), 2, 1))


def update_before_the_backward_of_what_was_released(n):
    forward(n)
    piece = n.read(Region((0, 1), 2, 0))
    released(n)
    n.update(Region((0, 1), 2, 0), piece, None, 1.0)


def place_what_was_released(n):
    released(n)
    n.place([1, 2], (0, 1))


def place_twice(n):
    n.place([0, 1], (0, 1))
    n.place([1, 2], (0, 1))


def place_shards_twice(n):
    n.place([0, 1], (1, 2))
    n.place([0, 1], (1, 2))


# (what the message says, what was done); blocks of 272 bytes.
MISUSES = [
    ("block 0 is released and cannot run until the next load", forward_of_a_released_block),
    ("block 2 is released and cannot run until the next load", backward_of_a_released_block),
    ("read of blocks .1.: block 1 is released, only shard 0 of 2 of blocks .0, 1. is here", read_what_was_released),
    ("read of shard 1 of 2 of blocks .0, 1.: block 1 is released", read_another_shard),
    ("update of blocks .0, 1.: block 1 is released", update_what_was_released),
    ("load of shard 1 of 2 of blocks .0, 1.: block 1 is released", load_another_shard),
    ("block 1 was released before to shard 0 of 2 of blocks .0, 1.", release_another_shard),
    ("release of blocks .0. must name the shard that stays", lambda n: n.release(Region((0,)))),
    ("release of shards of 2 of blocks .0. must name", lambda n: n.release(Region((0,), 2))),
    ("block 0 was released before the backward pass", update_before_the_backward_of_what_was_released),
    ("block 1 is released and cannot run", place_what_was_released),
    ("block 2 is not placed on this rank, which holds .0, 1.", place_twice),
    ("cut into 2 tensor shards: place was called already", place_shards_twice),
    ("cannot be cut into 3 tensor shards: they must divide 4", lambda n: n.place(BLOCKS, (0, 3))),
    ("place takes a tensor shard .which, of how many., not .2, 2.", lambda n: n.place(BLOCKS, (2, 2))),
    (
        "load of shards of 3 of blocks .0. takes 288 bytes, it was given 272",
        lambda n: n.load(Region((0,), 3), n.read(Region((0,)))),
    ),
    (
        "accumulate of shard 1 of 2 of blocks .0. takes 136 bytes",
        lambda n: n.accumulate(Region((0,), 2, 1), n.read(Region((0,)))),
    ),
    (
        "accumulate of the replicated parameters of blocks .0. takes 48 bytes",
        lambda n: n.accumulate(Region((0,), replicated=True), n.read(Region((0,)))),
    ),
    (
        "update of shard 0 of 2 of blocks .0. takes 136 bytes",
        lambda n: n.update(Region((0,), 2, 0), n.read(Region((0,))), None, 1.0),
    ),
]


@pytest.mark.parametrize(("message", "misuse"), MISUSES)
@pytest.mark.parametrize("kind", [0, 1], ids=["sizes", "tensors"])
def test_the_same_misuse_is_refused_in_the_same_words(message, misuse, kind):
    with pytest.raises(StrategyError, match=message):
        misuse(both()[kind])


def test_no_region_has_a_shard_that_does_not_exist():
    for shards, shard in ((0, None), (2, 2), (2, -1)):
        with pytest.raises(StrategyError, match=f"no shard {shard} of {shards}"):
            Region((0,), shards, shard)


def test_a_size_of_no_bytes_is_cut():
    sizes = both()[0]
    assert sizes.cut(Size(0), 3) == [Size(0)] * 3
