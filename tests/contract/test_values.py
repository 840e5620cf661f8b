"""Which values an operation sees, and whose they are."""

from contract.kit import FIRST, block, constant
from distsim.interface import Batch, Region

SECOND = Region((1,))
GRADIENT = [5.0, 6.0, 7.0, 8.0, 1.0, 2.0, 3.0, 4.0]
INITIAL = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]


async def server_goes_on(worker, note):
    if worker.rank == 0:
        model, x = worker.send(worker.read(), 1, "model"), block(worker)
        await model
        await worker.apply(worker.read())  # the server's next update: all zeros
        await worker.send(x, 1, "own")
        x += 100.0  # the sender's again, once awaited
        await worker.send(None, 1, "now")
        note("parameters", worker.read())
    else:
        model = (await worker.receive(0, "model")).payload
        own = (await worker.receive(0, "own")).payload
        await worker.receive(0, "now")
        note("model", model)
        note("own", own)


def test_what_arrived_is_the_receivers_own(mode):
    ran = mode.run(server_goes_on)
    assert ran.notes[1] == {"model": [mode.payload(INITIAL)], "own": [mode.payload(INITIAL[:4])]}
    assert ran.notes[0]["parameters"] == [mode.payload([0.0] * 8)]


async def receiver_changes(worker, note):
    if worker.rank == 0:
        x = block(worker)
        await worker.send(x, 1)
        await worker.receive(1)
        note("sent", x)
    else:
        received = (await worker.receive(0)).payload
        received += 1.0
        worker.load(received, FIRST)
        await worker.apply(constant(worker, 1.0), FIRST)
        await worker.send(None, 0)
        note("received", received)


def test_what_was_sent_stays_the_senders_and_what_was_loaded_the_loaders(mode):
    ran = mode.run(receiver_changes)
    assert ran.notes[0]["sent"] == [mode.payload([1.0, 2.0, 3.0, 4.0])]
    assert ran.notes[1]["received"] == [mode.payload([2.0, 3.0, 4.0, 5.0])]


async def reads_are_copies(worker, note):
    await worker.gradient(Batch(0))
    for give in (worker.read, worker.accumulated):
        x = give()
        x += 1.0
        note("again", give())
    changed = worker.change(lambda x: x + 1.0)
    changed += 100.0
    note("changed", worker.read())
    worker.zero()
    note("zero", worker.accumulated())


def test_reading_gives_copies(mode):
    ran = mode.run(reads_are_copies, ranks=1)
    assert ran.notes[0]["again"] == [mode.payload(INITIAL), mode.payload(GRADIENT)]
    assert ran.notes[0]["changed"] == [mode.payload([value + 1.0 for value in INITIAL])]
    assert ran.notes[0]["zero"] == [mode.payload([0.0] * 8)]


async def applies_what_accumulated(worker, note):
    await worker.gradient(Batch(0))
    await worker.apply()
    note("updated", worker.read())
    shard = Region((0, 1), 2, 1)
    worker.accumulate(constant(worker, 1.0), shard)
    await worker.apply(region=shard, scale=0.5)
    note("updated", worker.read())
    worker.zero()
    await worker.apply(region=SECOND)
    note("updated", worker.read())


def test_an_update_takes_what_has_accumulated(mode):
    # The rate is 1: less the gradient, then less half of 1 in the second half, then less nothing.
    ran = mode.run(applies_what_accumulated, ranks=1)
    whole = [-4.0, -4.0, -4.0, -4.0, 4.0, 4.0, 4.0, 4.0]
    assert ran.notes[0]["updated"] == [mode.payload(x) for x in (whole, [*whole[:4], *[3.5] * 4], [*whole[:4], *[3.5] * 4])]


async def queued_behind_an_update(worker, note):
    update = worker.apply(worker.change(lambda x: x) * 0.0 + 1.0)
    gradient = worker.gradient(Batch(0))
    note("gradient", await gradient)
    await update


def test_a_gradient_queued_behind_an_update_sees_it(mode):
    ran = mode.run(queued_behind_an_update, ranks=1)
    assert ran.notes[0]["gradient"] == [mode.payload([value - 1.0 for value in GRADIENT])]


async def loaded_meanwhile(worker, note):
    gradient = worker.gradient(Batch(0))  # the queue was empty: it has started
    worker.load(worker.read() * 0.0)
    note("before", await gradient)
    wait = worker.compute("wait", lambda x: x, block(worker))
    queued = worker.gradient(Batch(0))
    worker.load(worker.read() + 1.0)
    note("queued", await queued)
    await wait


