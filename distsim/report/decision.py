"""The box on top: the answer in ten seconds. What to take, by how much, why, how far the model was, when it changes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from distsim.report.markup import Html, element, join
from distsim.report.page_data import Page, badge, badges, dotted
from distsim.report.tables import outcome
from distsim.results.breakdown import dominating, in_words
from distsim.results.explanation import Statement, advantage, changes, model_distance, sentence, why
from distsim.results.statistics import Estimate
from distsim.results.verdict import Standing, Verdict
from distsim.results.wording import duration, factor, number


def decision(page: Page) -> Html:
    """The answer of the headline case, with the race that led to it."""
    verdict = page.head
    if verdict is None:
        return element("section", element("h1", sentence(None)), class_="decision", id="answer")
    answer = [
        element("p", join([verdict.case.badge + " on " + str(verdict.case)]), class_="kicker"),
        element("h1", *_answer(verdict)),
        element("p", *_lede(verdict), class_="lede"),
    ]
    top = element("div", element("div", *answer, class_="answer"), _race(page, verdict), class_="top")
    return element("section", top, element("div", *_facts(page), class_="facts"), class_="decision", id="answer")


def _answer(verdict: Verdict) -> list[object]:
    if verdict.winner is None:
        return ["No winner"]
    return ["Take ", element("em", verdict.winner.label)]


def _lede(verdict: Verdict) -> list[object]:
    if verdict.winner is None:
        named = any(verdict.reason.startswith(standing.label) for standing in verdict.standings)
        text = verdict.reason if named else verdict.reason[:1].upper() + verdict.reason[1:]
        ratio = verdict.ratio
        if ratio is not None and ratio.n > 1:
            text += f": {_interval(ratio)}"
        return [text + ". ", badge(verdict.case.badge)]
    text = advantage(verdict)
    return [text[:1].upper() + text[1:] + ". ", badge(verdict.case.badge)]


def _interval(ratio: Estimate) -> str:
    return f"ratio {factor(ratio.value)}, 95 % interval {factor(ratio.low)} to {factor(ratio.high)}, {ratio.n} pairs"


def _race(page: Page, verdict: Verdict) -> Html | None:
    """Seconds until the target, a bar a contender; those that never got there say so."""
    finite = [s.seconds.value for s in verdict.standings if math.isfinite(s.seconds.value)]
    if verdict.target is None or max(finite, default=0.0) == 0.0:  # a run of a few updates may only get where it began
        return None
    rows = [_lane(page, standing, max(finite)) for standing in verdict.standings]
    head = element("h3", f"Time to validation loss {number(verdict.target)} ", badge(verdict.case.badge))
    note = "Median of the repeats; the line spans the fastest to the slowest."
    return element("div", head, *rows, element("p", note, class_="note"), class_="race")


def _lane(page: Page, standing: Standing, longest: float) -> Html:
    color = page.colors[standing.label]
    control = element("small", " control, not ranked") if standing.contender.is_control else None
    label = element("span", dotted(standing.label, color, control), class_="who")
    if not math.isfinite(standing.seconds.value):
        return element("div", label, element("span", _never(standing), class_="never"), class_="lane")
    times = [r.seconds for r in standing.repeats.values() if r.seconds is not None]
    scale = 100.0 / (1.12 * longest)
    bar = element("b", style=f"width:{standing.seconds.value * scale:.2f}%;--c:var(--s{color % 8})")
    low, high = min(times) * scale, min(100.0, max(times) * scale)
    whisker = element("u", style=f"left:{low:.2f}%;width:{high - low:.2f}%") if len(times) > 1 else None
    partly = None if standing.times == len(standing.repeats) else element("small", f" {standing}")
    value = element("span", duration(standing.seconds.value), partly, class_="value")
    return element("div", label, value, element("span", bar, whisker, class_="track"), class_="lane")


def _never(standing: Standing) -> str:
    """Why a lane has no bar; the facts below say more."""
    if not standing.contender.fits:
        return "does not fit"
    return f"reached {standing.times} of {len(standing.repeats)}" if standing.times else "not reached"


def _facts(page: Page) -> list[Html]:
    verdict = page.head
    assert verdict is not None
    facts = [
        _fact("Why" if verdict.winner else "What differs", [*why(verdict), *_dominating(verdict)]),
        _fact("How far the model was", model_distance(page.agreement) or _unchecked(page)),
        _fact("When it changes", changes(page.verdicts)),
        _fact("Did not get there", _not_reached(verdict)),
        _fact("Does not fit", [Statement(f"{s.label} {outcome(s)}.", (verdict.case.badge,)) for s in verdict.unfit]),
    ]
    return [fact for fact in facts if fact is not None]


def _unchecked(page: Page) -> list[Statement]:
    """That no prediction was held against a real run."""
    predicted = tuple(dict.fromkeys(case.badge for case in page.cases if case.mode != "real"))
    return [Statement("Not known: nothing here was run for real as well (backend=real).", predicted)] if predicted else []


def _fact(title: str, statements: Sequence[Statement]) -> Html | None:
    if not statements:
        return None
    said = [element("li", statement.text, badges(statement.badges)) for statement in statements]
    return element("div", element("h3", title), element("ul", *said), class_="fact")


def _dominating(verdict: Verdict) -> list[Statement]:
    first = verdict.first
    shares = first.contender.breakdown() if first else None
    if first is None or shares is None:
        return []
    kind = dominating(shares)
    text = f"Most of {first.label}'s own time is {in_words(kind)}: {100 * shares[kind]:.0f} %."
    return [Statement(text, (verdict.case.badge,))]


def _not_reached(verdict: Verdict) -> list[Statement]:
    return [
        Statement(f"{standing.label}: {outcome(standing)}.", (verdict.case.badge,))
        for standing in verdict.standings
        if standing.times < len(standing.repeats) and outcome(standing) != "done" and standing.contender.fits
    ]
