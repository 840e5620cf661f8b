"""Where the step goes: one bar a contender and mode, four parts that add up to 100 %."""

from __future__ import annotations

import math
from collections.abc import Mapping

from distsim.report.markup import Html, element
from distsim.report.page_data import Page, badge, dotted, section
from distsim.results.breakdown import KINDS
from distsim.results.cases import Case

NAMES = {
    "compute": "computing",
    "communication": "exposed communication",
    "waiting": "waiting for others",
    "other": "other",
}
READABLE = 11
"""Smallest part, in percent, whose number is written into it."""


def shares(page: Page) -> Html | None:
    """The bars of all settings on the headline's cluster with its number of workers: measured beside predicted.

    Modeled and cosimulated times are the same to the last bit, so one of the two is shown.
    """
    head = page.head
    if head is None:
        return None
    settings: dict[tuple[object, ...], list[Case]] = {}
    for case in page.cases:
        if case.setting[:2] == head.case.setting[:2]:
            settings.setdefault(case.setting, []).append(case)
    for found in settings.values():
        if any(case.mode == "modeled" for case in found):
            found[:] = [case for case in found if case.mode != "cosimulated"]
    groups = [_group(page, found) for found in settings.values()]
    if not any(groups):
        return None
    key = element("p", *(element("span", element("i", class_=f"kind {k}"), NAMES[k]) for k in KINDS), class_="legend")
    lead = (
        "How the workers' time divides, on average. Communication counts where no computing hides it; "
        "waiting is for a rank that has not come yet. Each bar adds up to 100 %."
    )
    return section("Where the step goes", lead, key, element("div", *groups, class_="sharegroups"), name="step")


def _group(page: Page, found: list[Case]) -> Html | None:
    labels = dict.fromkeys(contender.label for case in found for contender in case.contenders)
    rows = []
    for label in sorted(labels, key=lambda label: page.colors[label]):
        bars = []
        for case in found:
            contender = case.contender(label)
            divided = contender.breakdown() if contender else None
            if divided:
                bars.append(element("div", badge(case.badge), _bar(divided), class_="sharebar"))
        if bars:
            who = element("div", dotted(label, page.colors[label]), class_="who")
            rows.append(element("div", who, element("div", *bars), class_="sharerow"))
    return element("div", element("h3", str(found[0])), *rows, class_="sharegroup") if rows else None


def _bar(divided: Mapping[str, float]) -> Html:
    percents = whole_percents(divided)
    parts = [
        element(
            "span",
            f"{percents[kind]} %" if percents[kind] >= READABLE else None,
            class_=f"kind {kind}",
            style=f"flex-grow:{divided[kind]:.6f}",
            title=f"{NAMES[kind]}: {percents[kind]} %",
        )
        for kind in KINDS
        if divided[kind] > 0.0
    ]
    return element("span", *parts, class_="bar")


def whole_percents(divided: Mapping[str, float]) -> dict[str, int]:
    """Whole percents that add up to 100: rounded down, and the largest remainders rounded up."""
    exact = {kind: 100.0 * share for kind, share in divided.items()}
    whole = {kind: math.floor(value + 1e-9) for kind, value in exact.items()}
    missing = 100 - sum(whole.values())
    for kind in sorted(exact, key=lambda kind: whole[kind] - exact[kind])[: max(0, missing)]:
        whole[kind] += 1
    return whole
