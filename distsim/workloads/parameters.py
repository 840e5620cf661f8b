"""The order of a block's parameters in its flat vector: first what all its tensor shards hold, then what is dealt out.

A module that can be cut into tensor shards says how, by two attributes beside those of nn.Module:

    dealt: Mapping[str, int]                            # the name of a parameter -> the dimension that is dealt out in
                                                        # equal, contiguous pieces; the others are held by every shard
    def shard(self, index: int, count: int) -> nn.Module    # one of `count` shards, with copies of its parameters

The outputs of the shards, and their gradients of the input, are partial sums: what is added once, such as a residual or the
bias of a row-wise product, shard 0 adds. A shard has `dealt`, too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn


def dealt(module: nn.Module) -> Mapping[str, int]:
    """By name the parameters of `module` that its tensor shards divide among them, and along which dimension."""
    found: Mapping[str, int] = getattr(module, "dealt", {})
    return found


def ordered(module: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable parameters of `module` in the order of its flat vector."""
    named = {name: p for name, p in module.named_parameters() if p.requires_grad}
    last = dealt(module)
    return {name: named[name] for name in (*(n for n in named if n not in last), *(n for n in named if n in last))}


Places = Sequence[tuple[nn.Module, str]]


def places(module: nn.Module) -> dict[nn.Parameter, Places]:
    """The same parameters, and where the module has each: its owners, as what is tied has several, and its name there."""
    found: dict[nn.Parameter, list[tuple[nn.Module, str]]] = {p: [] for p in ordered(module).values()}
    for owner in module.modules():
        for name, parameter in owner.named_parameters(recurse=False, remove_duplicate=False):
            if parameter in found:
                found[parameter].append((owner, name))
    return dict(found)
