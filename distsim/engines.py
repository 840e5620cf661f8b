"""Runs under an engine (torchrun, srun): the same command is started once a rank, and these processes work as one.

Each of them composes and checks the configuration. The one of rank 0 leads: it does what `distsim run` always does, reads
and writes the folder of runs, and says before each real run which one it is. The others follow: they wait for the next run,
start their rank for it, and at the end exit with the leader's code. They write no run, so no folder need be shared; only
where ranks save checkpoints, all write to the leader's, and it is refused unless every process sees that folder. Simulated
runs are the leader's alone. So a sweep's runs are the same in all processes, in the leader's order, without what
it has stored already.

All must be about to run the same: the leader compares what each run depends on (source, data, versions, settings), and
refuses with a line for who differs. A process that refuses its configuration, for what its host lacks perhaps, says so
where all meet, so that no other waits for it.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from distsim import execution, signals, sweeping
from distsim.execution import Prepared
from distsim.interface import BadInput, DistsimError, Problem
from distsim.interface.errors import full_disk
from distsim.results import identity
from distsim.results.store import Result

if TYPE_CHECKING:
    from distsim.backends.real.worlds.meeting import Hello, Meeting
    from distsim.backends.real.worlds.world import World

_OWN = ("host", "world")
"""Inputs in which hosts may differ."""
_GOODBYE = 5.0  # seconds that the leader waits for the others to have read the end
_REFUSAL = 10.0  # seconds that one who refuses waits for the others to come and hear of it
_LOOK = 0.1

Conduct = Callable[[Callable[[Prepared], Result]], int]
"""Does a command's runs with the given function; the exit code."""


def started(overrides: Sequence[str]) -> World | None:
    """What an engine has started, this process being a part of it. Raises `BadInput`."""
    if not os.environ.keys() & {"RANK", "SLURM_PROCID"}:
        return None
    from distsim.backends.real.worlds.world import world

    found = world()
    if found is not None and sweeping.has_launcher(overrides):
        allowed = f"starts jobs of its own, and {found.engine} has started {found.size} processes of this command"
        raise BadInput([Problem("hydra/launcher", "set", allowed, "start the command once, by hand")])
    return found


def conduct(world: World | None, prepared: Sequence[Prepared], runs: Conduct) -> int:
    """Lead or follow: `runs` is what the leader does, or who is alone. The exit code, the same in all processes."""
    if world is None:
        return runs(execution.run)
    real = {_name(each): each for each in prepared if each.resolved.backend == "real"}
    if not real:
        return runs(execution.run) if world.leads else 0
    options = next(iter(real.values())).resolved.options
    meeting = _meet(world, options.interface, options.start_seconds, does=_does(real))
    try:
        return _lead(meeting, real, runs) if world.leads else _follow(meeting, real)
    finally:
        meeting.pulse.stop()


def refuse(world: World, overrides: Sequence[str], error: BadInput) -> int:
    """Say what is wrong, to all processes of a world, which then end; the exit code."""
    if world.local_rank == 0:  # one process of a host says it
        print(error, file=sys.stderr)
    given = {key: text for key, _, text in (override.partition("=") for override in overrides)}
    if "real" not in given.get("backend", ""):  # then nobody waits for others
        return 2
    from distsim.backends.real.worlds.pulse import LauncherLost
    from distsim.backends.real.worlds.world import is_loopback

    interface = given.get("backend.interface")
    if interface is None and not world.hosted and not is_loopback(world.address):  # then nobody listens
        return 2
    with suppress(BadInput, LauncherLost):
        meeting = _meet(world, interface, _REFUSAL, refuses=[str(problem) for problem in error.problems])
        try:
            if world.leads:
                with suppress(BadInput):
                    _await(range(1, world.size), meeting, _REFUSAL)
                _say_goodbye(meeting, 1, 2)
            else:
                _follow(meeting, {})
        finally:
            meeting.pulse.stop()
    return 2


def _meet(
    world: World,
    interface: str | None,
    seconds: float,
    does: Mapping[str, dict[str, str]] = MappingProxyType({}),
    refuses: Sequence[str] = (),
) -> Meeting:
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # what warnings of its store say, ours say in a line
    from distsim.backends.real.worlds.meeting import Hello, machine, meet

    meeting = meet(world, interface, seconds)
    if not world.leads:
        _await([0], meeting, seconds)
    meeting.put(f"hello/{world.rank}", Hello(platform.node(), machine(), dict(does), list(refuses)))
    meeting.pulse.start(range(1, world.size) if world.leads else [0])
    return meeting


def _coming(ranks: Sequence[int], meeting: Meeting, seconds: float) -> Iterator[int]:
    """Wait for their processes; each as it comes. Raises `BadInput` if one does not come in time."""
    world = meeting.world
    until = time.monotonic() + seconds
    missing = list(ranks)
    while True:
        come = [rank for rank in missing if meeting.has_come(rank)]
        missing = [rank for rank in missing if rank not in come]
        yield from come
        if not missing:
            return
        if time.monotonic() > until:
            who = ", ".join(map(str, missing))
            allowed = f"rank {who} did not come to {meeting.address}:{meeting.port} within {seconds:g} s"
            raise BadInput(
                [Problem(world.size_key, world.size, allowed, "are all started? see also backend.start_seconds")]
            )
        time.sleep(_LOOK)


def _await(ranks: Sequence[int], meeting: Meeting, seconds: float) -> None:
    """Wait until their processes are here."""
    for _ in _coming(ranks, meeting, seconds):
        pass


