"""The names that a configuration may use, and what they stand for.

A name stands for `module:attribute`, imported when it is asked for: listing names imports nothing. Strategies of other
packages register through entry points of the group `distsim.strategies` and are then chosen by name like the built-in ones.
From Python a strategy object will do: `offer` gives its class a name for this process.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from types import MappingProxyType
from typing import Any, Literal

Kind = Literal["strategy", "workload", "backend", "optimizer"]

BUILT_IN: Mapping[Kind, Mapping[str, str]] = MappingProxyType(
    {
        "strategy": {
            "all_reduce": "distsim.strategies.all_reduce:AllReduce",
            "sync_ps": "distsim.strategies.parameter_server:SyncPS",
            "backup_workers": "distsim.strategies.parameter_server:BackupWorkers",
            "k_sync": "distsim.strategies.parameter_server:KSync",
            "k_batch_sync": "distsim.strategies.parameter_server:KBatchSync",
            "k_async": "distsim.strategies.parameter_server:KAsync",
            "k_batch_async": "distsim.strategies.parameter_server:KBatchAsync",
            "async_ps": "distsim.strategies.parameter_server:AsyncPS",
            "ssp": "distsim.strategies.parameter_server:SSP",
            "dc_asgd": "distsim.strategies.parameter_server:DCASGD",
            "easgd": "distsim.strategies.easgd:EASGD",
            "local_sgd": "distsim.strategies.local_sgd:LocalSGD",
            "slowmo": "distsim.strategies.diloco:SlowMo",
            "diloco": "distsim.strategies.diloco:DiLoCo",
            "streaming_diloco": "distsim.strategies.diloco:StreamingDiLoCo",
            "gossip": "distsim.strategies.gossip:Gossip",
            "ad_psgd": "distsim.strategies.ad_psgd:ADPSGD",
            "zero": "distsim.strategies.zero:Zero",
            "hsdp": "distsim.strategies.zero:HSDP",
            "model_parallel": "distsim.strategies.pipeline:ModelParallel",
            "gpipe": "distsim.strategies.pipeline:GPipe",
            "one_f_one_b": "distsim.strategies.pipeline:OneFOneB",
            "interleaved": "distsim.strategies.pipeline:Interleaved",
            "zero_bubble": "distsim.strategies.pipeline:ZeroBubble",
            "pipedream": "distsim.strategies.pipedream:PipeDream",
            "pipedream_2bw": "distsim.strategies.pipedream:PipeDream2BW",
            "tensor_parallel": "distsim.strategies.tensor_parallel:TensorParallel",
            "hybrid": "distsim.strategies.hybrid:Hybrid",
        },
        "workload": {
            "digits_mlp": "distsim.workloads.digits_mlp:DigitsMLP",
            "digits_cnn": "distsim.workloads.digits_cnn:DigitsCNN",
            "char_gpt": "distsim.workloads.char_gpt:CharGPT",
            "module": "distsim.workloads.user_module:UserModule",
        },
        "backend": {
            "real": "distsim.backends.real.options:RealOptions",
            "modeled": "distsim.backends.simulated.fabric:SimulatedOptions",
            "cosimulated": "distsim.backends.simulated.fabric:SimulatedOptions",
        },
        "optimizer": {
            "sgd": "distsim.interface.optimizer:SGD",
            "adamw": "distsim.interface.optimizer:AdamW",
        },
    }
)


_OFFERED: dict[str, type[Any]] = {}


def offer(cls: type[Any]) -> str:
    """Name a strategy's class for this process; its name from now on (that of a built-in or installed one stays)."""
    for name in names("strategy"):
        if name not in _OFFERED and target("strategy", name) == f"{cls.__module__}:{cls.__qualname__}":
            return name
    _OFFERED[cls.__name__] = cls
    return cls.__name__


def load(kind: Kind, name: str) -> Any:
    """The class that `name` stands for. Raises KeyError for an unknown name, ImportError for what is not there."""
    if kind == "strategy" and name in _OFFERED:
        return _OFFERED[name]
    module, _, attribute = target(kind, name).partition(":")
    try:
        return getattr(import_module(module), attribute)
    except AttributeError:
        raise ImportError(f"{module} has no {attribute}") from None


def target(kind: Kind, name: str) -> str:
    """`module:attribute` of a name. Raises KeyError for an unknown one."""
    built_in = BUILT_IN[kind]
    return built_in[name] if name in built_in else _third_party(kind)[name]


def names(kind: Kind) -> list[str]:
    """All names of a kind, built-in ones first."""
    return list(dict.fromkeys([*installed(kind), *(_OFFERED if kind == "strategy" else ())]))


def installed(kind: Kind) -> list[str]:
    """The names that every process finds, the command line's too."""
    return list(dict.fromkeys([*BUILT_IN[kind], *_third_party(kind)]))


@cache
def _third_party(kind: Kind) -> Mapping[str, str]:
    if kind != "strategy":
        return {}
    from importlib.metadata import entry_points  # costs 10 ms: only for names that are not built in

    found = entry_points(group="distsim.strategies")
    return {entry.name: entry.value for entry in found if entry.name.isidentifier()}
