"""Quantities: what each spelling means, and what is refused with which suggestion."""

from __future__ import annotations

from typing import Any

import pytest

from distsim.configuration import quantities
from distsim.configuration.quantities import Kind, Refused

LATENCY = quantities.seconds(bare_at_most=1.0)


@pytest.mark.parametrize(
    ("kind", "written", "meant"),
    [
        (quantities.bandwidth, "10Gbit/s", 1.25e9),
        (quantities.bandwidth, "25GB/s", 25e9),
        (quantities.bandwidth, "25 GB/s", 25e9),
        (quantities.bandwidth, "1MiB/s", 1048576.0),
        (quantities.size, "100MB", 100e6),
        (quantities.size, "25MiB", 26214400.0),
        (quantities.size, 25e6, 25e6),
        (quantities.size, "1e3", 1000.0),
        (LATENCY, "5us", 5e-6),
        (LATENCY, "7ms", 7e-3),
        (LATENCY, 0.5, 0.5),
        (LATENCY, 0, 0.0),
        (quantities.seconds(), "3min", 180.0),
        (quantities.flops, "50Gflop/s", 50e9),
        (quantities.integer(1), "1e3", 1000),
        (quantities.integer(1), 1e3, 1000),
        (quantities.integer(1), 2**62 + 1, 2**62 + 1),
        (quantities.number(above=0.0), "1e-3", 1e-3),
        (quantities.name, "first try-2.b", "first try-2.b"),
        (quantities.name, None, ""),
        (quantities.optional(quantities.size), None, None),
    ],
)
def test_reads(kind: Kind, written: Any, meant: Any) -> None:
    assert kind(written) == meant
    assert type(kind(written)) is type(meant)


@pytest.mark.parametrize(
    ("kind", "written", "suggestion"),
    [
        (quantities.bandwidth, "10Gb", "did you mean 10Gbit/s or 10GB/s?"),
        (quantities.bandwidth, "10Gb/s", "did you mean 10Gbit/s or 10GB/s?"),
        (quantities.bandwidth, "10Gbps", "did you mean 10Gbit/s?"),
        (quantities.bandwidth, "10GB", "did you mean 10GB/s?"),
        (quantities.bandwidth, 10, "did you mean 10Gbit/s or 10GB/s?"),
        (quantities.bandwidth, -5, ""),
        (quantities.bandwidth, 0, ""),
        (quantities.bandwidth, "0GB/s", ""),
        (quantities.bandwidth, float("nan"), ""),
        (quantities.bandwidth, float("inf"), ""),
        (quantities.bandwidth, "1e400GB/s", ""),
        (quantities.bandwidth, True, ""),
        (quantities.size, "100Mb", "did you mean 100MB (bytes) or 12.5MB (the same number of bits)?"),
        (quantities.size, "-1MB", ""),
        (LATENCY, 5, "did you mean 5us or 5ms?"),
        (LATENCY, "5u", "did you mean 5us?"),
        (LATENCY, "-5us", ""),
        (LATENCY, "nan", ""),
        (quantities.integer(1), "four", "did you mean 4?"),
        (quantities.integer(1), 1.5, ""),
        (quantities.integer(1), 0, ""),
        (quantities.integer(1), True, ""),
        (quantities.integer(1), "9" * 5000, ""),
        (quantities.number(at_least=0.0), float("nan"), ""),
        (quantities.number(above=0.0), 0.0, ""),
        (quantities.number(at_least=0.0, below=1.0), 1.0, ""),
        (quantities.choice("none", "lognormal"), "lognormol", "did you mean lognormal?"),
        (quantities.boolean, 1, ""),
        (quantities.name, "../x", ""),
        (quantities.name, "a\nb", ""),
        (quantities.name, "<script>", ""),
        (quantities.name, "=cmd()", ""),
        (quantities.name, "x" * 300, ""),
        (quantities.path, "", ""),
        (quantities.path, "${oc.env:HOME}", ""),
        (quantities.path, "a\nb", ""),
    ],
)
def test_refuses(kind: Kind, written: Any, suggestion: str) -> None:
    with pytest.raises(Refused) as refused:
        kind(written)
    assert refused.value.suggestion == suggestion


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (1.25e9, "bit/s", "10Gbit/s"),
        (25e9, "B/s", "25GB/s"),
        (1.5, "B/s", "1.5B/s"),
        (5e10, "flop/s", "50Gflop/s"),
        (1e10 / 3, "B/s", "3.3333333333333335GB/s"),
    ],
)
def test_spells_what_reads_back(value: float, unit: str, text: str) -> None:
    assert quantities.spelled(value, unit) == text
    assert (quantities.flops if unit == "flop/s" else quantities.bandwidth)(text) == value
