"""The table of results: one row a contender and case, the repeats in one. A DataFrame first, then HTML."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import pandas as pd

from distsim.report.command import reproduce
from distsim.report.markup import Html, element
from distsim.report.page_data import Page, badge, dotted, section
from distsim.results.agreement import Agreement, Comparison
from distsim.results.verdict import Standing, Verdict
from distsim.results.wording import duration, nbytes, number

SHOWN = 12
"""Rows that are shown before the reader asks for all."""


class Column(NamedTuple):
    """A column of the page's table: its heading and what a row shows in it."""

    key: str
    heading: str
    show: Callable[[Any], str]


COLUMNS = (
    Column("seconds_to_target", "time to target", duration),
    Column("samples_to_target", "samples to target", number),
    Column("seconds_per_update", "per update", duration),
    Column("samples_per_second", "samples/s", number),
    Column("staleness", "staleness", number),
    Column("memory_bytes", "memory", nbytes),
    Column("final_loss", "last loss", number),
)


def frame(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    """One row a contender and case, best first: medians over the repeats, infinite where the target was not reached."""
    return pd.DataFrame(
        [_row(verdict, standing) for verdict in verdicts for standing in verdict.standings],
        columns=["strategy", "mode", "setting", "ranks", "runs", "outcome", *(column.key for column in COLUMNS)],
    )


def _row(verdict: Verdict, standing: Standing) -> dict[str, Any]:
    contender, case = standing.contender, verdict.case
    summary = next(iter(contender.runs.values())).summary
    servers = int(summary.get("servers") or 0)
    stale = [run.summary["staleness"]["mean"] for run in contender.done if run.summary.get("staleness")]
    known = [value for value in stale if value is not None]
    return {
        "strategy": standing.label,
        "mode": case.badge,
        "setting": f"{case.where}, {case.slowness}",
        "ranks": f"{case.workers} + {servers}" if servers else f"{case.workers}",
        "runs": len(contender.runs),
        "outcome": outcome(standing),
        "seconds_to_target": standing.seconds.value if standing.has_losses and verdict.target else math.nan,
        "samples_to_target": standing.samples if standing.has_losses and verdict.target else math.nan,
        "seconds_per_update": _number(contender.typical("seconds_per_update")),
        "samples_per_second": _number(contender.typical("samples_per_second")),
        "staleness": sum(known) / len(known) if known else math.nan,
        "memory_bytes": _number(contender.memory),
        "final_loss": _number(contender.typical("final_loss")),
    }


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def outcome(standing: Standing) -> str:
    """How a contender's runs ended: what failed comes first, with its message."""
    control = "control, " if standing.contender.is_control else ""
    failed = [run for run in standing.contender.runs.values() if run.summary["status"] != "done"]
    if failed:
        message = str(failed[0].summary.get("message") or "").splitlines()
        if not standing.contender.fits and message:
            return f"{control}{message[0]}"
        said = f"{failed[0].summary['status']} ({len(failed)} of {len(standing.contender.runs)})"
        return f"{control}{said}: {message[0][:160]}" if message else f"{control}{said}"
    if not standing.has_losses:
        return f"{control}done"
    return f"{control}reached {standing.times} of {len(standing.repeats)}" if standing.times else f"{control}{standing}"


def results(page: Page) -> Html | None:
    """The table, sortable by a click on a heading, and the command behind every row."""
    table = frame(page.verdicts)
    if table.empty:
        return None
    columns = [column for column in COLUMNS if table[column.key].notna().any()]
    names = [("strategy", "strategy"), ("mode", ""), ("setting", "setting"), ("ranks", "ranks"), ("runs", "runs")]
    headings = [element("th", heading, scope="col", data_key=key) for key, heading in names]
    headings += [element("th", column.heading, scope="col", class_="number", data_key=column.key) for column in columns]
    headings.append(element("th", "outcome", scope="col", data_key="outcome"))
    rows = [_show(page, row, columns, i) for i, row in enumerate(table.to_dict("records"))]
    body = element("table", element("thead", element("tr", *headings)), element("tbody", *rows))
    more = element("button", f"Show all {len(rows)} rows", type="button", class_="more") if len(rows) > SHOWN else None
    lead = (
        "Medians over the repeats, best first in each setting. Ranks are workers + parameter servers. An update "
        "holds as many gradients as its strategy says, so compare samples a second. Memory is what the rank with most "
        "held at its peak. Click a heading to sort."
    )
    return section("Every run", lead, element("div", body, more, class_="results"), _commands(page), name="runs")


def _show(page: Page, row: dict[Any, Any], columns: Sequence[Column], index: int) -> Html:
    cells = [
        element("td", dotted(row["strategy"], page.colors[row["strategy"]]), class_="who", data_sort=row["strategy"]),
        element("td", badge(row["mode"]), data_sort=row["mode"]),
        element("td", row["setting"], data_name="setting", data_sort=row["setting"]),
        element("td", row["ranks"], data_name="ranks", data_sort=row["ranks"].split()[0]),
        element("td", row["runs"], data_name="runs", data_sort=row["runs"]),
    ]
    for column in columns:
        value = row[column.key]
        known = not math.isnan(value)
        shown = column.show(value) if known and math.isfinite(value) else "-"
        sort = value if known and math.isfinite(value) else 1e300
        name = column.heading if shown != "-" else None
        cells.append(
            element("td", shown, class_="number" if shown != "-" else "number none", data_name=name, data_sort=sort)
        )
    cells.append(element("td", row["outcome"], data_name="outcome", data_sort=row["outcome"], class_="outcome"))
    return element("tr", *cells, class_="extra" if index >= SHOWN else None)


def _commands(page: Page) -> Html:
    entries = [
        element("li", f"{standing.label} ", badge(verdict.case.badge), f" {verdict.case}", element("code", command))
        for verdict in page.verdicts
        for standing in verdict.standings
        for command in [reproduce([run.config for run in standing.contender.runs.values()])]
    ]
    return element(
        "details", element("summary", "The command behind every row"), element("ol", *entries), class_="commands"
    )


def predictions_table(found: Agreement) -> Html:
    """A row a contender and setting: the measured step, and each prediction with its error."""
    modes = [mode for mode in ("modeled", "cosimulated") if found.typical(mode) is not None]
    rows: dict[tuple[str, str], dict[str, Comparison]] = {}
    places = {(c.measured_in.where, c.measured_in.workers) for c in found.comparisons}
    for one in found.comparisons:
        where = str(one.measured_in) if len(places) > 1 else one.measured_in.slowness
        setting = ", ".join(filter(None, (where, one.predicted_in.options)))
        rows.setdefault((one.label, setting), {})[one.predicted_in.mode] = one
    heads = [element("th", "strategy", scope="col"), element("th", badge("measured"), class_="number", scope="col")]
    for mode in modes:
        heads += [
            element("th", badge(mode), class_="number", scope="col"),
            element("th", "off by", class_="number", scope="col"),
        ]
    body = []
    for (label, setting), predictions in rows.items():
        measured = duration(next(iter(predictions.values())).measured)
        cells = [
            element("td", label, element("small", f" {setting}"), class_="who"),
            element("td", measured, class_="number", data_name="measured"),
        ]
        for mode in modes:
            said = "-", "-"
            if mode in predictions:
                said = duration(predictions[mode].predicted), f"{100 * predictions[mode].error:+.1f} %"
            cells += [
                element("td", said[0], class_="number", data_name=mode),
                element("td", said[1], class_="number", data_name="off by"),
            ]
        body.append(element("tr", *cells))
    table = element("table", element("thead", element("tr", *heads)), element("tbody", *body))
    return element("div", table, class_="results")
