"""The page in a real browser: no request, no error, no overlap, nothing wider than the screen. Skips without Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_up_runs import store, whole

from distsim.composition import compose
from distsim.explain import settings
from distsim.explain.lesson import lesson
from distsim.report.lesson import write_lesson
from distsim.report.page import write_report

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]

OVERLAPS = """() => {
  const found = [], rects = [];
  const walker = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, parent = node.parentElement;
    const seen = parent.checkVisibility({ visibilityProperty: true, opacityProperty: true });
    if (!node.data.trim() || parent.closest('select, [hidden]') || !seen) continue;
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const r of range.getClientRects()) {
      const inset = r.height * 0.22;  // the box of a line is taller than its letters
      if (r.width > 1 && r.height > 1)
        rects.push({ node, l: r.left + 1, r: r.right - 1, t: r.top + inset, b: r.bottom - inset });
    }
  }
  rects.sort((a, b) => a.t - b.t);
  rects.forEach((a, i) => {
    for (let j = i + 1; j < rects.length && rects[j].t < a.b; j++) {
      const b = rects[j];
      if (a.node !== b.node && a.l < b.r && b.l < a.r) found.push(`${a.node.data} | ${b.node.data}`);
    }
  });
  return found;
}"""

OUTSIDE = """() => {
  const main = document.querySelector('main'), style = getComputedStyle(main), box = main.getBoundingClientRect();
  const right = box.right - parseFloat(style.paddingRight) + 1, left = box.left + parseFloat(style.paddingLeft) - 1;
  return [...main.querySelectorAll('*')].filter(e => {
    const r = e.getBoundingClientRect();
    return r.width > 0 && r.height > 0 && !e.closest('.plot') && (r.right > right || r.left < left);
  }).map(e => `${e.tagName} ${e.className} ${e.textContent.slice(0, 40)}`);
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A full page, one of a few modeled runs, one whose names are long and hostile, and a lesson."""
    folder = tmp_path_factory.mktemp("pages")
    results, tuning = whole(folder / "runs")
    write_report(results, folder / "full.html", tuning=tuning)
    few = [store(folder / "few", name, "modeled") for name in ("all_reduce", "sync_ps", "async_ps")]
    write_report(few, folder / "few.html")
    hostile = [
        store(folder / "hostile", name, mode, repeat, workers=2)
        for name in ("all_reduce", "async_ps")
        for mode in ("real", "modeled")
        for repeat in range(2)
    ]
    for run in hostile:
        name = "<script>document.title='broken'</script><a href=javascript:alert(1)>x</a></script>" + "W" * 300
        for section in ("strategy", "cluster", "workload"):
            run.config[section]["name"] += name
        run.summary["notes"].append(name)
    write_report(hostile, folder / "hostile.html", title="</title><script>document.title='broken'</script>" + "M" * 200)
    many = [
        store(folder / "many", name, mode, repeat, cluster=cluster, label=label, slow={0: 3.0} if slow else {})
        for name in ("all_reduce", "sync_ps", "async_ps")
        for mode in ("modeled", "cosimulated")
        for repeat in range(5)
        for cluster in ("local4", "switch")
        for label in ("", "a" * 100, "several words " * 6)
        for slow in (False, True)
    ]
    for run in many:
        run.summary["memory"] = {"rank": 0, "bytes": 3.31e6}
    write_report(many, folder / "many.html")
    values, _ = compose([("strategy", "one_f_one_b")])
    read, _ = settings.read(values, [])
    assert read is not None
    write_lesson(lesson(read), folder / "lesson.html")
    return {name: folder / f"{name}.html" for name in ("full", "few", "hostile", "many", "lesson")}


@pytest.mark.parametrize("width", [1200, 400])
@pytest.mark.parametrize(
    ("name", "scheme"),
    [
        ("full", "light"),
        ("full", "dark"),
        ("few", "dark"),
        ("hostile", "light"),
        ("many", "light"),
        ("lesson", "light"),
        ("lesson", "dark"),
    ],
)
def test_it_is_quiet_and_fits(browser: Any, pages: dict[str, Path], name: str, width: int, scheme: str) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    said: list[str] = []
    page.on("console", lambda message: said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: said.append(f"error: {error}"))
    page.on("request", lambda request: said.append(f"request: {request.url}"))
    address = pages[name].as_uri()
    page.goto(address)
    page.wait_for_selector("html[data-ready]")
    for more in page.query_selector_all("button.more"):
        more.click()
    for button in page.query_selector_all("button[data-panel]"):
        button.click()
        fits(page)
    fits(page)
    page.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    fits(page)
    assert [line for line in said if line != f"request: {address}"] == []
    assert "broken" not in page.title()[:6]
    context.close()


def fits(page: Any) -> None:
    """No horizontal scroll, nothing outside of the column, no text over other text."""
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    assert page.evaluate(OUTSIDE) == []
    assert page.evaluate(OVERLAPS) == []


def test_a_lesson_draws_a_line_a_rank(browser: Any, pages: dict[str, Path]) -> None:
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.goto(pages["lesson"].as_uri())
    page.wait_for_selector("html[data-ready]")
    from_the_top = "(a, b) => a.getBoundingClientRect().top - b.getBoundingClientRect().top"
    texts = f"[...document.querySelectorAll('.plot .ytick text')].sort({from_the_top}).map(t => t.textContent)"
    ticks = page.evaluate(texts)
    assert ticks == [f"worker {rank}" for rank in range(4)]
    assert page.evaluate("document.querySelectorAll('.plot .bars .point').length") > 4 * 16
    page.close()


def test_a_click_on_a_heading_sorts(browser: Any, pages: dict[str, Path]) -> None:
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.goto(pages["full"].as_uri())
    page.wait_for_selector("html[data-ready]")
    page.click("#runs button.more")
    column = "[...document.querySelectorAll('#runs tbody tr')].map(r => Number(r.cells[8].dataset.sort))"
    page.click("#runs th[data-key=samples_per_second]")
    rising = page.evaluate(column)
    assert rising == sorted(rising)
    page.click("#runs th[data-key=samples_per_second]")
    assert page.evaluate(column) == sorted(rising, reverse=True)
    page.close()


def test_the_timeline_is_drawn_and_zooms(browser: Any, pages: dict[str, Path]) -> None:
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.goto(pages["full"].as_uri())
    page.wait_for_selector("html[data-ready]")
    picture = "document.getElementById('timeline').toDataURL()"
    before = page.evaluate(picture)
    page.click("button[data-zoom=in]")
    zoomed = page.evaluate(picture)
    page.select_option(".controls select", "2")
    assert len({before, zoomed, page.evaluate(picture)}) == 3
    page.close()
