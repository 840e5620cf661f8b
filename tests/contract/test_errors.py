"""Broken rules: each ends the run as failed, with a message that names the rule, the rank and (where it can) the line."""

import asyncio
import linecache
from functools import partial

import pytest

from contract.kit import FIRST, block, constant
from distsim.interface import Batch, StrategyError


def line_of(text: str) -> str:
    """`test_errors.py:N` of the line of this file that ends with the comment `# text`."""
    lines = linecache.getlines(__file__)
    (number,) = [n for n, line in enumerate(lines, 1) if line.rstrip().endswith(f"  # {text}")]
    return f"test_errors.py:{number}"


async def never_awaited(worker, note):
    worker.compute("encode", lambda x: x, block(worker))  # forgotten compute
    worker.send(None, 1 - worker.rank, "tag")  # forgotten send
    await worker.receive(1 - worker.rank, "tag")


def test_work_that_is_never_awaited(mode):
    message = mode.run(never_awaited, status="failed").outcome.message
    assert (
        f"never awaited: encode ({line_of('forgotten compute')}), send 'tag' to rank 1 ({line_of('forgotten send')})"
        in message
        or f"never awaited: encode ({line_of('forgotten compute')}), send 'tag' to rank 0" in message
    )


async def unmatched(worker, note):
    worker.receive(1 - worker.rank, "news")  # unmatched receive
    await worker.all_reduce(block(worker))


def test_a_receive_left_unmatched_at_the_end(mode):
    message = mode.run(unmatched, status="failed").outcome.message
    assert "never awaited: receive 'news' from rank " in message
    assert line_of("unmatched receive") in message


async def helper(worker):
    worker.all_reduce(block(worker))  # forgotten in a helper


async def forgotten_in_a_helper(worker, note):
    await helper(worker)


def test_the_line_named_is_where_the_operation_was_started(mode):
    message = mode.run(forgotten_in_a_helper, status="failed").outcome.message
    assert f"never awaited: all_reduce of ranks 0,1 ({line_of('forgotten in a helper')})" in message


async def sleeps(worker, note):
    await asyncio.sleep(0)


class Foreign:
    def __await__(self):
        yield "something"


async def awaits_foreign(worker, note):
    await Foreign()


@pytest.mark.parametrize("program", [sleeps, awaits_foreign])
def test_awaiting_a_foreign_object(mode, program):
    message = mode.run(program, ranks=1, status="failed").outcome.message
    assert "a strategy may only await its worker's Work" in message


async def caught(worker, note):
    """Rules whose breach raises in the program itself, which may catch it."""
    if worker.rank == 0:
        await worker.send(block(worker), 1, "gradient", label="gradient")
        await worker.send(block(worker), 1, "gradient", label="gradient")
        await worker.send(block(worker), 1, "gradient", label="model")
        await worker.send(None, 1, "gradient", label="gradient")
        return
    first, second, model, signal = [await worker.receive(0, "gradient") for _ in range(4)]
    await worker.apply(first.payload, FIRST, of=[first])
    worker.discard(second)
    for message in (first, second, model, signal):
        for decide in (worker.discard, lambda m: worker.apply(constant(worker, 0.0), FIRST, of=[m])):
            try:
                decide(message)
            except StrategyError as error:
                note("error", str(error))


def test_a_gradient_is_applied_or_discarded_once_and_nothing_else_is(mode):
    ran = mode.run(caught)
    labels = ["gradient"] * 4 + ["model"] * 2 + ["gradient"] * 2
    assert ran.notes[1]["error"] == [
        f"the message {label!r} from rank 0 is no gradient that waits for a decision: "
        "each carries the label 'gradient' and is applied or discarded exactly once"
        for label in labels
    ]


async def undecided(worker, note):
    if worker.rank == 0:
        await worker.send(block(worker), 1, "gradient", version=3, label="gradient")
    else:
        await worker.receive(0, "gradient")


def test_a_gradient_neither_applied_nor_discarded(mode):
    message = mode.run(undecided, status="failed").outcome.message
    assert "rank 1 neither applied nor discarded the gradients of version 3 from rank 0" in message


async def backward_first(worker, note):
    await worker.backward(1, block(worker), Batch(0))


async def backward_twice(worker, note):
    batch = Batch(0)
    y = await worker.forward(0, worker.input(batch), batch)
    await worker.backward(0, y, batch)
    await worker.backward(0, y, batch)


async def backward_of_another_batch(worker, note):
    y = await worker.forward(0, worker.input(Batch(0)), Batch(0))
    await worker.backward(0, y, Batch(1))


async def weights_first(worker, note):
    y = await worker.forward(0, worker.input(Batch(0)), Batch(0))
    await worker.backward(0, y, Batch(0), "weights")


async def not_placed(worker, note):
    worker.place([0])
    await worker.forward(1, block(worker), Batch(0))


async def wrong_input(worker, note):
    await worker.forward(0, block(worker), Batch(0))


async def wrong_gradient(worker, note):
    await worker.apply(block(worker))


async def wrong_arithmetic(worker, note):
    worker.read() + block(worker)


