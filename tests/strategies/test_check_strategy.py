"""`distsim.testing.check_strategy`: every built-in strategy passes, and each check finds what breaks its rule."""

from __future__ import annotations

import re

import pytest
from contract.runs import STRATEGIES

from distsim import registry
from distsim.interface import BadInput, Strategy
from distsim.strategies.parameter_server import KSync
from distsim.testing import CheckFailed, check_strategy

from . import broken

EVERY = [
    "form",
    "docstring",
    "portable",
    "problems",
    "ends",
    "budget",
    "repeats",
    "conservation",
    "modes",
    "alike",
    "published",
    "losses",
]
CHOSEN = {
    name: next(s for key, s in STRATEGIES.items() if key.split()[0] == name) for name in registry.BUILT_IN["strategy"]
}
"""By name, with short periods."""
WEIGHTS_OF_ONE_PROCESS = {
    "all_reduce", "gpipe", "hsdp", "hybrid", "interleaved", "model_parallel", "one_f_one_b", "sync_ps", "tensor_parallel",
    "zero", "zero_bubble",
}  # fmt: skip


@pytest.mark.parametrize("name", registry.BUILT_IN["strategy"])
def test_every_built_in_strategy_passes(name: str) -> None:
    equal = name in WEIGHTS_OF_ONE_PROCESS
    assert check_strategy(CHOSEN[name], updates=6, equals_one_process=equal) == EVERY + ["one_process"] * equal


@pytest.mark.slow
@pytest.mark.parametrize("name", registry.BUILT_IN["strategy"])
def test_every_built_in_strategy_passes_with_its_defaults_and_on_real_ranks(name: str) -> None:
    assert check_strategy(name, real=True) == [*EVERY, "real"]


@pytest.mark.slow
@pytest.mark.parametrize("name", STRATEGIES)
def test_so_do_other_settings(name: str) -> None:
    assert check_strategy(STRATEGIES[name]) == EVERY


def test_what_breaks_no_rule_passes_all() -> None:
    assert check_strategy(broken.Good(), equals_one_process=True, real=True) == [*EVERY, "one_process", "real"]


FINDINGS = {
    "NoDataclass": r"form, NoDataclass: it is no dataclass; decorate it with @dataclass\(frozen=True\)",
    "Thawed": r"form, Thawed: its fields can be overwritten; decorate it with @dataclass\(frozen=True\)",
    "Unequal": "form, Unequal: a copy made of its fields is not equal to it; keep what changes in variables of run",
    "NeedsK": r"form, NeedsK: it cannot be made without k; give every field a default, or check an object: NeedsK\(k=...\)",
    "Undocumented": "docstring, Undocumented: it has no docstring; begin it with one sentence that says the rule",
    "NoFullStop": "docstring, NoFullStop: its docstring begins with 'nothing much'; .* with a full stop",
    "HoldsFunction": "portable, HoldsFunction: it cannot be pickled .*; define it at the top level of a module",
    "Divides": r"problems, 1 worker, a model of 6 blocks: problems\(\) raised ZeroDivisionError: .*; let",
    "Complains": r"problems, 9 workers, a model of 6 blocks: problems\(\) gave 'too many'; yield Problem\(key, value, ",
    "NamesAttribute": r"problems, 9 workers, .*: problems\(\) named the key 'workers'; name a key that a user can set",
    "RefusesAll": "problems, RefusesAll: it does not run on 3, 4, 2, 6, 8, 1 workers: cluster.workers=3: at least 100; say",
    "NoGradients": r"problems, 1 worker, .*: gradients_an_update\(\) gave 0; give a whole number of 1 or more, or",
    "OddDeadlock": "ends, 3 uneven workers, switch: the run deadlocked: deadlock: .*; cycle: 0 -> 2 -> 0; mend that",
    "Endless": r"ends, .*: the run failed: after [\d,]+ operations on values it still goes on: let `for step in",
    "LooksAtValues": r"ends, .* no value: branch on counts, versions and arrivals instead \(rank 1, broken.py:\d+\)",
    "UsesTorch": r"ends, .* no tensor and knows no sign: the arithmetic of all modes is \+ - \* / \*\* abs\(\), and",
    "AsksForNorm": "ends, .* no tensor and knows no norm: the arithmetic of all modes is",
    "ForgetsAwait": r"ends, .*: gradient \(broken.py:\d+\) has no nbytes: it is an operation under way, `await` gives its",
    "NoCoroutine": "ends, .*: the run failed: NoCoroutine.run must be `async def` and yield nothing; .* it gave a NoneType",
    "LosesGradients": "ends, .*: rank 0 neither applied nor discarded the gradients of version 0 from rank 2",
    "CountsItself": r"budget, 8 updates: made 0 updates of the 8 that they allow; iterate worker.steps\(\)",
    "Remembers": "repeats, 3 uneven workers, switch, modeled twice: .*; draw from worker.random, and keep",
    "DrawsItself": "repeats, 3 uneven workers, switch, cosimulated twice: rank 0, loss .: first Loss.*, then Loss.*; draw",
    "WritesRecords": "conservation, .*: rank 0 sent 8 gradients; 0 were applied or discarded .*; apply .* or discard",
    "AsksForTensors": "modes, 3 uneven workers, switch: rank 0, computing 2: modeled Compute.*, cosimulated Compute",
    "SendsNumbers": "modes, .*, cosimulated: the run failed: load of blocks .*; what is sent, added or loaded must be",
    "FirstWorksMore": "alike, 16 workers, alike every 1: rank 1 has other times if rank 0 stands for it; let alike_every",
    "Silent": r"published, .*: the model was not published after update 8; call worker.publish\(\) last in an update",
    "HalfPublished": "published, .*: some blocks of the model were not published after update 8; call",
    "FixedPartners": r"losses, .*, a worker lost, on_loss=continue: the run failed: .*; let on_loss\(\) leave continue out",
    "ForgetsItsModel": "losses, .*, on_loss=restart: the model has parameters that are no numbers; let on_loss",
    "CountsRestarts": "losses, .*, on_loss=restart: rank ., computing .*: first .*, then .*; draw from worker.random",
    "Sums": "one_process, .*, 8 updates: the weights of block . are .* of their way from those of one process, more",
    "LeavesNothing": "one_process, .*, 8 updates: the weights of block . are inf of their way from those of one process",
    "SharesMemory": "real, 2 real workers: the run failed: rank . failed .*: the others are not here; what a rank needs of",
    "KnowsItsProcess": "real, 2 real workers: the weights of block . are 2 of their way from those of cosimulation",
}
"""By class, what is found first."""
FOUND = {name: cls for name, cls in vars(broken).items() if isinstance(cls, type) and issubclass(cls, broken.Good)}


