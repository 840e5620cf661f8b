"""What ranks give back and launchers tell each other, as bytes that nobody need be trusted for.

JSON, then the bytes that it names: whoever can write where launchers meet can write wrong numbers, and nothing that runs,
stays or grows. Anything but a number or a text is a list whose first entry says what it is: a list, a tuple, a dict, bytes,
a path, a tensor, or one of the classes named here, by their fields.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distsim.interface.trace import RECORDS, Trace

if TYPE_CHECKING:
    from torch import Tensor

_LENGTH = struct.Struct("<q")  # of the JSON
_KNOWN = {
    name: module
    for module, names in {
        "distsim.backends.real.process": "Report",
        "distsim.backends.real.saving.saved": "Begin Manifest",
        "distsim.backends.real.worlds.meeting": "Hello",
        "distsim.backends.real.worlds.mirror": "Seen",
        "distsim.interface.memory": "Memory",
        "distsim.interface.outcome": "Piece Snapshot",
        "distsim.interface.trace": "Trace",
        "distsim.interface.values": "Region",
    }.items()
    for name in names.split()
}


class Unknown(ValueError):
    """Bytes that `dumps` has not written."""


def dumps(value: Any) -> bytes:
    """The bytes of a value: of numbers, texts, bytes, tensors on the CPU, paths, lists, tuples, dicts, and the classes
    named here. Raises `TypeError` for anything else."""
    raw: list[bytes | memoryview] = []
    told = json.dumps(_told(value, raw), separators=(",", ":")).encode()
    return b"".join([_LENGTH.pack(len(told)), told, *raw])


def loads(data: bytes) -> Any:
    """The value, with tensors of its own. Raises `Unknown` for bytes that hold anything else; takes memory and time in
    proportion to them."""
    try:
        (length,) = _LENGTH.unpack_from(data)
        end = _LENGTH.size + length
        if not _LENGTH.size <= end <= len(data):
            raise ValueError(f"{length} bytes of {len(data)}")
        reader = _Reader(memoryview(data)[end:])
        value = reader.value(json.loads(data[_LENGTH.size : end]))
        if reader.left:
            raise ValueError(f"{reader.left} bytes too many")
        return value
    except Exception as error:  # whatever a stranger can think of
        raise Unknown(str(error) or type(error).__name__) from None


def _told(value: Any, raw: list[bytes | memoryview]) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return float(value)  # of a GPU's mark its number
    kind = type(value)
    if kind is list or kind is tuple:
        return [kind.__name__, *(_told(entry, raw) for entry in value)]
    if isinstance(value, Mapping):
        return ["dict", *([_told(key, raw), _told(entry, raw)] for key, entry in value.items())]
    if isinstance(value, bytes):
        raw.append(value)
        return ["bytes", len(value)]
    if isinstance(value, Path):
        return ["path", str(value)]
    if kind.__name__ in _KNOWN and kind is _class(kind.__name__):
        rows = RECORDS if kind is Trace else ()  # many, of plain entries: JSON takes them column by column
        told = ((key, getattr(value, key)) for key in _fields(kind))
        return [
            kind.__name__,
            *(list(zip(*entry, strict=True)) if key in rows else _told(entry, raw) for key, entry in told),
        ]
    import torch

    if not isinstance(value, torch.Tensor):
        raise TypeError(f"a {kind.__qualname__} is nothing that ranks or launchers tell")
    flat = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    raw.append(flat.data)
    return ["tensor", str(value.dtype).removeprefix("torch."), len(flat), *value.shape]


class _Reader:
    """Makes values of what JSON has said, and of the bytes after it."""

    def __init__(self, raw: memoryview) -> None:
        self._raw = raw

    @property
    def left(self) -> int:
        """Bytes that were not named yet."""
        return len(self._raw)

    def value(self, told: Any) -> Any:
        if not isinstance(told, list):
            if isinstance(told, dict):
                raise TypeError("no value is told like that")
            return told
        name, *entries = told
        if name == "list":
            return [self.value(entry) for entry in entries]
        if name == "tuple":
            return tuple(self.value(entry) for entry in entries)
        if name == "dict":
            return {self.value(key): self.value(entry) for key, entry in entries}
        if name == "bytes":
            return bytes(self._take(*entries))
        if name == "path":
            return Path(*entries)
        if name == "tensor":
            return self._tensor(*entries)
        if name not in _KNOWN:
            raise ValueError(f"{name} is no value that ranks or launchers tell")
        kind = _class(name)
        rows: Mapping[str, type[Any]] = RECORDS if kind is Trace else {}
        told = zip(_fields(kind), entries, strict=True)
        return kind(**{key: _rows(rows[key], entry) if key in rows else self.value(entry) for key, entry in told})

    def _take(self, count: int) -> memoryview:
        if not 0 <= count <= len(self._raw):
            raise ValueError(f"{count} bytes where there are {len(self._raw)}")
        taken, self._raw = self._raw[:count], self._raw[count:]
        return taken

    def _tensor(self, dtype: str, count: int, *shape: int) -> Tensor:
        import torch

        kind = getattr(torch, dtype, None)
        if not isinstance(kind, torch.dtype):
            raise ValueError(f"{dtype} is no kind of number")
        if count:
            return torch.frombuffer(bytearray(self._take(count)), dtype=kind).reshape(shape)
        if 0 not in shape:
            raise ValueError("a tensor without its numbers")
        return torch.empty(shape, dtype=kind)


def _rows(kind: type[Any], columns: Any) -> list[Any]:
    return list(map(kind._make, zip(*columns, strict=True)))


@cache
def _class(name: str) -> type[Any]:
    kind: type[Any] = getattr(import_module(_KNOWN[name]), name)
    return kind


def _fields(kind: type[Any]) -> list[str]:
    named = getattr(kind, "_fields", None)
    return list(named) if named is not None else [field.name for field in fields(kind)]
