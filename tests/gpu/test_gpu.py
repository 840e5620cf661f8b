"""Real runs on a GPU against torch's own words, and marks against the profiler's kernels. None has been run yet."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from distsim.backends.real import RealOptions, launch
from distsim.backends.real.transport.devices import CudaDevice
from distsim.backends.simulated import simulate
from distsim.calibration.measure import calibrate
from distsim.interface import SGD, Batch, Budget, Cluster, Job, Precision, Roofline, Strategy, Switch, Trace
from distsim.interface.trace import Compute
from distsim.numerics.tensors import TensorsFactory
from distsim.strategies.all_reduce import AllReduce
from distsim.strategies.parameter_server import AsyncPS, SyncPS
from distsim.strategies.pipeline import GPipe
from distsim.workloads.char_gpt import CharGPT
from distsim.workloads.digits_cnn import DigitsCNN
from distsim.workloads.digits_mlp import DigitsMLP
from distsim.workloads.parameters import ordered

GPUS = torch.cuda.device_count()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(GPUS == 0, reason="torch sees no GPU")]

WORKLOAD = DigitsMLP(batch=32, depth=4, width=64)
RATE, STEPS, SEED = 0.05, 20, 3
TYPES = {"float32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
TOLERANCE = {"float32": 1e-4, "bf16": 2e-2, "fp16": 5e-3}
"""Of the largest weight: some 20 steps of rounding in 24, 8 and 11 bits, in another order of additions."""


WIDE = DigitsMLP(batch=512, depth=4, width=512)
"""Whose messages are larger than a frame: activations of 256 samples are 512 KiB."""


OTHERS = [DigitsCNN(batch=32), CharGPT(batch=8, layers=2, heads=2, width=64, context=32)]


def job(strategy, workers, precision="float32", device="cuda", workload=WORKLOAD):
    numerics = TensorsFactory(workload, workers, SGD(RATE), SEED, device, Precision(precision))
    cluster = Cluster(workers, strategy.server_count(workers), Roofline(1e13, 1e12), Switch(1e10, 1e-6))
    return Job(strategy, workload.model(), cluster, Budget(updates=STEPS), numerics, seed=SEED)


def on_gpus(**options):
    """Ended before the launcher would say that a transfer of NCCL's hangs: a machine with a GPU is not had for long."""
    return RealOptions(device="cuda", limit_seconds=120.0, **options)


def launched(strategy, workers, folder, precision="float32", workload=WORKLOAD, **options):
    outcome = launch(job(strategy, workers, precision, workload=workload), on_gpus(**options), folder)
    assert (outcome.status, outcome.message) == ("done", "")
    return outcome


def loop(precision, workload=WORKLOAD):
    """The weights, by block, after the same steps by torch alone on one GPU."""
    task, low = workload.task(SEED), TYPES[precision]
    blocks = [block.cuda() for block in task.blocks]
    optimizer = torch.optim.SGD([p for block in blocks for p in block.parameters()], RATE, foreach=False)
    scaler = torch.amp.GradScaler("cuda", enabled=precision == "fp16")
    for step in range(STEPS):
        optimizer.zero_grad()
        x, target = task.input(Batch(step), 1).cuda(), task.target(Batch(step), 1).cuda()
        for block in blocks:
            with torch.autocast("cuda", low, enabled=low is not None):
                x = block(x)
            x = x.float()
        scaler.scale(task.loss(x, target)).backward()
        scaler.step(optimizer)
        scaler.update()
    return [torch.cat([p.detach().reshape(-1) for p in ordered(block).values()]).cpu() for block in blocks]


def assert_close(weights, expected, precision="float32"):
    for block, x in weights.items():
        scale = float(expected[block].abs().max())
        assert float((x - expected[block]).abs().max()) <= TOLERANCE[precision] * scale


@pytest.mark.parametrize("precision", TYPES)
def test_one_rank_trains_as_a_loop_of_torch(precision, tmp_path):
    assert_close(launched(AllReduce(), 1, tmp_path, precision).weights[0], loop(precision), precision)


@pytest.mark.parametrize("workload", OTHERS, ids=lambda workload: type(workload).__name__)
def test_one_rank_trains_what_is_no_matrix_product_alone(workload, tmp_path):
    """Convolutions may multiply in 11 bits, as torch lets them by default."""
    assert_close(launched(AllReduce(), 1, tmp_path, workload=workload).weights[0], loop("float32", workload), "fp16")


