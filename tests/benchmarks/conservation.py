"""What it costs that every run is checked for conservation: `python tests/benchmarks/conservation.py [--rounds 15]`.

Whole runs, from a prepared configuration to the stored folder, in one process and in turns: as it is; as it is once more,
for what differs between equal things; with the check of the records left out; and with all of it left out, the simulator's
own accounting of bytes (each statement that keeps or reads it) and the debts of gradients too. What counts is CPU time. A
share is that part of a run's cost which is gone without it; given are medians over rounds, with the distribution-free 95 %
interval. On a busy machine these are wide. So the check itself is also timed inside the runs, and the accounting of the
simulator is told by short simulations, many of each kind, of which the fastest counts: it is disturbed least.
"""

from __future__ import annotations

import argparse
import ast
import gc
import inspect
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from math import comb
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from distsim import api, execution
from distsim.backends.simulated import flows, hosts, network, sharing, simulate
from distsim.interface import rank

RUNS: dict[str, dict[str, Any]] = {
    "sync_ps, 256 workers": {
        "strategy": "sync_ps",
        "cluster": "ethernet_10",
        "cluster.workers": 256,
        "straggler": "lognormal",
        "budget.updates": 8,
    },
    "all_reduce, 256 workers": {
        "strategy": "all_reduce",
        "cluster": "ethernet_10",
        "cluster.workers": 256,
        "straggler": "lognormal",
        "budget.updates": 12,
    },
    "one_f_one_b, 8 stages of 32 micro-batches": {
        "strategy": "one_f_one_b",
        "strategy.microbatches": 32,
        "workload.batch": 32,
        "cluster": "ethernet_10",
        "cluster.workers": 8,
        "straggler": "lognormal",
        "budget.updates": 15,
    },
    "async_ps, 32 workers": {
        "strategy": "async_ps",
        "cluster": "ethernet_10",
        "cluster.workers": 32,
        "straggler": "exponential",
        "budget.updates": 1200,
    },
}
ACCOUNTING: dict[tuple[ModuleType, str], tuple[str, ...]] = {
    (network, "Network"): ("start", "_arrive", "_ring"),
    (flows, "Group"): ("advance",),
    (sharing, "Sharing"): ("_end",),
}
KEPT = {"_accepted", "_waiting", "_ended", "moved"}
"""Attributes that only the accounting reads."""


class _Without(ast.NodeTransformer):
    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        is_kept = isinstance(node.target, ast.Attribute) and node.target.attr in KEPT
        return ast.copy_location(ast.Pass(), node) if is_kept else node


def without_accounting(module: ModuleType, name: str, methods: Sequence[str]) -> dict[str, Callable[..., Any]]:
    """Methods of a class without the statements that add to what is kept."""
    tree = _Without().visit(ast.parse(inspect.getsource(module)))
    namespace = dict(vars(module))
    exec(compile(ast.fix_missing_locations(tree), str(module.__file__), "exec"), namespace)
    made = {method: vars(namespace[name])[method] for method in methods}
    for known, value in vars(module).items():
        if not known.startswith("__"):
            namespace[known] = value  # the classes of the simulator, not copies of them
    return made


@contextmanager
def arm(name: str) -> Iterator[None]:
    """Leave out what this arm is without."""
    with ExitStack() as stack:
        if name in ("no check", "nothing"):
            stack.enter_context(patch.object(execution, "check_conservation", lambda traces: None))
        if name == "nothing":
            for (module, cls), methods in ACCOUNTING.items():
                for method, stripped in without_accounting(module, cls, methods).items():
                    stack.enter_context(patch.object(getattr(module, cls), method, stripped))
            stack.enter_context(patch.object(hosts.RoutedHosts, "unaccounted", lambda self: 0.0))
            stack.enter_context(patch.object(rank.Rank, "owe", lambda self, message: message))
            stack.enter_context(patch.object(rank.Rank, "decide", _decide))
        yield


