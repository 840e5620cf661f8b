"""Pictures that were worked out by hand on the bench: F = 1 s and B = 2 s a block of eight and a worker's batch of samples,
2 s for the model over a link, 0.5 s for a batch's activations, 1 s to update the model, 0.25 s a gradient of a mean."""

from __future__ import annotations

import pytest

from distsim.cli import main


def drawn(words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, columns: int = 80) -> list[str]:
    """The rows of the picture, the legend after them."""
    monkeypatch.setenv("COLUMNS", str(columns))
    assert main(["explain", *words.split()]) == 0
    lines = capsys.readouterr().out.splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("worker 0"))
    return [line[10:] if line.startswith(("worker", "server", "    ")) else line for line in lines[first:]]


def test_a_pipeline(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two stages of four blocks, micro-batches of 8 samples: F = 4, B = 8, a hop 0.5. Stage 0 forwards at 0 and 4; stage 1
    runs F0 4.5-8.5, B0 -16.5, F1 -20.5, B1 -28.5 and, when that is sent, updates its half of the model in 0.5; stage 0 runs
    B0 17-25 and B1 29-37. Halves of seconds are rounded up."""
    rows = drawn("one_f_one_b cluster.workers=2 strategy.microbatches=2", capsys, monkeypatch)
    assert rows[:6] == [
        "F0FFF1FF........=B0BBBBBB...=B1BBBBBBA",
        "    ~",
        "....=F0FFB0BBBBBBF1FFB1BBBBBBA",
        "        ~       ~",
        "|         |         |         |",
        "0         10        20        30",
    ]
    assert " ".join(rows[7 : rows.index("", 7)]) == (
        "F forward   B backward   A apply (update)   = communication "
        "~ communication behind computing   . waiting for others (in seconds, digits are micro-batches)"
    )


def test_a_parameter_server(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two models share the server's link: 4 s. 24 s of computing, two gradients in 4 s, their mean 0.5 s, an update 1 s."""
    rows = drawn("sync_ps cluster.workers=2 budget.updates=1", capsys, monkeypatch, columns=60)
    worker = "====" + "F" * 8 + "B" * 16 + "====" + ".."
    assert rows[:3] == [worker, worker, "." * 28 + "====" + "MA"]


def test_a_late_gradient_is_cancelled(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """K = 1 of 2, and worker 1 takes twice as long: models arrive at 4, the gradient of worker 0 at 30, alone on its link.
    The update ends at 31; then worker 1 has run 16 s forward and 11 s backward, which the news cancels."""
    rows = drawn("k_sync strategy.k=1 cluster.workers=2 straggler.slow={1:2} budget.updates=2", capsys, monkeypatch)
    assert rows[0] == ("====" + "F" * 8 + "B" * 16 + "==" + ".") * 2
    assert rows[1] == ("====" + "F" * 16 + "B" * 10 + "x") * 2
    assert rows[2] == ("." * 28 + "==" + "A") * 2
    assert "x cancelled" in " ".join(rows)


def test_buckets_overlap_the_backward_pass(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers, four buckets of two blocks: after 8 s forward a bucket every 4 s, each reduced in 2 * 1/2 * M/4B = 0.5.
    The last one is hidden by the update of the first three quarters of the model. Two columns a second."""
    rows = drawn("all_reduce cluster.workers=2 budget.updates=1", capsys, monkeypatch, columns=60)
    assert rows[0] == "F" * 16 + "B" * 32 + "AA"
    assert rows[1] == " " * 24 + "~       ~       ~       ~"


def test_scales_to_the_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for columns in (60, 80, 120):
        monkeypatch.setenv("COLUMNS", str(columns))
        assert main(["explain", "pipedream"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= columns
        assert max(len(line) for line in lines if line.startswith("worker")) > columns * 0.7
