"""The loop of a strategy: steps and budgets, batches, versions, snapshots, randomness, and what is recorded."""

import time

import pytest

from contract.kit import FIRST, block, constant, plain
from distsim.interface import Batch, Budget

RANDOM_NUMBERS = [0.5547970465624996, 0.5891154107129948, 0.5891154107129948, 0.22997804862383442]
"""Of rank 0 with seed 0, for the keys (), (1), (1) and (1, 2)."""


async def every_step(worker, note):
    for step in worker.steps():
        note("step", step)
        await worker.compute("work", lambda x: x, block(worker))


@pytest.mark.parametrize(
    ("budget", "gradients_an_update", "updates"),
    [
        (Budget(updates=3), None, [(1, 8), (2, 16), (3, 24)]),  # two workers of 4 samples
        (Budget(samples=20), None, [(1, 8), (2, 16)]),
        (Budget(samples=20, updates=9), 1, [(1, 4), (2, 8), (3, 12), (4, 16), (5, 20)]),
        (Budget(updates=2, samples=1000, seconds=1000.0), 1, [(1, 4), (2, 8)]),
    ],
)
def test_a_budget_counts_what_all_workers_did(mode, budget, gradients_an_update, updates):
    ran = mode.run(every_step, budget=budget, gradients_an_update=gradients_an_update)
    assert ran.all("step") == [list(range(len(updates)))] * 2
    for trace in ran.outcome.traces:
        assert [(update.number, update.samples) for update in trace.updates] == updates
    assert ran.outcome.seconds == max(trace.updates[-1].time for trace in ran.outcome.traces)


async def uneven_steps(worker, note):
    def work(x, *more):
        time.sleep(0.01 * (worker.rank + 1))
        return x

    for step in worker.steps():
        note("step", step)
        await worker.compute("work", work, *[block(worker)] * (worker.rank + 1))
    note("now", worker.now)


def test_seconds_end_all_ranks_at_the_same_step(mode):
    ran = mode.run(uneven_steps, ranks=3, budget=Budget(seconds=3.0 if mode.is_exact else 0.1))
    steps = ran.notes[0]["step"]
    assert steps == list(range(len(steps)))
    assert len(steps) >= 1
    assert ran.all("step") == [steps] * 3


def test_the_first_rank_to_ask_decides_whether_seconds_are_up(exact):
    ran = exact.run(uneven_steps, ranks=3, budget=Budget(seconds=3.0))
    assert ran.all("step") == [[0, 1, 2]] * 3
    assert ran.all("now") == [[3.0], [6.0], [9.0]]
    assert ran.outcome.seconds == 9.0


async def draws(worker, note):
    for _ in range(3):
        batch = worker.draw(worker.rank, 2)
        note("batch", [batch.step, batch.part, batch.parts, batch.weight, worker.samples(batch)])
    note("samples", [worker.samples(part) for part in Batch(0, 1, 2).split(2)])


def test_each_rank_draws_its_own_stream(mode):
    ran = mode.run(draws)
    assert ran.all("batch") == [[[step, rank, 2, 1.0, 4.0] for step in range(3)] for rank in range(2)]
    assert ran.notes[0]["samples"] == [[2.0, 2.0]]


async def publishes(worker, note):
    for _ in worker.steps():
        worker.change(lambda x: x + 1.0)
        if worker.rank == 0:
            worker.publish(FIRST)
        else:
            worker.publish()


def test_a_model_is_published_when_enough_samples_have_gone_by_and_at_the_end(mode):
    # 8 samples an update: 20 samples have gone by every 3 updates.
    ran = mode.run(publishes, budget=Budget(updates=7), samples_between_snapshots=20)
    snapshots = sorted(ran.outcome.snapshots, key=lambda snapshot: (snapshot.pieces[0].region.blocks, snapshot.number))
    assert [(s.number, s.samples, s.pieces[0].region.blocks) for s in snapshots] == [
        *[(number, 8 * number, (0,)) for number in (3, 6, 7)],
        *[(number, 8 * number, (0, 1)) for number in (3, 6, 7)],
    ]
    for number, _, _, ((region, _, values),) in snapshots:
        blocks = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0][: 4 * len(region.blocks)]
        assert plain(values) == mode.payload([value + number for value in blocks])


async def publishes_until_time_is_up(worker, note):
    for _ in worker.steps():
        worker.change(lambda x: x + 1.0)
        await worker.gradient(Batch(0, worker.rank, 2))
        worker.publish()


def test_the_last_model_is_published_when_time_is_up(mode):
    # Every 1,000 updates would be due; only the end of the budget shows one.
    ran = mode.run(publishes_until_time_is_up, budget=Budget(seconds=0.05), samples_between_snapshots=8000)
    last = [trace.updates[-1] for trace in ran.outcome.traces]
    assert [(s.number, s.samples, s.time) for s in ran.outcome.snapshots] == [(u.number, u.samples, u.time) for u in last]
    assert [plain(s.pieces[0].values) for s in ran.outcome.snapshots] == [
        mode.payload([value + update.number for value in (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0)]) for update in last
    ]


