"""What a strategy is held to: a function a check, whose docstring says what it asks for; each finding says what to do.

Checks of one stage are made together, and those of the next only if nothing was found: a strategy that does not end has no
records to compare. Tolerances are those by which the built-in strategies are held to plain torch.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args

from distsim import catalogue
from distsim.interface import BadInput, Block, Budget, Model, OnLoss, Problem, Strategy
from distsim.results.conservation import NotConserved, check_conservation
from distsim.testing import runs
from distsim.testing.runs import LEAST, STRAGGLERS, UNEVEN, WORKLOAD, Case

TOLERANCE = 1e-12
"""Of weights in float64, relative to how far training moved them."""
ONE_BLOCK = Model((Block(0, "block", 1, 1, 1, 1.0, 0.0, 1.0),), batch=1, input=1)
ASKED = (*range(1, 10), 16, 17)
"""Numbers of workers that `problems` is asked about."""
TRIED = range(1, 7)
"""Numbers of workers that it must run on, if `problems` has nothing against them."""
KEYS = ("strategy", "cluster", "workload", "budget", "backend", "straggler", "optimizer", "failure")


@dataclass(frozen=True)
class Finding:
    """One thing wrong with a strategy: the check that found it, where, what it is, and what to do."""

    check: str
    where: str
    what: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.check}, {self.where}: {self.what}; {self.remedy}"


Check = Callable[[Case], Iterator[Finding]]


# ---- what it is


def form(case: Case) -> Iterator[Finding]:
    """It is a frozen dataclass, equal to its copy: its fields are its configuration, and no run leaves traces in it."""
    cls = type(case.strategy)
    parameters = vars(cls).get("__dataclass_params__")
    if parameters is None or not parameters.frozen:
        what = "its fields can be overwritten" if parameters else "it is no dataclass"
        yield Finding("form", cls.__name__, what, "decorate it with @dataclass(frozen=True)")
    else:
        names = [field.name for field in fields(cls) if field.init]  # type: ignore[arg-type]
        given = {name: getattr(case.strategy, name) for name in names}
        if cls(**given) != case.strategy:
            what = "a copy made of its fields is not equal to it"
            yield Finding("form", cls.__name__, what, "keep what changes in variables of run()")


def docstring(case: Case) -> Iterator[Finding]:
    """Its docstring begins with the rule, one sentence: `distsim list strategies` and `distsim explain` show it. What more
    there is to say, and in which form, stands in distsim/catalogue.py."""
    cls = type(case.strategy)
    rule = catalogue.describe(cls.__name__, cls).rule
    if not rule.endswith("."):
        what = f"its docstring begins with {rule!r}" if rule else "it has no docstring"
        yield Finding("docstring", cls.__name__, what, "begin it with one sentence that says the rule, with a full stop")


def portable(case: Case) -> Iterator[Finding]:
    """It can be pickled and comes back equal: the ranks of a real run are other processes."""
    name = type(case.strategy).__name__
    try:
        back = pickle.loads(pickle.dumps(case.strategy))
    except Exception as error:  # whatever its fields raise
        remedy = "define it at the top level of a module, with plain fields"
        yield Finding("portable", name, f"it cannot be pickled ({error})", remedy)
        return
    if back != case.strategy:
        yield Finding("portable", name, "it comes back from a pickle as another one", "give it fields that compare")


def problems(case: Case) -> Iterator[Finding]:
    """Asked of any number of workers and any model, it says what is wrong as `Problem`s and raises nothing; where nothing
    is wrong, it answers all that may be asked of it."""
    seen = set()
    for model, of in ((WORKLOAD.model(), "6 blocks"), (ONE_BLOCK, "1 block and batch 1")):
        for workers in ASKED:
            for asked, what, remedy in _answers(case.strategy, workers, model):
                if (asked, remedy) not in seen:
                    seen.add((asked, remedy))
                    yield Finding("problems", f"{_count(workers)}, a model of {of}", f"{asked} {what}", remedy)


def _answers(strategy: Strategy, workers: int, model: Model) -> Iterator[tuple[str, str, str]]:
    """What is asked, what is wrong with the answer, and what to do."""
    wrong: list[tuple[str, str, str]] = []

    def ask(name: str, *arguments: Any) -> Any:
        try:
            found = getattr(strategy, name)(*arguments)
            return list(found) if name in ("problems", "warnings") else found
        except Exception as error:
            wrong.append((f"{name}()", f"raised {type(error).__name__}: {error}", "let problems() yield a Problem instead"))
            return None

    found = ask("problems", workers, model)
    if found is not None:
        for problem in found:
            if not isinstance(problem, Problem):
                wrong.append(("problems()", f"gave {problem!r}", "yield Problem(key, value, allowed, suggestion)"))
            elif problem.key.partition(".")[0] not in KEYS:
                remedy = "name a key that a user can set, like strategy.k"
                wrong.append(("problems()", f"named the key {problem.key!r}", remedy))
    if found == []:
        for name, least, most in (
            ("server_count", 0, None),
            ("gradients_an_update", 1, None),
            ("alike_every", 1, workers),
        ):
            count = ask(name, workers)
            if count is not None and (not isinstance(count, int) or count < least or (most and count > most)):
                allowed = f"from {least} to {most}" if most else f"of {least} or more"
                wrong.append((f"{name}()", f"gave {count!r}", f"give a whole number {allowed}, or refuse it in problems()"))
        said = ask("warnings", workers, model)
        if said is not None and not all(isinstance(line, str) for line in said):
            wrong.append(("warnings()", f"gave {said!r}", "yield a text a line"))
        ways = ask("on_loss", workers)
        if ways is not None and (not ways or not set(ways) <= set(get_args(OnLoss))):
            wrong.append(("on_loss()", f"gave {ways!r}", f"give a tuple of {', '.join(get_args(OnLoss))}, the usual first"))
    yield from wrong


# ---- that it runs


def ends(case: Case) -> Iterator[Finding]:
    """A modeled run is done on both networks with uneven workers, and on any few workers that `problems` lets pass."""
    bad = {_place(case, network): run for network, run in case.modeled.items() if run.status != "done"}
    for workers in TRIED if not bad else ():
        if not list(case.strategy.problems(workers, WORKLOAD.model())):
            outcome = replace(case, workers=workers, rounds=2).run(False)
            if outcome.status != "done":
                bad[f"{_count(workers)}, switch"] = outcome
    first = {re.sub(r"\d+", "", outcome.message): where for where, outcome in reversed(bad.items())}
    for where in reversed(first.values()):
        remedy = "mend that, or let problems() refuse so many workers"
        yield Finding("ends", where, f"the run {_ended(bad[where])}", remedy)


# ---- what it leaves


def budget(case: Case) -> Iterator[Finding]:
    """It ends with its budget: after as many updates as the budget has updates or samples, and before it would have ended
    otherwise with half the seconds."""
    updates, per = case.updates, case.strategy.gradients_an_update(case.workers) * WORKLOAD.batch
    remedy = "iterate worker.steps(), on the servers if there are some, and let gradients_an_update() say what one takes"
    for limit, words in ((updates, "updates"), (updates * per + per - 1, "samples")):
        made = _updates(case.run(False, budget=Budget(**{words: limit})))
        if made != updates:
            what = f"made {made} updates of the {updates} that they allow"
            yield Finding("budget", f"{limit} {words}", what, remedy)
            return
    updates = max(updates, LEAST)
    whole = case.run(False, budget=Budget(updates=updates))
    half = case.run(False, budget=Budget(seconds=whole.seconds / 2))
    if half.status != "done" or not 1 <= _updates(half) < updates:
        what = f"{_ended(half)} after {_updates(half)} updates, of {updates} in twice the time"
        yield Finding("budget", f"{whole.seconds / 2:.3g} seconds", what, remedy)


def repeats(case: Case) -> Iterator[Finding]:
    """The same run gives the same records: what is random is drawn from the worker, and nothing is kept between runs."""
    for network, first in (*case.modeled.items(), ("switch", case.cosimulated["switch"])):
        mode = "cosimulated" if first is case.cosimulated["switch"] else "modeled"
        again = case.run(mode == "cosimulated", network, UNEVEN)
        if found := runs.difference(first, again, ("first", "then"), has_losses=True):
            remedy = "draw from worker.random, and keep what changes in variables of run()"
            yield Finding("repeats", f"{_place(case, network)}, {mode} twice", found, remedy)


def conservation(case: Case) -> Iterator[Finding]:
    """What goes in comes out: every message and gradient has two ends, and times are in order
    (distsim/results/conservation.py)."""
    for network, outcome in case.modeled.items():
        try:
            check_conservation(outcome.traces)
        except NotConserved as error:
            remedy = "apply (apply(of=...)) or discard every gradient that arrives, on the rank that it arrives at"
            yield Finding("conservation", _place(case, network), " | ".join(str(error).splitlines()), remedy)


def modes(case: Case) -> Iterator[Finding]:
    """Modeled time is cosimulated time to the last bit, and so is every record: a strategy does not see values."""
    for network, modeled in case.modeled.items():
        cosimulated = case.cosimulated[network]
        if cosimulated.status != "done":
            remedy = "what is sent, added or loaded must be a payload of the worker in every mode"
            yield Finding("modes", f"{_place(case, network)}, cosimulated", f"the run {_ended(cosimulated)}", remedy)
        elif found := runs.difference(modeled, cosimulated, ("modeled", "cosimulated")):
            remedy = "branch on counts, versions and arrivals, never on a payload's value or kind"
            yield Finding("modes", _place(case, network), found, remedy)


def alike(case: Case) -> Iterator[Finding]:
    """If `alike_every` says that workers do alike, a run that simulates one of those has the times of the whole run."""
    for workers in (16, 12, 8, 24, 6, 4):
        if list(case.strategy.problems(workers, WORKLOAD.model())) or case.strategy.alike_every(workers) == workers:
            continue
        more = replace(case, workers=workers)
        job = more.job(False)
        whole, folded = more.simulate(job, 0), more.simulate(job, 1)
        if whole.status != "done":
            yield Finding(
                "alike", f"{workers} workers", f"the run {_ended(whole)}", "let problems() refuse so many workers"
            )
            return
        for trace in whole.traces:
            if runs.times(folded.traces[trace.rank % len(folded.traces)]) != runs.times(trace):
                where = f"{workers} workers, alike every {case.strategy.alike_every(workers)}"
                what = f"rank {trace.rank} has other times if rank {trace.rank % len(folded.traces)} stands for it"
                remedy = "let alike_every() say which workers run the same program, or leave it out"
                yield Finding("alike", where, what, remedy)
                return
        return


def published(case: Case) -> Iterator[Finding]:
    """What is published covers the model after the last update, so that there is a curve of its loss."""
    for network, outcome in case.cosimulated.items():
        last = max((snapshot.number for snapshot in outcome.snapshots), default=0)
        if last != case.updates or runs.weights(outcome) is None:
            what = "some blocks of the model were not published" if last == case.updates else "the model was not published"
            remedy = "call worker.publish() last in an update, on the ranks that hold the model"
            yield Finding("published", _place(case, network), f"{what} after update {case.updates}", remedy)


def losses(case: Case) -> Iterator[Finding]:
    """It loses a worker as `on_loss` says it can: the run is done, with the same records whenever it is run, modeled and
    cosimulated alike, and leaves a model of numbers if it does so otherwise."""
    whole = runs.weights(case.cosimulated["switch"])
    for way in case.strategy.on_loss(case.workers):
        if way == "abort" or (way == "continue" and case.workers == 1):
            continue
        where = f"{_place(case, 'switch')}, a worker lost, on_loss={way}"
        remedy = f"let on_loss() leave {way} out, or keep nothing in variables of run() that the others need"
        cosimulated, modeled, again = case.lossy(True, way), case.lossy(False, way), case.lossy(False, way)
        left = runs.weights(cosimulated)
        if cosimulated.status != "done":
            yield Finding("losses", where, f"the run {_ended(cosimulated)}", remedy)
        elif whole and runs.is_finite(whole) and not (left and runs.is_finite(left)):
            what = "the model has parameters that are no numbers" if left else "no whole model was published"
            yield Finding("losses", where, what, remedy)
        elif found := runs.difference(modeled, again, ("first", "then")):
            yield Finding("losses", where, found, "draw from worker.random, and keep what changes in variables of run()")
        elif found := runs.difference(modeled, cosimulated, ("modeled", "cosimulated")):
            remedy = "branch on counts, versions and arrivals, never on a payload's value or kind"
            yield Finding("losses", where, found, remedy)


# ---- its weights


def one_process(case: Case) -> Iterator[Finding]:
    """Its weights are those of one process that trains on the samples of all workers."""
    expected = runs.one_process(case.workers, case.updates)
    for network, outcome in case.cosimulated.items():
        if found := _apart(outcome, expected, "one process"):
            remedy = "a step's gradients must be of the same weights, be averaged once and applied once"
            yield Finding("one_process", f"{_place(case, network)}, {case.updates} updates", found, remedy)


def real(case: Case) -> Iterator[Finding]:
    """On real ranks (2 if it can) it ends and conserves, and has the weights of the cosimulated run, unless these depend on
    who is slow: then two runs differ anyway."""
    from distsim.backends.real import RealOptions, launch

    if not list(case.strategy.problems(2, WORKLOAD.model())):
        case = replace(case, workers=2)
    even, *others = (runs.weights(case.run(True, straggler=straggler)) for straggler in STRAGGLERS)
    is_fixed = even and all(other and runs.distance(other, even)[0] <= TOLERANCE for other in others)
    where = f"{case.workers} real workers"
    try:
        with TemporaryDirectory() as folder:
            outcome = launch(case.job(True), RealOptions(device="cpu"), Path(folder))
        if outcome.status == "done":
            check_conservation(outcome.traces)
    except (BadInput, NotConserved) as error:
        remedy = "distsim/interface/worker.py has the rules of all modes"
        yield Finding("real", where, " | ".join(str(error).splitlines()), remedy)
        return
    if outcome.status != "done":
        remedy = "what a rank needs of another has to be sent; distsim/interface/worker.py has the rules of all modes"
        yield Finding("real", where, f"the run {_ended(outcome)}", remedy)
    elif even and is_fixed and (found := _apart(outcome, even, "cosimulation")):
        yield Finding("real", where, found, "use nothing but the worker: no files, no globals, no clock of your own")


def _apart(outcome: Any, expected: dict[int, Any], of: str) -> str:
    """How far the published weights are from others, if they are too far."""
    found = runs.weights(outcome)
    if found is None:
        return f"no whole model was published to compare with that of {of}"
    largest, block = runs.distance(found, expected)
    said = f"the weights of block {block} are {largest:.2g} of their way from those of {of}, more than {TOLERANCE:g}"
    return "" if largest <= TOLERANCE else said


def _updates(outcome: Any) -> int:
    return max((update.number for trace in outcome.traces for update in trace.updates), default=0)


def _ended(outcome: Any) -> str:
    return "was done" if outcome.status == "done" else f"{outcome.status}: {outcome.message.partition(chr(10))[0]}"


def _count(workers: int) -> str:
    return f"{workers} worker{'s' if workers > 1 else ''}"


def _place(case: Case, network: str) -> str:
    return f"{case.workers} uneven workers, {network}"


STAGES: tuple[tuple[Check, ...], ...] = (
    (form, docstring, portable, problems),
    (ends,),
    (budget, repeats, conservation, modes, alike),
    (published, losses),
)
"""The checks of every strategy. `one_process` and `real` come after them, where they are asked for."""
