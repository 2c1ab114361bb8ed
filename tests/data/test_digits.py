"""digits: real images, smooth at any size, with a split that position alone decides."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.utils import Bunch

from coinbench import registry
from coinbench.data.digits import DATASET, Digits, DigitsConfig


@pytest.fixture(scope="module")
def digits() -> Digits:
    return Digits()


@pytest.fixture(scope="module")
def bundled() -> Bunch:
    bunch = load_digits()
    assert isinstance(bunch, Bunch)
    return bunch


def test_at_its_own_size_an_image_is_scikit_learns(digits, bundled):
    index = np.array([0, 700, 1796])
    expected = np.rint(bundled.images[index] / 16 * 255).astype(np.uint8)
    assert np.array_equal(digits.images(index, 8)[..., 0], expected)


def test_enlarging_keeps_range_and_mean_and_is_smooth(digits):
    index = np.arange(64)
    small, large = (digits.images(index, size).astype(float) for size in (8, 64))
    assert large.shape == (64, 64, 64, 1)
    assert large.max() == 255
    assert large.mean() == pytest.approx(small.mean(), rel=0.05)
    # Nearest-neighbour enlargement would jump by as much as the small image does.
    assert np.abs(np.diff(large, axis=2)).max() < 0.5 * np.abs(np.diff(small, axis=2)).max()


def test_labels_and_classes_agree(digits, bundled):
    assert digits.card.class_names == tuple("0123456789")
    assert np.array_equal(digits.labels, bundled.target)
    assert digits.labels.dtype == np.int64


def test_a_fifth_is_test_and_splits_do_not_meet(digits):
    assert digits.is_test.mean() == pytest.approx(0.2, abs=0.02)
    parts = [digits.split(name, 0.1) for name in ("train", "val", "test")]
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(1797))
    assert all(set(digits.labels[part]) == set(range(10)) for part in parts)


def test_no_digit_is_there_twice(digits):
    contents = digits.contents()
    assert len({digest for _, digest in contents}) == len(contents) == 1797


def test_the_fingerprint_is_fixed_and_follows_the_labels(digits, monkeypatch):
    assert Digits().fingerprint == digits.fingerprint
    pixels, labels = load_digits(return_X_y=True)
    labels = np.asarray(labels).copy()
    labels[3] = 9
    monkeypatch.setattr("sklearn.datasets.load_digits", lambda return_X_y: (pixels, labels))
    assert Digits().fingerprint != digits.fingerprint


def test_registered_and_not_mirrored():
    assert registry.PROBLEMS.load("digits") is DATASET
    assert DigitsConfig().flip is False
    assert isinstance(DATASET.open(DigitsConfig(), Path()), Digits)


def test_data_modules_leave_torch_and_sklearn_alone():
    modules = ("digits", "torchvision_sets", "imagefolder", "verify")
    code = "import sys\n" + "".join(f"import coinbench.data.{name}\n" for name in modules)
    code += "print([m for m in ('torch', 'torchvision', 'sklearn', 'pandas') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_small_class_keeps_a_training_image_when_val_is_carved():
    source = Digits()
    before = source.split("val", 0.5)
    source.labels = np.zeros(len(source.labels), np.int64)
    assert np.array_equal(source.split("val", 0.5), before), "where no class is emptied nothing moves"
    source.labels = np.arange(len(source.labels)) // 2
    train, val = source.split("train", 0.5), source.split("val", 0.5)
    assert sorted([*train, *val]) == np.flatnonzero(~source.is_test).tolist()
    assert set(source.labels[train]) == set(source.labels[~source.is_test])
    assert len(val) > 100
