"""What to run, as it is written: the text of the command line, or a grid of Python values, to settings.

The command line is read by Hydra's own override grammar, Python gives values as they are, so both say the same by
construction. A sweep becomes the settings of each of its runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import product
from math import prod
from typing import Any

from distsim.composition import Setting, bad_launcher, choices
from distsim.configuration.quantities import near
from distsim.configuration.sections import GROUPS
from distsim.interface import BadInput, Problem

ASK_FROM = 1000
"""A sweep of more runs than this wants `--yes`."""
RUN_SECONDS = 0.3
"""What a small modeled run takes, for the estimate."""

_HYDRA_KEYS = ("hydra/launcher", "hydra.launcher.")
"""What may be set of Hydra itself: where jobs run, not where files go."""


def parse(overrides: Sequence[str], sweeps: bool = False) -> tuple[list[Setting], list[Problem]]:
    """Settings from the command line's text, and what Hydra's grammar cannot read or would sweep over; `sweeps`: the
    command could, if it were asked to."""
    settings = []
    parsed, problems = _parsed(overrides)
    for override in parsed:
        key = override.key_or_group
        if override.is_sweep_override():
            value = override.input_line.partition("=")[2]
            problems.append(Problem(key, value, "one value here", "add -m to sweep over several" if sweeps else ""))
        elif not key.startswith("hydra"):
            settings.append((key, override.value()))
    return settings, problems


def forced(overrides: Sequence[str]) -> list[str]:
    """The overrides as Hydra's multirun takes them: a key that conf/ does not spell out is still a key."""
    parsed = zip(overrides, _parsed(overrides)[0], strict=True)
    plain = (*GROUPS, "hydra/launcher")
    return [text if override.key_or_group in plain else f"++{text}" for text, override in parsed]


def quoted(value: object) -> str:
    """Any text as a value of Hydra's grammar."""
    text = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{text}'"


def expand(overrides: Sequence[str], yes: bool = False) -> list[list[Setting]]:
    """The settings of each run of a sweep, by Hydra's grammar, which reads every text once. Raises `BadInput` for empty,
    double and huge sweeps."""
    from hydra.core.override_parser.types import Override, Transformer

    parsed, problems = _parsed(overrides)
    axes: list[list[Setting]] = []
    for override in parsed:
        key, shown = override.key_or_group, override.input_line.partition("=")[2]
        if key.startswith("hydra"):
            continue
        if not override.is_sweep_override():
            axes.append([(key, override.value())])
        elif not override.is_discrete_sweep():
            problems.append(Problem(key, shown, "a list of values, like 1,2,3 or range(0,5)"))
        else:
            values = list(override.sweep_iterator())  # once: `shuffle` gives another order every time
            axes.append([(key, Override._convert_value(value)) for value in values])
            if not values:
                problems.append(Problem(key, shown, "an empty sweep: no value to run"))
            twice = [str(text) for text, count in Counter(map(Transformer.str, values)).items() if count > 1]
            if twice:
                allowed = "every value once: the same run would be done twice"
                problems.append(Problem(key, shown, allowed, f"remove one {', '.join(sorted(twice))}"))
    problems += [*_too_many(prod(map(len, axes)), yes), *bad_launcher(overrides)]
    if problems:
        raise BadInput(problems)
    return [list(settings) for settings in product(*axes)]


def expand_grid(grid: Mapping[str, Any], yes: bool = False) -> list[list[Setting]]:
    """The settings of each run of a grid of Python values: a list is swept over, anything else is the same for all."""
    axes = {key: value if isinstance(value, (list, range)) else [value] for key, value in grid.items()}
    problems = []
    count = 1
    for key, values in axes.items():
        count *= len(values)
        if not values:
            problems.append(Problem(key, values, "an empty sweep: no value to run"))
        if isinstance(values, list) and any(value in values[:i] for i, value in enumerate(values[:1000])):
            problems.append(Problem(key, values, "every value once: the same run would be done twice"))
    problems += _too_many(count, yes)
    if problems:
        raise BadInput(problems)
    return [list(zip(axes, values, strict=True)) for values in product(*axes.values())]


def _too_many(count: int, yes: bool) -> list[Problem]:
    if count <= ASK_FROM or yes:
        return []
    hours = count * RUN_SECONDS / 3600
    estimate = f"{count:,} runs: about {hours:,.1f} hours if each takes {RUN_SECONDS} s"
    return [Problem("-m", count, f"more than {ASK_FROM:,} runs want --yes", estimate)]


def _parsed(overrides: Sequence[str]) -> tuple[list[Any], list[Problem]]:
    """Hydra's reading of each override, and what is wrong with the others; only assignments are allowed."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create(_Choices())  # type: ignore[arg-type]
    result: list[Any] = []
    problems: list[Problem] = []
    for text in overrides:
        key, _, value = text.partition("=")
        try:
            override = parser.parse_overrides([text])[0]
        except (HydraException, ValueError):  # Python itself refuses whole numbers of thousands of digits
            if "=" not in text:
                problems.append(Problem(text, "", "settings are written key=value", near(text, ["run", "report", *GROUPS])))
            else:
                remedy = f"quote it: '{key}=\"...\"'"
                problems.append(Problem(key, value, "a value that Hydra's override grammar reads", remedy))
            continue
        plain = override.type is not None and override.type.name == "CHANGE" and override.package is None
        if not plain:
            problems.append(Problem(key, value, "settings are plain key=value", f"write {key.lstrip('+~').split('@')[0]}="))
        elif override.key_or_group.startswith("hydra") and not override.key_or_group.startswith(_HYDRA_KEYS):
            problems.append(Problem(key, value, "of Hydra only hydra/launcher and hydra.launcher.* can be set"))
        elif twice := [other.input_line for other in result if other.key_or_group == override.key_or_group]:
            problems.append(Problem(key, value, "every key once", f"{twice[0]} is there, too: remove one"))
        else:
            result.append(override)
    return result, problems


class _Choices:
    """What Hydra's grammar asks of a configuration loader: the choices that a glob selects from."""

    def get_group_options(self, group_name: str, results_filter: Any = None) -> list[str]:
        return choices(group_name) if group_name in GROUPS else []
