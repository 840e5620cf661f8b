"""What ranks give back and launchers tell each other, as bytes that nobody need be trusted for.

They are pickled, for speed, and read by an unpickler that knows the values named here and nothing else: whoever can write
where launchers meet can write wrong numbers, and no code. Tensors travel as their bytes.
"""

from __future__ import annotations

import copyreg
import io
import pickle
from pathlib import PosixPath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_KNOWN = {
    (module, name)
    for module, names in {
        __name__: "_tensor",
        "builtins": "float",  # of a subclass its number
        PosixPath.__module__: "PosixPath",
        "distsim.backends.real.process": "Report",
        "distsim.backends.real.saving.saved": "Begin Manifest",
        "distsim.backends.real.worlds.meeting": "Hello",
        "distsim.backends.real.worlds.mirror": "Seen",
        "distsim.interface.memory": "Memory",
        "distsim.interface.outcome": "Piece Snapshot",
        "distsim.interface.trace": "Arrival Compute Interruption Loss Trace Transfer Update",
        "distsim.interface.values": "Region",
    }.items()
    for name in names.split()
}


class Unknown(ValueError):
    """Bytes that `dumps` has not written."""


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"{module}.{name} is no value that ranks or launchers tell")
        return super().find_class(module, name)


def dumps(value: Any) -> bytes:
    """The bytes of a value: of numbers, texts, tensors on the CPU, lists, tuples, dicts, and the classes named here."""
    import torch

    written = io.BytesIO()
    pickler = pickle.Pickler(written, protocol=5)
    pickler.dispatch_table = {**copyreg.dispatch_table, torch.Tensor: _parts}
    pickler.dump(value)
    return written.getvalue()


def loads(data: bytes) -> Any:
    """The value, with tensors of its own. Raises `Unknown`, having run no code, for bytes that hold anything else."""
    try:
        return _Reader(io.BytesIO(data)).load()
    except Exception as error:  # whatever a pickle can be wrong in
        raise Unknown(str(error) or type(error).__name__) from None


def _parts(x: Tensor) -> tuple[Any, tuple[str, tuple[int, ...], pickle.PickleBuffer]]:
    import torch

    raw = x.detach().contiguous().reshape(-1).view(torch.uint8)
    return _tensor, (str(x.dtype).removeprefix("torch."), tuple(x.shape), pickle.PickleBuffer(raw.numpy().data))


def _tensor(dtype: str, shape: tuple[int, ...], raw: bytearray) -> Tensor:
    import torch

    kind = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype):
        raise pickle.UnpicklingError(f"{dtype} is no kind of number")
    return torch.frombuffer(raw, dtype=kind).reshape(shape) if raw else torch.empty(shape, dtype=kind)