@pytest.mark.parametrize("precision", TYPES)
def test_two_ranks_on_one_gpu_or_two(precision, tmp_path):
    """Through the host on one GPU, by NCCL on two."""
    outcome = launched(AllReduce(bucket_bytes=0.0), 2, tmp_path, precision)
    expected = simulate(job(AllReduce(bucket_bytes=0.0), 2, precision, "cpu")).weights[0]
    for weights in outcome.weights:
        assert_close(weights, expected, precision)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_pipeline_of_two_stages(precision, tmp_path):
    strategy = GPipe(microbatches=4)
    outcome = launched(strategy, 2, tmp_path, precision)
    stages = simulate(job(strategy, 2, precision, "cpu")).weights
    for weights, expected in zip(outcome.weights, stages, strict=True):
        assert weights.keys() == expected.keys()
        assert_close(weights, expected, precision)


@dataclass(frozen=True)
class Crossed(Strategy):
    """Each rank begins with another of two groups: neither may wait until the other has begun its second."""

    async def run(self, worker):
        groups = [worker.within(order) for order in ([0, 1], [1, 0])]
        first, second = groups if worker.rank == 0 else reversed(groups)
        for step in worker.steps():
            gradient = await worker.gradient(Batch(step, worker.rank, worker.world_size))
            one, other = first.all_reduce(gradient), second.all_reduce(gradient)
            await worker.apply((await one + await other) / 2.0)
            worker.publish()


def test_groups_do_not_wait_for_each_other(tmp_path):
    expected = simulate(job(Crossed(), 2, device="cpu")).weights[0]
    for weights in launched(Crossed(), 2, tmp_path).weights:
        assert_close(weights, expected)


def see_each_other(gpus):
    return all(torch.cuda.can_device_access_peer(i, j) for i in range(gpus) for j in range(gpus) if i != j)


@pytest.mark.skipif(not see_each_other(min(GPUS, 3)), reason="a GPU cannot read another's memory")
@pytest.mark.parametrize(("strategy", "ranks"), [(GPipe(microbatches=2), 2), (SyncPS(), 3), (AsyncPS(), 3)], ids=str)
def test_messages_copied_between_gpus_are_those_that_go_through_the_host(strategy, ranks, tmp_path):
    """Each rank on its GPU, or several on one; a server receives from any worker. Where one worker is faster than another
    decides what is sent, it is asked only that all arrives."""
    workers = ranks - strategy.server_count(2)
    shared = launched(strategy, workers, tmp_path / "shared", workload=WIDE, messages="shared")
    gloo = launched(strategy, workers, tmp_path / "gloo", workload=WIDE, messages="gloo")
    assert "large messages are copied between GPUs" in shared.notes
    assert "messages travel through host memory" in gloo.notes
    if isinstance(strategy, AsyncPS):
        assert len(shared.traces[-1].updates) == STEPS
        return
    for weights, expected in zip(shared.weights, gloo.weights, strict=True):
        assert_close(weights, expected)


def test_messages_take_the_way_between_gpus_by_themselves(tmp_path):
    """Or through the host, if they cannot, without being told."""
    notes = launched(GPipe(microbatches=2), 2, tmp_path, workload=WIDE).notes
    assert ("large messages are copied between GPUs" in notes) == see_each_other(min(GPUS, 2))


@pytest.mark.parametrize("workload", [WORKLOAD, *OTHERS], ids=lambda workload: type(workload).__name__)
def test_deterministic_runs_are_equal_bit_for_bit(workload, tmp_path):
    options = {"workload": workload, "deterministic": True}
    one, other = (launched(AllReduce(), 2, tmp_path / name, **options).weights[0] for name in ("1", "2"))
    assert all(torch.equal(one[block], other[block]) for block in one)


def test_spans_are_the_profilers():
    """Matrix products that take a GPU some ms each, queued at once: each span holds its kernel, and little else."""
    device, trace, clock = CudaDevice(0), Trace(0), iter(range(10**6))
    device.enter()
    x = torch.randn(4096, 4096, device="cuda")
    x @ x
    torch.cuda.synchronize()
    device.start(lambda: float(next(clock)) * 1e-9)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        for _ in range(20):
            begun = device.mark(0.0)
            x @ x
            trace.compute.append(Compute("product", begun, device.mark(0.0), 0, 0))
        device.settle(trace)
    kernels = [e for e in profiler.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    measured = sum(e.time_range.elapsed_us() for e in kernels) * 1e-6
    spans = sum(c.ended - c.begun for c in trace.compute)
    assert measured <= spans * 1.02
    assert spans <= measured * 1.1
    assert all(a.ended <= b.begun for a, b in zip(trace.compute, trace.compute[1:], strict=False))


def test_calibrate_measures_the_gpu():
    profile = calibrate(WORKLOAD, workers=2, seconds=10.0, device="cuda", progress=lambda text: None)
    assert profile.details["device"] == torch.cuda.get_device_name()
    assert all(curve(WORKLOAD.batch) > 0.0 for curve in profile.blocks.values())
