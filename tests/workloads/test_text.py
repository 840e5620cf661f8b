"""The text that ships: what it is, where it comes from, how it is cut, and what a torn file says."""

import gzip
import shutil
from hashlib import sha256

import pytest

from distsim.interface import BadInput
from distsim.workloads import digits, text
from distsim.workloads.shipped import DATA

ORIGINAL = "eaa3526fe53859f34ecdf255712f9ecf0b2c903451d4755b2edaa2e2599cb0fc"
"""SHA-256 of asyoulik.txt in Brotli 1.2.1's source distribution."""


def test_what_ships_is_the_play():
    raw = gzip.decompress(text.FILE.read_bytes())
    assert sha256(raw).hexdigest() == ORIGINAL
    assert len(raw) == text.CHARACTERS == 125_179  # as the Canterbury corpus lists it
    assert raw.startswith(b"\tAS YOU LIKE IT\n")
    assert b"All the world's a stage" in raw
    assert text.FILE.stat().st_size < 250_000


def test_numbers_stand_for_the_characters():
    vocabulary, numbers = text.load()
    assert len(vocabulary) == text.VOCABULARY == 68
    assert bytes(vocabulary[n] for n in numbers) == gzip.decompress(text.FILE.read_bytes())


@pytest.mark.parametrize(("file", "digest"), [(text.FILE, text.SHA256), (digits.FILE, digits.SHA256)])
def test_every_file_has_a_licence(file, digest):
    told = (DATA / "LICENSE.md").read_text(encoding="utf-8")
    assert f"# {file.name}\n" in told
    assert digest in told
    assert "public domain" in told
    assert sorted(path.name for path in DATA.iterdir()) == ["LICENSE.md", "asyoulik.txt.gz", "digits.bin.gz"]


@pytest.mark.parametrize("context", [1, 2, 7, 64, 1000, text.VALIDATION - 1])
def test_windows_hold_what_they_should(context):
    training, validation = text.windows(context)
    held_out = text.CHARACTERS - text.VALIDATION
    assert text.VALIDATION == 12_517  # the last tenth
    assert max(training) + context + 1 <= held_out
    seen = {start + i for start in training for i in range(context + 1)}
    assert len(seen) > held_out - context
    assert validation[0] == held_out
    assert len(validation) == (text.VALIDATION - 1) // context
    assert validation[-1] + context + 1 <= text.CHARACTERS


def test_missing_and_torn_data_are_told_apart(tmp_path):
    with pytest.raises(BadInput, match=r"workload.name='char_gpt': its data cannot be read .No such file"):
        text.load(tmp_path / "missing.gz")
    torn = tmp_path / "torn.gz"
    shutil.copy(text.FILE, torn)
    torn.write_bytes(torn.read_bytes()[:-100])
    with pytest.raises(
        BadInput, match=r"torn or changed: SHA-256 .* expected fe0d77ac5ed1.*torn.gz; install distsim again"
    ):
        text.load(torn)
