"""What can be chosen, in words: the first sentence of everything, and of strategies what is known of them.

The docstring of a strategy's class is what `distsim list strategies` and `distsim explain` say of it. Its form:

    '''One sentence, the first paragraph: the rule.

    Staleness 0 [; or .] The closed form: what a step costs, what it needs, in as many sentences as it takes. Author et
    al., "Title", venue and year.
    '''

1.  The second paragraph begins with `Staleness` or `Mean staleness`; that statement ends at the first `;` or full stop.
2.  The paper is the first sentence that begins with its authors and goes on with `, "` or `, arXiv`, up to the end.
3.  What stands between the two is the closed form. `SYMBOLS` are the letters in it.

Every built-in strategy has all four parts; of one from another package what is there is shown.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from pathlib import Path
from textwrap import TextWrapper
from typing import Any

from distsim import registry

SYMBOLS = (
    "P workers; X the time of a step, exponential ones of mean 1/mu; H_n = 1 + 1/2 + ... + 1/n; M bytes of a gradient; B "
    "bytes a second of a link; a seconds of a message; p stages, m micro-batches, v chunks a stage; F, B, W seconds of a "
    "forward pass, of the backward pass and of its half for the weights; c seconds of a hop."
)

_STALENESS = re.compile(r"(?:Mean s|S)taleness(?: is)? (.+?)[;.](?: |$)")
_NAME = r"[A-Z][\w'-]+"
_PAPER = re.compile(rf'(?:^|(?<=[.;] )){_NAME}(?:,? (?:et al\.|and|{_NAME}))*, (?:"|arXiv)')


class Malformed(ValueError):
    """A strategy's docstring lacks a part; the message names the class and the part."""


@dataclass(frozen=True)
class Entry:
    """What is known of a strategy. Parts that its docstring does not have are empty."""

    name: str
    rule: str
    staleness: str = ""
    closed_form: str = ""
    paper: str = ""


def read(name: str, cls: type[Any]) -> Entry:
    """The entry of a class by the form above. Raises `Malformed` where a part is missing."""
    where = f"{cls.__module__}.{cls.__qualname__}"
    rule, rest = _paragraphs(cls)
    if not rule.endswith("."):
        raise Malformed(f"{where}: its docstring must begin with one sentence that says the rule")
    staleness = _STALENESS.match(rest)
    if staleness is None:
        raise Malformed(f"{where}: the second paragraph of its docstring must begin with 'Staleness' or 'Mean staleness'")
    rest = rest[staleness.end() :]
    paper = _PAPER.search(rest)
    if paper is None:
        raise Malformed(f'{where}: its docstring must end with the paper: Author et al., "Title", venue and year.')
    closed_form = rest[: paper.start()].strip()
    if not closed_form:
        raise Malformed(f"{where}: its docstring must give the closed form between the staleness and the paper")
    return Entry(name, rule, staleness[1], closed_form, rest[paper.start() :].strip())


def describe(name: str, cls: type[Any]) -> Entry:
    """The same of a class whose author may not know the form: what is there."""
    try:
        return read(name, cls)
    except Malformed:
        rule, rest = _paragraphs(cls)
        return Entry(name, rule, closed_form=rest)


def strategies() -> list[Entry]:
    """Every strategy that can be chosen by name. One that cannot be imported says so in place of its rule."""
    entries = []
    for name in registry.names("strategy"):
        try:
            entries.append(describe(name, registry.load("strategy", name)))
        except ImportError as error:
            entries.append(Entry(name, f"cannot be imported: {error}"))
    return entries


def workloads() -> list[tuple[str, str]]:
    """Every workload, with what its class says of itself in its first paragraph."""
    return [(name, _paragraphs(registry.load("workload", name))[0]) for name in registry.names("workload")]


def choices(folder: Path) -> list[tuple[str, str]]:
    """The choices of a group of conf/, with the comment that their file begins with."""
    files = sorted(folder.glob("*.yaml"))
    return [(file.stem, file.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")) for file in files]


def settings(cls: type[Any]) -> list[tuple[str, Any]]:
    """The settings of a strategy with their defaults, in order."""
    if not is_dataclass(cls):
        return []
    return [(field.name, None if field.default is MISSING else field.default) for field in fields(cls) if field.init]


# ---- text

_INDENT = 4


def in_blocks(entries: Iterable[Entry], width: int) -> str:
    """A block a strategy, in lines of at most `width` characters."""
    blocks = ["\n".join([entry.name, *indented(entry.rule, width), *told(entry, width)]) for entry in entries]
    return "\n\n".join([*blocks, "\n".join(wrapped(SYMBOLS, width))])


def told(entry: Entry, width: int) -> list[str]:
    """Staleness, closed form and paper, a heading each; what is not known is left out."""
    parts = (("staleness", entry.staleness), ("closed form", entry.closed_form), ("paper", entry.paper))
    return [line for heading, text in parts if text for line in hanging(heading, text, width)]


def hanging(heading: str, text: str, width: int) -> list[str]:
    """A heading and its text beside it."""
    column = _INDENT + len("closed form") + 2
    first, *others = wrapped(text, max(30, width - column))
    return [f"{'':{_INDENT}}{heading:{column - _INDENT}}{first}", *(f"{'':{column}}{line}" for line in others)]


def in_lines(named: Sequence[tuple[str, str]], width: int) -> str:
    """A name and a sentence each."""
    column = max((len(name) for name, _ in named), default=0) + 2
    lines = []
    for name, text in named:
        first, *others = wrapped(text, max(30, width - column)) or [""]
        lines += [f"{name:{column}}{first}".rstrip(), *(f"{'':{column}}{line}" for line in others)]
    return "\n".join(lines)


def indented(text: str, width: int) -> list[str]:
    """Lines of a text, moved to the right."""
    return [f"{'':{_INDENT}}{line}" for line in wrapped(text, max(30, width - _INDENT))]


def wrapped(text: str, width: int) -> list[str]:
    """Lines of a text, broken between words only."""
    return TextWrapper(width, break_on_hyphens=False).wrap(text)


def as_documents(entries: Iterable[Entry]) -> list[dict[str, str]]:
    """The entries as JSON has them."""
    return [asdict(entry) for entry in entries]


def _paragraphs(cls: type[Any]) -> tuple[str, str]:
    """The first paragraph of a docstring and the rest, each in one line. A dataclass without one has its signature."""
    text = inspect.cleandoc(cls.__doc__ or "")
    if text.startswith(f"{cls.__name__}("):
        text = ""
    first, _, rest = text.partition("\n\n")
    return " ".join(first.split()), " ".join(rest.split())
