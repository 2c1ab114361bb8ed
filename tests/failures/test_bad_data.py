"""Data that make no task, through `coinbench run`: one line, exit 4, nothing fitted, finished cells intact."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from commands import TINY, Ran, files, in_process, one_line
from image_files import encode, make_tree, paint
from PIL import Image

from coinbench import registry
from coinbench.data.digits import DigitsConfig
from coinbench.data.source import Card, Source
from coinbench.specs import DatasetSpec

Run = Callable[..., Ran]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "tree")


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """Eight images that labels.csv puts into two classes and two splits."""
    root = tmp_path / "listed"
    for i in range(8):
        paint(root / f"{i}.png", (i, 2 * i, 3 * i))
    write_table(root)
    return root


def write_table(root: Path, **changed: str) -> None:
    """Write labels.csv; `row_3="c"` changes the class of image 3."""
    rows = [f"{i}.png,{changed.get(f'row_{i}', 'ab'[i % 2])},{('train', 'test')[i // 6]}" for i in range(8)]
    (root / "labels.csv").write_text("\n".join(["file,label,split", *rows]) + "\n")


@pytest.fixture
def refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., None]:
    """Run a data set into a folder that holds a finished cell, and check the refusal."""
    out, cache = tmp_path / "out", tmp_path / "cache"
    cell = out / "cells" / "0123456789abcdef"
    cell.mkdir(parents=True)
    for name in ("cell.json", "results.parquet", "weights.safetensors"):
        (cell / name).write_bytes(b"of an earlier run")

    def check(dataset: str, root: Path | None, *pieces: str) -> None:
        before = files(out)
        settings = {key: value for key, value in TINY.items() if not key.startswith("data.")}
        settings |= {"data.root": str(root)} if root else {}
        sets = (word for key, value in settings.items() for word in ("--set", f"{key}={value}"))
        ran = in_process(capfd, "run", "-m", "flint", "-d", dataset, "--cache", cache, "--out", out, *sets)
        one_line(ran, 4, *pieces)
        assert files(out) == before
        assert not list(cache.glob("classifier")) + list(cache.glob("generator")) + list(cache.glob("fit"))

    return check


class Given(Source):
    """A data set of a plug-in: any labels, any classes, black images."""

    channels, fingerprint = 3, "given"

    def __init__(self, labels: list[int], n_test: int, names: tuple[str, ...]) -> None:
        self.labels = np.array(labels, dtype=np.int64)
        self.is_test = np.arange(len(labels)) >= len(labels) - n_test
        self.card = Card(name="given", title="given", source="a test", licence="none", class_names=names)

    def images(self, index: np.ndarray, size: int) -> np.ndarray:
        return np.zeros((len(index), size, size, 3), np.uint8)


@pytest.fixture
def plugged(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the name "digits" stand for a source of the test's own."""

    def plug(labels: list[int], n_test: int, *names: str) -> None:
        spec = DatasetSpec(
            config=DigitsConfig, open=lambda config, cache: Given(labels, n_test, names), summary="given"
        )
        load = registry.Registry.load
        monkeypatch.setattr(
            registry.Registry, "load", lambda self, name: spec if self is registry.PROBLEMS else load(self, name)
        )

    return plug


def test_empty_class(tree: Path, listed: Path, refused: Callable[..., None], plugged: Callable[..., None]) -> None:
    (tree / "train" / "green").mkdir()
    refused("imagefolder", tree, "class 'green'", "train/green holds no image", "add some, or remove the folder")
    (tree / "train" / "green").rename(tree / "test" / "green")
    refused("imagefolder", tree, "class 'green'", "test/green holds no image")
    (tree / "test" / "green" / "notes.txt").write_text("no image")
    refused("imagefolder", tree, "class 'green'", "test/green holds no image")
    # labels.csv: a class of test images alone.
    write_table(listed, row_7="c")
    refused("imagefolder", listed, "class 'c' has test images but no train images", "add some")
    plugged([0, 0, 2, 2, 0, 2], 2, "a", "b", "c")
    refused("digits", None, "digits: class 'b' has no train images", "add some, or leave the class out")


def test_one_class(tree: Path, listed: Path, refused: Callable[..., None], plugged: Callable[..., None]) -> None:
    for split in ("train", "test"):
        for path in (tree / split / "blue").iterdir():
            path.unlink()
        (tree / split / "blue").rmdir()
    refused("imagefolder", tree, "one class only ('red')", "a classifier needs two or more")
    write_table(listed, **{f"row_{i}": "a" for i in range(8)})
    refused("imagefolder", listed, "one class only ('a')", "a classifier needs two or more")
    plugged([0, 0, 0, 0], 2, "a")
    refused("digits", None, "digits: 1 class (a)", "a classifier needs two or more")


def test_corrupt_image(tree: Path, listed: Path, refused: Callable[..., None]) -> None:
    good = encode(Image.effect_noise((64, 64), 50), "JPEG")
    (tree / "train" / "red" / "half.jpg").write_bytes(good[:900])
    refused("imagefolder", tree, "train/red/half.jpg: corrupt or truncated", "repair or remove", "data.max_bad=1")
    (listed / "3.png").write_bytes(b"")
    refused("imagefolder", listed, "3.png: empty file", "repair or remove", "data.max_bad=1")


def test_label_outside_range(
    tree: Path, listed: Path, refused: Callable[..., None], plugged: Callable[..., None]
) -> None:
    # Classes of imagefolder are names, so any is in range; a split and a column are what can be outside.
    text = (listed / "labels.csv").read_text()
    (listed / "labels.csv").write_text(text.replace("5.png,b,train", "5.png,b,dev"))
    refused("imagefolder", listed, "row 7: unknown split 'dev'", "train, val, test")
    (listed / "labels.csv").write_text(text.replace("5.png,b,train", "5.png,,train"))
    refused("imagefolder", listed, "row 7: empty label of 5.png", "fill it in")
    plugged([0, 1, 0, 7, 0, 1], 2, "a", "b")
    refused("digits", None, "digits: image 3 has label 7, outside 0..1", "correct")
    plugged([0, 1, -1, 1, 0, -1], 2, "a", "b")
    refused("digits", None, "digits: image 2 has label -1, outside 0..1", "correct")
