"""char_gpt: its blocks against torch's own functions, its samples, its evaluation, and that it learns."""

import subprocess
import sys

import pytest
import torch
from torch.nn import functional

from distsim.composition import compose
from distsim.configuration import resolve
from distsim.interface import ALL, SGD, BadInput, Batch, Region
from distsim.numerics.tensors import TensorsFactory
from distsim.workloads import task as tasks
from distsim.workloads import text
from distsim.workloads.char_gpt import CharGPT
from distsim.workloads.parameters import ordered

SMALL = CharGPT(batch=4, layers=2, heads=2, width=8, context=6, dtype="float64")


def reference(blocks, tokens):
    """The model by torch's own functions: layer_norm, scaled_dot_product_attention, linear, gelu."""
    w = [dict(block.named_parameters()) for block in blocks]
    x = functional.embedding(tokens, w[0]["character.weight"]) + w[0]["position"]
    for attention, up in zip(w[1:-1:2], w[2:-1:2], strict=True):
        h = functional.layer_norm(x, x.shape[-1:], attention["norm.weight"], attention["norm.bias"])
        q, k, v = (
            functional.linear(h, attention[f"{name}.weight"]).unflatten(-1, (2, -1)).transpose(1, 2)
            for name in ("query", "key", "value")
        )
        seen = functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + functional.linear(seen, attention["output.weight"], attention["bias"])
        h = functional.layer_norm(x, x.shape[-1:], up["norm.weight"], up["norm.bias"])
        h = functional.gelu(functional.linear(h, up["up.weight"], up["up.bias"]))
        x = x + functional.linear(h, up["down.weight"], up["bias"])
    return functional.linear(
        functional.layer_norm(x, x.shape[-1:], w[-1]["norm.weight"], w[-1]["norm.bias"]), w[-1]["linear.weight"]
    )


def shaken(workload, seed=5):
    """The blocks of a task, no bias at zero."""
    task = workload.task(seed)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for block in task.blocks:
            for p in block.parameters():
                p += 0.1 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return task


def test_it_is_the_model_that_torchs_functions_make():
    task = shaken(SMALL)
    tokens = task.data.inputs[:5]
    y = torch.nn.Sequential(*task.blocks)(tokens)
    assert y.shape == (5, 6, text.VOCABULARY)
    torch.testing.assert_close(y, reference(task.blocks, tokens), rtol=1e-12, atol=1e-12)


def test_no_character_sees_a_later_one():
    net = torch.nn.Sequential(*shaken(SMALL).blocks)
    tokens = torch.arange(12).view(2, 6)
    changed = tokens.clone()
    changed[:, 4:] = 60
    with torch.no_grad():
        assert torch.equal(net(tokens)[:, :4], net(changed)[:, :4])
        assert not torch.equal(net(tokens)[:, 4], net(changed)[:, 4])


def test_targets_are_the_next_characters():
    data = SMALL.task(0).data
    vocabulary, numbers = text.load()
    assert data.inputs.dtype == torch.int64
    assert bytes(vocabulary[n] for n in data.inputs[0]) == b"\tAS YO"
    assert bytes(vocabulary[n] for n in data.targets[0]) == b"AS YOU"
    assert torch.equal(data.inputs[:, 1:], data.targets[:, :-1])
    assert len(data.validation_targets) == 2086  # 12,516 characters follow the first one held out
    assert data.validation_targets.flatten().tolist() == list(numbers[-12_516:])


def test_a_validation_loss_is_the_mean_over_its_characters(monkeypatch):
    task = shaken(SMALL)
    values = {i: torch.cat([p.detach().reshape(-1) for p in ordered(b).values()]) for i, b in enumerate(task.blocks)}
    y = reference(task.blocks, task.data.validation_inputs).detach()
    right = y.argmax(-1) == task.data.validation_targets
    expected = functional.cross_entropy(y.reshape(-1, text.VOCABULARY), task.data.validation_targets.reshape(-1))
    for at_once in (tasks.EVALUATED, 1):  # all at once, 64 samples at once
        monkeypatch.setattr(tasks, "EVALUATED", at_once)
        loss, accuracy = task.evaluate(values)
        assert loss == pytest.approx(float(expected), rel=1e-12)
        assert accuracy == pytest.approx(float(right.double().mean()), rel=1e-12)


def test_all_dtypes_start_from_the_same_model():
    single, double = (CharGPT(layers=1, width=8, context=4, dtype=dtype).task(1).blocks for dtype in ("float32", "float64"))
    for a, b in zip(single, double, strict=True):
        assert all(torch.equal(p, q.float()) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def test_layers_start_apart():
    first, second = (block.query.weight for block in SMALL.task(0).blocks[1:4:2])
    assert not torch.equal(first, second)


@pytest.mark.parametrize(
    ("workload", "message"),
    [
        (
            CharGPT(dtype="bfloat16"),
            "workload.dtype='bfloat16': only modeled: nothing trains in it; take float32 or float64",
        ),
        (CharGPT(context=20_000), "workload.context=20000: the text has 12517 characters for validation, and only modeled"),
    ],
)
def test_what_is_only_modeled_is_refused_where_values_are_needed(workload, message):
    assert not list(workload.problems())
    assert workload.model().parameter_bytes
    with pytest.raises(BadInput, match=message):
        workload.task(0)


def test_the_play_is_learnt():
    """Characters by their frequency alone have 3.3 nats here; a pair of layers that trains gets below in 60 updates."""
    torch.set_num_threads(1)
    workload = CharGPT(batch=16, layers=1, heads=2, width=32, context=32)
    counts = torch.bincount(torch.frombuffer(bytearray(text.load().numbers), dtype=torch.uint8).long()).double()
    entropy = float(torch.special.entr(counts / counts.sum()).sum())
    numerics = TensorsFactory(workload, 1, SGD(0.1, 0.9), seed=1)(0)
    blocks = range(len(workload.model().blocks))
    for step in range(60):
        batch = Batch(step)
        numerics.zero(None)
        x = numerics.input(batch)
        for block in blocks:
            x = numerics.forward((block,), x, batch)
        g, _ = numerics.loss(x, batch)
        for block in reversed(blocks):
            g = numerics.backward((block,), g, batch, "both")
        numerics.update(ALL, numerics.accumulated(ALL), None, 1.0)
    loss, accuracy = workload.task(1).evaluate({b: numerics.read(Region((b,))) for b in blocks})
    assert 3.2 < entropy < 3.4
    assert loss < entropy - 0.5
    assert accuracy > 0.2


@pytest.mark.parametrize("backend", ["modeled", "cosimulated", "real"])
def test_a_configuration_says_so_before_anything_runs(backend):
    settings = [("workload", "char_gpt"), ("workload.dtype", "bfloat16"), ("backend", backend)]
    resolved, problems = resolve(compose(settings)[0])
    assert [problem.key for problem in problems] == ([] if backend == "modeled" else ["workload.dtype"])
    assert (resolved is None) == bool(problems)


def test_a_description_of_billions_needs_no_torch():
    code = (
        "import sys; from distsim.workloads.char_gpt import CharGPT; "
        "w = CharGPT(layers=32, heads=32, width=4096, context=2048, dtype='bfloat16'); "
        "w.fingerprint(); assert not list(w.problems()); print(w.model().parameter_bytes, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # a layer 12 width^2 + 10 width, characters and positions, and the last norm with its scores; two bytes each
    parameters = 32 * (12 * 4096**2 + 10 * 4096) + (68 + 2048) * 4096 + (2 + 68) * 4096
    assert done.stdout.split() == [str(2 * parameters), "False"]
