"""A straggler that burns: what it adds is work on the cores it shares. Times are those of processor sharing, by hand."""

from __future__ import annotations

import pytest
from contract.kit import SWITCH, Program
from contract.tiny import DEVICE, Tiny

from distsim.backends.simulated import simulate
from distsim.interface import Batch, Budget, Cluster, Curve, Job, Loopback, Straggler
from distsim.numerics.sizes import SizesFactory

ONE_CORE = Loopback(cores=Curve(((1.0, 1.0),)), message=Curve(((0.0, 0.0),)), all_reduce={})
TWO_CORES = Loopback(cores=Curve(((1.0, 1.0), (2.0, 2.0), (9.0, 2.0))), message=Curve(((0.0, 0.0),)), all_reduce={})


async def gradients(worker, note):
    """Of 6 s each: two on rank 0, one on the others."""
    for step in range(2 if worker.rank == 0 else 1):
        await worker.gradient(Batch(step, worker.rank, worker.world_size))


def ends(tmp_path, network, straggler, ranks=2):
    tiny = Tiny()
    job = Job(
        strategy=Program(gradients, str(tmp_path)),
        model=tiny.model(),
        cluster=Cluster(ranks, 0, DEVICE, network),
        budget=Budget(updates=1),
        numerics=SizesFactory(tiny.model(), ranks),
        straggler=straggler,
    )
    outcome = simulate(job)
    assert outcome.status == "done", outcome.message
    return [trace.ended for trace in outcome.traces]


@pytest.mark.parametrize(
    ("burn", "expected"),
    [
        # both work until rank 1's 6 s are done, at 12; it idles until 18, while rank 0 does its other 6 s alone
        (False, [18.0, 18.0]),
        # 12 s each, at half speed all the time
        (True, [24.0, 24.0]),
    ],
)
def test_burning_slows_the_neighbour_on_one_core(burn, expected, tmp_path):
    assert ends(tmp_path, ONE_CORE, Straggler(slow={1: 2.0}, burn=burn)) == expected


@pytest.mark.parametrize(
    ("burn", "expected"),
    [
        # 24 s of work on two cores: 2/3 each until 9, when ranks 1 and 2 have done 6; rank 1 idles for 12; rank 0 is alone
        (False, [15.0, 21.0, 9.0]),
        # rank 2 ends at 9; ranks 0 (6 s left) and 1 (12 s left) have a core each
        (True, [15.0, 21.0, 9.0]),
    ],
)
def test_a_core_of_its_own_makes_no_difference(burn, expected, tmp_path):
    assert ends(tmp_path, TWO_CORES, Straggler(slow={1: 3.0}, burn=burn), ranks=3) == expected


def test_three_on_two_cores_all_burning(tmp_path):
    """Work of 24, 12 and 18 s, 2/3 of a second a second each: rank 1 ends at 18, when rank 2 has 6 left and a core."""
    straggler = Straggler(slow={0: 2.0, 1: 2.0, 2: 3.0}, burn=True)
    assert ends(tmp_path, TWO_CORES, straggler, ranks=3) == [30.0, 18.0, 24.0]


def test_a_delay_burns_too(tmp_path):
    """Rank 1 works 6 s and is late by 6 on one core; rank 0's work has no delay: its jitter is drawn as never."""
    late = Straggler("bernoulli", probability=1.0, multiple=2.0, scales_with_work=False, work_seconds=6.0, burn=True)
    # rank 0: two steps of 6 + 6 s, rank 1: one of 6 + 6 s: at half speed until 24, then rank 0 alone for 12
    assert ends(tmp_path, ONE_CORE, late) == [36.0, 24.0]


@pytest.mark.parametrize("burn", [False, True])
def test_a_host_a_rank_takes_the_same_time_either_way(burn, tmp_path):
    assert ends(tmp_path, SWITCH, Straggler(slow={1: 2.0}, burn=burn)) == [12.0, 12.0]
