"""The records of a run on disk, and their hash.

One line of JSON for a rank's totals, then lines of up to 1,000 rows of one kind each. The channel of a large group names
all of its ranks, on each of them: a long name is written once, and is a number in rows, or N ranks would have N x N names.
Floats are written as Python's `repr`, which reads back as the same float, so equal hashes mean equal records, to the last
bit, in any process.
"""

from __future__ import annotations

import gzip
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from distsim.interface import RECORDS, Memory, Trace, Transfer

_TOTALS = ("ended", "gradients", "peak", "peak_activations")
_ROWS = 1000
_LONG = 500
"""Characters of a channel's name from which on it is written once."""


def write(path: Path, traces: Iterable[Trace]) -> str:
    """Write the records to `path`, through to the disk; give their hash."""
    digest = sha256()
    with path.open("wb") as file:
        with gzip.GzipFile("", "wb", compresslevel=3, fileobj=file, mtime=0) as packed:
            for line in _lines(traces):
                digest.update(line)
                packed.write(line)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def trace_hash(traces: Iterable[Trace]) -> str:
    """SHA-256 over the records of all ranks."""
    digest = sha256()
    for line in _lines(traces):
        digest.update(line)
    return digest.hexdigest()


def read(path: Path) -> list[Trace]:
    """The records that `write` wrote, by rank."""
    traces: dict[int, Trace] = {}
    names: list[str] = []
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for text in file:
            line = json.loads(text)
            names += line.pop("channels", ())
            rank = line.pop("rank")
            trace = traces.setdefault(rank, Trace(rank))
            for key, value in line.items():
                if key == "transfers":
                    value = [(row[0], names[row[1]], *row[2:]) if isinstance(row[1], int) else row for row in value]
                if key in RECORDS:
                    getattr(trace, key).extend(RECORDS[key](*row) for row in value)
                else:
                    setattr(trace, key, Memory(*value) if key == "peak" else value)
    return [traces[rank] for rank in sorted(traces)]


def finite(value: Any) -> Any:
    """The same document with null for numbers that JSON has no word for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(entry) for entry in value]
    return value


def _lines(traces: Iterable[Trace]) -> Iterator[bytes]:
    names: dict[str, int] = {}
    for trace in sorted(traces, key=lambda trace: trace.rank):
        yield _line({"rank": trace.rank, **{key: getattr(trace, key) for key in _TOTALS}})
        for kind in RECORDS:
            rows = getattr(trace, kind)
            for start in range(0, len(rows), _ROWS):
                some = rows[start : start + _ROWS]
                if kind == "transfers" and any(len(row.channel) > _LONG for row in some):
                    known = len(names)
                    some = [_shortened(row, names) for row in some]
                    if len(names) > known:
                        yield _line({"rank": trace.rank, "channels": list(names)[known:]})
                yield _line({"rank": trace.rank, kind: some})


def _shortened(row: Transfer, names: dict[str, int]) -> tuple[object, ...]:
    """A row with the number of its channel's name in place of that, if it is long."""
    if len(row.channel) <= _LONG:
        return row
    return (row.kind, names.setdefault(row.channel, len(names)), *row[2:])


def _line(document: Mapping[str, Any]) -> bytes:
    return (json.dumps(document, separators=(",", ":")) + "\n").encode()
