"""Runs of every strategy on the digits, in both modeled modes, on clusters and stragglers of uneven numbers."""

from __future__ import annotations

from typing import Any

from contract.kit import numerics
from distsim.backends.simulated import SimulatedOptions, simulate
from distsim.interface import (
    SGD,
    Budget,
    Cluster,
    Curve,
    Episodes,
    Experts,
    Failure,
    Job,
    Lengths,
    Loopback,
    Outcome,
    Roofline,
    Spread,
    Straggler,
    Strategy,
    Switch,
)
from distsim.strategies.ad_psgd import ADPSGD
from distsim.strategies.all_reduce import AllReduce
from distsim.strategies.diloco import DiLoCo, SlowMo, StreamingDiLoCo
from distsim.strategies.easgd import EASGD
from distsim.strategies.gossip import Gossip
from distsim.strategies.hybrid import Hybrid
from distsim.strategies.local_sgd import LocalSGD
from distsim.strategies.parameter_server import (
    DCASGD,
    SSP,
    AsyncPS,
    BackupWorkers,
    KAsync,
    KBatchAsync,
    KBatchSync,
    KSync,
    SyncPS,
)
from distsim.strategies.pipedream import PipeDream, PipeDream2BW
from distsim.strategies.pipeline import GPipe, Interleaved, ModelParallel, OneFOneB, ZeroBubble
from distsim.strategies.tensor_parallel import TensorParallel
from distsim.strategies.zero import HSDP, Zero
from distsim.workloads.digits_mlp import DigitsMLP

WORKERS = 3
WORKLOAD = DigitsMLP(batch=8, depth=5, width=24)

STRATEGIES: dict[str, Strategy] = {
    "all_reduce": AllReduce(bucket_bytes=3000.0),
    "all_reduce top_k": AllReduce(bucket_bytes=3000.0, compression="top_k", density=0.07),
    "all_reduce fp16": AllReduce(bucket_bytes=0.0, compression="fp16", error_feedback=False),
    "all_reduce powersgd": AllReduce(bucket_bytes=3000.0, microbatches=2, compression="powersgd", compression_rank=2),
    "sync_ps": SyncPS(),
    "async_ps": AsyncPS(),
    "async_ps inverse": AsyncPS(weight="inverse"),
    "sync_ps beside": SyncPS(servers=WORKERS, beside=True),
    "async_ps 2 servers": AsyncPS(servers=2),
    "async_ps fp16 2 servers": AsyncPS(servers=2, compression="fp16"),
    "k_sync top_k": KSync(2, compression="top_k", density=0.07),
    "k_sync": KSync(2),
    "backup_workers": BackupWorkers(1),
    "backup_workers drop": BackupWorkers(2, late="drop"),
    "k_batch_sync drop": KBatchSync(2, late="drop"),
    "k_batch_async": KBatchAsync(2),
    "k_async": KAsync(2),
    "k_async 2 servers": KAsync(2, servers=2),
    "ssp": SSP(1),
    "dc_asgd": DCASGD(adaptive=True),
    "easgd": EASGD(period=2),
    "local_sgd": LocalSGD(every=2),
    "slowmo": SlowMo(every=2),
    "diloco": DiLoCo(every=2),
    "streaming_diloco": StreamingDiLoCo(every=3, fragments=2, delay=1),
    "gossip": Gossip(),
    "ad_psgd": ADPSGD(),
    "zero stage 1": Zero(1, bucket_bytes=3000.0),
    "zero stage 2": Zero(2, bucket_bytes=3000.0, microbatches=2),
    "zero": Zero(3),
    "hsdp": HSDP(2),
    "model_parallel": ModelParallel(),
    "gpipe": GPipe(microbatches=4),
    "one_f_one_b": OneFOneB(microbatches=4),
    "interleaved": Interleaved(microbatches=4, chunks=2),
    "zero_bubble": ZeroBubble(microbatches=4),
    "zero_bubble v": ZeroBubble(microbatches=4, variant="v"),
    "pipedream": PipeDream(),
    "pipedream_2bw": PipeDream2BW(microbatches=4),
    "tensor_parallel": TensorParallel(),
    "hybrid": Hybrid(tensor=2, stages=2, microbatches=4),
    "hybrid sharded": Hybrid(tensor=1, stages=2, microbatches=4, sharded=True),
}
"""By the name of the strategy, and what is set of it."""
OTHER_WORKERS = {"hsdp": 4, "interleaved": 2, "zero_bubble v": 2, "hybrid": 8, "hybrid sharded": 4}
"""Of those that three workers are too few, or the wrong number, for."""
NETWORKS: dict[str, Switch | Loopback] = {
    "switch": Switch(bandwidth=1.25e9 / 7, latency=5e-6),
    "slow switch": Switch(bandwidth=3.3e6, latency=1.1e-3),
    "loopback": Loopback(
        cores=Curve(((1.0, 1.0), (2.0, 1.9), (4.0, 2.1))),
        message=Curve(((0.0, 3e-5), (1e6, 7e-4))),
        all_reduce={2: Curve(((0.0, 8e-5), (1e6, 1.1e-3))), 3: Curve(((0.0, 1.3e-4), (1e6, 1.9e-3)))},
    ),
}
STRAGGLERS = {
    "none": Straggler(),
    "one slow": Straggler(slow={1: 3.0}),
    "lognormal": Straggler(jitter="lognormal", sigma=0.4, slow={0: 0.7}),
    "exponential": Straggler(jitter="exponential"),
    "everything": Straggler(
        jitter="pareto",
        slow={1: 1.3},
        scales_with_work=False,
        work_seconds=7e-4,
        stages=(1.0, 1.2),
        spread=Spread("lognormal"),
        episodes=Episodes(share=0.4, mean_seconds=3e-3, factor=2.3),
        lengths=Lengths(0.6, attention=0.2),
        experts=Experts(hottest=1.4, group=2, share=0.7),
    ),
}


