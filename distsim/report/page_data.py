"""What every part of the page is made from: cases judged once, and a color for each contender on the whole page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from distsim.report.markup import Html, element, join
from distsim.results.agreement import Agreement, agreement
from distsim.results.cases import Case, Run, cases
from distsim.results.keys import is_tuning
from distsim.results.selection import select
from distsim.results.verdict import Verdict, verdicts


@dataclass(frozen=True)
class Page:
    """The runs of one page, sorted and judged."""

    title: str
    verdicts: Sequence[Verdict]
    """One a case, the headline's first."""
    agreement: Agreement
    tuning: Sequence[Case]
    runs: Sequence[Run]
    left_out: Sequence[str]
    """Which of the given runs are not on the page, and why."""
    target_given: bool

    @property
    def head(self) -> Verdict | None:
        """The verdict that the answer is taken from."""
        return self.verdicts[0] if self.verdicts else None

    @property
    def cases(self) -> list[Case]:
        """All cases, the headline first."""
        return [verdict.case for verdict in self.verdicts]

    @cached_property
    def colors(self) -> Mapping[str, int]:
        """Label -> index into the page's palette, in order of the headline's ranking."""
        ranked = [standing.label for standing in self.head.standings] if self.head else []
        others = sorted({contender.label for case in self.cases for contender in case.contenders})
        return {label: i for i, label in enumerate(dict.fromkeys([*ranked, *others]))}


def gather(
    runs: Iterable[Run], title: str, target: float | None = None, tuning: Iterable[Run] = (), floor: float | None = None
) -> Page:
    """Sort and judge runs. `floor` is the machine's noise floor, used where no run was repeated."""
    runs = list(runs)
    compared, left_out = select(run for run in runs if not is_tuning(run.config))
    tuned, more_left_out = select([*(run for run in runs if is_tuning(run.config)), *tuning])
    left_out += [f"of those that chose learning rates, {note}" for note in more_left_out]
    found = cases(compared)
    judged = verdicts(found, target)
    distance = agreement(found)
    if distance.floor is None and floor is not None:
        distance = replace(distance, floor=floor)
    return Page(title, judged, distance, cases(tuned), [*compared, *tuned], left_out, target is not None)


def badge(name: str) -> Html:
    """The mark of where a number comes from: measured, modeled or cosimulated."""
    return element("span", name, class_=f"badge {name}")


def badges(names: Iterable[str]) -> Html:
    """Several marks, each once."""
    return join([Html(f" {badge(name)}") for name in dict.fromkeys(names)])


def dotted(label: str, color: int, more: object = None) -> Html:
    """A contender's name beside its color."""
    return element("span", element("i", class_="swatch", style=f"--c:var(--s{color % 8})"), label, more, class_="dotted")


def legend(labels: Iterable[str], colors: Mapping[str, int]) -> Html:
    """Names and colors of contenders, below a figure: text that wraps and overlaps nothing."""
    return element("p", *(dotted(label, colors[label]) for label in labels), class_="legend")


def section(title: str, lead: object, *content: object, name: str) -> Html:
    """One part of the page: what it shows, one sentence that says how to read it, and the thing itself."""
    said = None if lead is None else element("p", lead, class_="lead")
    return element("section", element("h2", title), said, *content, id=name)
