"""Whether the tests notice mistakes: small ones are made, one at a time, and a few quick tests must fail for each.

    python tests/mutation/mutate.py [GROUP ...] [--sample 60] [--seed 0] [--json FILE]

A mutant is a module with one comparison, operator, constant, condition or statement changed. It is compiled in the memory
of a child that runs the group's tests until one fails: the tree is never written to, and children of children run it as it
is. A mutant is killed by a failure, or by using ten times the CPU that the tests need without it. What survives is printed:
a gap of the tests, or a mutant that can't be told from the original, which equivalent.toml beside this file lists with the
reason. Of the others at least 85 % should be killed.
"""

from __future__ import annotations

import argparse
import ast
import importlib.abc
import importlib.machinery
import json
import os
import resource
import sys
import tempfile
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
LISTING = Path(__file__).with_name("equivalent.toml")


@dataclass(frozen=True)
class Group:
    """What is changed, and by which tests that should be seen; of a file all functions unless some are named."""

    files: dict[str, tuple[str, ...]]
    tests: tuple[str, ...]


SERVERS = "tests/oracles/test_servers.py"
WEIGHTS = "tests/oracles/test_server_weights.py"
ELASTIC = "tests/oracles/test_elastic.py"
SIMULATED = "distsim/backends/simulated/"
GROUPS = {
    "sharing": Group(
        dict.fromkeys((f"{SIMULATED}{name}.py" for name in ("network", "sharing", "flows", "filling")), ()),
        (
            "tests/simulated/test_network.py",
            "tests/simulated/test_sharing.py",
            "tests/simulated/test_outages.py",
            "tests/simgrid/test_simgrid.py::test_recorded_scenarios_end_when_they_do_in_simgrid",
        ),
    ),
    "collectives": Group(
        dict.fromkeys(
            (f"{SIMULATED}{name}.py" for name in ("collectives", "calls", "rounds", "prices", "plans", "algorithms")), ()
        ),
        (
            "tests/simulated/test_algorithms.py",
            "tests/simulated/test_collectives.py",
            "tests/simulated/test_prices.py",
            "tests/oracles/test_collectives.py",
            "tests/simulated/test_deadlock.py",
            "tests/contract/test_collectives.py::test_results_of_all_kinds[modeled]",
            "tests/contract/test_collectives.py::test_results_of_all_kinds[cosimulated]",
        ),
    ),
    "staleness": Group(
        {
            "distsim/interface/rank.py": ("owe", "decide"),
            "distsim/results/summary.py": ("_staleness",),
            "distsim/strategies/parameter_server_program.py": (),
        },
        (
            "tests/strategies/test_server_problems.py",
            *(
                f"{ELASTIC}::test_{name}"
                for name in (
                    "asynchronous_updates_by_hand",
                    "nobody_waits_for_a_lost_worker",
                    "the_slowest_of_those_who_are_there_holds_the_others",
                    "who_is_lost_while_it_waits_gets_no_model",
                    "who_joins_again_has_given_as_many_as_the_slowest",
                    "who_joins_again_has_given_what_it_gave",
                    "a_server_waits_when_all_workers_are_lost",
                    "what_is_meant_for_a_former_life_is_not_taken",
                    "a_notice_of_a_former_life_leaves_the_next_one_its_own",
                    "sync_ps_cannot_go_on_without_a_worker",
                )
            ),
            f"{SERVERS}::test_staleness_of_steady_workers_in_a_row",
            f"{SERVERS}::test_averaging_takes_time",
            f"{SERVERS}::test_incast_is_shared_by_the_servers",
            f"{SERVERS}::test_a_server_keeps_its_shard_only",
            f"{WEIGHTS}::test_in_an_update_of_several_each_counts_by_its_own_staleness",
            f"{WEIGHTS}::test_k_async_of_steady_workers",
            f"{WEIGHTS}::test_bounded_staleness_weighs_a_gradient_by_the_number_of_workers",
            f"{WEIGHTS}::test_delay_compensation_of_steady_workers",
            "tests/results/test_summary.py",
            "tests/contract/test_errors.py::test_a_gradient_is_applied_or_discarded_once_and_nothing_else_is[modeled]",
            "tests/contract/test_errors.py::test_a_gradient_neither_applied_nor_discarded[modeled]",
            "tests/oracles/test_server_staleness.py",
            "tests/oracles/test_server_time.py::test_the_ends_of_each_scale_are_known_rules",
            "tests/oracles/test_server_time.py::test_bounded_staleness_bounds_clocks_and_what_is_read",
            f"{SERVERS}::test_servers_share_the_work_of_updates",
            f"{SERVERS}::test_updates_are_counted_once",
            f"{SERVERS}::test_staleness_counts_each_servers_own_versions",
            f"{SERVERS}::test_servers_that_each_wait_for_others_would_stop",
            f"{SERVERS}::test_a_server_goes_on_when_another_has_made_all_its_updates",
            f"{SERVERS}::test_who_has_left_a_server_that_still_waits_for_others_is_let_go",
            f"{SERVERS}::test_several_servers_end_and_conserve[strategy1-network0]",
            f"{WEIGHTS}::test_a_weight_is_a_factor_on_the_rate",
            f"{SERVERS}::test_sharded_updates_are_those_of_one_server",
            f"{SERVERS}::test_servers_do_together_what_one_does_alone[strategy3-2]",
            "tests/oracles/test_compression.py::test_a_server_conserves_the_sum[top_k-1]",
            "tests/oracles/test_compression.py::test_top_k_at_a_server_is_the_reference",
            f"{ELASTIC}::test_whoever_is_lost_when_all_updates_are_made_and_nothing_is_counted_twice",
        ),
    ),
}
SLACK = 10.0
MEMORY = 6 << 30