def _know_all(meeting: Meeting, seconds: float) -> None:
    """Wait for all processes. Raises `BadInput` at once if one refuses, or if one does not come in time."""
    everyone = range(meeting.world.size)
    for rank in _coming(everyone, meeting, seconds):
        hello: Hello = meeting.get(f"hello/{rank}")[0]
        if hello.refuses:
            said = [f"its process on {hello.host} refuses the run: {line}" for line in hello.refuses]
            raise BadInput([Problem("rank", rank, line) for line in said])
    meeting.know(meeting.get(*(f"hello/{rank}" for rank in everyone)))


def _lead(meeting: Meeting, real: Mapping[str, Prepared], runs: Conduct) -> int:
    from distsim.backends.real.worlds.beginning import lead_to

    code, ordered = 1, 0

    def run(prepared: Prepared) -> Result:
        nonlocal ordered
        if prepared.resolved.backend != "real":
            return execution.run(prepared)

        def start() -> tuple[Meeting, str]:  # only now is it known that it is not stored
            nonlocal ordered
            ordered += 1
            meeting.put(f"order/{ordered}", (_name(prepared), meeting.machines))
            return meeting, f"run/{ordered}"

        try:
            return execution.run(prepared, start)
        finally:
            if ordered:
                _end(meeting, f"run/{ordered}")

    try:
        _know_all(meeting, next(iter(real.values())).resolved.options.start_seconds)
        _compare(meeting, real)
        if folders := _saves_to(real):
            lead_to(meeting, folders)
        code = runs(run)
    except BadInput:
        code = 2
        raise
    except KeyboardInterrupt:
        code = signals.exit_code()
        raise
    finally:
        _say_goodbye(meeting, ordered + 1, code)
    return code


def _end(meeting: Meeting, run: str) -> None:
    """No launcher is to wait for this run any more, if it was ended before all had begun."""
    from distsim.backends.real.worlds.pulse import LauncherLost

    with suppress(LauncherLost):
        if not meeting.has(f"{run}/end"):
            meeting.put(f"{run}/end", "failed")


def _saves_to(real: Mapping[str, Prepared]) -> list[Path]:
    """The folders of runs whose ranks write checkpoints."""
    return sorted({each.resolved.runs.absolute() for each in real.values() if not each.job.failure.checkpoint.is_off})


def _say_goodbye(meeting: Meeting, number: int, code: int) -> None:
    from distsim.backends.real.worlds.pulse import LauncherLost

    until = time.monotonic() + _GOODBYE
    try:
        meeting.put(f"order/{number}", code)
        left = list(range(1, meeting.world.size))
        while time.monotonic() < until:
            left = [rank for rank in left if not (meeting.pulse.is_silent(rank) or meeting.has(f"bye/{rank}"))]
            if not left:
                return
            time.sleep(_LOOK)
    except LauncherLost:
        return


def _follow(meeting: Meeting, real: Mapping[str, Prepared]) -> int:
    from distsim.backends.real.worlds.beginning import look
    from distsim.backends.real.worlds.follow import follow
    from distsim.backends.real.worlds.pulse import LauncherLost

    rank = meeting.world.rank
    number = 0
    try:
        if _saves_to(real):
            look(meeting)
        while True:
            number += 1
            order = meeting.await_key(f"order/{number}", 0)
            if isinstance(order, int):
                meeting.put(f"bye/{rank}", True)
                return order
            name, meeting.machines = order
            prepared = real[name]
            follow(meeting, prepared.job, prepared.resolved.options, f"run/{number}")
    except LauncherLost as error:
        print(f"rank {rank}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        with suppress(LauncherLost):
            meeting.put(f"interrupt/{rank}", True)
        raise
    except (DistsimError, OSError) as error:  # of this host: a full disk, for one
        with suppress(LauncherLost):
            meeting.put(f"failed/{rank}", full_disk(error) or str(error))
        raise


def _compare(meeting: Meeting, real: Mapping[str, Prepared]) -> None:
    """Raise `BadInput` if another process is about to run something else."""
    ours = meeting.hellos[0].does
    problems = []
    for rank, hello in enumerate(meeting.hellos):
        if hello.does.keys() != ours.keys():
            pairs = [(ours[name], next(iter(hello.does.values()))) for name in list(ours)[:1]]
            differing = [key for mine, theirs in pairs for key in sorted(mine | theirs) if mine.get(key) != theirs.get(key)]
            allowed = f"rank {rank} on {hello.host} would run something else than rank 0 ({', '.join(differing)} differ)"
            problems.append(
                Problem("run", ", ".join(ours), allowed, "start the same command with the same files everywhere")
            )
    if problems:
        raise BadInput(problems)


def _does(real: Mapping[str, Prepared]) -> dict[str, dict[str, str]]:
    """The runs by name, and what the first depends on: of a large sweep's all it would not fit into the store."""
    first = next(iter(real))
    return {name: _depends(each) if name == first else {} for name, each in real.items()}


def _depends(prepared: Prepared) -> dict[str, str]:
    """What a run depends on that must be the same everywhere."""
    settings = {
        f"{section}.{key}": repr(x)
        for section, values in prepared.config.items()
        if isinstance(values, dict)
        for key, x in values.items()
    }
    return {**settings, **{key: text for key, text in prepared.inputs.items() if key not in _OWN}}


def _name(prepared: Prepared) -> str:
    """The name of a run without what is a host's own."""
    inputs = {key: text for key, text in prepared.inputs.items() if key not in _OWN}
    return identity.run_name(prepared.config, inputs)
