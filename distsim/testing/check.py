"""`check_strategy`: the checks one after another, and one error that says all that they found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import MISSING, fields, is_dataclass

from distsim import registry
from distsim.interface import BadInput, DistsimError, Problem, Strategy
from distsim.testing.checks import STAGES, Check, Finding, one_process, real
from distsim.testing.runs import WORKERS, WORKLOAD, Case


class CheckFailed(DistsimError, AssertionError):
    """A strategy does not pass; `findings` are what is wrong with it, a line each in the message."""

    def __init__(self, strategy: object, findings: Iterable[Finding]) -> None:
        self.findings = list(findings)
        count = f"{len(self.findings)} finding{'s' if len(self.findings) > 1 else ''}"
        super().__init__("\n".join([f"{strategy!r} does not pass, {count}:", *map(str, self.findings)]))


def check_strategy(
    strategy: Strategy | type[Strategy] | str,
    workers: int | None = None,
    *,
    updates: int = 8,
    equals_one_process: bool = False,
    real: bool = False,
) -> list[str]:
    """Hold a strategy to what every built-in one passes; the names of the checks that were made.

    `strategy` is an object, a class (with its defaults), or a name, an entry point's of the group `distsim.strategies` too.
    It runs on so many `workers` (if not said, on the first of 3, 4, 2, 6, 8, 1 that its `problems` lets pass), for
    `updates` gradients of each: take a period of 2 or 3, or more updates, so that everything it does is done. A strategy
    that promises the weights of one process is held to that by `equals_one_process`; `real` runs it on two real ranks as
    well (Linux).

    Raises `CheckFailed`, an AssertionError, with all findings, and `BadInput` if there is no such strategy or number.
    """
    allowed = "a whole number 1 or more"
    wrong = [Problem(key, n, allowed) for key, n in (("workers", workers), ("updates", updates)) if n is not None and n < 1]
    if wrong:
        raise BadInput(wrong)
    made = _made(strategy)
    case = Case(made, _workers(made, WORKERS if workers is None else (workers,)), updates)
    passed: list[str] = []
    for stage in (*STAGES, *((check,) for check in _asked_for(equals_one_process, real))):
        findings = [finding for check in stage for finding in check(case)]
        if findings:
            raise CheckFailed(made, findings)
        passed += [check.__name__ for check in stage]
    return passed


def _asked_for(equals_one_process: bool, really: bool) -> list[Check]:
    return [*([one_process] if equals_one_process else []), *([real] if really else [])]


def _made(strategy: Strategy | type[Strategy] | str) -> Strategy:
    """The object that is meant."""
    if isinstance(strategy, str):
        try:
            strategy = registry.load("strategy", strategy)
        except KeyError:
            allowed = "one of " + ", ".join(registry.names("strategy"))
            raise BadInput([Problem("strategy", strategy, allowed, "install the package that declares it")]) from None
        except ImportError as error:
            what = f"cannot be imported ({error})"
            raise BadInput([Problem("strategy", strategy, what, "install what it needs")]) from None
    if isinstance(strategy, type) and is_dataclass(strategy):
        needed = [f.name for f in fields(strategy) if f.init and f.default is MISSING and f.default_factory is MISSING]
        if needed:
            what = f"it cannot be made without {', '.join(needed)}"
            remedy = f"give every field a default, or check an object: {strategy.__name__}({needed[0]}=...)"
            raise CheckFailed(strategy.__name__, [Finding("form", strategy.__name__, what, remedy)])
    made = strategy() if isinstance(strategy, type) else strategy
    if not isinstance(made, Strategy):
        what, remedy = "it is no Strategy", "derive it from distsim.interface.Strategy"
        raise CheckFailed(made, [Finding("form", type(made).__name__, what, remedy)])
    return made


def _workers(strategy: Strategy, tried: Sequence[int]) -> int:
    """The first number of workers that the strategy runs on; any if it cannot say, which a check then finds."""
    said: list[Problem] = []
    for workers in tried:
        try:
            found = list(strategy.problems(workers, WORKLOAD.model()))
        except Exception:  # the check of problems() says which
            return workers
        if not found:
            return workers
        said = said or found
    what = f"it does not run on {', '.join(map(str, tried))} workers: {' | '.join(map(str, said))}"
    remedy = f"say workers=..., or settings that suit {len(WORKLOAD.model().blocks)} blocks and a batch of {WORKLOAD.batch}"
    raise CheckFailed(strategy, [Finding("problems", type(strategy).__name__, what, remedy)])
