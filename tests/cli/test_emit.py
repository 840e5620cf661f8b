"""The scripts that `distsim emit` prints, word for word; bash reads them."""

from __future__ import annotations

import subprocess

import pytest

from distsim.cli import main

SLURM = """#!/bin/bash
# distsim: sync_ps on 4 ranks (3 workers and 1 server), 2 a node.
# Lines after an arrow (<-) are yours to change. Submit it with sbatch.
#SBATCH --job-name=distsim-sync_ps
#SBATCH --nodes=2
#SBATCH --ntasks=4
#SBATCH --ntasks-per-node=2
#SBATCH --cpus-per-task=1
# <- the time limit (hours:minutes:seconds); your partition and account, if your cluster wants them
#SBATCH --time=01:00:00
##SBATCH --partition=NAME
##SBATCH --account=NAME
set -eu

# <- an environment with distsim that every node sees
# source /path/to/.venv/bin/activate

# <- the network between the nodes (`ip -brief address` lists them). Whoever reaches it can reach the ranks: they
# ask for no password. Take one that is the cluster's own.
INTERFACE=eth0
# The process of rank 0 writes runs/ in the folder where you submit. All meet at the step's first node, on a port
# that follows from the job's number: export MASTER_ADDR and MASTER_PORT to choose. A run ends by itself when a
# rank is lost, and rank 0 must live to say so: hence no --kill-on-bad-exit.
exec srun --cpus-per-task=1 --kill-on-bad-exit=0 python -m distsim run \\
    backend=real \\
    strategy=sync_ps \\
    cluster.workers=3 \\
    'label=a b' \\
    backend.interface="$INTERFACE"
"""
TORCHRUN = """#!/bin/bash
# distsim: all_reduce on 16 ranks (16 workers), 8 a node.
# Start it on each of 2 hosts with the same files: `bash THIS 0` on the first, which writes runs,
# and so on to 1. Lines after an arrow (<-) are yours to change.
set -eu
NODE="${1:?the number of this host, 0 to 1}"
# <- the first host, by a name or address that all others reach; torchrun listens there on all interfaces
HEAD=first-host
PORT=29500
exec torchrun --nnodes=2 --nproc-per-node=8 --node-rank="$NODE" \\
    --master-addr="$HEAD" --master-port="$PORT" -m distsim run \\
    backend=real \\
    cluster=dgx_h100 \\
    backend.interface=ib0
"""


def test_slurm(capsys):
    assert main(["emit", "slurm", "--per-node=2", "strategy=sync_ps", "cluster.workers=3", "label=a b"]) == 0
    script = capsys.readouterr().out
    assert script == SLURM
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


def test_torchrun_over_nodes_as_the_cluster_has_them(capsys):
    assert main(["emit", "torchrun", "cluster=dgx_h100", "backend.interface=ib0"]) == 0
    script = capsys.readouterr().out
    assert script == TORCHRUN
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)


@pytest.mark.parametrize(
    ("engine", "name", "again"),
    [("torchrun", "torchrun", "torchrun --max-restarts=3"), ("slurm", "Slurm", "sbatch --requeue")],
)
def test_what_ranks_of_an_engine_cannot_do_is_refused_before_it_is_queued(engine, name, again, capsys):
    words = ["backend.on_worker_loss=restart", "backend.messages=shared", "failure.ranks={1: [0.1]}", "checkpoint.every=5"]
    assert main(["emit", engine, "strategy=all_reduce", *words]) == 2
    remedy = f"it is for {name} to begin again: {again}, with checkpoint.every="
    assert capsys.readouterr().err.splitlines() == [
        f"failure.on_loss='auto': ranks that {name} starts can only abort; {remedy}",
        f"backend.on_worker_loss='restart': ranks that {name} starts can only stop; {remedy}",
        f"backend.messages='shared': ranks that {name} starts send by gloo; take auto",
    ]


def test_with_checkpoints_the_engine_starts_it_again(capsys):
    """Without them it would begin from the first update."""
    saves, requeue, restarts = (
        "checkpoint.every=20",
        "#SBATCH --requeue\n#SBATCH --open-mode=append\n",
        "--max-restarts=3 -m",
    )
    for engine, again in (("slurm", requeue), ("torchrun", restarts)):
        assert main(["emit", engine, saves]) == 0
        assert again in capsys.readouterr().out
        assert main(["emit", engine]) == 0
        assert "again" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["--per-node=3"],
            "--per-node=3: torchrun starts as many ranks on every host, and 4 do not divide by 3; one of 1, 2, 4",
        ),
        (
            ["backend=modeled"],
            "backend='modeled': a simulated run is one process, which needs no engine; distsim run, or backend=real",
        ),
    ],
)
def test_what_cannot_be_started_is_refused(arguments, said, capsys):
    assert main(["emit", "torchrun", *arguments]) == 2
    assert capsys.readouterr().err == said + "\n"
