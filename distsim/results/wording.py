"""Numbers in words: the same digits and units wherever they stand."""

from __future__ import annotations

import math


def number(x: float, digits: int = 3) -> str:
    """`x` with about three digits and no exponent where a reader needs none: 0.0123, 1.83, 12.3, 12,300."""
    if not math.isfinite(x):
        return "infinite" if x > 0 else "-"
    if x != 0.0 and (abs(x) < 1e-3 or abs(x) >= 1e9):
        return f"{x:.{digits}g}"
    decimals = 0 if x == 0.0 else max(0, digits - 1 - math.floor(math.log10(abs(x))))
    text = f"{x:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def factor(x: float) -> str:
    """A ratio with the same digits wherever it stands: 1.10, 12.3, 140."""
    return f"{x:.{2 if x < 9.995 else 1 if x < 99.95 else 0}f}" if math.isfinite(x) else number(x)


def nbytes(x: float) -> str:
    """Bytes in the decimal unit that suits: 91.2 GB, 16 MB, 512 bytes."""
    for limit, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if x >= limit:
            return f"{number(x / limit)} {unit}"
    return f"{number(x)} bytes"


def duration(seconds: float) -> str:
    """Seconds in the unit that suits: 850 us, 12.3 ms, 1.31 s, 4.2 min."""
    for limit, factor, unit in ((1e-3, 1e6, "us"), (1.0, 1e3, "ms"), (300.0, 1.0, "s")):
        if seconds < limit:
            return f"{number(seconds * factor)} {unit}"
    return f"{number(seconds / 60.0)} min" if math.isfinite(seconds) else "never"