# ---- mutants


@dataclass(frozen=True)
class Mutant:
    """One change of one file."""

    file: str
    text: str
    functions: Sequence[str]
    number: int
    """Among all of its file."""
    line: int
    function: str
    change: str
    """Before and after; with a number from the second of a function's changes on that read alike."""

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is listed by."""
        return self.file, self.function, self.change

    @property
    def module(self) -> str:
        return self.file.removesuffix(".py").replace("/", ".")

    def tree(self) -> ast.Module:
        """The module, changed."""
        tree = ast.parse(self.text)
        next(islice(_walk(tree, self.functions), self.number, None))
        return ast.fix_missing_locations(tree)

    def __str__(self) -> str:
        return f"{self.file}:{self.line} in {self.function}: {self.change}"


COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitAnd,
}
SWAPPED = {"min": "max", "max": "min", "all": "any", "any": "all"}


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """What a node may become."""
    if isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            for other in COMPARISONS[type(op)]:
                made = deepcopy(node)
                made.ops[i] = other()
                yield made
    elif isinstance(node, (ast.BinOp, ast.AugAssign)) and type(node.op) in OPERATORS:
        made_op = deepcopy(node)
        made_op.op = OPERATORS[type(node.op)]()
        yield made_op
    elif isinstance(node, ast.BoolOp):
        made_bool = deepcopy(node)
        made_bool.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        yield made_bool
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub)):
        yield node.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        yield ast.Constant(node.value + 1 if isinstance(node.value, int) else 2.0 * node.value + 1.0)
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in SWAPPED:
        yield ast.Name(SWAPPED[node.id], ast.Load())
    elif isinstance(node, ast.Break):
        yield ast.Continue()
    is_call = isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)
    if is_call or isinstance(node, (ast.Assign, ast.AugAssign, ast.Delete, ast.Continue)):
        yield ast.Pass()


SKIPPED = (ast.Assert, ast.Raise, ast.JoinedStr, ast.Import, ast.ImportFrom)
"""Guards against our own mistakes (with zip's `strict`), and what only says something."""


def mutants(file: str, functions: Sequence[str]) -> list[Mutant]:
    """All mutants of a file: of functions only, and of these only the named ones if any are."""
    text = (ROOT / file).read_text()
    found: list[Mutant] = []
    seen = Counter[tuple[str, str]]()
    for number, (line, function, before, after) in enumerate(_walk(ast.parse(text), functions)):
        change = f"{before}  ->  {after}"
        seen[function, change] += 1
        again = f"  #{seen[function, change]}" if seen[function, change] > 1 else ""
        found.append(Mutant(file, text, functions, number, line, function, change + again))
    return found


def _walk(tree: ast.Module, functions: Sequence[str]) -> Iterator[tuple[int, str, str, str]]:
    """Change the tree in every way, one at a time: line, function, before and after while it is changed."""

    def visit(node: ast.AST, function: str) -> Iterator[tuple[int, str, str, str]]:
        for name, value in ast.iter_fields(node):
            if name in ("annotation", "returns", "args", "decorator_list", "bases") and not isinstance(node, ast.Call):
                continue
            for index, child in enumerate(value if isinstance(value, list) else [value]):
                if not isinstance(child, ast.AST) or isinstance(child, SKIPPED) or getattr(child, "arg", "") == "strict":
                    continue
                inner = function
                if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                    inner = function or child.name
                elif function and (not functions or function in functions):
                    for changed in changes(child):
                        line = getattr(child, "lineno", getattr(node, "lineno", 0))
                        before = _line(child if isinstance(child, ast.stmt) else node)
                        put = partial(_put, node, name, index if isinstance(value, list) else None)
                        put(ast.copy_location(changed, child))
                        yield line, function, before, _line(changed if isinstance(child, ast.stmt) else node)
                        put(child)
                yield from visit(child, inner)

    return visit(tree, "")


def _put(parent: ast.AST, name: str, index: int | None, what: ast.AST) -> None:
    if index is None:
        setattr(parent, name, what)
    else:
        getattr(parent, name)[index] = what


def _line(node: ast.AST) -> str:
    text = ast.unparse(node).strip().splitlines()[0]
    return text if len(text) < 100 else text[:97] + "..."


def of_group(name: str) -> list[Mutant]:
    """All mutants of a group."""
    return [mutant for file, functions in GROUPS[name].files.items() for mutant in mutants(file, functions)]


def listed() -> set[tuple[str, str, str]]:
    """The keys of mutants that are equivalent. Raises `ValueError` for an entry that is no mutant, or is there twice."""
    entries = tomllib.loads(LISTING.read_text())["equivalent"]
    keys = [(entry["file"], entry["function"], change) for entry in entries for change in entry["changes"]]
    if wrong := Counter(keys) - Counter(mutant.key for name in GROUPS for mutant in of_group(name)):
        raise ValueError(f"{LISTING.name}: no mutants, or listed twice: {list(wrong)}")
    return set(keys)


# ---- running one


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives a mutant where its module is asked for."""

    def __init__(self, mutant: Mutant) -> None:
        self._mutant = mutant

    def find_spec(self, name: str, path: Any, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name != self._mutant.module:
            return None
        return importlib.machinery.ModuleSpec(name, self, origin=str(ROOT / self._mutant.file))

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        module.__file__ = str(ROOT / self._mutant.file)
        exec(compile(self._mutant.tree(), module.__file__, "exec"), module.__dict__)


def run(tests: Sequence[str], mutant: Mutant | None, cpu_seconds: float) -> tuple[int, float]:
    """How the tests ended in a child (0: all passed), and its CPU seconds."""
    child = os.fork()
    if not child:
        status = 70
        try:
            status = _tests(tests, mutant, cpu_seconds)
        finally:
            os._exit(status)
    deadline = time.monotonic() + 20.0 * cpu_seconds  # for what hangs without using the CPU
    while True:
        ended, how, usage = os.wait4(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(how), usage.ru_utime + usage.ru_stime
        if time.monotonic() > deadline:
            os.kill(child, 9)
            deadline += 60.0
        time.sleep(0.05)


def _tests(tests: Sequence[str], mutant: Mutant | None, cpu_seconds: float) -> int:
    import pytest

    limit = round(cpu_seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    sys.path.insert(0, str(ROOT))
    if mutant is not None:
        sys.meta_path.insert(0, _Finder(mutant))
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        words = ["-x", "-q", "-m", "not slow", "-p", "no:cacheprovider", "--basetemp", f"{folder}/pytest"]
        return int(pytest.main([*words, *tests], plugins=[_OneExample()]))


class _OneExample:
    """Of what fails one example is enough; shrinking it would cost minutes."""

    def pytest_configure(self) -> None:
        from hypothesis import Phase, settings

        settings.register_profile("mutation", database=None, derandomize=True, phases=[Phase.explicit, Phase.generate])
        settings.load_profile("mutation")


def preload() -> None:
    """What all tests import, so that children need not; nothing of the package itself."""
    os.environ["OMP_NUM_THREADS"] = "1"  # more would wait for each other at full speed
    import numpy  # noqa: F401
    import pytest  # noqa: F401
    import simpy  # noqa: F401
    import torch  # noqa: F401

    assert not any(name.split(".")[0] == "distsim" for name in sys.modules)


# ---- all of them


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant."""

    mutant: str
    is_killed: bool
    is_equivalent: bool
    """As listed."""
    how: int
    cpu_seconds: float


def judge(name: str, sample: int, seed: int, say: Callable[[str], None]) -> list[Verdict]:
    """Run a sample of a group's mutants. Raises `RuntimeError` if the tests fail without any."""
    group, every, equivalent = GROUPS[name], of_group(name), listed()
    chosen = every if sample >= len(every) else Random(f"{name} {seed}").sample(every, sample)
    how, cpu = run(group.tests, None, 3600.0)
    if how:
        raise RuntimeError(f"{name}: the tests fail as it is")
    say(f"{name}: {len(chosen)} of {len(every)} mutants; the tests take {cpu:.1f} s of CPU")
    verdicts = []
    for mutant in chosen:
        how, cpu_used = run(group.tests, mutant, SLACK * cpu + 5.0)
        if how not in (0, 1, 2, 3, -9, -24):  # passed; failed, or did not even import; out of time
            raise RuntimeError(f"{mutant}: the child ended with {how}")
        verdict = Verdict(str(mutant), how != 0, mutant.key in equivalent, how, cpu_used)
        verdicts.append(verdict)
        if verdict.is_killed and verdict.is_equivalent:
            say(f"killed, so not equivalent as listed: {mutant}")
        elif not verdict.is_killed:
            say(f"{'equivalent' if verdict.is_equivalent else 'survived'}: {mutant}")
    say(f"{name}: {score(verdicts)}")
    return verdicts


def score(verdicts: Sequence[Verdict]) -> str:
    """How many are killed: of those that are not equivalent, and of all."""
    killed = sum(verdict.is_killed for verdict in verdicts)
    equal = sum(verdict.is_equivalent and not verdict.is_killed for verdict in verdicts)
    of = max(1, len(verdicts) - equal)
    raw = f"raw {killed} of {len(verdicts)}, {killed / len(verdicts):.1%}"
    return f"killed {killed} of {of}, {killed / of:.1%} ({equal} equivalent left out); {raw}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=", ".join(GROUPS))
    parser.add_argument("--sample", type=int, default=60, help="mutants a group")
    parser.add_argument("--seed", type=int, default=0, help="of the sample")
    parser.add_argument("--json", type=Path, help="where to write all verdicts")
    given = parser.parse_args()
    if unknown := set(given.groups) - set(GROUPS):
        parser.error(f"no group {', '.join(sorted(unknown))}; there are {', '.join(GROUPS)}")
    preload()
    verdicts = {
        name: judge(name, given.sample, given.seed, lambda text: print(text, flush=True)) for name in given.groups or GROUPS
    }
    if given.json:
        given.json.write_text(
            json.dumps({name: [asdict(verdict) for verdict in each] for name, each in verdicts.items()}, indent=1)
        )


if __name__ == "__main__":
    main()
