"""A residual network and a language model of others, brought by `workload.module`: trained as plain torch trains them.

Torch's loop is written out here over the networks themselves, uncut; blocks, adapters and strategies are on the other side.
And what is said of a block that breaks a rule: its number, its class, the rule.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random
from typing import Any

import own_models
import pytest
import torch
from oracles.jobs import Times, done
from own_models import LM, LMConfig, ResNet
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from distsim.interface import SGD, BadInput, Budget, Cluster, Job, Switch
from distsim.numerics.tensors import TensorsFactory
from distsim.strategies.all_reduce import AllReduce
from distsim.strategies.pipeline import OneFOneB
from distsim.workloads.user_module import UserModule

SEED, BATCH, STEPS = 3, 12, 5  # 60 samples: more than one epoch of 40
PLAIN: dict[str, Callable[[], nn.Module]] = {
    "resnet": ResNet,
    "lm": lambda: LM(LMConfig()),
    "whole_lm": lambda: LM(LMConfig(tie_word_embeddings=True)),
}


def trained(name: str) -> tuple[Tensor, Tensor]:
    """The weights of the uncut network before and after, by torch alone."""
    torch.manual_seed(SEED)
    model = PLAIN[name]().double()
    before = parameters_to_vector(model.parameters()).detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.5)
    _, (inputs, targets), loss = getattr(own_models, name)()
    order = []
    for epoch in range(2):
        places = list(range(len(inputs)))
        Random(repr((SEED, "epoch", epoch))).shuffle(places)
        order += places
    for step in range(STEPS):
        places = order[step * BATCH : (step + 1) * BATCH]
        output = model(inputs[places])
        optimizer.zero_grad()
        loss(output["logits"] if isinstance(output, dict) else output, targets[places]).backward()
        optimizer.step()
    return before, parameters_to_vector(model.parameters()).detach()


def brought(name: str, workers: int, strategy: Any) -> Tensor:
    """The weights that a cosimulated run ends with, in the order of the blocks."""
    workload = UserModule(f"own_models:{name}", BATCH // workers)
    numerics = TensorsFactory(workload, workers, SGD(0.05, momentum=0.5), SEED)
    cluster = Cluster(workers, 0, Times(1e-3, 2e-3, 1e-4), Switch(1e8, 1e-5))
    outcome = done(Job(strategy, workload.model(), cluster, Budget(updates=STEPS), numerics, seed=SEED))
    blocks = {block: values for weights in outcome.weights for block, values in weights.items()}
    return torch.cat([blocks[b] for b in sorted(blocks)])


@pytest.mark.parametrize(
    ("workers", "strategy"),
    [(1, AllReduce()), (2, AllReduce(0.0)), (2, OneFOneB(4))],
    ids=["one", "all_reduce", "pipeline"],
)
@pytest.mark.parametrize("name", PLAIN)
def test_it_trains_as_the_network_does_alone(name: str, workers: int, strategy: Any) -> None:
    if isinstance(strategy, OneFOneB) and name == "whole_lm":
        (problem,) = strategy.problems(workers, UserModule(f"own_models:{name}", BATCH // workers).model())
        assert problem.allowed == "a pipeline needs a block a stage, and this model has 1"
        return
    before, after = trained(name)
    assert (brought(name, workers, strategy) - after).abs().max() <= 1e-12 * (after - before).abs().max()


def test_how_they_are_cut() -> None:
    resnet, lm = (UserModule(f"own_models:{name}", 2).model() for name in ("resnet", "lm"))
    assert [b.activation for b in resnet.blocks] == [
        4 * 64,
        4 * 64,
        4 * 64,
        8 * 16,
        8,
        5,
    ]  # pooling joins what is before it
    alike, wider = 2 * (9 * 4 * 4) + 2 * 8, 9 * 4 * 8 + 9 * 8 * 8 + 2 * 16
    first, last = 9 * 3 * 4 + 8, 8 * 5 + 5
    assert [b.parameters for b in resnet.blocks] == [
        first,
        alike,
        alike,
        wider + 4 * 8 + 16,
        2 * (9 * 8 * 8) + 2 * 16,
        last,
    ]
    assert [b.activation for b in lm.blocks] == [6 * 12, 6 * 12, 6 * 12, 6 * 11]
    layer = 12 * 36 + 36 + 12 * 12 + 12 + 2 * 12 * 48 + 48 + 12 + 2 * 24
    assert [b.parameters for b in lm.blocks] == [(11 + 6) * 12, layer, layer, 24 + 12 * 11]
    assert (lm.input, lm.itemsize) == (6, 8)


# ---- rules


class Step(nn.Module):
    """A linear layer, and something done to what comes in or goes out."""

    def __init__(self, before: Any = None, after: Any = None) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)
        self.before, self.after = before, after

    def forward(self, x: Tensor) -> Any:
        y = self.linear(self.before(x) if self.before else x)
        return self.after(y) if self.after else y


class Trunk(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Linear(6, 6)
        self.bn = nn.BatchNorm1d(6)
        self.drop = nn.Dropout1d(0.2)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.bn.eval()(self.conv(x)))


def _fails(x: Tensor) -> Tensor:
    raise AssertionError("Torch not compiled with CUDA enabled")


BREAKS: dict[str, tuple[Any, str]] = {
    "a flat output": (Step(after=torch.flatten), "must return one row a sample, of 4 samples it returned shape (24,); the"),
    "a mean over samples": (Step(after=lambda y: y.mean(0, keepdim=True)), "must return one row a sample, of 4 samples it"),
    "a tuple": (
        Step(after=lambda y: (y, None)),
        "must return one tensor, not tuple; wrap it in a module whose forward picks",
    ),
    "a dict": (Step(after=lambda y: {"logits": y}), "must return one tensor, not dict; wrap it in a module whose forward"),
    "whole numbers": (
        Step(after=lambda y: y.argmax(1)),
        "must return torch.float32 as its parameters are, not torch.int64",
    ),
    "in place": (Step(before=lambda x: x.mul_(2.0)), "must not change its input; use inplace=False"),
    "noise": (Step(after=lambda y: y + torch.randn(4, 6)), "must give equal outputs for equal inputs; remove dropout"),
    "no gradient": (Step(after=lambda y: y.detach()), "must pass gradients on, its output has none; leave out detach()"),
    "another device": (Step(after=lambda y: y.to("meta")), "must not move to another device, its output is on meta; leave"),
    "no such device": (Step(before=_fails), "cannot run on an input of shape (4, 6): Torch not compiled with CUDA enabled"),
    "elsewhere": (Step().to("meta"), "must be on the cpu when build() returns it, linear.weight is not; distsim moves it"),
    "statistics": (
        nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6)),
        "must not change its buffers, it changes 1.running_mean",
    ),
    "dropout": (Trunk(), "must give equal outputs for equal inputs (drop: Dropout1d); remove dropout: its noise"),
}


def refused(monkeypatch: pytest.MonkeyPatch, returned: Any) -> str:
    monkeypatch.setattr(own_models, "broken", lambda: returned, raising=False)
    with pytest.raises(BadInput) as raised:
        UserModule("own_models:broken", 4).model()
    (problem,) = raised.value.problems
    return str(problem)


@pytest.mark.parametrize("name", BREAKS)
def test_a_block_that_breaks_a_rule_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    block, rule = BREAKS[name]
    data = torch.randn(8, 6), torch.randn(8, 6)
    cls = "Linear + BatchNorm1d" if isinstance(block, nn.Sequential) else type(block).__name__
    said = refused(monkeypatch, ([nn.Linear(6, 6), block], data, nn.functional.mse_loss))
    assert said.startswith(f"workload.module='own_models:broken': block 1 ({cls}) {rule}")


def test_models_that_break_a_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    assert re.search(
        r"block 1 \(First\) must give equal outputs for equal inputs \(module.dropout: Dropout\)",
        refused(monkeypatch, own_models.lm(hidden_dropout_prob=0.1)),
    )
    assert (
        "ties tokens.weight of block 0 (Embed) and 1.weight of block 3 (LayerNorm + Linear), blocks must not share"
        in refused(monkeypatch, own_models.lm(tie_word_embeddings=True))
    )
    data = torch.randn(8, 6), torch.randn(8, 6)
    assert "no block has parameters to train, of 2; assign them" in refused(
        monkeypatch, ([nn.Tanh(), nn.ReLU()], data, nn.functional.mse_loss)
    )
