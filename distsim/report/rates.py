"""How every strategy got its learning rate: the same grid for all, seeds of their own, the choice, and rate / P."""

from __future__ import annotations

import math

from distsim.report.markup import Html, element
from distsim.report.page_data import Page, badge, section
from distsim.results.cases import Case
from distsim.results.verdict import Standing, judge
from distsim.results.wording import duration, number


def rates(page: Page) -> Html | None:
    """A table for each setting that was tuned in: rows are strategies, columns learning rates."""
    tables = [table for case in page.tuning if (table := _table(page, case))]
    if not tables:
        return None
    seeds = sorted({seed for case in page.tuning for c in case.contenders for seed, _ in c.runs})
    lead = (
        f"The same grid for every strategy, on seeds of its own ({', '.join(map(str, seeds[:6]))}): time to the target, "
        'median; "best" is the lowest loss of a rate that never got there. The rate that the comparison used is framed.'
    )
    return section("Learning rates", lead, *tables, name="rates")


def _table(page: Page, case: Case) -> Html | None:
    target = next((verdict.target for verdict in page.verdicts if verdict.case.workload == case.workload), None)
    grid: dict[str, dict[float, Standing]] = {}
    for standing in judge(case, target).standings:
        rate = float(standing.contender.config["optimizer"]["learning_rate"])
        grid.setdefault(_strategy(standing), {})[rate] = standing
    columns = sorted({rate for row in grid.values() for rate in row})
    if not columns:
        return None
    chosen = _chosen(page, case)
    stale = _stale(page)
    synchronous = {rate for strategy, values in chosen.items() if strategy not in stale for rate in values}

    def divided(strategy: str, rate: float) -> bool:
        return strategy in stale and any(math.isclose(rate * case.workers, other) for other in synchronous)

    heads = [element("th", "strategy", scope="col")]
    heads += [element("th", number(rate), class_="number", scope="col") for rate in columns]
    rows = [
        element(
            "tr",
            element("td", strategy, class_="who"),
            *(_cell(row.get(rate), rate, rate in chosen.get(strategy, ()), divided(strategy, rate)) for rate in columns),
        )
        for strategy, row in sorted(grid.items())
    ]
    table = element("table", element("thead", element("tr", *heads)), element("tbody", *rows))
    caption = element("p", f"{case} ", badge(case.badge), class_="single")
    return element("div", caption, element("div", table, class_="grid"))


def _strategy(standing: Standing) -> str:
    return standing.label.partition(", learning rate")[0]


def _chosen(page: Page, case: Case) -> dict[str, tuple[float, ...]]:
    """The rates of the comparison by strategy: of the same setting if it is there, else of the headline."""
    same = [v for v in page.verdicts if v.case.setting == case.setting] or list(page.verdicts[:1])
    found: dict[str, set[float]] = {}
    for verdict in same:
        for standing in verdict.standings:
            rate = float(standing.contender.config["optimizer"]["learning_rate"])
            found.setdefault(_strategy(standing), set()).add(rate)
    return {strategy: tuple(sorted(values)) for strategy, values in found.items()}


def _stale(page: Page) -> set[str]:
    """The strategies whose gradients may be stale."""
    return {
        _strategy(standing)
        for verdict in page.verdicts
        for standing in verdict.standings
        if any((run.summary.get("staleness") or {}).get("max") for run in standing.contender.runs.values())
    }


def _cell(standing: Standing | None, rate: float, chosen: bool, divided: bool) -> Html:
    if standing is None:
        return element("td", "-", class_="number none")
    if math.isfinite(standing.seconds.value):
        said = duration(standing.seconds.value)
    else:
        best = [r.best for r in standing.repeats.values() if r.best is not None]
        failed = [run.summary["status"] for run in standing.contender.runs.values() if run.summary["status"] != "done"]
        said = str(failed[0]) if failed else f"best {number(min(best))}" if best else str(standing)
    mark = element("small", " rate / P") if chosen and divided else None
    return element("td", said, mark, class_="number chosen" if chosen else "number", data_name=number(rate))
