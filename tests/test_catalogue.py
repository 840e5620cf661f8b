"""What the docstrings of strategies must hold, and how it is read and shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from distsim import catalogue, registry
from distsim.catalogue import Entry, Malformed

STRATEGIES = registry.installed("strategy")
PAPER = 'Doe et al., "A Paper", ICML 2020.'


def made(doc: str | None) -> type[Any]:
    return type("Made", (), {"__doc__": doc})


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_says_its_rule_staleness_closed_form_and_paper(name: str) -> None:
    entry = catalogue.read(name, registry.load("strategy", name))
    assert all((entry.rule, entry.staleness, entry.closed_form, entry.paper))
    assert re.search(r"(19|20)\d\d|arXiv:\d{4}\.\d{5}", entry.paper), "the paper has a year or a number"


def test_the_parts_of_a_docstring() -> None:
    cls = made(
        f"""The rule,
        over two lines.

        Mean staleness (P-1)/2, for any delays; E[X]/P an update. Li et al. call
        it 2.5 times as good; see v1.0. {PAPER} Also Roe and Poe, arXiv:1234.56789.
        """
    )
    assert catalogue.read("made", cls) == Entry(
        "made",
        "The rule, over two lines.",
        "(P-1)/2, for any delays",
        "E[X]/P an update. Li et al. call it 2.5 times as good; see v1.0.",
        f"{PAPER} Also Roe and Poe, arXiv:1234.56789.",
    )


@pytest.mark.parametrize(
    ("doc", "missing"),
    [
        (None, "must begin with one sentence that says the rule"),
        ("Made(k: int = 3)", "must begin with one sentence that says the rule"),
        ("No full stop", "must begin with one sentence that says the rule"),
        ("A rule.", "must begin with 'Staleness' or 'Mean staleness'"),
        (f"A rule.\n\nIts staleness is 0. X a step. {PAPER}", "must begin with 'Staleness' or 'Mean staleness'"),
        ("A rule.\n\nStaleness 0. X a step.", 'must end with the paper: Author et al., "Title", venue and year.'),
        (f"A rule.\n\nStaleness 0. {PAPER}", "must give the closed form between the staleness and the paper"),
    ],
)
def test_what_is_missing_is_named_with_the_class(doc: str | None, missing: str) -> None:
    with pytest.raises(Malformed, match=re.escape(missing)) as raised:
        catalogue.read("made", made(doc))
    assert str(raised.value).startswith(f"{__name__}.Made: ")


def test_a_strategy_of_others_is_described_as_far_as_it_goes() -> None:
    assert catalogue.describe("made", made("A rule.\n\nFaster than light.")) == Entry(
        "made", "A rule.", "", "Faster than light."
    )
    assert catalogue.describe("made", made(None)) == Entry("made", "")


def test_the_readme_shows_them_all() -> None:
    entries = [entry for entry in catalogue.strategies() if entry.name in registry.BUILT_IN["strategy"]]
    rows = [f"| `{entry.name}` | {entry.rule} | {entry.staleness} |" for entry in entries]
    table = "\n".join(["| strategy | rule | staleness |", "|---|---|---|", *rows])
    assert table in (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8"), f"paste this:\n{table}"


@pytest.mark.parametrize("width", [60, 80, 120])
def test_blocks_keep_to_their_width_and_lose_no_word(width: int) -> None:
    entries = catalogue.strategies()
    text = catalogue.in_blocks(entries, width)
    assert max(map(len, text.splitlines())) <= width
    words = " ".join(text.split())
    for entry in entries:
        assert f"{entry.name} {entry.rule} staleness {entry.staleness} closed form {entry.closed_form} paper" in words
    assert words.endswith(catalogue.SYMBOLS)
