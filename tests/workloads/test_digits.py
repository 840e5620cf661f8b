"""The digits: what ships, how it is split, and what a torn file says."""

import shutil
from collections import Counter

import pytest

from distsim.interface import BadInput
from distsim.workloads import digits


def test_what_ships_is_the_uci_test_set():
    pixels, labels = digits.load()
    assert (len(pixels), len(labels)) == (1797 * 64, 1797)
    assert max(pixels) == 16
    assert Counter(labels) == {0: 178, 1: 182, 2: 177, 3: 183, 4: 181, 5: 182, 6: 181, 7: 179, 8: 174, 9: 180}
    assert list(pixels[:16]) == [0, 0, 5, 13, 9, 1, 0, 0, 0, 0, 13, 15, 10, 15, 5, 0]  # the first two rows of a zero
    assert list(labels[:10]) == list(range(10))


def test_it_equals_the_copy_of_scikit_learn():
    datasets = pytest.importorskip("sklearn.datasets")
    theirs = datasets.load_digits()
    pixels, labels = digits.load()
    assert list(pixels) == theirs.data.reshape(-1).astype(int).tolist()
    assert list(labels) == theirs.target.tolist()


def test_the_split_is_fixed_and_holds_a_fifth_of_every_class():
    labels = digits.load().labels
    training, validation = digits.split(labels)
    assert (len(training), len(validation)) == (1437, 360)
    assert sorted(training + validation) == list(range(1797))
    held, total = Counter(labels[i] for i in validation), Counter(labels)
    assert all(abs(held[c] - total[c] / 5) < 1 for c in range(10))


def test_missing_and_torn_data_are_told_apart(tmp_path):
    with pytest.raises(BadInput, match=r"its data cannot be read .No such file"):
        digits.load(tmp_path / "missing.gz")
    torn = tmp_path / "torn.gz"
    shutil.copy(digits.FILE, torn)
    torn.write_bytes(torn.read_bytes()[:-100])
    with pytest.raises(
        BadInput, match=r"torn or changed: SHA-256 .* expected b14331f5100d.*torn.gz; install distsim again"
    ):
        digits.load(torn)
