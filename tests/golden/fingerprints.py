"""Fingerprints of modeled runs: the hash of all their records, to the last bit (`distsim.results.records.trace_hash`).

    python tests/golden/fingerprints.py            which of them have changed
    python tests/golden/fingerprints.py --write    make the present ones the expected ones (fingerprints.json)

They say nothing about what is right; they say that something has changed, and CHANGELOG then says what and why.

They are the same on every machine: times are made of IEEE 754 additions, subtractions, multiplications, divisions and
comparisons, draws of BLAKE2b, and fractions are added up by `fsum`, as `sum` rounds otherwise from Python 3.12 on. One
thing is not: logarithms, powers and cosines of the C library, which need not be rounded correctly and may differ in the
last bit between libraries and processors. Only random draws use them. So these have a fingerprint of their own (`DRAWS`),
and runs that need them are compared only where it is the recorded one.
Costs are those of the reference machine's profile, whatever was calibrated here.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from distsim import api, execution, grammar
from distsim.calibration import profile
from distsim.interface import Straggler
from distsim.results.records import trace_hash

FILE = Path(__file__).with_name("fingerprints.json")
REFERENCE = Path(profile.__file__).with_name("reference.json")
DRAWS = "draws"
EVERY = [("backend", "modeled"), ("cluster.profile", str(REFERENCE))]
UPDATES = "budget.updates=5"
"""Of runs that say nothing of it."""

_BERNOULLI = "straggler=bernoulli straggler.probability=0.4 straggler.multiple=2.5"
"""Whose draws are only compared with a number."""
_SLOW = "straggler=one_slow"
_LOSS = "failure.ranks={1: [0.01]} failure.restart=0.02"
_LEAVES = "cluster=fat_tree cluster.leaf_size=4"
_REDUCED = "strategy=local_sgd strategy.every=1"

RUNS = [
    # every strategy, over one switch
    f"strategy=all_reduce strategy.bucket_bytes=200kB cluster=switch {_BERNOULLI}",
    f"strategy=sync_ps cluster=switch {_BERNOULLI}",
    f"strategy=backup_workers cluster=switch {_BERNOULLI}",
    f"strategy=k_sync cluster=switch {_BERNOULLI}",
    f"strategy=k_batch_sync cluster=switch {_BERNOULLI}",
    f"strategy=k_async cluster=switch {_BERNOULLI}",
    f"strategy=k_batch_async cluster=switch {_BERNOULLI}",
    f"strategy=async_ps cluster=switch budget.updates=15 {_BERNOULLI}",
    f"strategy=ssp strategy.bound=1 cluster=switch budget.updates=15 {_BERNOULLI}",
    f"strategy=dc_asgd cluster=switch budget.updates=15 {_BERNOULLI}",
    f"strategy=easgd strategy.period=2 cluster=switch {_BERNOULLI}",
    f"strategy=local_sgd strategy.every=2 cluster=switch {_BERNOULLI}",
    f"strategy=slowmo strategy.every=2 cluster=switch {_BERNOULLI}",
    f"strategy=diloco strategy.every=2 cluster=switch {_BERNOULLI}",
    f"strategy=streaming_diloco strategy.every=4 cluster=switch budget.updates=9 {_BERNOULLI}",
    f"strategy=gossip cluster=switch {_BERNOULLI}",
    f"strategy=ad_psgd cluster=switch {_BERNOULLI}",
    f"strategy=zero strategy.stage=3 cluster=switch {_BERNOULLI}",
    f"strategy=hsdp cluster=switch {_BERNOULLI}",
    f"strategy=model_parallel cluster=switch {_BERNOULLI}",
    f"strategy=gpipe cluster=switch {_BERNOULLI}",
    f"strategy=one_f_one_b cluster=switch {_BERNOULLI}",
    f"strategy=interleaved cluster=switch {_BERNOULLI}",
    f"strategy=zero_bubble cluster=switch {_BERNOULLI}",
    f"strategy=pipedream cluster=switch budget.updates=9 {_BERNOULLI}",
    f"strategy=pipedream_2bw cluster=switch {_BERNOULLI}",
    f"strategy=tensor_parallel workload=char_gpt cluster=switch {_BERNOULLI}",
    f"strategy=hybrid strategy.tensor=2 workload=char_gpt cluster=switch cluster.workers=8 {_BERNOULLI}",
    # other networks
    f"strategy=all_reduce cluster=local4 {_BERNOULLI}",
    f"strategy=async_ps cluster=local4 budget.updates=15 {_SLOW}",
    f"strategy=gossip cluster=switch cluster.network=fully_connected {_SLOW}",
    f"strategy=all_reduce backend.algorithm=ring cluster=switch cluster.network=ring {_SLOW}",
    f"strategy=one_f_one_b cluster=switch cluster.network=ring {_SLOW}",
    f"strategy=zero cluster=torus cluster.workers=8 cluster.shape=[4,2] {_SLOW}",
    f"strategy=sync_ps strategy.servers=2 cluster=torus cluster.workers=6 cluster.shape=[2,2,2] {_SLOW}",
    f"strategy=hybrid strategy.tensor=2 workload=char_gpt cluster=dgx_a100 {_SLOW}",
    "strategy=all_reduce backend.algorithm=hierarchical cluster=dgx_h100",
    f"strategy=all_reduce {_LEAVES} cluster.workers=16 cluster.uplinks=1 cluster.placement=cyclic {_SLOW}",
    f"strategy=async_ps {_LEAVES} cluster.workers=7 cluster.uplinks=2 budget.updates=15 {_BERNOULLI}",
    f"strategy=gpipe cluster=dumbbell {_BERNOULLI}",
    # several servers, compression, what links and transports do
    f"strategy=k_async strategy.servers=3 cluster=switch {_BERNOULLI}",
    f"strategy=sync_ps strategy.servers=4 strategy.beside=true cluster=switch {_BERNOULLI}",
    f"strategy=async_ps strategy.compression=top_k cluster=switch budget.updates=15 {_BERNOULLI}",
    f"strategy=all_reduce strategy.compression=powersgd strategy.microbatches=2 cluster=switch {_BERNOULLI}",
    f"strategy=gossip cluster=switch cluster.duplex=half {_BERNOULLI}",
    f"strategy=ad_psgd cluster=switch cluster.background=0.3 cluster.slow={{host1: 4.0}} {_BERNOULLI}",
    f"strategy=all_reduce backend.collectives=flows cluster=switch cluster.transport.preset=lv08 {_BERNOULLI}",
    f"strategy=async_ps cluster=switch cluster.transport.eager_bytes=1MB cluster.transport.one_at_a_time=true {_BERNOULLI}",
    # collectives
    *(
        f"{_REDUCED} backend.collectives={mode} backend.algorithm={algorithm} cluster=switch {_BERNOULLI}"
        for mode, algorithm in [("flows", "halving_doubling"), ("price", "tree"), ("price", "ring"), ("flows", "ring")]
    ),
    f"{_REDUCED} backend.algorithm=circulant cluster=switch cluster.workers=6 {_BERNOULLI}",
    f"strategy=backup_workers backend.preemption=block cluster=switch {_BERNOULLI}",
    # one rank for all that do alike; losses of ranks
    "strategy=all_reduce cluster=switch cluster.workers=16 backend.fold_ranks=8",
    "strategy=gossip strategy.topology=ring cluster=torus cluster.workers=16 backend.fold_ranks=8",
    f"strategy=sync_ps cluster=switch failure=one_loss {_LOSS} checkpoint.every=2 {_SLOW}",
    f"strategy=all_reduce cluster=switch failure=one_loss {_LOSS} {_SLOW}",
    f"strategy=async_ps cluster=switch budget.updates=15 failure=one_loss {_LOSS} {_SLOW}",
    # draws that need the C library
    "strategy=all_reduce cluster=switch straggler=lognormal",
    "strategy=async_ps cluster=switch budget.updates=15 straggler=exponential",
    "strategy=one_f_one_b cluster=switch straggler=shifted_exponential seed=3",
    "strategy=local_sgd strategy.every=2 cluster=switch straggler=pareto repeat=1",
    "strategy=sync_ps cluster=switch straggler=persistent",
    "strategy=all_reduce cluster=switch straggler=rare_long_steps",
    "strategy=gpipe cluster=switch straggler=sequence_lengths",
    "strategy=all_reduce cluster=switch straggler=hot_expert",
]
_OF_THE_LIBRARY = ("lognormal", "exponential", "shifted_exponential", "pareto")


def needs_library(words: str) -> bool:
    """Whether a run's stragglers may take logarithms."""
    return "straggler=" in words and not (_BERNOULLI in words or _SLOW in words)


