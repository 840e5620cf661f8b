"""Values of a configuration: numbers, quantities with units, choices.

A kind turns what was written into what is meant, or raises `Refused` with what is allowed and a suggestion. Text that reads
as a number is a number (`1e3` is text to YAML 1.1). nan and inf are never allowed. Prefixes are decimal (GB is 1e9 bytes);
`KiB`, `MiB` and `GiB` are the binary ones. Nothing is guessed: "10Gb" could be bits or bytes and is refused.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable
from typing import Any

Kind = Callable[[Any], Any]

PREFIXES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15}
BINARY = {"Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
TIMES = {"ns": 1e9, "us": 1e6, "µs": 1e6, "ms": 1e3, "s": 1.0, "min": 1 / 60, "h": 1 / 3600}
"""Units a second: 5us is 5 / 1e6, which rounds to 5e-6, as 5 * 1e-6 does not."""
_QUANTITY = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(\S.*?)?\s*")


class Refused(ValueError):
    """A value that is not allowed here: what is, and what may have been meant."""

    def __init__(self, allowed: str, suggestion: str = "") -> None:
        super().__init__(allowed)
        self.allowed = allowed
        self.suggestion = suggestion


def near(word: str, words: Iterable[str]) -> str:
    """`did you mean X?` for the nearest of `words`, or nothing."""
    matches = difflib.get_close_matches(word.lower(), sorted(words), n=1, cutoff=0.55)
    return f"did you mean {matches[0]}?" if matches else ""


def number(
    at_least: float = -math.inf, above: float = -math.inf, at_most: float = math.inf, below: float = math.inf
) -> Kind:
    """A finite float in a range."""
    allowed = "a number" + _range(at_least, above, at_most, below)

    def read(value: Any) -> float:
        result = _float(value)
        if result is None or not (at_least <= result <= at_most and above < result < below) or math.isinf(result):
            raise Refused(allowed)
        return result

    return read


def integer(at_least: int, at_most: int = 2**63 - 1) -> Kind:
    """A whole number in a range; `1e3` counts as one."""
    low, high = float(at_least), float(at_most) if at_most < 2**63 - 1 else math.inf
    allowed = "a whole number" + _range(low if low > -(2.0**63) else -math.inf, -math.inf, high, math.inf)
    words = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")

    def read(value: Any) -> int:
        exact = value if isinstance(value, int) and not isinstance(value, bool) else None
        if isinstance(value, str) and re.fullmatch(r"\s*[-+]?\d{1,30}\s*", value):
            exact = int(value)
        if exact is None:
            result = _float(value)
            exact = int(result) if result is not None and math.isfinite(result) and result == int(result) else None
            if exact is None:
                word = str(value).strip().lower()
                raise Refused(allowed, f"did you mean {words.index(word)}?" if word in words else "")
        if not at_least <= exact <= at_most:
            raise Refused(allowed)
        return exact

    return read


def choice(*names: str) -> Kind:
    """One of a few names."""
    allowed = "one of " + ", ".join(names)

    def read(value: Any) -> str:
        if value not in names:
            raise Refused(allowed, near(str(value), names))
        return str(value)

    return read


def boolean(value: Any) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise Refused("true or false")
    return value


def name(value: Any) -> str:
    """A label that is safe in a table, a page and a file name."""
    if value is None:
        return ""
    text = str(value)
    if not re.fullmatch(r"(?:[^\W_]|[_ .-]){0,100}", text) or ".." in text:
        raise Refused("letters, digits, spaces and . _ - (no ..), at most 100 of them")
    return text


def text(value: Any) -> str:
    """Any text of one line, perhaps empty."""
    if not isinstance(value, str) or not value.isprintable():
        raise Refused("text of one line")
    return value


def path(value: Any) -> str:
    """The path of a file or folder."""
    if not isinstance(value, str) or not value or not value.isprintable() or "${" in value:
        raise Refused("a path")
    return value


def optional(kind: Kind) -> Kind:
    """The kind, or null for none."""
    return lambda value: None if value is None else kind(value)


def bandwidth(value: Any) -> float:
    """Bytes a second, greater than 0."""
    allowed = "a bandwidth greater than 0 with its unit, like 10Gbit/s or 25GB/s"
    amount, unit = _split(value, allowed)
    if not unit:
        plausible = 0.0 < amount < math.inf
        raise Refused(allowed, f"did you mean {_plain(amount)}Gbit/s or {_plain(amount)}GB/s?" if plausible else "")
    match = re.fullmatch(r"([kMGTP]?)(bit|B)/s", unit)
    binary = re.fullmatch(r"([KMGT]i)B/s", unit)
    if match:
        result = amount * PREFIXES[match[1]] / (8.0 if match[2] == "bit" else 1.0)
    elif binary:
        result = amount * BINARY[binary[1]]
    else:
        raise Refused(allowed, _bits_or_bytes(amount, unit, "/s"))
    if not 0.0 < result < math.inf:
        raise Refused(allowed)
    return result


def size(value: Any) -> float:
    """Bytes, 0 or more; a bare number counts bytes."""
    allowed = "a size of 0 or more with its unit, like 25MB"
    amount, unit = _split(value, allowed)
    match = re.fullmatch(r"([kMGTP]?)B", unit)
    binary = re.fullmatch(r"([KMGT]i)B", unit)
    if not unit:
        result = amount
    elif match:
        result = amount * PREFIXES[match[1]]
    elif binary:
        result = amount * BINARY[binary[1]]
    else:
        raise Refused(allowed, _bits_or_bytes(amount, unit, ""))
    if not 0.0 <= result < math.inf:
        raise Refused(allowed)
    return result


def capacity(value: Any) -> float:
    """Bytes, more than 0, with their unit."""
    allowed = "a size greater than 0 with its unit, like 80GB"
    amount, unit = _split(value, allowed)
    if not unit:
        raise Refused(allowed, f"did you mean {_plain(amount)}GB?" if 0.0 < amount < math.inf else "")
    try:
        result = size(value)
    except Refused as refused:
        raise Refused(allowed, refused.suggestion) from None
    if not result:
        raise Refused(allowed)
    return result


def seconds(at_least: float = 0.0, above: float = -math.inf, bare_at_most: float = math.inf) -> Kind:
    """Seconds; a bare number counts seconds, up to `bare_at_most`."""
    allowed = "a time" + _range(at_least, above, math.inf, math.inf) + " with its unit, like 5us or 1.5s"

    def read(value: Any) -> float:
        amount, unit = _split(value, allowed)
        if unit and unit not in TIMES:
            raise Refused(allowed, near(unit, TIMES).replace("mean ", f"mean {_plain(amount)}"))
        if not unit and amount > bare_at_most:
            raise Refused(
                f"a bare number counts seconds, at most {_plain(bare_at_most)}; write the unit",
                f"did you mean {_plain(amount)}us or {_plain(amount)}ms?",
            )
        result = amount / TIMES.get(unit, 1.0)
        if not at_least <= result < math.inf or result <= above:
            raise Refused(allowed)
        return result

    return read


def flops(value: Any) -> float:
    """Floating-point operations a second, greater than 0."""
    allowed = "a rate greater than 0 with its unit, like 50Gflop/s"
    amount, unit = _split(value, allowed)
    match = re.fullmatch(r"([kMGTP]?)flop/s", unit)
    if not match:
        raise Refused(allowed, f"did you mean {_plain(amount)}Gflop/s?")
    result = amount * PREFIXES[match[1]]
    if not 0.0 < result < math.inf:
        raise Refused(allowed)
    return result


def spelled(value: float, unit: str) -> str:
    """The shortest text with this unit and a prefix that reads back as exactly `value`: 1.25e9, "bit/s" -> 10Gbit/s."""
    factor = 8.0 if unit.startswith("bit") else 1.0
    for prefix, scale in reversed(PREFIXES.items()):
        amount = _plain(value * factor / scale)
        if value * factor >= scale and float(amount) * scale / factor == value:
            return f"{amount}{prefix}{unit}"
    return f"{_plain(value)}B/s" if unit == "bit/s" else f"{_plain(value)}{unit}"


def spelled_seconds(value: float | None) -> float | str | None:
    """Seconds as a configuration writes them: with their unit where a bare number might be refused as too long."""
    return value if value is None or value <= 1.0 else f"{value!r}s"


def _float(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        result = float(value)
    except (ValueError, OverflowError):
        return None
    return None if math.isnan(result) else result


def _split(value: Any, allowed: str) -> tuple[float, str]:
    """The number and the unit of a quantity."""
    plain = _float(value)
    if plain is not None:
        return plain, ""
    match = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise Refused(allowed)
    return float(match[1]), match[2] or ""


def _bits_or_bytes(amount: float, unit: str, per: str) -> str:
    match = re.match(r"([kKmMgGtTpP]?)i?(b|bit|bits|byte|bytes)?(ps|/s|/sec)?$", unit, re.IGNORECASE)
    if match is None:
        return ""
    prefix = match[1].upper() if match[1] not in ("k", "K") else "k"
    meant = f"{_plain(amount)}{prefix}"
    unit_word = match[2] or ""
    if unit_word.lower() in ("bit", "bits") or unit.endswith("bps"):
        return f"did you mean {meant}bit{per}?" if per else f"did you mean {_plain(amount / 8)}{prefix}B?"
    if unit_word in ("B", "byte", "bytes"):
        return f"did you mean {meant}B{per}?"
    if not per:
        return f"did you mean {meant}B (bytes) or {_plain(amount / 8)}{prefix}B (the same number of bits)?"
    return f"did you mean {meant}bit{per} or {meant}B{per}?"


def _plain(value: float) -> str:
    return str(int(value)) if abs(value) < 1e15 and value == int(value) else repr(value)


def _range(at_least: float, above: float, at_most: float, below: float) -> str:
    low = f"{_plain(at_least)} or more" if at_least > -math.inf else ""
    low = f"greater than {_plain(above)}" if above > -math.inf else low
    if -math.inf < at_least and at_most < math.inf:
        return f" from {_plain(at_least)} to {_plain(at_most)}"
    high = f"at most {_plain(at_most)}" if at_most < math.inf else ""
    high = f"less than {_plain(below)}" if below < math.inf else high
    return (f" {low}" if low else "") + (" and" if low and high else "") + (f" {high}" if high else "")
