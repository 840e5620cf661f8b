"""What ranks hold, as `torch.load(weights_only=True)` takes it: tensors, numbers, text, and lists, tuples, dicts.

What is neither is told by the name of its class and its fields, and made again only if it is one of those named here.
"""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import torch

from distsim.interface import SGD, AdamW, Region
from distsim.numerics.tensors_optimizers import State

_CLASSES: dict[str, type[Any]] = {cls.__name__: cls for cls in (State, SGD, AdamW, Region)}
_NAME = "a class of distsim"


def plain(value: Any) -> Any:
    """The same in plain words, tensors on the CPU. Raises `TypeError` for anything else."""
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(value)  # of a GPU's mark its number
    if isinstance(value, dict):
        return {_NAME: "dict", "entries": [(plain(key), plain(entry)) for key, entry in value.items()]}
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    if type(value) is tuple:
        return tuple(plain(entry) for entry in value)
    name = type(value).__name__
    if _CLASSES.get(name) is not type(value):
        raise TypeError(f"a checkpoint cannot hold a {name}")
    return {_NAME: name, "entries": [(key, plain(getattr(value, key))) for key in _fields(type(value))]}


def restored(value: Any, device: torch.device) -> Any:
    """What `plain` was given, tensors on this device. Raises `KeyError` for a class that is none of ours."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, list):
        return [restored(entry, device) for entry in value]
    if isinstance(value, tuple):
        return tuple(restored(entry, device) for entry in value)
    if not isinstance(value, dict):
        return value
    entries = {restored(key, device): restored(entry, device) for key, entry in value["entries"]}
    if value[_NAME] == "dict":
        return entries
    cls = _CLASSES[value[_NAME]]
    if is_dataclass(cls):
        return cls(**entries)
    made = cls()
    for key in _fields(cls):
        setattr(made, key, entries[key])
    return made


def _fields(cls: type[Any]) -> list[str]:
    return [field.name for field in fields(cls)] if is_dataclass(cls) else list(cls.__slots__)
