"""The contract, held by ranks that take the way of a GPU, over gloo: see streams/sitecustomize.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
CHOSEN = (
    "tests/contract/test_collectives.py::test_results_of_all_kinds[real]",
    "tests/contract/test_collectives.py::test_an_all_reduce_in_place_gives_every_rank_its_own_payload_back[real]",
    "tests/contract/test_groups.py::test_groups_do_not_wait_for_each_other[real]",
    "tests/contract/test_values.py::test_gradients_come_a_bucket_at_a_time_last_blocks_first[real]",
    "tests/contract/test_tasks.py::test_a_task_answers_while_the_rank_computes[real]",
    "tests/real/test_equal_weights.py::test_weights_are_those_of_one_process[AllReduce-4]",
    "tests/real/test_equal_weights.py::test_weights_are_those_of_one_process[ModelParallel-2]",
)


def test_ranks_whose_device_has_streams_keep_the_contract():
    """From their start to what they give back: tests that ranks on the host pass, in a Python of their own."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTEST")}
    environment["PYTHONPATH"] = f"{ROOT / 'tests/real/streams'}:{ROOT}"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *CHOSEN]
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert "sitecustomize" not in ran.stderr
    assert f"{len(CHOSEN)} passed" in ran.stdout, ran.stdout
