"""The page as a file: what it says, what it leaves out, and that nothing in it can be injected into."""

import json
import re
from importlib.resources import files
from pathlib import Path

import plotly
import pytest
from made_up_runs import store, whole

from distsim.report.markup import Html, element, plain, script_json
from distsim.report.page import write_report
from distsim.report.shares import whole_percents
from distsim.results.store import load

HOSTILE = '<script>alert(1)</script>"\'&</style><a href="javascript:alert(1)">x</a>'


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, int]:
    """The whole page: its sentence, its text without plotly, and its size."""
    folder = tmp_path_factory.mktemp("full")
    results, tuning = whole(folder / "runs")
    sentence = write_report(results, folder / "index.html", tuning=tuning)
    text = (folder / "index.html").read_text(encoding="utf-8")
    return sentence, own(text), len(text.encode())


def own(page: str) -> str:
    """The page without the vendored library."""
    library = (files("distsim.report") / "assets" / "plotly-cartesian.min.js").read_text(encoding="utf-8")
    return page.replace(library, "")


def test_the_sentence_and_every_section(full: tuple[str, str, int]) -> None:
    sentence, page, _ = full
    assert re.fullmatch(
        r"Take all_reduce: validation loss 0\.16 in 478 ms, 1\.11 times as fast as async_ps \(95 % interval 1\.07 to "
        r"1\.15, 5 pairs\); measured on local4, 4 workers, depth 8, no straggler\.",
        sentence,
    )
    names = "answer loss runs scaling step ranks staleness predictions rates method"
    assert re.findall(r'<section[^>]* id="(\w+)"', page) == names.split()


def test_the_page_is_small_enough(full: tuple[str, str, int]) -> None:
    assert full[2] < 2_500_000


def test_it_names_no_address_to_load_from(full: tuple[str, str, int]) -> None:
    page = full[1]
    assert not re.search(r'(?:src|href)\s*=\s*"|url\(|@import|https?://', page)
    assert "Content-Security-Policy" in page


def test_the_vendored_plotly_fits_plotly_py_and_brings_its_licence() -> None:
    assets = files("distsim.report") / "assets"
    vendored = re.search(r"v(\d+)\.[\d.]+", (assets / "plotly-cartesian.min.js").read_text(encoding="utf-8")[:200])
    bundled = re.search(
        r"v(\d+)\.[\d.]+", (Path(plotly.__file__).parent / "package_data" / "plotly.min.js").read_text("utf-8")[:200]
    )
    assert vendored is not None
    assert bundled is not None
    assert vendored[1] == bundled[1]
    assert "Permission is hereby granted" in (assets / "plotly-LICENSE.txt").read_text(encoding="utf-8")