def _decide(self: Any, message: Any, source: int, applied: bool) -> None:
    arrival = rank.Arrival(source, message.version, self.version - message.version, applied, self.fabric.now())
    self.trace.arrivals.append(arrival)


ARMS = ("as it is", "again", "no check", "nothing")


def measure(settings: dict[str, Any], rounds: int, folder: Path) -> tuple[dict[str, list[float]], list[float]]:
    """CPU seconds of a run by arm and round; and the check's share of each run that made it."""
    prepared = api.prepare([*settings.items(), ("backend", "modeled"), ("runs", str(folder))])
    seconds: dict[str, list[float]] = {name: [] for name in ARMS}
    shares = []
    check = execution.check_conservation
    spent = 0.0

    def timed(traces: Any) -> None:
        nonlocal spent
        begun = time.process_time()
        check(traces)
        spent = time.process_time() - begun

    with patch.object(execution, "check_conservation", timed):
        for number in range(-1, rounds):
            for name in ARMS[number % 4 :] + ARMS[: number % 4]:
                shutil.rmtree(folder, ignore_errors=True)
                with arm(name):
                    gc.collect()
                    begun = time.process_time()
                    result = execution.run(prepared)
                    took = time.process_time() - begun
                assert result.status == "done", result.summary["message"]
                if number >= 0:  # the first round fills caches
                    seconds[name].append(took)
                    if name in ("as it is", "again"):
                        shares.append(spent / took)
    return seconds, shares


def fastest(settings: dict[str, Any], rounds: int) -> tuple[float, float]:
    """What a short simulation saves the second time (A/A), and without its accounting, by the fastest of each."""
    short = {"cluster.workers": 8, "budget.updates": 20 if settings["strategy"] == "async_ps" else 2}
    job = api.prepare([*(settings | short).items(), ("backend", "modeled")]).job
    kinds = ("as it is", "again", "nothing")
    least = dict.fromkeys(kinds, math.inf)
    for number in range(rounds):
        for name in kinds[number % 3 :] + kinds[: number % 3]:
            with arm(name):
                simulate(job)  # its functions are new: the interpreter looks at them first
                for _ in range(3):
                    begun = time.process_time()
                    simulate(job)
                    least[name] = min(least[name], time.process_time() - begun)
    return 1.0 - least["again"] / least["as it is"], 1.0 - least["nothing"] / least["as it is"]


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """The median and its 95 % interval, from order statistics."""
    ordered, n = sorted(values), len(values)
    below, k = 0.5**n, 0
    while below + comb(n, k + 1) * 0.5**n <= 0.025 and k + 1 < n // 2:
        k += 1
        below += comb(n, k) * 0.5**n
    return median(ordered), ordered[k], ordered[-1 - k]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", help=f"of {', '.join(RUNS)}; none: all")
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    if unknown := set(given.runs) - set(RUNS):
        parser.error(f"no run {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory() as folder:
        for name in given.runs or RUNS:
            settings = RUNS[name]
            seconds, shares = measure(settings, given.rounds, Path(folder) / "runs")
            base = seconds["as it is"]
            print(f"{name}: {median(base):.2f} s of CPU a run")
            _say("the check of the records, timed inside", shares)
            for other, text in zip(ARMS[1:], ("nothing (A/A)", "the check of the records", "all of it"), strict=True):
                _say(text, [1.0 - b / a for a, b in zip(base, seconds[other], strict=True)])
            again, nothing = fastest(settings, 4 * given.rounds)
            print(f"    a short simulation's fastest: A/A {100.0 * again:.1f} %, its accounting {100.0 * nothing:.1f} %")


def _say(what: str, shares: Sequence[float]) -> None:
    middle, low, high = (100.0 * share for share in interval(shares))
    print(f"    {what}: {middle:.1f} % ({low:.1f} to {high:.1f})", flush=True)


if __name__ == "__main__":
    main()
