"""Faults in every phase of a real run: which rank goes wrong where and how is drawn from a seed, and the launcher is timed.

A case is run by `measure`, whose `Found` says what came out; `wrong` holds that against what is promised. The fault happens
in the victim's own process, in place of the operation (or just after it has begun), and it writes down when.
"""

from __future__ import annotations

import itertools
import multiprocessing.forkserver
import multiprocessing.util
import os
import random
import re
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from contract.kit import SWITCH
from contract.tiny import DEVICE

from distsim.backends.real import RealOptions, launch, starting
from distsim.interface import SGD, Budget, Cluster, Job, Strategy, Worker
from distsim.numerics.tensors import TensorsFactory
from distsim.strategies.ad_psgd import ADPSGD
from distsim.strategies.all_reduce import AllReduce
from distsim.strategies.gossip import Gossip
from distsim.strategies.local_sgd import LocalSGD
from distsim.strategies.parameter_server import AsyncPS, SyncPS
from distsim.strategies.pipeline import GPipe, OneFOneB
from distsim.strategies.zero import Zero
from distsim.workloads.digits_mlp import DigitsMLP

WORKERS = 3
WORKLOAD = DigitsMLP(batch=8, depth=5, width=24)
HANG = 2.0  # seconds, of backend.hang_seconds
START = 45.0  # seconds, of backend.start_seconds
PROMISED = 10.0  # seconds from a fault to the end of its run


@dataclass(frozen=True)
class EveryCollective(Strategy):
    """One after the other."""

    async def run(self, worker: Worker[Any]) -> None:
        for _ in worker.steps():
            x = await worker.all_gather(worker.cut(worker.read(), worker.world_size)[0])  # its size divides by the ranks
            await worker.reduce_scatter(x)
            await worker.broadcast(x, 1)
            await worker.reduce(x, 2)
            await worker.all_to_all(x)
            await worker.barrier()
            await worker.all_reduce(x)


STRATEGIES: dict[str, Strategy] = {
    "all_reduce": AllReduce(),
    "sync_ps": SyncPS(),
    "async_ps": AsyncPS(),
    "gpipe": GPipe(microbatches=2),
    "one_f_one_b": OneFOneB(microbatches=2),
    "local_sgd": LocalSGD(every=2),
    "zero": Zero(stage=3),
    "gossip": Gossip(),
    "ad_psgd": ADPSGD(),
    "every collective": EveryCollective(),
}
SERVERS = ("sync_ps", "async_ps")
ANY = tuple(name for name in STRATEGIES if name != "every collective")
USED: dict[str, tuple[str, ...]] = {  # phase: strategies whose ranks, or server, come to it
    "start": ANY,  # before it has its job
    "numerics": ANY,
    "rendezvous": ANY,
    "forward": ("all_reduce", "gpipe", "one_f_one_b", "local_sgd", "zero", "gossip", "ad_psgd"),
    "backward": ("all_reduce", "gpipe", "one_f_one_b", "local_sgd", "zero", "gossip"),
    "apply": ("all_reduce", "sync_ps", "async_ps", "gpipe", "one_f_one_b", "local_sgd", "zero"),
    "send": ("sync_ps", "async_ps", "gossip"),
    "receive": ("sync_ps", "async_ps", "gossip"),
    "receive any": ("sync_ps", "async_ps"),
    "all_reduce": ("all_reduce", "local_sgd", "every collective"),
    "reduce_scatter": ("zero", "every collective"),
    "all_gather": ("zero", "every collective"),
    "broadcast": ("every collective",),
    "reduce": ("every collective",),
    "all_to_all": ("every collective",),
    "barrier": ("every collective",),
    "task": ("ad_psgd",),
    "publish": ("all_reduce", "sync_ps", "async_ps"),
    "end": ANY,
}
STARTING = ("start", "numerics", "rendezvous")
FAULTS = ("killed", "stopped", "raised", "exited", "hung")
NUMBERS = {  # a payload or a value that is not a number
    "forward": ("all_reduce", "gpipe", "local_sgd"),
    "apply": ("all_reduce", "sync_ps", "async_ps"),
    "send": ("sync_ps", "async_ps", "gossip"),
    "all_reduce": ("all_reduce", "local_sgd"),
    "reduce_scatter": ("zero",),
    "all_gather": ("zero",),
}
SHAPES = ("send", "all_reduce", "reduce_scatter", "all_gather", "broadcast", "reduce", "all_to_all")


class Case(NamedTuple):
    """What goes wrong: `how`, on `victim`, the `nth` time that it comes to `phase`."""

    strategy: str
    phase: str
    how: str
    victim: int
    nth: int
    late: bool
    """Just after the operation has begun, from another thread."""

    def __str__(self) -> str:
        place = f"{'in' if self.late else 'before'} {self.phase} {self.nth}"
        return f"{self.how} {place} of rank {self.victim}, {self.strategy}"