def test_a_gradient_reads_the_parameters_when_it_starts(mode):
    assert mode.run(loaded_meanwhile, ranks=1).notes[0]["before"] == [mode.payload(GRADIENT)]


def test_a_queued_gradient_reads_the_parameters_when_it_leaves_the_queue(exact):
    assert exact.run(loaded_meanwhile, ranks=1).notes[0]["queued"] == [exact.payload([1.0] * 8)]


async def update_between(worker, note):
    batches = [Batch(0), Batch(1), Batch(2)]
    updates = []
    changes = [
        lambda: updates.append(worker.apply(constant(worker, 100.0), SECOND)),
        lambda: worker.load(constant(worker, 7.0), SECOND),
        lambda: worker.change(lambda x: x * 0.0, SECOND),
    ]
    for batch, change in zip(batches, changes, strict=True):
        x = await worker.forward(0, worker.input(batch), batch)
        y = await worker.forward(1, x, batch)
        weights = worker.read(SECOND)
        g = await worker.loss(y, batch)
        change()
        worker.zero()
        gx = await worker.backward(1, g, batch)
        await worker.backward(0, gx, batch)
        note("gradient", worker.accumulated())
        note("weights", weights)
    await updates[0]


def test_a_backward_pass_uses_the_weights_of_its_forward_pass(mode):
    ran = mode.run(update_between, ranks=1)
    weights = [[5.0, 6.0, 7.0, 8.0], [-95.0, -94.0, -93.0, -92.0], [7.0] * 4]
    assert ran.notes[0]["weights"] == [mode.payload(values) for values in weights]
    # The gradient of the first block is the second's weights, and the other way round.
    assert ran.notes[0]["gradient"] == [mode.payload([*values, 1.0, 2.0, 3.0, 4.0]) for values in weights]


async def in_two_halves(worker, note):
    whole = Batch(0)
    worker.zero()
    for batch in whole.split(2):
        x = await worker.forward(0, worker.input(batch), batch)
        y = await worker.forward(1, x, batch)
        g = await worker.loss(y, batch)
        gx = await worker.backward(1, g, batch, "input")
        await worker.backward(0, gx, batch, "input")
        await worker.backward(0, gx, batch, "weights")
        await worker.backward(1, gx, batch, "weights")
    note("gradient", worker.accumulated())
    note("now", worker.now)


def test_halves_of_backward_passes_and_micro_batches_add_up(mode):
    assert mode.run(in_two_halves, ranks=1).notes[0]["gradient"] == [mode.payload(GRADIENT)]


def test_halves_of_backward_passes_cost_their_own_time(exact):
    assert exact.run(in_two_halves, ranks=1).notes[0]["now"] == [12.0]  # 2 x 2 blocks of 1 + 1 + 1 s


async def both_blocks_as_one(worker, note):
    for batch, part in ((Batch(0), "both"), (Batch(1), "input")):
        worker.zero()
        y = await worker.forward([0, 1], worker.input(batch), batch)
        g = await worker.loss(y, batch)
        worker.load(constant(worker, 7.0), SECOND)
        await worker.backward([0, 1], g, batch, part)
        if part == "input":
            await worker.backward([0, 1], g, batch, "weights")
        note("gradient", worker.accumulated())
    note("now", worker.now)


def test_blocks_that_run_as_one_give_what_each_gives_by_itself_with_the_weights_of_their_forward_pass(mode):
    ran = mode.run(both_blocks_as_one, ranks=1)
    second = [[5.0, 6.0, 7.0, 8.0], [7.0] * 4]
    assert ran.notes[0]["gradient"] == [mode.payload([*values, 1.0, 2.0, 3.0, 4.0]) for values in second]
    names = [name for name, *_ in ran.outcome.traces[0].compute]
    assert names == ["F0-1", "loss", "B0-1", "F0-1", "loss", "I0-1", "W0-1"]


async def loss_as_one(worker, note):
    batch = Batch(0)
    for blocks in ([0, 1], [1]):
        worker.zero()
        x = worker.input(batch) if blocks[0] == 0 else await worker.forward(0, worker.input(batch), batch)
        y = await worker.forward(blocks, x, batch)
        gx = await worker.backward_of_loss(blocks, y, batch)
        if blocks[0]:
            await worker.backward(0, gx, batch)
        note("gradient", worker.accumulated())
    note("now", worker.now)


