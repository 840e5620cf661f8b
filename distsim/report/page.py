"""One self-contained page, offline and inert: no request leaves it, and nothing in it runs but its own script."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path

from distsim import durable
from distsim.report import rates, sections, shares, tables
from distsim.report.decision import decision
from distsim.report.markup import Html, element, join, script_json
from distsim.report.page_data import Page, gather
from distsim.results.cases import Run
from distsim.results.explanation import sentence

_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


def write_report(
    runs: Iterable[Run],
    path: Path,
    *,
    title: str = "Which road to take",
    target: float | None = None,
    tuning: Iterable[Run] = (),
    floor: float | None = None,
) -> str:
    """Write the page on `runs` to `path` and give the verdict in one sentence.

    `target` is the common validation loss, fixed before the runs; without it the rule of results/verdict.py gives one.
    `tuning` are runs that chose learning rates (so are those with a label that starts with "tuning"). `floor` is the
    noise floor of the machine, as a fraction, for runs without repeats.
    """
    page = gather(runs, title, target, tuning, floor)
    save(render(page), path)
    return sentence(page.head)


def render(page: Page) -> str:
    """The whole document."""
    canvas = sections.Canvas()
    body = [
        decision(page),
        sections.losses(page, canvas),
        tables.results(page),
        sections.scaling(page, canvas),
        shares.shares(page),
        sections.timelines(page, canvas),
        sections.staleness(page, canvas),
        sections.predictions(page, canvas),
        rates.rates(page),
        sections.method(page),
    ]
    said = ". ".join([f"{len(page.runs)} runs", *(note[:1].upper() + note[1:] for note in page.left_out)])
    header = element("header", element("p", page.title), element("p", said, class_="note"))
    main = element("main", header, *body)
    return document(f"{page.title}: {sentence(page.head)}", main, canvas)


def document(title: str, main: Html, canvas: sections.Canvas) -> str:
    """A file of its own around `main`, with what `canvas` holds."""
    data = {"plots": canvas.plots, "timelines": canvas.timelines}
    scripts = [
        element("script", script_json(data), type="application/json", id="data"),
        element("script", Html(_asset("plotly-cartesian.min.js"))) if canvas.plots else None,
        element("script", Html(_asset("page.js"))),
    ]
    head = [
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
        element("style", Html(_asset("page.css"))),
    ]
    return "<!doctype html>\n" + element(
        "html", element("head", *head), element("body", main, join(scripts, "\n")), lang="en"
    )


def save(text: str, path: Path) -> None:
    """Write a file so that at any instant it is absent, the old one or the new one, whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    durable.write(path, text.encode(), durable=False)


def _asset(name: str) -> str:
    """The text of a file that ships with the package; none of ours or plotly's holds a closing script tag."""
    text = (files("distsim.report") / "assets" / name).read_text(encoding="utf-8")
    if "</script" in text or "</style" in text:
        raise ValueError(f"{name} would end its own element")
    return text
