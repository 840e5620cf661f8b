"""Bad settings of the strategies: exit code 2, one line that begins with the key, its value and what is allowed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from distsim import registry
from distsim.cli import main

RATE, MOMENTUM = "greater than 0 and finite", "at least 0 and less than 1"
SHARDS = "tensor shards must divide the 256 ways of block 0"

REFUSED = {
    # how many gradients an update takes, and how stale they may be
    **{f"strategy={name} strategy.k={k}": f"strategy.k={k}: must be 1 to 4: "
       for name in ("k_sync", "k_async", "k_batch_async") for k in (0, -1, 5)},
    "strategy=k_batch_sync strategy.k=0": "strategy.k=0: must be ",
    "strategy=k_sync strategy.k=two": "strategy.k='two': a whole number; did you mean 2?",
    "strategy=k_sync strategy.k=2.5": "strategy.k=2.5: a whole number",
    "strategy=k_sync strategy.K=2": "strategy.K=2: no such key; did you mean strategy.k?",
    "strategy=backup_workers strategy.backups=-1": "strategy.backups=-1: must be 0 to 3: of 4 workers one at least",
    "strategy=backup_workers strategy.backups=4": "strategy.backups=4: must be 0 to 3: of 4 workers one at least",
    "strategy=backup_workers strategy.late=wait": "strategy.late='wait': one of cancel, drop",
    "strategy=ssp strategy.bound=-1": "strategy.bound=-1: must be at least 0",
    "strategy=ssp strategy.bound=inf": "strategy.bound=inf: a whole number",
    "strategy=async_ps strategy.weight=invers": "strategy.weight='invers': one of constant, inverse, polynomial; did you "
    "mean inverse?",
    "strategy=async_ps strategy.exponent=-1": "strategy.exponent=-1.0: must be at least 0",
    "strategy=async_ps strategy.servers=0": "strategy.servers=0: must be 1 to 1024",
    "strategy=async_ps strategy.servers=100000": "strategy.servers=100000: must be 1 to 1024",
    "strategy=sync_ps strategy.beside=1": "strategy.beside=1: true or false",
    "strategy=dc_asgd strategy.compensation=-1": "strategy.compensation=-1.0: must be at least 0",
    "strategy=dc_asgd strategy.compensation=nan": "strategy.compensation=nan: a number",
    "strategy=dc_asgd strategy.decay=1": "strategy.decay=1.0: must be at least 0 and below 1",
    "strategy=easgd strategy.alpha=1.5": "strategy.alpha=1.5: must be 0 to 1",
    "strategy=easgd strategy.alpha=-0.1": "strategy.alpha=-0.1: must be 0 to 1",
    "strategy=easgd strategy.period=0": "strategy.period=0: must be at least 1",
    # how long a worker trains alone, and what becomes of it
    **{f"strategy={name} strategy.every=0": "strategy.every=0: steps from one "
       for name in ("local_sgd", "slowmo", "diloco", "streaming_diloco")},
    "strategy=local_sgd strategy.after=-1": "strategy.after=-1: updates before the first local ones: at least 0",
    "strategy=slowmo strategy.slow_momentum=1": f"strategy.slow_momentum=1.0: {MOMENTUM}",
    "strategy=slowmo strategy.slow_learning_rate=0": f"strategy.slow_learning_rate=0.0: {RATE}",
    "strategy=diloco strategy.outer_learning_rate=-1": f"strategy.outer_learning_rate=-1.0: {RATE}",
    "strategy=diloco strategy.outer_momentum=1": f"strategy.outer_momentum=1.0: {MOMENTUM}",
    "strategy=diloco strategy.nesterov=yes": "strategy.nesterov='yes': true or false",
    "strategy=streaming_diloco strategy.fragments=0": "strategy.fragments=0: a fragment holds blocks",
    "strategy=streaming_diloco strategy.fragments=9": "strategy.fragments=9: a fragment holds blocks",
    "strategy=streaming_diloco strategy.delay=-1": "strategy.delay=-1: an average is used before its fragment",
    "strategy=streaming_diloco strategy.delay=20": "strategy.delay=20: an average is used before its fragment",
    "strategy=streaming_diloco strategy.alpha=2": "strategy.alpha=2.0: the share of a worker's own parameters: from 0 to 1",
    "strategy=gossip strategy.topology=star": "strategy.topology='star': one of ring, exponential, complete",
    "strategy=gossip cluster.workers=1": "cluster.workers=1: averaging with a neighbour needs at least 2 workers",
    "strategy=ad_psgd cluster.workers=1": "cluster.workers=1: averaging with a neighbour needs at least 2 workers",
    # what travels, and in how many pieces
    "strategy.compression=topk": "strategy.compression='topk': one of none, top_k, fp16, powersgd; did you mean top_k?",
    "strategy.compression=top_k strategy.density=0": "strategy.density=0.0: must be above 0 and at most 1",
    "strategy.compression=top_k strategy.density=1.5": "strategy.density=1.5: must be above 0 and at most 1",
    "strategy.compression=top_k strategy.density=-1": "strategy.density=-1.0: must be above 0 and at most 1",
    "strategy.compression=powersgd strategy.compression_rank=0": "strategy.compression_rank=0: must be at least 1",
    "strategy.bucket_bytes=-1": "strategy.bucket_bytes=-1: a size of 0 or more with its unit, like 25MB",
    "strategy.microbatches=0": "strategy.microbatches=0: must divide the 16 samples of a worker's batch; nearest: 1 or 2",
    "strategy.microbatches=3": "strategy.microbatches=3: must divide the 16 samples of a worker's batch; nearest: 2 or 4",
    # what each rank holds
    "strategy=zero strategy.stage=0": "strategy.stage=0: must be 1, 2 or 3",
    "strategy=zero strategy.stage=4": "strategy.stage=4: must be 1, 2 or 3",
    "strategy=zero strategy.microbatches=5": "strategy.microbatches=5: must divide the 16 samples of a worker's share",
    "strategy=hsdp strategy.shards=0": "strategy.shards=0: must divide the 4 workers; nearest: 1 or 2",
    "strategy=hsdp strategy.shards=3": "strategy.shards=3: must divide the 4 workers; nearest: 2 or 4",
    "strategy=tensor_parallel cluster.workers=3": f"cluster.workers=3: {SHARDS}",
    "strategy=hybrid strategy.tensor=0": "strategy.tensor=0: must be at least 1",
    "strategy=hybrid strategy.tensor=8": "cluster.workers=4: must be a multiple of tensor x stages = 16; nearest: 16",
    "strategy=hybrid strategy.stages=0": "strategy.stages=0: must be at least 1",
    "strategy=hybrid strategy.stages=3": "cluster.workers=4: must be a multiple of tensor x stages = 3; nearest: 3 or 6",
    "strategy=hybrid strategy.stages=16 cluster.workers=16": "strategy.stages=16: a pipeline needs a block a stage, "
    "and this model has 8",
    "strategy=hybrid strategy.schedule=zb": "strategy.schedule='zb': one of gpipe, one_f_one_b, interleaved, zb_h1, zb_h2, "
    "zb_v",
    # how many stages and micro-batches
    **{f"strategy={name} cluster.workers=9": "cluster.workers=9: a pipeline needs a block a stage, and this model has 8"
       for name in ("gpipe", "one_f_one_b", "zero_bubble", "pipedream")},
    **{f"strategy={name} strategy.microbatches=7": "strategy.microbatches=7: must divide the 64 samples of a step"
       for name in ("gpipe", "one_f_one_b", "zero_bubble", "pipedream_2bw", "interleaved")},
    "strategy=gpipe strategy.microbatches=0": "strategy.microbatches=0: must divide the 64 samples of a step; nearest: 1",
    "strategy=interleaved strategy.chunks=0": "strategy.chunks=0: must be at least 1",
    "strategy=interleaved strategy.chunks=3": "strategy.chunks=3: 4 ranks of 3 chunks need 12 blocks, and this model has 8",
    "strategy=interleaved strategy.microbatches=2": "strategy.microbatches=2: must divide the 64 samples of a step "
    "and be a multiple of the 4 ranks of the pipeline; nearest: 4",
    "strategy=zero_bubble strategy.variant=h3": "strategy.variant='h3': one of h1, h2, v",
    "strategy=zero_bubble strategy.variant=v cluster.workers=5": "cluster.workers=5: a pipeline needs 2 blocks a rank",
    "strategy=pipedream_2bw strategy.microbatches=2": "strategy.microbatches=2: must be at least the 4 stages",
}  # fmt: skip

NOTHING_TO_REFUSE = {"beside", "nesterov", "sharded", "error_feedback", "adaptive"}
"""Switches: only their kind can be wrong."""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("words", REFUSED)
def test_refuses(words: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", *words.split()]) == 2
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert line.startswith(REFUSED[words])
    assert said.out == ""
    assert list(here.iterdir()) == []


def test_every_setting_of_every_strategy_has_a_bad_value_here() -> None:
    keys = {
        field.name
        for name in registry.installed("strategy")
        for field in dataclasses.fields(registry.load("strategy", name))
        if field.init
    }
    tried = {word.removeprefix("strategy.").partition("=")[0] for words in REFUSED for word in words.split()}
    assert keys - tried - NOTHING_TO_REFUSE == set()