def test_three_modeled_runs_name_no_winner_and_say_why(tmp_path: Path) -> None:
    runs = [store(tmp_path / "runs", name, "modeled") for name in ("all_reduce", "sync_ps", "async_ps")]
    sentence = write_report(runs, tmp_path / "page.html")
    assert sentence.startswith(
        "No winner: without validation losses there is only throughput, and that alone makes no winner; highest: async_ps, "
    )
    page = own((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert re.findall(r'<section[^>]* id="(\w+)"', page) == ["answer", "runs", "step", "ranks", "staleness", "method"]


def test_one_failed_run_is_a_row(tmp_path: Path) -> None:
    runs = [store(tmp_path / "runs", "sync_ps", status="diverged")]
    assert write_report(runs, tmp_path / "page.html").startswith("No winner: one strategy alone")
    page = own((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "diverged (1 of 1): rank 2: loss is not finite at step 20" in page


def test_a_run_that_gets_nowhere_makes_a_page_too(tmp_path: Path) -> None:
    """Its best loss is the one that it began with, at 0 s, so the target is reached there: no bar has a length."""
    result = store(tmp_path / "runs", "sync_ps")
    summary = json.loads((result.folder / "summary.json").read_text(encoding="utf-8"))
    summary["curve"] = [{**summary["curve"][0], "update": 0, "samples": 0, "seconds": 0.0}]
    (result.folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    assert write_report([load(result.folder)], tmp_path / "page.html").startswith("No winner: one strategy alone")


def test_a_page_says_whether_the_model_was_held_against_real_runs(tmp_path: Path) -> None:
    known, unknown = "The modeled step time was ", "Not known: nothing here was run for real as well (backend=real)."
    for modes, said, not_said in (
        (("modeled",), unknown, known),
        (("modeled", "cosimulated"), unknown, known),
        (("real",), "", unknown),
        (("real", "modeled"), known, unknown),
    ):
        runs = [store(tmp_path / "-".join(modes), name, mode) for name in ("all_reduce", "sync_ps") for mode in modes]
        write_report(runs, tmp_path / "page.html")
        page = (tmp_path / "page.html").read_text(encoding="utf-8")
        assert said in page
        assert not_said not in page


def test_runs_without_a_second_loss_draw_no_curve(tmp_path: Path) -> None:
    failed = [store(tmp_path, name, "cosimulated", status="diverged") for name in ("all_reduce", "sync_ps")]
    for run in failed:
        run.summary["curve"][1:] = [{**point, "loss": None} for point in run.summary["curve"][1:]]
    write_report(failed, tmp_path / "page.html")
    page = own((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert 'id="runs"' in page
    assert 'id="loss"' not in page


def test_no_runs_make_a_page_too(tmp_path: Path) -> None:
    assert write_report([], tmp_path / "page.html") == "No winner: there are no runs."
    assert "plotly" not in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_tuning_runs_take_no_part_in_the_comparison(tmp_path: Path) -> None:
    runs = [store(tmp_path / "runs", "sync_ps", rate=rate, seed=100, label="tuning") for rate in (0.1, 0.2)]
    runs += [store(tmp_path / "runs", "sync_ps")]
    write_report(runs, tmp_path / "page.html")
    page = own((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "on seeds of its own (100)" in page
    assert page.count("<li>sync_ps <span") == 1  # the commands behind the rows of the comparison


def test_older_runs_are_left_out_and_it_is_said(tmp_path: Path) -> None:
    day = {1: "2030-01-01T00:00:00.000+00:00", 2: "2030-01-02T00:00:00.000+00:00"}
    runs = [store(tmp_path / "runs", "sync_ps", repeat=i, source="old", started=day[1], learning=9.0) for i in range(2)]
    runs += [store(tmp_path / "runs", name, source="new", started=day[2]) for name in ("sync_ps", "all_reduce")]
    write_report(runs, tmp_path / "page.html")
    page = own((tmp_path / "page.html").read_text(encoding="utf-8"))
    said = "2 older runs are left out: made by another version of distsim, and versions are not compared"
    assert f'<p class="note">2 runs. {said}</p>' in page
    assert f"<li>{said}.</li>" in page
    assert page.count('data-name="runs" data-sort="1">1</td>') == 2  # one row of one run each


def test_another_model_is_told_wherever_its_runs_are_shown(full: tuple[str, str, int]) -> None:
    page = full[1]
    assert "measured on local4, 4 workers, depth 8, no straggler" in page
    assert "switch 10Gbit/s, depth 64, worker 0 slowed 3x" in page
    assert "The model here (depth 64) is not the one of the answer (depth 8)." in page
    assert "Throughput alone, on switch 10Gbit/s, depth 64, no straggler: highest for " in page


def test_real_and_modeled_runs_of_one_network_are_compared_by_strategy(tmp_path: Path) -> None:
    names, modes = ("all_reduce", "sync_ps"), ("real", "modeled")
    write_report(
        [store(tmp_path, name, mode, cluster="switch") for name in names for mode in modes], tmp_path / "page.html"
    )
    page = own((tmp_path / "page.html").read_text(encoding="utf-8"))
    (predictions,) = re.findall(r'<section id="predictions">.*?</section>', page, re.DOTALL)
    assert "for real, over a network of hosts (switch, links of 10Gbit/s, 5 us a link)." in predictions
    assert re.findall(r'class="who">(\w+)<small>', predictions) == ["all_reduce", "sync_ps"]
    assert predictions.count('data-name="off by">') == 2


def test_hostile_names_are_text(tmp_path: Path) -> None:
    runs = [store(tmp_path / "runs", name, repeat=i, workers=2) for i in range(2) for name in ("all_reduce", "async_ps")]
    for run in runs:
        run.config["strategy"]["name"] += HOSTILE  # type: ignore[index]
        run.config["cluster"]["name"] += HOSTILE  # type: ignore[index]
        run.summary["notes"].append(HOSTILE)
        run.summary["host"] = HOSTILE  # type: ignore[index]
        run.summary["message"] = HOSTILE  # type: ignore[index]
    runs[0].summary["status"] = "failed"  # type: ignore[index]
    write_report(runs, tmp_path / "page.html", title=HOSTILE)
    page = own((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "&lt;script&gt;alert(1)" in page
    assert page.count("<script") == page.count("</script>") == 3  # the data, plotly, the page's own
    assert page.count("</style>") == 1
    assert not re.search(r"<a\b", page)
    data = json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page)[1])  # type: ignore[index]
    names = {trace["name"] for plot in data["plots"].values() for trace in plot["data"]}
    assert all("<" not in name for name in names)  # plotly would read tags


def test_elements_escape_what_is_not_markup() -> None:
    assert element("p", "<b>", class_='"', hidden=True, id=None) == '<p class="&quot;" hidden>&lt;b&gt;</p>'
    assert element("p", element("b", "a & b"), None) == "<p><b>a &amp; b</b></p>"
    assert Html("<b>") + "<i>" == "<b>&lt;i&gt;"
    assert element("td", data_sort=0) == '<td data-sort="0"></td>'


def test_json_in_a_script_cannot_end_it() -> None:
    assert "<" not in script_json({"x": "</script><!--"})
    assert json.loads(script_json({"x": "</script>&"})) == {"x": "</script>&"}
    with pytest.raises(ValueError, match="JSON compliant"):
        script_json(float("nan"))
    assert plain("<a href='x'>&") == "&lt;a href='x'&gt;&amp;"


def test_percents_add_up_to_a_hundred() -> None:
    thirds = {"compute": 1 / 3, "communication": 1 / 3, "waiting": 1 / 3, "other": 0.0}
    assert sorted(whole_percents(thirds).values()) == [0, 33, 33, 34]
    assert whole_percents({"compute": 0.995, "communication": 0.005}) == {"compute": 100, "communication": 0}
    assert sum(whole_percents({"a": 0.125, "b": 0.125, "c": 0.75}).values()) == 100
