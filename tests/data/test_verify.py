"""What `data verify` and `data card` say."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from coinbench.data.digits import Digits, DigitsConfig
from coinbench.data.imagefolder import ImageFolder, ImageFolderConfig
from coinbench.data.verify import card, verify
from coinbench.errors import DataError


@pytest.fixture
def tree(tmp_path) -> Path:
    root = tmp_path / "tree"
    for split, counts in (("train", {"a": 4, "b": 3}), ("test", {"a": 2, "b": 1})):
        for name, n in counts.items():
            (root / split / name).mkdir(parents=True)
            for i in range(n):
                colour = (10 * i, 100 * (split == "test"), 100 * (name == "b"))
                Image.new("RGB", (8, 8), colour).save(root / split / name / f"{i}.png")
    return root


def _config(root: Path, **settings) -> ImageFolderConfig:
    return ImageFolderConfig(root=root, val_fraction=0.0, **settings)


def test_counts_per_split_and_class(tree, tmp_path):
    lines = verify(_config(tree), tmp_path)
    assert lines[1] == "10 stored images read anew, all as recorded"
    assert "train 7, val 0, test 3 images" in lines
    assert "train: from 3 (b) to 4 (a) images a class" in lines
    assert "class b: train 3, val 0, test 1" in lines
    assert "no two images are identical" in lines


def test_copies_across_splits_and_labels_are_reported(tree, tmp_path):
    shutil.copy(tree / "train" / "a" / "1.png", tree / "test" / "a" / "copy.png")
    shutil.copy(tree / "train" / "b" / "2.png", tree / "train" / "a" / "other.png")
    lines = verify(_config(tree), tmp_path)
    assert "2 images are copies of another one" in lines
    assert "1 images occur in train and test (first: train/a/1.png = test/a/copy.png)" in lines
    assert "1 images occur with two labels (first: train/a/other.png = train/b/2.png)" in lines


def test_a_change_that_size_and_time_do_not_show_is_found(tree, tmp_path):
    config = _config(tree)
    verify(config, tmp_path)
    path = tree / "test" / "b" / "0.png"
    stat, data = path.stat(), bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    ImageFolder(config, tmp_path)  # a plain opening trusts size and time
    with pytest.raises(DataError, match=r"test/b/0.png: its bytes are not those that were checked"):
        verify(config, tmp_path)


def test_other_data_than_a_run_had(tree, tmp_path):
    config = _config(tree)
    fingerprint = ImageFolder(config, tmp_path).fingerprint
    assert verify(config, tmp_path, fingerprint)[0] == f"imagefolder: fingerprint {fingerprint}"
    (tree / "train" / "a" / "0.png").unlink()
    with pytest.raises(DataError, match=f"expected {fingerprint[:16]}"):
        verify(config, tmp_path, fingerprint)


def test_files_left_out_are_named(tree, tmp_path):
    (tree / "train" / "a" / "bad.png").write_bytes(b"")
    assert "left out: train/a/bad.png: empty file" in verify(_config(tree, max_bad=1), tmp_path)


def test_card_of_a_folder(tree, tmp_path):
    (tree / "train" / "a" / "bad.png").write_bytes(b"")
    config = _config(tree, max_bad=1, size=24)
    text = card(ImageFolder(config, tmp_path), config)
    assert text.startswith("# tree\n")
    assert "| Classes | 2: a, b |" in text
    assert "| Images | 10 (train 7, val 0, test 3) |" in text
    assert "| Pixels | 24 x 24, RGB; training crops from 26 x 26, mirrored at random |" in text
    assert "- left out: train/a/bad.png: empty file\n" in text


def test_card_of_the_digits_names_source_licence_and_split(tmp_path):
    config = DigitsConfig()
    text = card(Digits(), config)
    assert "UCI" in text
    assert "CC BY 4.0" in text
    assert "20 % are the test split" in text
    assert "mirrored" not in text.split("\n\n")[1]
    assert verify(config, tmp_path)[1] == "1797 stored images read anew, all as recorded"
