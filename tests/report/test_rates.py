"""The learning-rate grid: what each rate reached, the choice, and rate / P."""

import re
from pathlib import Path

from made_up_runs import store

from distsim.report.page_data import gather
from distsim.report.rates import rates


def test_the_grid_the_choice_and_the_control(tmp_path: Path) -> None:
    tuning = [
        store(tmp_path, strategy, "cosimulated", rate=rate, seed=100, label="tuning", learning=learning)
        for strategy in ("all_reduce", "async_ps")
        for rate, learning in ((0.1, 0.2), (0.4, 1.0))
    ]
    runs = [store(tmp_path, "all_reduce", rate=0.4)] + [store(tmp_path, "async_ps", rate=rate) for rate in (0.4, 0.1)]
    shown = rates(gather([*runs, *tuning], "rates"))
    assert shown is not None
    rows = re.findall(r"<tr>(.*?)</tr>", shown)
    assert re.findall(r">([^<]+)</th>", rows[0]) == ["strategy", "0.1", "0.4"]
    cells = [re.findall(r'<td class="([\w ]+)"[^>]*>([^<]*)(<small> rate / P</small>)?', row) for row in rows[1:]]
    assert [cell[0] for cell in cells[0]] == ["who", "number", "number chosen"]
    assert [(cell[0], bool(cell[2])) for cell in cells[1]] == [
        ("who", False),
        ("number chosen", True),  # .1 is .4, the synchronous choice, over 4 workers
        ("number chosen", False),
    ]
    assert cells[0][1][1].startswith("best ")
    assert cells[0][2][1].endswith(" ms")


def test_without_tuning_there_is_no_such_section(tmp_path: Path) -> None:
    assert rates(gather([store(tmp_path, "all_reduce")], "rates")) is None


def test_a_rate_that_diverged_says_so(tmp_path: Path) -> None:
    tuning = [store(tmp_path, "all_reduce", "cosimulated", rate=0.4, seed=100, label="tuning", status="diverged")]
    shown = rates(gather([store(tmp_path, "all_reduce"), *tuning], "rates"))
    assert shown is not None
    assert ">diverged</td>" in shown