def run(
    strategy: str,
    network: str,
    straggler: str,
    has_values: bool,
    options: SimulatedOptions | None = None,
    failure: Failure | None = None,
) -> Outcome:
    """One run of 5 updates of the model, or of 5 a worker if it is asynchronous."""
    chosen, workers = STRATEGIES[strategy], OTHER_WORKERS.get(strategy, WORKERS)
    assert not list(chosen.problems(workers, WORKLOAD.model()))
    job = Job(
        strategy=chosen,
        model=WORKLOAD.model(),
        cluster=Cluster(
            workers,
            chosen.server_count(workers),
            Roofline(3.1e7, 1.7e9, 2e-6),
            NETWORKS[network],
            beside=chosen.servers_beside(),
        ),
        budget=Budget(samples=5 * workers * WORKLOAD.batch),
        numerics=numerics(has_values, WORKLOAD, workers, SGD(0.05, momentum=0.5), seed=7),
        straggler=STRAGGLERS[straggler],
        failure=failure or Failure(),
        seed=7,
        samples_between_snapshots=2 * workers * WORKLOAD.batch,
    )
    return simulate(job, options)


def records(outcome: Outcome) -> list[Any]:
    """All that was recorded of a run but the values of its losses and parameters."""
    snapshots = [(s.number, s.samples, s.time, [(p.region, p.shard) for p in s.pieces]) for s in outcome.snapshots]
    return [outcome.status, outcome.message, outcome.seconds, outcome.notes, snapshots] + [
        (
            trace.rank,
            trace.compute,
            trace.transfers,
            trace.updates,
            [(loss.step, loss.part, loss.parts, loss.time) for loss in trace.losses],
            trace.arrivals,
            trace.ended,
            trace.gradients,
            trace.peak,
            trace.peak_activations,
        )
        for trace in outcome.traces
    ]
