"""Checkpoints on disk: a folder for each, the last two that are complete, and what all ranks have recorded so far.

    checkpoints/
        000000020/rank0.state     what rank 0 held before update 20: parameters, optimizers, version, place in its data
        000000020/rank0.json      the hashes of its files, and how many gradients it had sent and decided about
        000000020/manifest.json   written last: its presence, and files that have the hashes it names, make the checkpoint
        records/000000020-rank0   what rank 0 recorded and published since the checkpoint before

Every file is written to a temporary one, flushed to the disk and renamed. Torch files hold tensors, numbers and text alone,
and are read with `weights_only`. Standard library only, so that a launcher need not import torch.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from distsim import durable
from distsim.interface import DistsimError, Job

KEPT = 2
"""Complete checkpoints."""
_MANIFEST = "manifest.json"
_NOT_THERE = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
_OWN = "sha256"
"""In a manifest, the hash of all else that it says."""


@dataclass(frozen=True)
class Manifest:
    """A complete checkpoint."""

    job: str
    """What it is a checkpoint of, see `fingerprint`."""
    number: int
    """Of the incarnation that wrote it."""
    update: int
    """That comes next."""
    samples: int
    seconds: float
    """On the run's clock, when all had saved."""
    count: int
    """Of the run's complete checkpoints, with this one."""
    failures: int
    restarts: int
    lost_seconds: float
    pending: dict[str, int] = field(default_factory=dict)
    """By rank, gradients that it had sent and nobody had decided about; those dropped before do not count."""
    files: dict[str, str] = field(default_factory=dict)
    """By name in the folder of checkpoints, the hash of a file's bytes."""


@dataclass(frozen=True)
class Begin:
    """Where an incarnation of a real run begins."""

    folder: Path
    """Of checkpoints."""
    job: str = ""
    word: str = ""
    """Of the launch that has the folder, see `lease`; empty where nothing is saved."""
    number: int = 0
    at: float = 0.0
    """On the run's clock, at the earliest."""
    origin: float | None = None
    """Zero of the run's clock on this machine's; None: it follows from `at`."""
    manifest: Manifest | None = None
    """What it goes on from; None: from the beginning."""
    since: float = 0.0
    """From then on to its start, time is lost."""
    lost: tuple[float, int] | None = None
    """When which rank was lost; None if all processes ended together, the launcher's, too."""
    made: tuple[int, ...] = ()
    """By rank, the updates it had made then."""
    count: int = 0
    """Complete checkpoints before."""
    works_on: bool = False
    """The others work on if a worker is lost."""
    failures: int = 0
    restarts: int = 0
    lost_seconds: float = 0.0

    def of(self, rank: int) -> Begin:
        """As far as it concerns one rank."""
        if self.manifest is None:
            return self
        files = {name: digest for name, digest in self.manifest.files.items() if _is_of(name, rank)}
        return replace(self, manifest=replace(self.manifest, files=files))


def _is_of(name: str, rank: int) -> bool:
    return Path(name).name == f"rank{rank}.state" or name.endswith(f"-rank{rank}")


def fingerprint(job: Job) -> str:
    """The same for jobs that can go on from each other's checkpoints. Of numerics of others' it knows an `optimizer` and a
    `precision`, if they have these."""
    numerics = [getattr(job.numerics, name, None) for name in ("optimizer", "precision")]
    blocks = [(block.parameters, block.ways) for block in job.model.blocks]
    what = (
        type(job.strategy).__qualname__,
        job.strategy,
        job.cluster.workers,
        job.cluster.servers,
        blocks,
        job.model.batch,
    )
    return sha256(repr((what, numerics, job.seed, job.schedule, job.scaling)).encode()).hexdigest()


def place(update: int) -> str:
    """The folder of the checkpoint before this update."""
    return f"{update:09d}"


def shown(private: Path, rank: int, number: int) -> Path:
    """What a rank has shown of the model after an update, where others may go on without it."""
    return private / "shown" / f"{rank}-{number}.snapshot"


def write(path: Path, content: bytes, tell: Callable[[float], None] = lambda seconds: None) -> str:
    """Write a file, through to the disk; its hash. `tell` is told how long each piece of it took."""
    path.parent.mkdir(parents=True, exist_ok=True)
    durable.write(path, content, tell=tell)
    return sha256(content).hexdigest()


def commit(folder: Path, manifest: Manifest) -> None:
    """Make the files that were written a checkpoint; keep the last two."""
    here = folder / place(manifest.update)
    for path in (here, folder / "records"):
        durable.sync(path)
    said = asdict(manifest)
    write(here / _MANIFEST, json.dumps({**said, _OWN: _hash(said)}, indent=1).encode())
    durable.sync(here)
    durable.sync(folder)
    complete = _updates(folder)
    for update in complete[KEPT:]:
        remove(folder / place(update))


def read(folder: Path, update: int) -> Manifest:
    """The manifest of a checkpoint. Raises OSError, ValueError or TypeError if there is none that can be read."""
    said = json.loads((folder / place(update) / _MANIFEST).read_text(encoding="utf-8"))
    if not isinstance(said, dict) or said.pop(_OWN, None) != _hash(said):
        raise ValueError("it is not as it was written")
    return Manifest(**said)


def last(folder: Path) -> Manifest | None:
    """The newest manifest, whose files were written by ranks that live."""
    updates = _updates(folder)
    return read(folder, updates[0]) if updates else None


def find(folder: Path, job: str) -> tuple[Manifest | None, list[str]]:
    """The newest checkpoint of this job whose files are whole, and a line for each that was passed over. Raises
    `DistsimError` if there is none, but one that cannot be read now: it may be whole."""
    passed = []
    unreadable: OSError | None = None
    for update in _updates(folder):
        try:
            manifest = read(folder, update)
            if manifest.job != job:
                passed.append(f"the checkpoint before update {update} is of another job: it is not gone on from")
                continue
            off = [name for name, digest in manifest.files.items() if _digest(folder / name) != digest]
        except (OSError, ValueError, TypeError) as error:
            off = [f"{_MANIFEST}: {error}"]
            if isinstance(error, OSError) and not isinstance(error, _NOT_THERE):
                unreadable = error
        if not off:
            return manifest, passed
        passed.append(f"the checkpoint before update {update} is torn or corrupted ({off[0]}): it is passed over")
    if unreadable is not None:
        raise DistsimError(
            f"no checkpoint can be read ({unreadable}), none was removed: give the same command again when they can, or "
            f"remove {folder} to begin anew"
        )
    return None, passed


def clear(folder: Path, kept: Manifest | None) -> None:
    """Remove what is newer than this checkpoint, and all that was not complete."""
    if not folder.is_dir():
        return
    complete = [update for update in _updates(folder) if kept is not None and update <= kept.update]
    for path in folder.iterdir():
        if path.is_dir() and path.name != "records" and path.name not in map(place, complete):
            remove(path)
    known = {} if kept is None else kept.files
    for path in (folder / "records").glob("*"):
        if f"records/{path.name}" not in known:
            path.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove a checkpoint: its manifest first, so that at no instant it is there in part."""
    (path / _MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


def _updates(folder: Path) -> list[int]:
    """The updates of the checkpoints that have a manifest, newest first."""
    names = (path.parent.name for path in folder.glob(f"*/{_MANIFEST}"))
    return sorted((int(name) for name in names if name.isdigit()), reverse=True)


def _hash(said: dict[str, Any]) -> str:
    return sha256(json.dumps(said).encode()).hexdigest()


def _digest(path: Path) -> str:
    digest: Any = sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return str(digest.hexdigest())
