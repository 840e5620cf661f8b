"""`distsim emit`: a script that starts a run on a cluster, for a person to read, change and submit.

The text is a function of the settings alone. Ranks a node: `--per-node`, else as the cluster says (all on one machine, a
node's devices, or a rank a host).
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from distsim import composition, grammar
from distsim.backends.real.options import no_shared_memory
from distsim.backends.real.watching.failures import no_restarts
from distsim.configuration import Resolved, quantities, resolve
from distsim.interface import BadInput, Problem

ENGINES = {"slurm": "Slurm", "torchrun": "torchrun"}
"""As a script is asked for -> as messages say it."""
_PORT = 29_500
_RESTARTS = 3


@dataclass(frozen=True)
class _Plan:
    resolved: Resolved
    overrides: tuple[str, ...]
    ranks: int
    per_node: int

    @property
    def nodes(self) -> int:
        return -(-self.ranks // self.per_node)

    @property
    def saves(self) -> bool:
        """Started again, it goes on."""
        return not self.resolved.failure.checkpoint.is_off

    @property
    def said(self) -> str:
        """What it is, in a comment."""
        workers = self.resolved.cluster.workers
        count = self.ranks - workers
        servers = f" and {count} server{'s' * (count > 1)}" if count else ""
        name = self.resolved.config["strategy"]["name"]
        return f"# distsim: {name} on {self.ranks} ranks ({workers} workers{servers}), {self.per_node} a node."


def script(engine: str, overrides: Sequence[str], per_node: str | None) -> str:
    """The script. Raises `BadInput` with everything that is wrong with the settings; this machine need not run them."""
    plan = _plan(engine, overrides, per_node)
    return _slurm(plan) if engine == "slurm" else _torchrun(plan)


def _plan(engine: str, overrides: Sequence[str], per_node: str | None) -> _Plan:
    given, problems = grammar.parse(overrides)
    if not any(key == "backend" for key, _ in given):
        overrides = ["backend=real", *overrides]
        given = [("backend", "real"), *given]
    values, unknown = composition.compose(given)
    resolved, wrong = resolve(values, alone=False)
    problems = [*problems, *unknown, *wrong]
    count = 0
    if per_node is not None:
        try:
            count = int(quantities.integer(1)(per_node))
        except quantities.Refused as refused:
            problems.append(Problem("--per-node", per_node, refused.allowed, refused.suggestion))
    if resolved is not None and resolved.backend != "real":
        allowed = "a simulated run is one process, which needs no engine"
        problems.append(Problem("backend", resolved.backend, allowed, "distsim run, or backend=real"))
    ranks = resolved.cluster.ranks(resolved.strategy) if resolved else 0
    if resolved is not None and ranks > 1 and resolved.backend == "real":
        name = ENGINES[engine]
        problems += no_restarts(resolved.failure, resolved.options, name)
        problems += no_shared_memory(resolved.options, False, name)
    if problems or resolved is None:
        raise BadInput(problems)
    cluster = resolved.cluster
    natural = {"loopback": ranks, "two_level": cluster.node_size or 1}.get(cluster.network, 1)
    count = min(ranks, count or natural)
    if engine == "torchrun" and ranks % count:
        allowed = f"torchrun starts as many ranks on every host, and {ranks} do not divide by {count}"
        fitting = ", ".join(str(n) for n in range(1, ranks + 1) if ranks % n == 0)
        raise BadInput([Problem("--per-node", count, allowed, f"one of {fitting}")])
    return _Plan(resolved, tuple(overrides), ranks, count)


def _slurm(plan: _Plan) -> str:
    options = plan.resolved.options
    lines = [
        "#!/bin/bash",
        plan.said,
        "# Lines after an arrow (<-) are yours to change. Submit it with sbatch.",
        f"#SBATCH --job-name=distsim-{plan.resolved.config['strategy']['name']}",
        f"#SBATCH --nodes={plan.nodes}",
        f"#SBATCH --ntasks={plan.ranks}",
        f"#SBATCH --ntasks-per-node={plan.per_node}",
        f"#SBATCH --cpus-per-task={options.threads}",
    ]
    if options.device == "cuda":
        lines += [
            "# All ranks of a node see all of its GPUs, and take one each.",
            f"#SBATCH --gpus-per-node={plan.per_node}",
        ]
    if plan.saves:
        lines += [
            "# Preempted, or when a node fails, the job is queued again and goes on from its last checkpoint: all nodes",
            "# must share runs/. When its time was over, or a rank has died, submit it again.",
            "#SBATCH --requeue",
            "#SBATCH --open-mode=append",
        ]
    lines += [
        "# <- the time limit (hours:minutes:seconds); your partition and account, if your cluster wants them",
        "#SBATCH --time=01:00:00",
        "##SBATCH --partition=NAME",
        "##SBATCH --account=NAME",
        "set -eu",
        "",
        "# <- an environment with distsim that every node sees",
        "# source /path/to/.venv/bin/activate",
        "",
        *_interface(plan),
        "# The process of rank 0 writes runs/ in the folder where you submit. All meet at the step's first node, on a port",
        "# that follows from the job's number: export MASTER_ADDR and MASTER_PORT to choose. A run ends by itself when a",
        "# rank is lost, and rank 0 must live to say so: hence no --kill-on-bad-exit.",
        _command(f"exec srun --cpus-per-task={options.threads} --kill-on-bad-exit=0 python -m distsim run", plan),
    ]
    return "\n".join(lines) + "\n"


def _torchrun(plan: _Plan) -> str:
    last = plan.nodes - 1
    lines = ["#!/bin/bash", plan.said]
    restarts = f"--max-restarts={_RESTARTS} " if plan.saves else ""
    if plan.saves:
        lines.append(f"# When a rank dies, torchrun starts all again, {_RESTARTS} times, from the last checkpoint.")
    if plan.nodes == 1:
        start = f"exec torchrun --standalone --nproc-per-node={plan.ranks} {restarts}-m distsim run"
        lines += ["# Start it with bash.", "set -eu", ""]
    else:
        lines += [
            f"# Start it on each of {plan.nodes} hosts with the same files: `bash THIS 0` on the first, which writes runs,",
            f"# and so on to {last}. Lines after an arrow (<-) are yours to change.",
            "set -eu",
            f'NODE="${{1:?the number of this host, 0 to {last}}}"',
            "# <- the first host, by a name or address that all others reach; torchrun listens there on all interfaces",
            "HEAD=first-host",
            f"PORT={_PORT}",
            *_interface(plan),
        ]
        start = (
            f'exec torchrun --nnodes={plan.nodes} --nproc-per-node={plan.per_node} --node-rank="$NODE" \\\n    '
            f'--master-addr="$HEAD" --master-port="$PORT" {restarts}-m distsim run'
        )
    return "\n".join([*lines, _command(start, plan)]) + "\n"


def _interface(plan: _Plan) -> list[str]:
    """How to name the interface, if that is needed and was not done."""
    if plan.nodes == 1 or plan.resolved.options.interface is not None:
        return []
    return [
        "# <- the network between the nodes (`ip -brief address` lists them). Whoever reaches it can reach the ranks: they",
        "# ask for no password. Take one that is the cluster's own.",
        "INTERFACE=eth0",
    ]


def _command(start: str, plan: _Plan) -> str:
    words = [shlex.quote(word) for word in plan.overrides]
    if _interface(plan):
        words.append('backend.interface="$INTERFACE"')
    return " \\\n    ".join([start, *words])
