"""The text that `char_gpt` learns: "As You Like It" by Shakespeare, 125,179 characters of 68 kinds.

In the public domain (source in data/LICENSE.md); the file ships with distsim. No torch and no download.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from distsim.workloads.shipped import DATA, unpack

FILE = DATA / "asyoulik.txt.gz"
SHA256 = "fe0d77ac5ed18970926a043d4b07099e2bdcc550875265de70bcc60c5dba1c35"
CHARACTERS, VOCABULARY = 125_179, 68
VALIDATION = CHARACTERS // 10
"""Characters held out, the last of the play."""


class Text(NamedTuple):
    """A text as numbers, one byte each: the places of its characters in `vocabulary`, which is in the order of ASCII."""

    vocabulary: bytes
    numbers: bytes


@lru_cache(maxsize=1)
def load(file: Path = FILE) -> Text:
    """The whole text. Raises `BadInput` if the file is missing or not the one that shipped."""
    raw = unpack("char_gpt", file, SHA256)
    vocabulary = bytes(sorted(set(raw)))
    return Text(vocabulary, raw.translate(bytes(max(vocabulary.find(c), 0) for c in range(256))))


def windows(context: int) -> tuple[list[int], list[int]]:
    """Where the samples of training and validation begin, each of `context` characters and the one after the last.

    In training they overlap by half; in validation every character is predicted once, but for what is left at the end."""
    training = CHARACTERS - VALIDATION
    stride = max(1, context // 2)
    return list(range(0, training - context, stride)), list(range(training, CHARACTERS - context, context))
