"""The parts of the page below the answer. Each gives None where the runs hold nothing for it, and is then left out."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from distsim.report import figures
from distsim.report.markup import Html, element
from distsim.report.page_data import Page, badge, badges, legend, section
from distsim.report.tables import predictions_table
from distsim.report.timeline import timeline
from distsim.results.cases import BADGES, Case
from distsim.results.explanation import model_distance
from distsim.results.verdict import PAIRS
from distsim.results.wording import duration, number

TIMELINES = 18
"""Most runs whose timeline is kept."""


NOTES = 12
"""Most notes of runs that are shown."""


class Canvas:
    """Collects the data that the page's script draws: plots by name, and timelines."""

    def __init__(self) -> None:
        self.plots: dict[str, figures.Figure] = {}
        self.timelines: list[dict[str, Any]] = []

    def plot(self, figure: figures.Figure, caption: object, ratio: str = "", height: int | None = None) -> Html:
        """A place for a plot, with its caption; its height in pixels, where that depends on what is in it."""
        name = f"plot{len(self.plots)}"
        self.plots[name] = figure
        titles = [figure["layout"][axis]["title"]["text"] for axis in ("yaxis", "xaxis")]
        style = f"height:{height}px" if height else None
        said = " by ".join(filter(None, titles))
        place = element("div", class_=f"plot {ratio}", style=style, data_plot=name, role="img", aria_label=said)
        return element("figure", element("figcaption", caption), place)


def tabs(name: str, cases: Sequence[tuple[Case, Html]]) -> Html:
    """A panel a case, of which one is shown; a single one needs no buttons."""
    panels = list(zip(_captions([case for case, _ in cases]), [panel for _, panel in cases], strict=True))
    if len(panels) == 1:
        return element("div", element("p", panels[0][0], class_="single"), panels[0][1], class_="tabs")
    buttons = [
        element("button", title, type="button", aria_pressed="true" if i == 0 else "false", data_panel=f"{name}{i}")
        for i, (title, _) in enumerate(panels)
    ]
    shown = [element("div", panel, id=f"{name}{i}", class_="panel", hidden=i > 0) for i, (_, panel) in enumerate(panels)]
    return element("div", element("div", *buttons, class_="buttons"), *shown, class_="tabs")


def _captions(cases: Sequence[Case]) -> list[Html]:
    """A name for each case: its straggler, and where it ran if not all ran in one place."""
    places = {(case.where, case.workers) for case in cases}
    names = [str(case) if len(places) > 1 else case.slowness for case in cases]
    return [element("span", f"{name} ", badge(case.badge)) for name, case in zip(names, cases, strict=True)]


def losses(page: Page, canvas: Canvas) -> Html | None:
    """Validation loss against time and against samples, a panel a case."""
    shown: list[tuple[Case, Html]] = []
    for verdict in page.verdicts:
        case = verdict.case
        pair = [
            canvas.plot(figure, f"against {title}")
            for against, title in (("seconds", "time"), ("samples", "samples seen"))
            if (figure := figures.loss(case, page.colors, verdict.target, against))
        ]
        if pair:
            names = legend([s.label for s in verdict.standings], page.colors)
            shown.append((case, element("div", element("div", *pair, class_="pair"), names)))
    if not shown:
        return None
    targets = [v.target for v in page.verdicts if v.case in [case for case, _ in shown] and v.target]
    dashed = f" The dashed line is the target, {', '.join(map(number, dict.fromkeys(targets)))}." if targets else ""
    lead = f"Strong lines are medians over the repeats, faint ones single runs.{dashed}"
    return section("Loss against time, and against samples", lead, tabs("loss", shown), name="loss")


def scaling(page: Page, canvas: Canvas) -> Html | None:
    """Throughput by number of workers, for settings that were run with several."""
    groups: dict[tuple[object, ...], list[Case]] = {}
    for case in page.cases:
        if any(contender.typical("samples_per_second") for contender in case.contenders):
            groups.setdefault((case.mode, case.site, case.options, case.straggler), []).append(case)
    plots, labels, models = [], dict.fromkeys(page.colors), {}
    for found in groups.values():
        if len({case.workers for case in found}) > 1:
            case = found[0]
            models[case.workload] = case.model
            caption = element("span", f"{case.where}, {case.slowness} ", badge(case.badge))
            plots.append(canvas.plot(figures.scaling(found, page.colors), caption))
    if not plots:
        return None
    shown = [label for label in labels if any(case.contender(label) for found in groups.values() for case in found)]
    lead = "Training samples a second by number of workers; the dotted line is linear. Throughput alone makes no winner."
    head = page.cases[0]
    if others := [model for workload, model in models.items() if workload != head.workload]:
        lead += f" The model here ({'; '.join(others)}) is not the one of the answer ({head.model})."
    return section(
        "Throughput and scaling", lead, element("div", *plots, class_="pair"), legend(shown, page.colors), name="scaling"
    )


def timelines(page: Page, canvas: Canvas) -> Html | None:
    """What every rank did when: one run a contender, of the headline's cluster and number of workers."""
    head = page.head
    if head is None:
        return None
    for case in [case for case in page.cases if case.setting[:2] == head.case.setting[:2]]:
        for contender in sorted(case.contenders, key=lambda c: page.colors[c.label]):
            if len(canvas.timelines) < TIMELINES and (data := timeline(case, contender, page.colors[contender.label])):
                canvas.timelines.append(data)
    if not canvas.timelines:
        return None
    options = [
        element("option", f"{data['label']}, {data['badge']}, {data['setting']}", value=i)
        for i, data in enumerate(canvas.timelines)
    ]
    kinds = (("compute", "computing"), ("communication", "exposed communication"), ("waiting", "waiting for others"))
    key = element("p", *(element("span", element("i", class_=f"kind {k}"), name) for k, name in kinds), class_="legend")
    buttons = [
        element("button", label, type="button", data_zoom=zoom, aria_label=name)
        for label, zoom, name in (("+", "in", "zoom in"), ("-", "out", "zoom out"), ("whole", "all", "show all"))
    ]
    bar = element("div", element("select", *options, aria_label="run"), element("div", *buttons), class_="controls")
    lead = "One run of each strategy. Drag to move; zoom with the buttons or Ctrl and the wheel. Grey is none of these."
    place = element("canvas", id="timeline", tabindex="0", role="img", aria_label="timeline of every rank")
    readout = element("p", "", id="readout", class_="note")
    return section("What every rank did", lead, bar, key, place, readout, name="ranks")


