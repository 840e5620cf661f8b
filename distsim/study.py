"""What experiments are made of: rates chosen on seeds of their own, many runs with a word on how far they are.

Finished runs are never done again, so an experiment that was killed goes on where it was.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from statistics import median
from typing import Any, NoReturn

from distsim import api
from distsim.calibration.host import Others, hardware
from distsim.interface import BadInput
from distsim.results.statistics import reached
from distsim.results.store import Result

Settings = Mapping[str, Any]
"""One run's settings, as `distsim.run` takes them."""

BUSY = 0.05
"""Share of the CPU that others may use while a run needs the whole machine before it is worth a word."""


class Progress:
    """One line that says how far an experiment is and how long it will take still."""

    def __init__(self, expected: float) -> None:
        self._begun = self._shown = time.monotonic()
        self._left = expected

    def part(self, name: str) -> None:
        """Begin a part."""
        print(f"\n[{self.elapsed():4.0f} s] {name}", flush=True)

    def step(self, what: str, expected: float, now: bool = False) -> None:
        """Something that was expected to take `expected` seconds is over."""
        self._left = max(0.0, self._left - expected)
        last = not sys.stdout.isatty()
        if now or not last or time.monotonic() - self._shown > 10.0:
            self._shown = time.monotonic()
            line = f"  {what}; about {minutes(self._left)} left"
            print(line if last else f"\r{line:<110}"[:110], end="\n" if last else "", flush=True)

    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._begun


def minutes(seconds: float) -> str:
    """A duration, for people."""
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"


def cores() -> int:
    """Runs that go side by side here."""
    return max(1, int(hardware()["cores"]))


def in_turn(runs: Sequence[Settings], progress: Progress, expected: Mapping[str, float]) -> list[Result]:
    """One run after the other: they need the whole machine. Says so if others used it meanwhile.

    `expected` maps a backend to the seconds of one run.
    """
    done, meter = [], Others(os.getpid())
    meter()
    for i, one in enumerate(runs, 1):
        done.append(api.run(**one))
        progress.step(f"{i}/{len(runs)} {_name(one)}: {done[-1].status}", expected[one["backend"]])
    if (used := meter()) > BUSY:
        print(f"\n  other processes used {used:.0%} of the CPU meanwhile: expect wide intervals")
    return done


def side_by_side(runs: Sequence[Settings], progress: Progress, expected: Mapping[str, float]) -> list[Result]:
    """As many runs at once as there are cores: their clocks are simulated, so it changes nothing. In the given order."""
    done: dict[int, Result] = {}
    with ProcessPoolExecutor(cores(), mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(api.run, **one): i for i, one in enumerate(runs)}
        for future in as_completed(futures):
            i = futures[future]
            done[i] = future.result()
            what = f"{len(done)}/{len(runs)} {_name(runs[i])}: {done[i].status}"
            progress.step(what, expected[runs[i]["backend"]] / cores())
    return [done[i] for i in range(len(runs))]


def best_rates(tuned: Iterable[Any], target: float) -> dict[str, float]:
    """Each label's rate: the least median time to the target; if none gets there, the lowest loss.

    A run's label is `tuning LABEL`, or `tuning` for the name of its strategy.
    """
    scores: dict[str, dict[float, list[tuple[float, float]]]] = {}
    for run in tuned:
        found = reached(run.summary["curve"], target)
        late = found.seconds is None or run.status != "done"
        score = (float("inf") if late else found.seconds or 0.0, float("inf") if found.best is None else found.best)
        label = str(run.config.get("label", "")).removeprefix("tuning").strip() or run.config["strategy"]["name"]
        rates = scores.setdefault(label, {})
        rates.setdefault(run.config["optimizer"]["learning_rate"], []).append(score)

    def judged(repeats: list[tuple[float, float]]) -> tuple[float, float]:
        return median(seconds for seconds, _ in repeats), median(loss for _, loss in repeats)

    return {label: min(rates, key=lambda rate: judged(rates[rate])) for label, rates in scores.items()}


def script(main: Callable[[], int]) -> NoReturn:
    """Run an experiment's `main` and exit with its status: 2 after bad input, 130 when interrupted."""
    try:
        sys.exit(main())
    except BadInput as error:
        print(error, file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        sys.exit(130)


def _name(one: Settings) -> str:
    slow = f", {one['straggler']}" if one.get("straggler", "none") != "none" else ""
    rate = f", rate {one['optimizer.learning_rate']:g}" if "optimizer.learning_rate" in one else ""
    return f"{one['strategy']} {one['backend']}{rate}{slow}, repeat {one.get('repeat', 0)}"
