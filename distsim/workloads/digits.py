"""The digits: 1,797 grey images of 8 x 8 pixels, from a file that ships with distsim. No torch and no download.

Alpaydin and Kaynak, UCI Machine Learning Repository, 1998, dataset 80, CC BY 4.0 (data/LICENSE.md).
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from distsim.workloads.shipped import DATA, unpack

FILE = DATA / "digits.bin.gz"
SHA256 = "b14331f5100db0031de1abc44bb1da54e9e338aa94e5138763a5851fcb9f52df"
SAMPLES, PIXELS, CLASSES = 1797, 64, 10
VALIDATION_EVERY = 5


class Digits(NamedTuple):
    """One byte a pixel (0 to 16), row by row, and one byte a label."""

    pixels: bytes
    labels: bytes


@lru_cache(maxsize=1)
def load(file: Path = FILE) -> Digits:
    """The images and labels, in the file's order. Raises `BadInput` if the file is missing or not the one that shipped."""
    raw = unpack("digits", file, SHA256)
    return Digits(raw[: SAMPLES * PIXELS], raw[SAMPLES * PIXELS :])


def split(labels: bytes) -> tuple[list[int], list[int]]:
    """Which samples are for training (1,437) and which for validation (360): of each class every fifth, always the same."""
    by_class = sorted(range(len(labels)), key=lambda i: (labels[i], i))
    validation = by_class[::VALIDATION_EVERY]
    held_out = set(validation)
    return [i for i in range(len(labels)) if i not in held_out], sorted(validation)