def test_the_loss_as_one_with_its_backward_pass_is_one_operation(mode):
    ran = mode.run(loss_as_one, ranks=1)
    assert ran.notes[0]["gradient"] == [mode.payload(GRADIENT)] * 2
    trace = ran.outcome.traces[0]
    assert [name for name, *_ in trace.compute] == ["F0-1", "B0-1", "F0", "F1", "B1", "B0"]
    assert [(loss.step, loss.part, loss.parts) for loss in trace.losses] == [(0, 0, 1)] * 2


def test_the_loss_as_one_with_its_backward_pass_takes_the_time_of_both(exact):
    assert exact.run(loss_as_one, ranks=1).notes[0]["now"] == [12.0]  # 2 x 2 blocks of 1 + 2 s, and losses of 0


def test_blocks_that_run_as_one_take_the_time_that_they_take_one_by_one(exact):
    assert exact.run(both_blocks_as_one, ranks=1).notes[0]["now"] == [12.0]  # 2 blocks of 1 + 2 s, then of 1 + 1 + 1 s


async def a_bucket_at_a_time(worker, note):
    for bucket_bytes in (0.0, 33.0):
        for region, work in worker.gradients(Batch(0), bucket_bytes):
            note("bucket", [list(region.blocks)])
            note("gradient", await work)
        note("now", worker.now)


def test_gradients_come_a_bucket_at_a_time_last_blocks_first(mode):
    ran = mode.run(a_bucket_at_a_time, ranks=1)
    assert ran.notes[0]["bucket"] == [[[1]], [[0]], [[0, 1]]]
    first, second = mode.payload(GRADIENT[:4]), mode.payload(GRADIENT[4:])
    assert ran.notes[0]["gradient"] == [second, first, mode.payload(GRADIENT)]


async def scaled_as_they_are_copied(worker, note):
    for _, work in worker.gradients(Batch(0), 33.0, shards=3, scale=0.25):  # 8 scalars and one that pads them
        note("bucket", await work)
    x = worker.accumulated(FIRST, 0.5)
    note("of a block", x)
    x += 1.0
    note("accumulated", worker.accumulated())
    mine = Region(shards=2, shard=1)
    note("of a shard's place", worker.accumulated(mine, 0.5))
    worker.accumulate(constant(worker, 6.0), mine)
    note("of a shard", worker.accumulated(mine, 0.5))
    note("of a shard", worker.accumulated(mine))


def test_a_gradient_is_scaled_as_it_is_copied_and_what_accumulated_stays(mode):
    notes = mode.run(scaled_as_they_are_copied, ranks=1).notes[0]
    quarter, half = ([share * g for g in GRADIENT] for share in (0.25, 0.5))
    assert notes["bucket"] == [mode.payload([*quarter, 0.0])]
    assert notes["of a block"] == [mode.payload(half[:4])]
    assert notes["accumulated"] == [mode.payload(GRADIENT)]
    assert notes["of a shard's place"] == [mode.payload(half[4:])]
    assert notes["of a shard"] == [mode.payload([3.0] * 4), mode.payload([6.0] * 4)]


def test_buckets_cost_what_the_whole_gradient_costs(exact):
    assert exact.run(a_bucket_at_a_time, ranks=1).notes[0]["now"] == [6.0, 12.0]


async def stages_of_two(worker, note):
    batch, last = Batch(0), worker.rank == 1
    worker.place([worker.rank])
    note("placed", worker.read())
    x = (await worker.receive(0, "activation")).payload if last else worker.input(batch)
    y = await worker.forward(worker.rank, x, batch)
    if last:
        g = await worker.backward(1, await worker.loss(y, batch), batch)
        await worker.send(g, 0, "gradient of an activation")
    else:
        await worker.send(y, 1, "activation")
        await worker.backward(0, (await worker.receive(1, "gradient of an activation")).payload, batch)
    note("gradient", worker.accumulated())


def test_a_rank_holds_the_blocks_placed_on_it(mode):
    ran = mode.run(stages_of_two)
    assert ran.all("placed") == [[mode.payload(INITIAL[:4])], [mode.payload(INITIAL[4:])]]
    assert ran.all("gradient") == [[mode.payload(GRADIENT[:4])], [mode.payload(GRADIENT[4:])]]
    assert [sorted(weights) for weights in ran.outcome.weights] == [[0], [1]]
