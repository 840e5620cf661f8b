"""Updates that ranks make each on its own: counted together, numbered as they end, shown when they are due.

Three ranks take 3, 4 and 7 s for one. They begin at 0 0 0 3 4 6 7 8 and end at 3 4 6 7 8 9 12 14.
"""

import time

import pytest

from contract.kit import block, plain
from distsim.interface import Budget

SECONDS = (3, 4, 7)


async def uneven(worker, note):
    def work(x, *more):
        time.sleep(0.005 * SECONDS[worker.rank])
        return x

    for turn in worker.turns():
        note("turn", turn)
        await worker.compute("work", work, *[block(worker)] * SECONDS[worker.rank])
        worker.change(lambda x: x + 1.0)
        worker.publish()


def test_all_ranks_together_make_the_updates_of_the_budget(mode):
    ran = mode.run(uneven, ranks=3, budget=Budget(updates=8), gradients_an_update=1)
    turns = [notes["turn"] for notes in ran.notes]
    updates = [update for trace in ran.outcome.traces for update in trace.updates]
    assert sorted(turn for each in turns for turn in each) == list(range(8))
    assert sorted((u.number, u.samples) for u in updates) == [(k, 4 * k) for k in range(1, 9)]
    assert [len(each) for each in turns] == [len(trace.updates) for trace in ran.outcome.traces]
    assert ran.outcome.seconds == max(update.time for update in updates)
    if mode.is_exact:
        assert turns == [[0, 3, 5], [1, 4, 7], [2, 6]]
        ends = [[(u.number, u.time) for u in trace.updates] for trace in ran.outcome.traces]
        assert ends == [[(1, 3.0), (3, 6.0), (6, 9.0)], [(2, 4.0), (5, 8.0), (7, 12.0)], [(4, 7.0), (8, 14.0)]]


def test_nobody_begins_when_seconds_are_up(exact):
    ran = exact.run(uneven, ranks=3, budget=Budget(seconds=6.5), gradients_an_update=1)
    assert ran.all("turn") == [[0, 3, 5], [1, 4], [2]]
    assert ran.outcome.seconds == 9.0


@pytest.mark.parametrize(
    ("updates", "shown"),
    [
        (8, [(3, 6.0), (3, 7.0), (3, 8.0), (6, 9.0), (6, 12.0), (6, 14.0), (8, 9.0), (8, 12.0), (8, 14.0)]),
        (6, [(3, 6.0), (3, 7.0), (3, 8.0), (6, 7.0), (6, 8.0), (6, 9.0)]),
        (5, [(3, 6.0), (3, 7.0), (3, 8.0), (5, 6.0), (5, 7.0), (5, 8.0)]),
    ],
)
def test_a_rank_shows_its_model_when_it_next_ends_an_update_and_at_the_end(exact, updates, shown):
    budget = Budget(updates=updates)  # 4 samples each, a snapshot every 3
    ran = exact.run(uneven, ranks=3, budget=budget, gradients_an_update=1, samples_between_snapshots=12)
    assert sorted((s.number, s.time) for s in ran.outcome.snapshots) == shown
    assert all(snapshot.samples == 4 * snapshot.number for snapshot in ran.outcome.snapshots)
    second = [s for s in ran.outcome.snapshots if (s.number, s.time) == (3, 6.0)]  # rank 0 after its second update
    assert [plain(s.pieces[0].values) for s in second] == [exact.payload([3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0])]
