"""Data that ship with distsim: read, checked by their hash and unpacked. No torch and no download."""

from __future__ import annotations

import gzip
from hashlib import sha256
from pathlib import Path

from distsim.interface.errors import BadInput, Problem

DATA = Path(__file__).parent / "data"
"""Sources and licences: LICENSE.md there."""


def unpack(name: str, file: Path, digest: str) -> bytes:
    """The content of a gzip file that `name` needs. Raises `BadInput` if it is missing or not the one that shipped."""
    try:
        packed = file.read_bytes()
    except OSError as error:
        raise _bad(name, file, f"its data cannot be read ({error.strerror})") from error
    found = sha256(packed).hexdigest()
    if found != digest:
        raise _bad(name, file, f"its data is torn or changed: SHA-256 {found[:12]}..., expected {digest[:12]}...")
    return gzip.decompress(packed)


def _bad(name: str, file: Path, what: str) -> BadInput:
    return BadInput([Problem("workload.name", name, f"{what}, {file}", "install distsim again")])