def fingerprints(runs: Sequence[str] = RUNS) -> dict[str, str]:
    """The hashes of what runs record. Raises `RuntimeError` if one does not end well."""
    prepared = api.prepare_all([*EVERY, *grammar.parse(_settings(words))[0]] for words in runs)
    found = {}
    for words, each in zip(runs, prepared, strict=True):
        outcome = execution._backend(each, Path())
        if outcome.status != "done":
            raise RuntimeError(f"{words}: {outcome.status}: {outcome.message}")
        found[words] = trace_hash(outcome.traces)
    return found


def _settings(words: str) -> list[str]:
    """The settings, one each: a value in braces may hold spaces."""
    found = [] if "budget.updates=" in words else [UPDATES]
    for word in words.split(" "):
        if found and found[-1].count("{") > found[-1].count("}"):
            found[-1] += f" {word}"
        else:
            found.append(word)
    return found


def draws() -> str:
    """The fingerprint of stragglers' factors where the C library has a part in them."""
    stragglers = [Straggler(jitter) for jitter in _OF_THE_LIBRARY]  # type: ignore[arg-type]
    factors = [straggler.factor(7, worker, step) for straggler in stragglers for worker in range(8) for step in range(64)]
    return sha256(repr(factors).encode()).hexdigest()


def recorded() -> dict[str, str]:
    """What is expected, by the run's settings."""
    found: dict[str, str] = json.loads(FILE.read_text())
    return found


def main(words: list[str]) -> int:
    present = {DRAWS: draws()} | fingerprints()
    if words == ["--write"]:
        FILE.write_text(json.dumps(present, indent=0) + "\n")
        return 0
    expected = recorded()
    changed = [run for run in {**expected, **present} if expected.get(run) != present.get(run)]
    print("\n".join([*changed, f"{len(changed)} of {len(present)} have changed"]))
    return int(bool(changed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
