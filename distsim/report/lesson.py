"""A lesson as a page: the rule, what is known of the strategy, and what every rank did, to look at closely."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from distsim.explain.lesson import Lesson
from distsim.explain.spans import LETTERS, Lane, Span, kinds, numbered
from distsim.explain.terminal import came_out, held
from distsim.report.figures import Figure, specification
from distsim.report.markup import Html, element, plain
from distsim.report.page import document, save
from distsim.report.page_data import section
from distsim.report.sections import Canvas
from distsim.results.wording import number

COLORS: Mapping[str, int] = {kind: color for color, kind in enumerate(LETTERS)}
LANE, AXIS = 40, 70
"""Pixels of a rank, and of the axis below."""


def write_lesson(lesson: Lesson, path: Path) -> None:
    """Write the page."""
    save(render(lesson), path)


def render(lesson: Lesson) -> str:
    """The whole document."""
    entry, canvas = lesson.entry, Canvas()
    header = element(
        "header", element("p", "distsim explain"), element("p", "modeled, on a bench made for reading", class_="note")
    )
    facts = (
        ("Staleness", entry.staleness),
        ("Closed form", entry.closed_form),
        ("Paper", entry.paper),
        ("Settings", ", ".join(f"{key}={value}" for key, value in lesson.fields.items())),
        ("What came out here", came_out(lesson.summary)),
        ("Memory", held(lesson)),
    )
    rule = element("div", element("h1", entry.name), element("p", entry.rule, class_="lede"), class_="answer")
    boxes = [
        element("div", element("h3", title), element("ul", element("li", text)), class_="fact")
        for title, text in facts
        if text
    ]
    answer = element(
        "section", element("div", rule, class_="top"), element("div", *boxes, class_="facts"), class_="decision"
    )
    figure = gantt(lesson.lanes, lesson.seconds)
    plot = canvas.plot(figure, "one line a rank; point at a box to read it", height=LANE * len(lesson.lanes) + AXIS)
    lead = "Time runs from left to right. The thin bars below a rank are communication behind its computing."
    picture = section("What every rank did", lead, plot, legend(lesson.lanes), name="ranks")
    assumed = [element("li", text) for text in lesson.assumed]
    bench = section(
        "What was assumed",
        "Costs that can be added up by hand; no machine was measured.",
        element("ul", *assumed),
        name="bench",
    )
    return document(f"{entry.name}: {entry.rule}", element("main", header, answer, picture, bench), canvas)


def gantt(lanes: Sequence[Lane], seconds: float) -> Figure:
    """A bar for every stretch of time of every rank."""
    figure = go.Figure()
    gap = seconds / 1000.0  # so that one box can be told from the next
    names = [lane.name for lane in lanes]
    figure.add_bar(
        y=names, base=[0.0] * len(names), x=[0.0] * len(names), **{**_BAR, "hoverinfo": "skip"}
    )  # a line for each
    for kind in kinds(lanes):
        spans = [(lane, span) for lane in lanes for span in lane.computing if span.kind == kind]
        figure.add_bar(
            y=[lane.name for lane, _ in spans],
            base=[span.begun for _, span in spans],
            x=[span.ended - span.begun - gap for _, span in spans],
            text=[str(span.part) if numbered(lane) and span.part >= 0 else "" for lane, span in spans],
            hovertext=[plain(_told(lane, span)) for lane, span in spans],
            textposition="inside",
            insidetextanchor="middle",
            textangle=0,
            constraintext="none",
            width=0.66,
            offset=-0.4,
            meta={"color": _color(kind)},
            **_BAR,
        )
    intervals = (("communication", "communication", 0.66), ("waiting", "waiting for others", 0.66), ("hidden", "", 0.12))
    for key, name, width in intervals:
        found = [(lane, span) for lane in lanes for span in getattr(lane, key)]
        if found:
            told = name or "communication behind computing"
            figure.add_bar(
                y=[lane.name for lane, _ in found],
                base=[begun for _, (begun, _) in found],
                x=[ended - begun for _, (begun, ended) in found],
                hovertext=[plain(f"{lane.name}: {told}, {_times(*span)}") for lane, span in found],
                width=width,
                offset=-0.4 if name else 0.3,
                meta={"color": "waiting" if key == "waiting" else "communication"},
                **_BAR,
            )
    figure.update_layout(template="none", barmode="overlay", xaxis={"title": {"text": "seconds"}, "range": [0.0, seconds]})
    order = {"categoryorder": "array", "categoryarray": names, "autorange": "reversed"}
    figure.update_layout(yaxis={"title": {"text": ""}, "type": "category", **order})
    return specification(figure)


_BAR: Mapping[str, Any] = {"orientation": "h", "hoverinfo": "text", "marker": {"line": {"width": 0}}}


def legend(lanes: Sequence[Lane]) -> Html:
    """What the colors mean, of those that occur."""
    return element("p", *(element("span", swatch, name) for swatch, name in _swatches(lanes)), class_="legend")


def _swatches(lanes: Sequence[Lane]) -> Iterator[tuple[Html, str]]:
    for kind in kinds(lanes):
        name = LETTERS[kind][1] if kind in LETTERS else kind
        yield element("i", class_="kind", style=f"background:var(--s{_color(kind)})"), name
    if any(lane.communication or lane.hidden for lane in lanes):
        yield element("i", class_="kind communication"), "communication"
    if any(lane.waiting for lane in lanes):
        yield element("i", class_="kind waiting"), "waiting for others"


def _color(kind: str) -> int:
    return COLORS.get(kind, len(COLORS) - 1)


def _told(lane: Lane, span: Span) -> str:
    name = LETTERS[span.kind][1] if span.kind in LETTERS else span.kind
    where = f" of micro-batch {span.part}" if numbered(lane) and span.part >= 0 else ""
    end = ", cancelled" if span.cancelled else ""
    return f"{lane.name}: {name}{where}, {_times(span.begun, span.ended)}{end}"


def _times(begun: float, ended: float) -> str:
    return f"{number(ended - begun)} s from {number(begun)} s"