def test_nothing_is_published_unless_asked_for(mode):
    assert mode.run(publishes, budget=Budget(updates=2)).outcome.snapshots == []


async def stale_gradients(worker, note):
    """Worker 0 answers models 0 and 1, worker 1 model 0, late; the last is thrown away."""
    if worker.rank < 2:
        for _ in range(2 - worker.rank):
            model = await worker.receive(2, "model")
            await worker.send(constant(worker, 1.0), 2, "gradient", model.version, "gradient")
        return
    for source in (0, 1):
        worker.post(worker.read(), source, "model", worker.version)
    first = await worker.receive(0, "gradient")
    await worker.apply(first.payload, FIRST, of=[first])
    worker.post(worker.read(), 0, "model", worker.version)
    second = await worker.receive(1, "gradient")
    third = await worker.receive(0, "gradient")
    await worker.apply(second.payload, FIRST, scale=0.5, of=[second])
    worker.discard(third)
    note("version", worker.version)
    note("parameters", worker.read(FIRST))


def test_staleness_is_counted_when_a_gradient_is_decided_on(mode):
    ran = mode.run(stale_gradients, ranks=3, servers=1)
    arrivals = ran.outcome.traces[2].arrivals
    assert [(a.source, a.version, a.staleness, a.applied) for a in arrivals] == [
        (0, 0, 0, True),
        (1, 0, 1, True),
        (0, 1, 1, False),
    ]
    assert [trace.gradients for trace in ran.outcome.traces] == [2, 1, 0]
    assert ran.notes[2] == {"version": [2], "parameters": [mode.payload([-0.5, 0.5, 1.5, 2.5])]}


async def random_numbers(worker, note):
    for key in ((), (1,), (1,), (1, 2)):
        note("random", worker.random(*key).random())


def test_random_numbers_depend_on_seed_rank_and_key_only(mode):
    first, second = mode.run(random_numbers, seed=0), mode.run(random_numbers, seed=1)
    assert first.notes[0]["random"] == RANDOM_NUMBERS
    numbers = [number for ran in (first, second) for notes in ran.notes for number in notes["random"]]
    assert len(set(numbers)) == 12  # one of four is asked for twice


async def trains(worker, note):
    for step in worker.steps():
        batch = Batch(step, worker.rank, worker.world_size)
        gradient = await worker.all_reduce(await worker.gradient(batch))
        await worker.apply(gradient)


def test_what_is_recorded_of_training(mode):
    ran = mode.run(trains, budget=Budget(updates=2))
    for rank, trace in enumerate(ran.outcome.traces):
        assert trace.rank == rank
        assert [(c.name, c.step, c.part) for c in trace.compute] == [
            ("gradient", 0, rank),
            ("apply", -1, -1),
            ("gradient", 1, rank),
            ("apply", -1, -1),
        ]
        assert [(t.kind, t.channel, t.sequence, t.nbytes) for t in trace.transfers] == [
            ("all_reduce", "all_reduce 0,1", 0, 64.0),
            ("all_reduce", "all_reduce 0,1", 1, 64.0),
        ]
        assert [(loss.step, loss.part, loss.parts) for loss in trace.losses] == [(0, rank, 2), (1, rank, 2)]
        assert trace.peak_activations == 2 * 4 * 4 * 8  # two blocks, 4 samples of 4 scalars
        assert all(c.begun <= c.ended for c in trace.compute)
        assert all(t.posted <= t.awaited <= t.ended <= trace.ended for t in trace.transfers)
    # The loss is the sum of the products: 5 + 12 + 21 + 32, then of (1 - 5)(5 - 1) and so on.
    expected = [70.0, -64.0] if mode.mode.has_values else [0.0, 0.0]
    assert [loss.value for loss in ran.outcome.traces[0].losses] == expected
    # A gradient less the other's weights, twice: w0 = 1 - 5 - 4 = -8, w1 = 5 - 1 + 4 = 8.
    weights = [{block: plain(x) for block, x in weights.items()} for weights in ran.outcome.weights]
    assert weights == [{0: mode.payload([-8.0] * 4), 1: mode.payload([8.0] * 4)}] * 2


def test_when_everything_happens_in_training(exact):
    trace = exact.run(trains, budget=Budget(updates=2)).outcome.traces[1]
    spans = [(0.0, 6.0), (8.0, 8.5), (8.5, 14.5), (16.5, 17.0)]
    assert [(c.begun, c.ended) for c in trace.compute] == spans
    assert [(t.posted, t.awaited, t.ended) for t in trace.transfers] == [(6.0, 6.0, 8.0), (14.5, 14.5, 16.5)]
    assert [update.time for update in trace.updates] == [8.5, 17.0]
    assert trace.ended == 17.0