@pytest.mark.parametrize("name", FINDINGS)
def test_each_check_finds_what_breaks_its_rule(name: str) -> None:
    with pytest.raises(CheckFailed) as raised:
        check_strategy(
            getattr(broken, name),
            equals_one_process=name in ("Sums", "LeavesNothing"),
            real=name in ("SharesMemory", "KnowsItsProcess"),
        )
    title, first, *others = str(raised.value).splitlines()
    assert re.match(FINDINGS[name], first)
    assert re.fullmatch(rf"\W?{name}.* does not pass, {1 + len(others)} findings?:", title)
    assert len(raised.value.findings) == 1 + len(others)


def test_every_check_has_a_strategy_that_breaks_it() -> None:
    assert {said.partition(",")[0] for said in FINDINGS.values()} == {*EVERY, "one_process", "real"}
    assert FOUND.keys() - FINDINGS.keys() == {"Good"}


def test_a_class_that_is_defined_in_a_function_cannot_travel() -> None:
    class Here(broken.Good):
        """Not at the top level."""

    with pytest.raises(
        AssertionError, match=r"form, Here: .*\nportable, Here: it cannot be pickled .*; define it at the top"
    ):
        check_strategy(Here)


def test_what_cannot_be_run() -> None:
    with pytest.raises(CheckFailed, match=r"form, int: it is no Strategy; derive it from distsim.interface.Strategy"):
        check_strategy(3)  # type: ignore[arg-type]
    with pytest.raises(CheckFailed, match=r"it does not run on 2 workers: strategy.k=3: must be 1 to 2"):
        check_strategy(KSync(3), workers=2)
    with pytest.raises(BadInput, match=r"strategy='nowhere': one of all_reduce, .*; install the package that declares it"):
        check_strategy("nowhere")


@pytest.mark.parametrize("strategy", [STRATEGIES["async_ps"], STRATEGIES["k_sync"]], ids=["async_ps", "k_sync"])
def test_what_promises_no_weights_is_not_held_to_any(strategy: Strategy) -> None:
    with pytest.raises(
        CheckFailed, match="a step's gradients must be of the same weights, be averaged once and applied once"
    ):
        check_strategy(strategy, equals_one_process=True)