MISUSES = [
    (backward_first, "backward of block 1, Batch(step=0, part=0, parts=1, weight=1.0), before its forward"),
    (backward_twice, "before its forward"),
    (backward_of_another_batch, "backward of block 0, Batch(step=1, part=0, parts=1, weight=1.0), before its forward"),
    (weights_first, "part='weights' before part='input'"),
    (not_placed, "block 1 is not placed on this rank, which holds [0]"),
    (wrong_input, "takes 128 bytes, it was given 32"),
    (wrong_gradient, "update of blocks [0, 1] takes 64 bytes, it was given 32"),
    (wrong_arithmetic, "size"),
]


@pytest.mark.parametrize(("program", "expected"), MISUSES)
def test_misused_blocks_and_payloads(exact, program, expected):
    check_misuse(exact, program, expected)


@pytest.mark.parametrize(("program", "expected"), [MISUSES[0], MISUSES[-1]])
def test_misuse_is_said_in_every_mode(mode, program, expected):
    """What numerics of tensors refuse they refuse on real ranks, too; how that is said there, one of each kind shows."""
    check_misuse(mode, program, expected)


def check_misuse(bench, program, expected):
    message = bench.run(program, ranks=1, status="failed").outcome.message
    assert expected in message
    assert "rank 0" in message
    number = program.__code__.co_firstlineno
    lines = range(number + 1, number + 6)  # of the program
    assert any(f"test_errors.py:{n}" in message or f'test_errors.py", line {n}' in message for n in lines), message


async def different_kinds(worker, note):
    await (worker.all_reduce(block(worker)) if worker.rank else worker.all_gather(block(worker)))


async def different_reductions(worker, note):
    await worker.all_reduce(block(worker), "sum" if worker.rank else "mean")


async def different_roots(worker, note):
    await worker.broadcast(block(worker), worker.rank)


async def different_sizes(worker, note):
    await worker.all_reduce(worker.read() if worker.rank else block(worker))


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        (different_kinds, ["all_reduce", "all_gather"]),
        (different_reductions, ["mean", "sum"]),
        (different_roots, ["broadcast"]),
        (different_sizes, ["all_reduce"]),
    ],
)
def test_collectives_that_differ_within_a_group(mode, program, expected):
    message = mode.run(program, status="failed").outcome.message
    assert all(word in message for word in ["collective 0 of ranks", "rank 0", "rank 1", *expected]), message


async def three_parts(worker, note):
    await worker.reduce_scatter(block(worker))


def test_a_reduce_scatter_that_does_not_divide(mode):
    message = mode.run(three_parts, ranks=3, status="failed").outcome.message
    assert "reduce_scatter of 4 scalars does not divide by" in message


async def own_mistake(worker, note):
    await worker.all_reduce(block(worker))
    if worker.rank == 1:
        raise KeyError("the strategy's own mistake")  # own mistake
    await worker.receive(1)


def test_an_exception_of_the_strategy(mode):
    message = mode.run(own_mistake, status="failed").outcome.message
    assert "KeyError" in message
    assert "the strategy's own mistake" in message
    assert "rank 1" in message
    assert line_of("own mistake").split(":")[1] in message


async def infinite_loss(worker, note):
    if worker.rank == 1:
        worker.load(worker.read() * float("inf"))
    await worker.gradient(Batch(20, worker.rank, 2))
    await worker.all_reduce(block(worker))


def test_a_loss_that_is_not_finite(mode):
    if not mode.mode.has_values:
        pytest.skip("byte counts have no loss")
    message = mode.run(infinite_loss, status="diverged").outcome.message
    assert "diverged at step 20" in message
    assert "rank 1" in message


async def ring_of_receives(tag, worker, note):
    if worker.rank < 3:
        await worker.receive((worker.rank + 1) % 3, tag)  # ring of receives
    else:
        await worker.send(None, 0, "never")  # hangs on the ring


def test_a_deadlock_says_who_waits_for_whom_where(mode):
    message = mode.run(
        partial(ring_of_receives, "tag"), ranks=4, status="deadlocked", options={"hang_seconds": 1.0}
    ).outcome.message
    for rank in range(3):
        assert f"rank {rank} waits for receive 'tag' from rank {(rank + 1) % 3} ({line_of('ring of receives')})" in message
    assert f"rank 3 waits for send 'never' to rank 0 ({line_of('hangs on the ring')})" in message
    assert "cycle: 0 -> 1 -> 2 -> 0" in message


async def one_never_joins(worker, note):
    if worker.rank < 2:
        await worker.all_reduce(block(worker))  # never all


def test_a_collective_that_one_never_joins(mode):
    message = mode.run(one_never_joins, ranks=3, status="deadlocked", options={"hang_seconds": 1.0}).outcome.message
    for rank in range(2):
        assert f"rank {rank} waits for all_reduce of ranks 0,1,2 ({line_of('never all')})" in message
    assert "2" in message


async def post_that_nobody_takes(worker, note):
    if worker.rank == 0:
        worker.post(None, 1, "tag")  # nobody takes it


def test_a_post_that_nobody_takes(mode):
    message = mode.run(post_that_nobody_takes, status="deadlocked", options={"hang_seconds": 1.0}).outcome.message
    assert f"rank 0 waits for send 'tag' to rank 1 ({line_of('nobody takes it')})" in message
