"""`distsim bench overhead`: hand-written programs train the same; which blocks count; where time goes; what is refused."""

import json
import multiprocessing
import time
from pathlib import Path

import pytest
import torch

from distsim.backends.real import RealOptions, launch
from distsim.bench import overhead
from distsim.bench.overhead_blocks import Block, Used, row, used
from distsim.bench.overhead_profile import shares
from distsim.bench.overhead_reference import Setting, train
from distsim.bench.overhead_stage import job, strategy
from distsim.cli import main
from distsim.interface import SGD, AdamW
from distsim.interface.trace import Compute, Trace, Transfer, Update
from distsim.numerics.tensors_assemble import assemble
from distsim.workloads.char_gpt import CharGPT
from distsim.workloads.digits_mlp import DigitsMLP

STEPS = 3
SETTINGS = {
    "mlp": Setting(DigitsMLP(batch=8, depth=4, width=32, dtype="float64"), 2, SGD(0.1, 0.9), microbatches=4),
    "gpt": Setting(
        CharGPT(batch=2, layers=1, heads=2, width=16, context=8, dtype="float64"), 2, AdamW(0.01), microbatches=4
    ),
}
PAIRS = [(ours, theirs) for ours, baselines in overhead.ARMS.items() for theirs in baselines]


def write_weights(setting: Setting, program: str, rank: int, folder: Path) -> None:
    """One rank of a hand-written program."""
    weights = train(setting, program, rank, folder / "store", range(STEPS))
    torch.save(weights, folder / f"{rank}.pt")


@pytest.mark.slow
@pytest.mark.parametrize("setting", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
def test_the_same_steps_give_the_same_weights(setting: Setting, ours: str, theirs: str, tmp_path: Path) -> None:
    ranks = [
        multiprocessing.get_context("forkserver").Process(target=write_weights, args=(setting, theirs, rank, tmp_path))
        for rank in range(2)
    ]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    expected = torch.load(tmp_path / "0.pt") | torch.load(tmp_path / "1.pt")
    outcome = launch(job(setting, strategy(ours, 4), STEPS, snapshots=True), RealOptions(device="cpu"), tmp_path)
    assert outcome.status == "done", outcome.message
    blocks = setting.workload.task(0).blocks
    shown = [piece for snapshot in outcome.snapshots if snapshot.number == STEPS for piece in snapshot.pieces]
    found = assemble(setting.workload.model(), blocks, shown)
    assert found is not None
    assert set(found) == set(expected) == set(range(len(blocks)))
    for block, weights in found.items():
        torch.testing.assert_close(weights, expected[block], rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_rows_of_a_small_comparison(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "rows.json"
    arguments = ["--workloads", "tiny", "--ranks", "2", "--strategies", "all_reduce,one_f_one_b", "--others", "1"]
    assert main(["bench", "overhead", *arguments, "--limit-seconds", "1", "--profile", "--json", str(output)]) == 0
    rows = json.loads(output.read_text())
    assert [(row["arm"], row["baseline"]) for row in rows] == [
        ("all_reduce", "ddp_tuned"),
        ("all_reduce", "ddp_default"),
        ("ddp_tuned", "ddp_tuned"),
        ("one_f_one_b", "torch_1f1b"),
        ("torch_1f1b", "torch_1f1b"),
    ]
    assert all((row["workload"], row["ranks"], row["rejected"], row["resolved"]) == ("tiny", 2, 0, False) for row in rows)
    assert all(row["ratio"] > 0.0 and row["blocks"] >= 1 for row in rows[:3])
    # To start the first comparison took longer than all of them had.
    assert all((row["ratio"], row["blocks"]) == (None, 0) for row in rows[3:])
    shown = capsys.readouterr()
    assert "not resolved: time was up" in shown.out
    assert "all_reduce: milliseconds a step" in shown.out
    assert "round 1 of" in shown.err
    assert "one_f_one_b: no time is left" in shown.err


def test_pairs_count_if_neither_block_was_disturbed() -> None:
    def block(program: str, seconds: float, others: float = 0.0) -> Block:
        return Block(program, seconds, cpu=2.0 * seconds, others=others)

    rounds = [[block("ours", 1.01), block("theirs", 1.0)] for _ in range(6)]
    rounds += [
        [block("theirs", 1.0), block("ours", 9.0, others=0.5)],
        [block("theirs", 9.0, others=0.05), block("ours", 9.0, others=0.05)],
    ]
    found = row("mlp", 2, "ours", "theirs", rounds, others=0.04)
    assert (found["blocks"], found["rejected"], found["resolved"]) == (6, 3, True)
    assert [found[key] for key in ("ratio", "low", "high", "cpu_ratio")] == pytest.approx([1.01] * 4)
    # Of five pairs no order statistics cover the median with 95 %: 2 / 2^5 > 0.05. The JSON has no infinity.
    few = row("mlp", 2, "ours", "theirs", rounds[:5], others=0.04)
    assert (few["low"], few["high"], few["resolved"]) == (None, None, False)
    none = row("mlp", 2, "ours", "theirs", rounds[6:], others=0.04)
    assert (none["ratio"], none["blocks"], none["resolved"]) == (None, 0, False)


def test_what_others_used_is_all_but_what_was_idle_and_ours() -> None:
    # 2 cores for 10 s, of which 5 core-seconds were idle and 12 ours: others had 3 of 20.
    assert Used(-105.0, 62.0, 30.0).others(Used(-100.0, 50.0, 20.0), cores=2) == pytest.approx(3.0 / 20.0)
    import os

    before, until = used([os.getpid()]), time.process_time() + 0.05
    while time.process_time() < until:
        pass
    assert used([os.getpid()]).ours - before.ours >= 0.05


def test_a_profile_divides_the_steps_that_follow_another_in_their_block() -> None:
    # Blocks of 1, 1 and 3 steps. Only the last two count, of 2 s each: 1 s of gradient, .3 of apply, .5 of waiting.
    trace = Trace(0)
    trace.updates = [Update(i + 1, 0, end) for i, end in enumerate([1.0, 100.0, 200.0, 202.0, 204.0])]
    for begun in (0.0, 150.0, 200.0, 202.0):
        trace.compute += [
            Compute("gradient[0:2]", begun, begun + 1.0, 0, 0),
            Compute("apply", begun + 1.6, begun + 1.9, -1, -1),
        ]
        trace.transfers.append(Transfer("all_reduce", "all_reduce 0,1", 0, 8.0, begun + 0.9, begun + 1.0, begun + 1.5))
    assert shares(trace, [1, 1, 3]) == pytest.approx([2.0, 1.0, 0.3, 0.0, 0.5, 0.2])


def test_bad_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    wrong = ["--workloads", "mlp", "--ranks", "1", "--strategies", "ddp", "--limit-seconds", "0", "--others", "2"]
    assert main(["bench", "overhead", *wrong, "--json", "no/such/folder/rows.json"]) == 2
    said = capsys.readouterr().err
    for key in ("--workloads='mlp'", "--ranks='1'", "--strategies='ddp'", "--limit-seconds", "--others", "--json="):
        assert key in said
