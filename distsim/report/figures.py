"""The plots, as plotly figures in JSON. Colors are indices into the page's palette, which its script fills in: it knows
whether the reader's screen is light or dark. Legends are HTML beside the plot.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

import plotly.graph_objects as go

from distsim.report.markup import plain
from distsim.results.agreement import Agreement
from distsim.results.cases import Case, Contender
from distsim.results.wording import number

Figure = dict[str, Any]
SYMBOLS = {"modeled": "circle-open", "cosimulated": "diamond-open"}


FAINT = 10
"""Most single runs drawn beside the median."""
POINTS = 200
"""Most points of a line."""


def loss(case: Case, colors: Mapping[str, int], target: float | None, against: str) -> Figure | None:
    """Validation loss against `seconds` or `samples`: each run faint, the median over the repeats strong."""
    traces: list[go.Scatter] = []
    for contender in case.contenders:
        curves = [points for run in contender.runs.values() if len(points := _points(run.summary["curve"])) > 1]
        color = colors[contender.label]
        if len(curves) > 1:
            traces += [_line(curve, against, contender.label, color, faint=True) for curve in curves[:FAINT]]
        if curves:
            traces.append(_line(_middle(curves), against, contender.label, color))
    if not traces:
        return None
    losses = [y for trace in traces for y in trace.y if y > 0.0]
    title = "seconds" if against == "seconds" else "samples"
    figure = go.Figure(traces)
    figure.update_layout(template="none", xaxis={"title": {"text": title}, "rangemode": "tozero"})
    figure.update_layout(yaxis={"title": {"text": "validation loss"}, **_log_axis(losses + ([target] if target else []))})
    if target:
        figure.add_shape(type="line", xref="paper", x0=0, x1=1, y0=target, y1=target, line={"width": 1.5, "dash": "dash"})
    return specification(figure)


def _points(curve: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [point for point in curve if point["loss"] is not None and math.isfinite(point["loss"])]


def _middle(curves: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, float]]:
    """The median over the repeats at each update that at least half of them have reached."""
    at: dict[int, list[Mapping[str, Any]]] = {}
    for curve in curves:
        for point in curve:
            at.setdefault(point["update"], []).append(point)
    return [
        {key: median(point[key] for point in points) for key in ("seconds", "samples", "loss")}
        for _, points in sorted(at.items())
        if 2 * len(points) >= len(curves)
    ]


def _line(curve: Sequence[Mapping[str, Any]], against: str, label: str, color: int, faint: bool = False) -> go.Scatter:
    step = max(1, len(curve) // POINTS)
    curve = [*curve[:-1:step], curve[-1]]
    return go.Scatter(
        x=[point[against] for point in curve],
        y=[point["loss"] for point in curve],
        name=plain(label),
        mode="lines",
        opacity=0.28 if faint else 1.0,
        line={"width": 1.0 if faint else 2.5},
        hoverinfo="skip" if faint else None,
        meta={"color": color},
    )


def scaling(cases: Sequence[Case], colors: Mapping[str, int]) -> Figure:
    """Samples a second by number of workers, for cases that differ in nothing else; the dotted line is linear scaling."""
    series: dict[str, list[tuple[int, float]]] = {}
    for case in sorted(cases, key=lambda case: case.workers):
        for contender in case.contenders:
            rate = contender.typical("samples_per_second")
            if rate:
                series.setdefault(contender.label, []).append((case.workers, rate))
    workers = sorted({case.workers for case in cases})
    rates = [rate for points in series.values() for _, rate in points]
    best = max(points[0][1] / points[0][0] for points in series.values())
    figure = go.Figure(
        go.Scatter(
            x=workers,
            y=[best * count for count in workers],
            name="linear",
            mode="lines",
            line={"width": 1.5, "dash": "dot"},
            hoverinfo="skip",
            meta={"color": "muted"},
        )
    )
    for label, points in series.items():
        figure.add_scatter(
            x=[count for count, _ in points],
            y=[rate for _, rate in points],
            name=plain(label),
            mode="lines+markers",
            line={"width": 2.5},
            marker={"size": 7},
            meta={"color": colors[label]},
        )
    ticks = {"tickmode": "array", "tickvals": workers, "ticktext": [str(count) for count in workers]}
    figure.update_layout(template="none", xaxis={"type": "log", "title": {"text": "workers"}, **ticks})
    figure.update_layout(yaxis={"title": {"text": "samples a second"}, **_log_axis([*rates, best * workers[-1]])})
    return specification(figure)


def staleness(case: Case, colors: Mapping[str, int]) -> Figure | None:
    """The share of gradients by their staleness, for the contenders that have any."""
    figure = go.Figure()
    for contender in case.contenders:
        counts = histogram(contender)
        if max(counts, default=0) > 0:
            total = sum(counts.values())
            figure.add_bar(
                x=sorted(counts),
                y=[100.0 * counts[value] / total for value in sorted(counts)],
                name=plain(contender.label),
                marker={"line": {"width": 0}},
                meta={"color": colors[contender.label]},
            )
    if not figure.data:
        return None
    highest = max(max(trace.x) for trace in figure.data)
    ticks = {"dtick": max(1, math.ceil(highest / 12))}
    figure.update_layout(
        template="none",
        bargap=0.15,
        xaxis={"title": {"text": "updates by others since the model was read"}, **ticks},
        yaxis={"title": {"text": "% of gradients"}, "rangemode": "tozero"},
    )
    return specification(figure)


def histogram(contender: Contender) -> dict[int, float]:
    """Gradients by staleness over all done runs of a contender."""
    counts: dict[int, float] = {}
    for run in contender.done:
        for value, count in ((run.summary.get("staleness") or {}).get("histogram") or {}).items():
            counts[int(value)] = counts.get(int(value), 0) + count
    return counts


def predicted(found: Agreement, colors: Mapping[str, int]) -> Figure:
    """Predicted against measured step time; on the line they are equal, in the band the difference is within noise."""
    values = [1e3 * value for c in found.comparisons for value in (c.measured, c.predicted)]
    low, high = min(values) / 1.25, max(values) * 1.25
    figure = go.Figure()
    if found.floor is not None:
        edges = [low * (1 + found.floor), high * (1 + found.floor), high / (1 + found.floor), low / (1 + found.floor)]
        figure.add_scatter(
            x=[low, high, high, low], y=edges, fill="toself", mode="none", hoverinfo="skip", meta={"fill": "muted"}
        )
    diagonal = {"width": 1.0, "dash": "dot"}
    figure.add_scatter(x=[low, high], y=[low, high], mode="lines", line=diagonal, hoverinfo="skip", meta={"color": "muted"})
    for c in found.comparisons:
        figure.add_scatter(
            x=[1e3 * c.measured],
            y=[1e3 * c.predicted],
            mode="markers",
            name=plain(f"{c.label}, {c.measured_in.slowness}, {c.predicted_in.badge}"),
            marker={"size": 11, "symbol": SYMBOLS[c.predicted_in.mode], "line": {"width": 2.5}},
            meta={"color": colors[c.label]},
        )
    axis = _log_axis([low, high])
    span = [math.log10(low), math.log10(high)]
    figure.update_layout(template="none", xaxis={"title": {"text": "measured step, ms"}, **axis, "range": span})
    figure.update_layout(yaxis={"title": {"text": "predicted step, ms"}, **axis, "range": span})
    return specification(figure)


def _log_axis(values: Iterable[float]) -> dict[str, Any]:
    """A logarithmic axis with ticks at 1, 2 and 5 of each decade, or at whole decades if they are many."""
    known = [value for value in values if value > 0.0] or [1.0]
    low, high = math.floor(math.log10(min(known))), math.ceil(math.log10(max(known)))
    steps = (1, 2, 5) if high - low <= 3 else (1,)
    ticks = [step * 10.0**decade for decade in range(low - 1, high + 1) for step in steps]
    return {"type": "log", "tickmode": "array", "tickvals": ticks, "ticktext": [_tick(tick) for tick in ticks]}


def _tick(value: float) -> str:
    return f"{value / 1000:g}k" if 1e3 <= value < 1e6 else number(value)


def specification(figure: go.Figure) -> Figure:
    """Data and layout in plain lists; the template and whatever is the script's are left to it."""
    specification: Figure = figure.to_plotly_json()
    layout = specification["layout"]
    layout.pop("template", None)
    return {"data": specification["data"], "layout": {**layout, "showlegend": False}}
