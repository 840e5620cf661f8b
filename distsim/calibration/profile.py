"""The profile of a machine: what its blocks, messages and collectives cost, as curves that a modeled run evaluates.

A profile is one JSON file, written atomically by `distsim calibrate` and read without torch. Reading is strict: a torn or
foreign file is refused with its name, what is wrong in it and the remedy, and never half used.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from distsim import durable
from distsim.calibration.host import QUIET, hardware
from distsim.interface.cluster import Curve, Loopback, Measured, Roofline
from distsim.interface.errors import BadInput, Problem
from distsim.interface.model import Model

X = TypeVar("X")

SCHEMA = 3
DEFAULT = Path(".distsim/profile.json")
"""Where `distsim calibrate` writes and modeled runs look first."""
REFERENCE = Path(__file__).with_name("reference.json")
"""A profile measured by the authors, for machines that were never calibrated."""


@dataclass(frozen=True)
class Profile:
    """One machine, as measured. Seconds, bytes, samples."""

    created: str
    """When it was measured, ISO 8601 with the time zone."""
    hardware: Mapping[str, str | int]
    versions: Mapping[str, str]
    blocks: Mapping[tuple[str, str], Curve]
    """(operation, block kind) -> samples -> seconds, one rank alone on the machine, one thread."""
    overhead: float
    """Seconds that a Worker operation costs beyond the blocks it runs."""
    pass_overhead: float
    """Seconds that a forward or backward pass costs beyond its blocks, however many run as one."""
    message: Curve
    """Bytes -> seconds of a message between two ranks."""
    all_reduce: Mapping[int, Curve]
    """Group size -> bytes -> seconds."""
    delay: float
    """Seconds that a message waits for its turn on the cores while some rank computes."""
    cores: Curve
    """Ranks that compute at once -> how many ranks' worth of work they get done together."""
    fallback: Roofline
    """For blocks that were not measured."""
    noise: float
    """A/A: the mean relative difference between the medians of two halves of one and the same measurement."""
    details: Mapping[str, str | int | float] = field(default_factory=dict)
    """How it was measured: rounds kept, CPU used by others, and the like."""

    def device(self) -> Measured:
        """One rank's share of this machine as a device."""
        return Measured(self.blocks, self.fallback, self.overhead, self.pass_overhead)

    def loopback(self) -> Loopback:
        """This machine as the network between the ranks that it hosts."""
        return Loopback(self.cores, self.message, self.all_reduce, self.delay)

    @property
    def machine(self) -> str:
        """The machine and the day, in a few words."""
        return f"{self.hardware.get('cpu', 'unknown')}, {self.hardware.get('cores', '?')} cores, {self.created[:10]}"

    @property
    def workload(self) -> str:
        """The settings of the workload whose blocks were measured; empty where that is not known."""
        return str(self.details.get("workload", ""))

    @property
    def of_workload(self) -> str:
        """The same as the end of a sentence."""
        return f" with {self.workload}" if self.workload else ""

    @property
    def disturbance(self) -> str:
        """What else used this machine while it was measured, in words; empty where that was too little to matter."""
        used, kept, rounds = (self.details.get(key) for key in ("others_cpu", "rounds_kept", "rounds"))
        if not isinstance(used, int | float) or used <= QUIET:
            return ""
        return f"other processes used {used:.0%} of the CPU, {kept} of {rounds} rounds were kept"

    def guessed(self, model: Model) -> list[str]:
        """The kinds of blocks of `model` that were not measured."""
        kinds = dict.fromkeys(block.kind for block in model.blocks)
        return [kind for kind in kinds if ("forward", kind) not in self.blocks]

    def unmeasured(self, model: Model, ranks: int, together: int = 0) -> list[str]:
        """What a run of `model` with this many ranks asks for that was not measured, in words; `together` ranks reduce."""
        guessed = self.guessed(model)
        words = [f"blocks {', '.join(guessed)} (estimated by FLOPs and bytes)"] if guessed else []
        *_, (most, before), (last, after) = (self.cores.points[0], *self.cores.points)
        most = most if before == after else last  # the last point may say that it stays as it was measured
        if ranks > most:
            words.append(f"{ranks} ranks on these cores (extrapolated from {most:g})")
        if together and together not in self.all_reduce:
            words.append(f"an all-reduce of {together} ranks (estimated from messages)")
        return words

    def fingerprint(self) -> str:
        """A hash of its costs: runs modeled on others are other runs. When and where they were measured changes none."""
        told = {"created", "hardware", "versions", "details", "noise"}
        costs = {key: value for key, value in json.loads(self.to_json()).items() if key not in told}
        return blake2b(json.dumps(costs).encode(), digest_size=16).hexdigest()

    def to_json(self) -> str:
        """The same profile as text; `from_json` gives an equal one."""
        document = {
            "schema": SCHEMA,
            "created": self.created,
            "hardware": dict(self.hardware),
            "versions": dict(self.versions),
            "details": dict(self.details),
            "noise": self.noise,
            "overhead": self.overhead,
            "pass_overhead": self.pass_overhead,
            "fallback": {
                "flops_per_second": self.fallback.flops_per_second,
                "bytes_per_second": self.fallback.bytes_per_second,
                "overhead": self.fallback.overhead,
            },
            "cores": self.cores.points,
            "message": self.message.points,
            "delay": self.delay,
            "all_reduce": {str(n): curve.points for n, curve in sorted(self.all_reduce.items())},
            "blocks": [
                {"operation": operation, "kind": kind, "points": curve.points}
                for (operation, kind), curve in sorted(self.blocks.items())
            ],
        }
        return json.dumps(document, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, name: str = "profile") -> Profile:
        """Read what `to_json` wrote. Raises `BadInput` naming `name`, the first thing that is wrong, and the remedy."""
        try:
            document = json.loads(text)
        except ValueError as error:
            raise _refused(name, f"is not JSON ({error}): the file is torn") from None
        reader = _Reader(name, document)
        if reader.get("schema") != SCHEMA:
            raise _refused(name, f"has schema {reader.get('schema')!r}, this version reads {SCHEMA}")
        fallback = _Reader(name, reader.get("fallback"), "fallback.")
        blocks = {}
        for i, entry in enumerate(reader.typed("blocks", list)):
            block = _Reader(name, entry, f"blocks[{i}].")
            blocks[block.typed("operation", str), block.typed("kind", str)] = block.curve("points")
        groups = _Reader(name, reader.typed("all_reduce", dict), "all_reduce.")
        return cls(
            created=reader.typed("created", str),
            hardware=reader.typed("hardware", dict),
            versions=reader.typed("versions", dict),
            details=reader.typed("details", dict),
            noise=reader.number("noise"),
            overhead=reader.number("overhead"),
            pass_overhead=reader.number("pass_overhead"),
            fallback=Roofline(
                flops_per_second=fallback.number("flops_per_second", positive=True),
                bytes_per_second=fallback.number("bytes_per_second", positive=True),
                overhead=fallback.number("overhead"),
            ),
            cores=reader.curve("cores"),
            message=reader.curve("message"),
            delay=reader.number("delay"),
            all_reduce={groups.size(key): groups.curve(key) for key in groups.document},
            blocks=blocks,
        )

    @classmethod
    def load(cls, path: Path | str) -> Profile:
        """Read a profile from a file. Raises `BadInput` if it is missing, torn or not a profile."""
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise _refused(str(path), f"cannot be read ({getattr(error, 'strerror', None) or error})") from None
        return cls.from_json(text, str(path))

    def save(self, path: Path | str) -> None:
        """Write it so that at any instant the file is the old one or the new one, whole."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        durable.write(path, self.to_json().encode())


@dataclass(frozen=True)
class _Reader:
    """A JSON object whose keys must be there and of the right type; every refusal names the key."""

    name: str
    document: Any
    prefix: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.document, dict):
            raise _refused(self.name, f"{self.prefix.rstrip('.') or 'the document'} is no JSON object")

    def get(self, key: str) -> Any:
        if key not in self.document:
            raise _refused(self.name, f"lacks {self.prefix}{key}")
        return self.document[key]

    def typed(self, key: str, kind: type[X]) -> X:
        value = self.get(key)
        if not isinstance(value, kind):
            raise _refused(self.name, f"{self.prefix}{key} is {value!r}, not a {kind.__name__}")
        return value

    def number(self, key: str, positive: bool = False) -> float:
        return self._check(key, self.get(key), positive)

    def size(self, key: str) -> int:
        if not key.isdecimal() or int(key) < 2:
            raise _refused(self.name, f"{self.prefix}{key}: a group has 2 ranks or more")
        return int(key)

    def curve(self, key: str) -> Curve:
        points = self.typed(key, list)
        if not points or not all(isinstance(p, list) and len(p) == 2 for p in points):
            raise _refused(self.name, f"{self.prefix}{key} is not a list of [x, seconds] points")
        checked = tuple((self._check(key, x), self._check(key, y)) for x, y in points)
        if any(a[0] >= b[0] for a, b in pairwise(checked)):
            raise _refused(self.name, f"{self.prefix}{key}: its points do not ascend")
        return Curve(checked)

    def _check(self, key: str, value: Any, positive: bool = False) -> float:
        good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
        if not good or value < 0 or (positive and value == 0):
            least = "more than" if positive else "at least"
            raise _refused(self.name, f"{self.prefix}{key} is {value!r}, not a finite number of {least} 0")
        return float(value)


def _refused(name: str, what: str) -> BadInput:
    remedy = "measure this machine anew with `distsim calibrate`"
    return BadInput([Problem("cluster.profile", Path(name).name, f"the profile {name} {what}", remedy)])


def current(path: Path | str = DEFAULT) -> tuple[Profile, str]:
    """This machine's profile with a note of where it comes from: `path` if there is one, else the authors' reference.

    Raises `BadInput` if the file is there but torn.
    """
    if not Path(path).exists():
        reference = Profile.load(REFERENCE)
        return reference, (
            f"costs are those of the reference machine ({reference.machine}); run `distsim calibrate` to measure this one"
        )
    profile = Profile.load(path)
    here = hardware()
    differs = [key for key in ("cpu", "cores") if profile.hardware.get(key) != here[key]]
    if differs:
        return profile, f"the profile {path} was measured on another machine ({profile.machine}); run `distsim calibrate`"
    return profile, f"costs as calibrated on this machine on {profile.created[:10]}{profile.of_workload}"
