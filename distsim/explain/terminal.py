"""A lesson in characters: a line a rank, time from left to right, and what it means below.

Computing begins and ends at whole columns, the nearest ones, and other columns show the communication or waiting that fills
most of them; computing that is too short for a column takes one where nothing computes. A second line below a rank
shows communication behind its computing, where there is any. Micro-batches are numbered where there is room.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import floor
from typing import Any

from distsim import catalogue
from distsim.explain.bench import MODEL_BYTES
from distsim.explain.lesson import Lesson
from distsim.explain.spans import LETTERS, Lane, Span, kinds, numbered
from distsim.interface import Memory
from distsim.results.breakdown import KINDS
from distsim.results.intervals import Interval
from distsim.results.wording import number

COMMUNICATION, HIDDEN, WAITING, CANCELLED = "=", "~", ".", "x"
LETTERS_LEFT = "CGHJKLNOPQRSTUVYZ"
"""For operations that strategies name themselves."""
UNBROKEN = "\N{NO-BREAK SPACE}"


def text(lesson: Lesson, width: int) -> str:
    """Everything, in lines of at most `width` characters."""
    lines = [lesson.entry.name, *catalogue.indented(lesson.entry.rule, width), *catalogue.told(lesson.entry, width)]
    if lesson.fields:
        told = "  ".join(f"{key}={_spelled(value)}" for key, value in lesson.fields.items())
        lines += catalogue.hanging("settings", told, width)
    lines += ["", *gantt(lesson.lanes, lesson.seconds, width), ""]
    lines += [line.replace(UNBROKEN, " ") for line in catalogue.wrapped(legend(lesson.lanes), width)]
    lines += ["", *catalogue.hanging("drawn", came_out(lesson.summary), width)]
    lines += catalogue.hanging("memory", held(lesson), width) if lesson.summary["memory"] else []
    lines += catalogue.hanging("assumed", "; ".join(lesson.assumed), width)
    return "\n".join(lines)


def came_out(summary: Mapping[str, Any]) -> str:
    """What the run that is drawn took."""
    if summary["status"] != "done":
        return f"the run {summary['status']}: {summary['message']}"
    updates, seconds = summary["updates"], summary["seconds"]
    said = [f"{updates} update{'s' if updates != 1 else ''} in {number(seconds)} s, {number(seconds / updates)} s each"]
    if shares := summary["breakdown"]:
        told = {"compute": "computing", "communication": "communication", "waiting": "waiting", "other": "none of these"}
        parts = [f"{100 * shares[kind]:.0f} % {told[kind]}" for kind in KINDS if shares[kind] >= 0.005]
        said.append(f"of the workers' time {', '.join(parts)}")
    if staleness := summary["staleness"]:
        mean = f"mean staleness {number(staleness['mean'])}, at most {staleness['max']}"
        said.append(mean if staleness["max"] else "staleness 0")
    return "; ".join(said)


def held(lesson: Lesson) -> str:
    """The memory of the rank that held most, in bytes of the whole model's parameters."""
    memory = lesson.summary["memory"]
    if not memory:
        return ""
    kinds = [(kind, memory[kind] / MODEL_BYTES) for kind in Memory._fields if memory[kind]]
    parts = " + ".join(f"{kind} {number(value)}" for kind, value in kinds)
    return f"{lesson.lanes[memory['rank']].name} held most: {number(memory['bytes'] / MODEL_BYTES)} x the model = {parts}"


def gantt(lanes: Sequence[Lane], seconds: float, width: int) -> list[str]:
    """A line a rank, and one more below where communication hides behind computing; then the axis of time."""
    margin = max((len(lane.name) for lane in lanes), default=0) + 2
    columns = max(20, width - margin)
    scale = columns / seconds if seconds > 0.0 else 1.0  # columns a second, whole if there is room for it
    scale = float(int(scale)) if scale >= 1.0 else scale
    columns = min(columns, max(1, round(seconds * scale)))
    glyphs = letters(lanes)
    lines = []
    for lane in lanes:
        lines.append(f"{lane.name:{margin}}{_row(lane, glyphs, columns, scale)}".rstrip())
        if hidden := _painted([(span, HIDDEN) for span in lane.hidden], columns, scale).rstrip():
            lines.append(f"{'':{margin}}{hidden}")
    return [*lines, *_axis(margin, columns, scale)]