def staleness(page: Page, canvas: Canvas) -> Html | None:
    """How old the gradients were, a panel a case; cosimulated ones are as old as modeled ones, so one of them is shown."""
    shown: list[tuple[Case, Html]] = []
    settings = {case.setting for case in page.cases if case.mode == "cosimulated"}
    for case in page.cases:
        again = case.mode == "modeled" and case.setting in settings
        figure = None if again or case.setting[:2] != page.cases[0].setting[:2] else figures.staleness(case, page.colors)
        if figure:
            labels = [c.label for c in case.contenders if max(figures.histogram(c), default=0) > 0]
            shown.append((case, element("div", canvas.plot(figure, None), legend(labels, page.colors))))
    lead = "How many updates others made between a gradient's reading the model and its being applied."
    return section("Staleness", lead, tabs("stale", shown), name="staleness") if shown else None


def predictions(page: Page, canvas: Canvas) -> Html | None:
    """Predicted against measured step times, with the noise floor."""
    found = page.agreement.without_repetition()
    if not found.comparisons:
        return None
    band = ""
    if found.floor is not None:
        source = "two real runs of one strategy" if found.floor_pairs else "two halves of the calibration"
        band = f" The band is the noise floor: {source} differ by {number(100 * found.floor, 2)} %."
    plot = canvas.plot(figures.predicted(found, page.colors), "a mark a strategy, setting and model", "square")
    said = [element("p", s.text, badges(s.badges), class_="note") for s in model_distance(page.agreement)]
    used = dict.fromkeys(c.label for c in found.comparisons)
    modes = dict.fromkeys(c.predicted_in.mode for c in found.comparisons)
    names = [element("span", f"{'circle' if mode == 'modeled' else 'diamond'}: {mode}") for mode in modes]
    marks = element("p", *names, class_="legend") if len(modes) > 1 else None
    crossed = " or ".join(dict.fromkeys(c.measured_in.network for c in found.comparisons))
    lead = f"Seconds an update: predicted without running, against the same runs for real, over {crossed}.{band}"
    left = element("div", plot, legend(used, page.colors), marks)
    right = element("div", predictions_table(found), *said)
    return section(
        "Predicted against measured", lead, element("div", left, right, class_="pair uneven"), name="predictions"
    )


def method(page: Page) -> Html:
    """The rules behind the numbers, and where they were made."""
    target = page.head.target if page.head else None
    rule = "was given before the runs" if page.target_given else "is 1.25 times the best strategy's lowest loss, rounded up"
    points: list[object] = [
        f"The target, validation loss {number(target)}, {rule}; it counts from the first snapshot at or under it. "
        f"{_resolution(page)}A lead within the interval between two snapshots makes no winner, unless both runs follow one "
        "path."
        if target
        else "No run has a validation loss, so nothing is ranked by time to a target.",
        f"A winner needs {PAIRS} runs paired by seed and repeat, and a 95 % interval (Student's t on the logarithms of the "
        "paired ratios) that excludes equality, equal budgets and evaluations, and as many repeats at the target as any "
        "rival. Otherwise there is none.",
        element(
            "span",
            *(badge("measured"), " real processes and the wall clock. "),
            *(badge("cosimulated"), " real gradients under a simulated clock. "),
            *(badge("modeled"), " byte counts under a simulated clock; nothing is trained."),
        ),
    ]
    notes: dict[str, dict[str, None]] = {}
    for run in page.runs:
        for note in run.summary.get("notes") or ():
            notes.setdefault(str(note), {})[BADGES[run.config["backend"]["name"]]] = None
    points += [f"{note[:1].upper()}{note[1:]}." for note in page.left_out]
    if contended := sum(bool(run.summary.get("contended")) for run in page.runs):
        points.append(
            f"In {contended} of {len(page.runs)} runs ranks shared cores: their times hold for that machine only."
        )
    points += [element("span", note, badges(marks)) for note, marks in list(notes.items())[:NOTES]]
    facts = [element("p", text, class_="note") for text in _hosts(page)]
    return section("How this was judged", None, element("ul", *(element("li", p) for p in points)), *facts, name="method")


def _resolution(page: Page) -> str:
    """How far apart the snapshots lie in which the contenders of the answer met the target."""
    standings = page.head.standings if page.head else ()
    found = [r.interval for standing in standings for r in standing.repeats.values() if r.seconds is not None]
    if not found:
        return ""
    return f"In the answer's runs the snapshot before was {duration(min(found))} to {duration(max(found))} earlier. "


def _hosts(page: Page) -> list[str]:
    """Machines and versions of all runs, each set once."""
    said: Callable[[Any], str] = lambda value: (  # noqa: E731
        ", ".join(f"{key} {entry}" for key, entry in value.items()) if isinstance(value, Mapping) else str(value or "")
    )
    found = dict.fromkeys(
        "; ".join(filter(None, (said(run.summary.get("host")), said(run.summary.get("versions"))))) for run in page.runs
    )
    return [text for text in found if text][:4] or [f"Python {platform.python_version()}"]
