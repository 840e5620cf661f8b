"""What engines say in the environment, and what follows; clocks of machines. Nothing is started here."""

from __future__ import annotations

import pytest

import distsim
from distsim import api, engines
from distsim.backends.real import RealOptions, values
from distsim.backends.real.watching.failures import no_restarts
from distsim.backends.real.worlds import clock, world
from distsim.backends.real.worlds.meeting import Hello
from distsim.interface import BadInput, Failure
from distsim.results import identity

TORCHRUN = {
    "RANK": "3",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "192.0.2.7",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "a",
    "TORCHELASTIC_RESTART_COUNT": "0",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
}
SRUN = {  # of Slurm 22.05: srun -N2 -n3
    "SLURM_PROCID": "2",
    "SLURM_STEP_ID": "1",
    "SLURM_JOB_ID": "40",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "2,1",
    "SLURM_STEP_NODELIST": "localhost,n[1-4]",
}


def test_torchrun_and_srun_say_who_is_who():
    found = world.world(TORCHRUN)
    assert (found.rank, found.size, found.local_rank, found.local_size) == (3, 4, 1, 2)
    assert (found.address, found.port, found.hosted, found.leads) == ("192.0.2.7", 29500, True, False)
    found = world.world(SRUN)
    assert (found.rank, found.size, found.local_rank, found.local_size) == (2, 3, 0, 1)
    assert (found.address, found.port, found.hosted) == ("localhost", 12_000 + 40 + 101, False)


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"},  # a batch script, outside of srun
        {**SRUN, "SLURM_PROCID": "0", "SLURM_STEP_NUM_TASKS": "1"},  # submitit's one task
        {"RANK": "0", "WORLD_SIZE": "1"},
    ],
)
def test_a_process_alone_launches_all_ranks(environment):
    assert world.world(environment) is None


def test_every_bad_number_is_said():
    with pytest.raises(BadInput) as refused:
        world.world({**TORCHRUN, "RANK": "4", "MASTER_PORT": "x"})
    assert str(refused.value) == (
        "RANK='4': a whole number of at least 0 and at most 3\n"
        "MASTER_PORT='x': a whole number of at least 1 and at most 65535"
    )


def test_ranks_that_are_not_the_processes_and_an_address_beyond_loopback_are_refused():
    first, second = map(str, world.problems(world.world(TORCHRUN), 5, None))
    assert first == (
        "WORLD_SIZE=4: the job has 5 ranks (cluster.workers and servers), torchrun started 4 processes; "
        "start 5 processes, or set cluster.workers to fit"
    )
    assert second.startswith(
        "MASTER_ADDR='192.0.2.7': is not loopback, and nothing else is listened on unless an interface is named; "
        "set backend.interface=NAME; this host has lo (127.0.0.1)"
    )
    assert list(world.problems(world.world(TORCHRUN), 4, "lo")) == []
    assert list(world.problems(world.world({**TORCHRUN, "LOCAL_WORLD_SIZE": "4"}), 4, None)) == []  # all on this host


def test_with_checkpoints_a_run_has_one_name_wherever_it_is_started_again(monkeypatch):
    """Without them its times belong to the hosts that it began on."""
    settings = [("strategy", "all_reduce"), ("backend", "real"), ("cluster.workers", "4"), ("backend.interface", "lo")]
    names = []
    for host, here in (("n1 x86_64, 2 of 2 cores", "2"), ("n7 x86_64, 8 of 8 cores", "4")):
        monkeypatch.setattr(identity, "host", lambda host=host: host)
        for name, value in {**TORCHRUN, "LOCAL_WORLD_SIZE": here}.items():
            monkeypatch.setenv(name, value)
        names.append([api.prepare([*settings, *more]).name for more in ([], [("checkpoint.every", "5")])])
    assert names[0][0] != names[1][0]
    assert names[0][1] == names[1][1]


def test_to_begin_again_is_the_engines_business():
    failure, options = Failure(ranks={1: (1.0,)}), RealOptions(on_worker_loss="restart")
    by_plan, by_itself = map(str, no_restarts(failure, options, "Slurm"))
    again = "it is for Slurm to begin again: sbatch --requeue, with checkpoint.every="
    assert by_plan == f"failure.on_loss='auto': ranks that Slurm starts can only abort; {again}"
    assert by_itself == f"backend.on_worker_loss='restart': ranks that Slurm starts can only stop; {again}"
    (line,) = no_restarts(Failure(), options, "torchrun")
    assert str(line).endswith("; it is for torchrun to begin again: torchrun --max-restarts=3, with checkpoint.every=")


@pytest.mark.parametrize(
    ("nodes", "first"), [("n[01-04,7],m3", "n01"), ("gpu-a", "gpu-a"), ("a,b", "a"), ("r[2]c1,x", "r2c1")]
)
def test_the_first_of_slurms_nodes(nodes, first):
    assert world.first_host(nodes) == first


def test_the_fastest_round_trip_tells_the_offset():
    # The other clock is 100 s ahead. A trip of 2 s whose answer took 1.5 s to come: off by 0.5 s. One of 0.2 s, of which
    # the question took 0.05 s: off by 0.05 s, and by its half of 0.1 s at most.
    trips = [(10.0, 110.5, 12.0), (20.0, 120.05, 20.2)]
    found = clock.estimate(trips)
    assert found.behind == pytest.approx(99.95)
    assert found.uncertainty == pytest.approx(0.1)
    assert abs(found.behind - 100.0) <= found.uncertainty


def test_a_program_that_an_engine_starts_once_a_rank_is_told_to_leave_the_start_to_it(monkeypatch, tmp_path):
    """Each of its processes would launch all ranks by itself."""
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}.items():
        monkeypatch.setenv(name, value)
    settings = {"backend": "real", "cluster": "switch", "cluster.workers": 2, "runs": str(tmp_path / "runs")}
    for run in (distsim.run, distsim.sweep):
        with pytest.raises(BadInput, match="-m distsim run"):
            run(strategy="all_reduce", **settings)
    assert not (tmp_path / "runs").exists()


def test_what_the_processes_of_a_large_sweep_say_fits_into_the_store():
    """torch's takes 8 MiB. What each of 3,000 runs depends on was more."""
    prepared = api.prepare({"strategy": "all_reduce", "backend": "real", "cluster.workers": 2}.items())
    does = engines._does({f"all_reduce-real-{i:012d}": prepared for i in range(50_000)})
    assert list(does.values())[:2] == [engines._depends(prepared), {}]
    assert len(values.dumps(Hello("host", "machine", does, []))) < 8 << 20