def letters(lanes: Sequence[Lane]) -> dict[str, str]:
    """Kind -> letter, for every kind in the picture."""
    left = iter(LETTERS_LEFT)
    return {kind: LETTERS[kind][0] if kind in LETTERS else next(left, "#") for kind in kinds(lanes)}


def legend(lanes: Sequence[Lane]) -> str:
    """What the characters mean, of those that occur."""
    found = letters(lanes)
    said = [f"{letter} {LETTERS[kind][1] if kind in LETTERS else kind}" for kind, letter in found.items()]
    if any(span.cancelled for lane in lanes for span in lane.computing):
        said.append(f"{CANCELLED} cancelled")
    marks = (("communication", COMMUNICATION, "communication"), ("hidden", HIDDEN, "communication behind computing"))
    said += [f"{mark} {name}" for key, mark, name in marks if any(getattr(lane, key) for lane in lanes)]
    said += [f"{WAITING} waiting for others"] if any(lane.waiting for lane in lanes) else []
    numbers = ", digits are micro-batches" if any(numbered(lane) for lane in lanes) else ""
    return "  ".join(f"{entry.replace(' ', UNBROKEN)} " for entry in [*said, f"(in seconds{numbers})"]).rstrip()


def _row(lane: Lane, glyphs: Mapping[str, str], columns: int, scale: float) -> str:
    spans = [(interval, COMMUNICATION) for interval in lane.communication]
    spans += [(interval, WAITING) for interval in lane.waiting]
    row = list(_painted(spans, columns, scale))
    free = [True] * columns
    for span in lane.computing:
        own = _columns(span, columns, scale)
        for column in own:
            row[column], free[column] = glyphs[span.kind], False
        digits = str(span.part)
        if numbered(lane) and span.part >= 0 and len(own) > len(digits):
            row[own[1] : own[1] + len(digits)] = digits
        if span.cancelled and own:
            row[own[-1]] = CANCELLED
    for span in lane.computing:
        column = min(columns - 1, int((span.begun + span.ended) / 2.0 * scale))
        if free[column] and not _columns(span, columns, scale):
            row[column], free[column] = glyphs[span.kind], False
    return "".join(row)


def _columns(span: Span, columns: int, scale: float) -> range:
    """The columns between the ends of a span, rounded."""
    return range(floor(span.begun * scale + 0.5 + 1e-6), min(columns, floor(span.ended * scale + 0.5 + 1e-6)))


def _painted(spans: Iterable[tuple[Interval, str]], columns: int, scale: float) -> str:
    """Each column shows what covers most of it, or nothing."""
    cover: list[dict[str, float]] = [{} for _ in range(columns)]
    for (begun, ended), mark in spans:
        first, last = begun * scale, ended * scale
        for column in range(max(0, int(first + 1e-6)), min(columns, int(last - 1e-6) + 1)):
            share = min(last, column + 1.0) - max(first, float(column))
            cover[column][mark] = cover[column].get(mark, 0.0) + share
    return "".join(_most(shares) for shares in cover)


def _most(shares: Mapping[str, float]) -> str:
    idle = 1.0 - sum(shares.values())
    mark = max(shares, key=lambda mark: shares[mark], default=" ")
    return mark if shares and shares[mark] > idle - 1e-6 else " "


def _spelled(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _axis(margin: int, columns: int, scale: float) -> list[str]:
    """A tick every so many seconds, and its number."""
    step = next((s for s in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if s * scale >= 8.0), 10_000)
    ruler, numbers = [" "] * columns, [" "] * columns
    for tick in range(0, int(columns / scale + 1e-6) + 1, step):
        text, column = str(tick), round(tick * scale)
        if column + len(text) <= columns:
            ruler[column] = "|"
            numbers[column : column + len(text)] = text
    return [f"{'':{margin}}{''.join(line)}".rstrip() for line in (ruler, numbers)]