class Found(NamedTuple):
    """What came out."""

    status: str
    message: str
    seconds: float | None
    """From the fault to the end of the launch; None if there was no fault."""
    slowest: float
    """Operation of any rank, as the table of the last operations says."""
    left: list[int]
    """Processes."""
    files: list[str]


def cases(seed: int, count: int) -> list[Case]:
    """Every pair of phase and fault once, the rest drawn."""
    draw = random.Random(seed)
    pairs = [(phase, how) for phase in USED for how in FAULTS]
    pairs += [(phase, "not a number") for phase in NUMBERS] + [(phase, "wrong shape") for phase in SHAPES]
    more = max(0, count - len(pairs))
    chosen = [*pairs, *(draw.choice(pairs) for _ in range(more))]
    draw.shuffle(chosen)
    return [_case(draw, *pair) for pair in chosen][:count]


def _case(draw: random.Random, phase: str, how: str) -> Case:
    strategy = draw.choice(NUMBERS[phase] if how == "not a number" else USED[phase])
    ranks = range(WORKERS)
    if strategy in SERVERS and phase in ("apply", "receive any", "publish"):
        ranks = range(WORKERS, WORKERS + 1)
    elif phase == "publish":
        ranks = range(1)
    elif phase == "task":
        ranks = range(1, 2)
    nth = draw.randint(3, 9) if phase in USED and phase not in (*STARTING, "task", "publish", "end") else 1
    late = how in ("killed", "stopped", "exited") and nth > 1 and draw.random() < 0.5
    return Case(strategy, phase, how, draw.choice(ranks), nth, late)


# ---- in the victim's process


def go_wrong(how: str, folder: str) -> None:
    """Now."""
    (Path(folder) / "fault").write_text(str(time.monotonic()))
    if how == "raised":
        raise ValueError("the victim's own words")
    if how == "exited":
        os._exit(0)
    if how == "hung":
        time.sleep(1e6)
    os.kill(os.getpid(), signal.SIGKILL if how == "killed" else signal.SIGSTOP)


def enter(case: Case, folder: str, order: Any, reports: Any) -> None:
    """Run a rank in its process, the victim until it would take its job."""
    from distsim.backends.real import process, rank

    if order.rank == case.victim:
        rank.run = lambda *given: go_wrong(case.how, folder)  # type: ignore[assignment]
    process.enter(order, reports)


@dataclass(frozen=True)
class Victim:
    """A factory of numerics that prepares the fault in the process of its victim."""

    inner: TensorsFactory
    case: Case
    folder: str

    def __call__(self, rank: int) -> Any:
        case = self.case
        if rank != case.victim:
            return self.inner(rank)
        if case.phase == "numerics":
            go_wrong(case.how, self.folder)
        made = self.inner(rank)
        self._prepare(made)
        return made

    def _prepare(self, made: Any) -> None:
        from distsim.backends.real import values
        from distsim.backends.real.fabric import Real
        from distsim.interface.progress import Progress

        phase, places = self.case.phase, dict[str, tuple[Any, str, Callable[..., bool]]]()
        places |= {name: (made, name, _always) for name in ("forward", "backward")}
        places |= {"apply": (made, "update", _always), "send": (Real, "send", _always), "task": (Real, "task", _always)}
        places |= {"receive": (Real, "receive", lambda self, source, tag: source is not None)}
        places |= {"receive any": (Real, "receive", lambda self, source, tag: source is None)}
        places |= {"publish": (Progress, "publish", _always), "end": (values, "dumps", _always)}
        places |= {"rendezvous": (torch.distributed, "init_process_group", _always)}
        where, name, fits = places.get(phase) or (Real, "collective", lambda self, group, each, x: each.kind == phase)
        calls, is_due = itertools.count(1), threading.Event()
        for each in (name, "backward_of_loss") if name == "backward" else (name,):
            setattr(where, each, self._instead(getattr(where, each), fits, calls, is_due))

    def _instead(
        self, before: Callable[..., Any], fits: Callable[..., bool], calls: Iterator[int], is_due: threading.Event
    ) -> Callable[..., Any]:
        case = self.case

        def instead(*given: Any, **named: Any) -> Any:
            if not fits(*given, **named) or next(calls) < case.nth:
                return before(*given, **named)
            if case.how in ("not a number", "wrong shape"):
                return self._spoilt(before, list(given), named)
            if case.late:
                if not is_due.is_set():  # a second one would empty the note of when, and be killed by the first
                    is_due.set()
                    threading.Timer(0.01, go_wrong, (case.how, self.folder)).start()
            else:
                go_wrong(case.how, self.folder)
            return before(*given, **named)

        return instead

    def _spoilt(self, before: Callable[..., Any], given: list[Any], named: dict[str, Any]) -> Any:
        """The operation with other values in the tensor among its arguments."""

        def spoil(x: Any) -> Any:
            if isinstance(x, torch.Tensor):
                (Path(self.folder) / "fault").write_text(str(time.monotonic()))
                return x * float("nan") if self.case.how == "not a number" else torch.cat([x.flatten(), x.flatten()])
            if hasattr(x, "payload") and x.payload is not None:
                return (
                    type(x)(**{**vars(x), "payload": spoil(x.payload)})
                    if hasattr(x, "__dict__")
                    else x._replace(payload=spoil(x.payload))
                )
            return x

        return before(*map(spoil, given), **named)


def _always(*given: Any, **named: Any) -> bool:
    return True


# ---- in the launcher's


def measure(case: Case, folder: Path) -> Found:
    """Run a case in an empty folder."""
    temporary, logs = folder / "temporary", folder / "logs"
    temporary.mkdir()
    multiprocessing.util.get_temp_dir()  # its own, once a process
    before, tempfile.tempdir = tempfile.tempdir, str(temporary)
    entered = starting.enter
    if case.phase == "start":
        starting.enter = partial(enter, case, str(folder))  # type: ignore[assignment]
    strategy = STRATEGIES[case.strategy]
    numerics = TensorsFactory(WORKLOAD, WORKERS, SGD(1e-3), 0)
    job = Job(
        strategy=strategy,
        model=WORKLOAD.model(),
        cluster=Cluster(WORKERS, strategy.server_count(WORKERS), DEVICE, SWITCH),
        budget=Budget(updates=6 if case.phase == "end" else 100_000),
        numerics=Victim(numerics, case, str(folder)),
        samples_between_snapshots=WORKLOAD.batch * WORKERS * 2 if case.phase == "publish" else 0,
    )
    try:
        outcome = launch(job, RealOptions(device="cpu", hang_seconds=HANG, start_seconds=START, limit_seconds=150.0), logs)
    finally:
        tempfile.tempdir, starting.enter = before, entered
    ended = time.monotonic()
    fault = folder / "fault"
    seconds = ended - float(fault.read_text()) if fault.exists() else None
    table = logs / "last_operations.txt"
    slowest = re.findall(r"slowest operation ([0-9.]+) s", table.read_text()) if table.exists() else []
    files = [path.name for path in temporary.iterdir()] + [path.name for path in logs.glob("*.results")]
    return Found(outcome.status, outcome.message, seconds, max(map(float, slowest), default=0.0), list(processes()), files)


def processes() -> Iterator[int]:
    """Those that the fork server has started and that are more than zombies: every rank is one."""
    server: Any = multiprocessing.forkserver._forkserver  # type: ignore[attr-defined]
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue
        if int(parent) == server._forkserver_pid and state != "Z":
            yield int(path.parent.name)


def limit(case: Case, found: Found) -> float:
    """Seconds within which the run must have ended after its fault."""
    if case.how != "hung":
        return PROMISED
    if case.phase in STARTING:
        return START + PROMISED
    return max(HANG, 20.0 * found.slowest) + PROMISED


def wrong(case: Case, found: Found) -> list[str]:
    """What is not as promised, of what does not depend on the clock."""
    victim, said = case.victim, found.message.partition("\nwhen it ended:")[0]
    status, words = {
        "killed": ("failed", [f"rank {victim} was killed by SIGKILL"]),
        "stopped": ("failed", [f"rank {victim} was stopped (SIGSTOP)"]),
        "raised": ("failed", [f"rank {victim} failed", "ValueError: the victim's own words", "Traceback"]),
        "exited": ("failed", [f"rank {victim} ended by itself with exit code 0"]),
        "hung": ("deadlocked", [f"rank {victim} ", "nothing completed for ", "in go_wrong"]),
        "not a number": ("diverged", ["step ", "rank "]),
        "wrong shape": ("failed", ["rank "]),
    }[case.how]
    if case.how == "hung" and case.phase in STARTING:
        status, words = "failed", [f"rank {victim} is in its phase '{case.phase}'"]
    phases = {phase: f"phase '{phase}'" for phase in (*STARTING, "end")}
    named = phases.get(case.phase, {"forward": "comput", "backward": "comput", "apply": "comput"}.get(case.phase, " "))
    if not case.late and case.how not in ("not a number", "wrong shape"):
        words = [*words, named]
    problems = [f"{text!r} is not said" for text in words if text not in said]
    if found.status != status:
        problems.append(f"status {found.status}, not {status}")
    if found.seconds is None:
        problems.append("nothing went wrong")
    if found.left or found.files:
        problems.append(f"left behind: {found.left} {found.files}")
    return problems
