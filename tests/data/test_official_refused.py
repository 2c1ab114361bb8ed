"""Official data sets, served here, that are not as published: one line each, and nothing half-written."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from commands import Cli, in_process, one_line
from official_files import (
    Files,
    annotated,
    archives,
    command,
    from_server,
    lines,
    matlab,
    packed,
    photo,
    publish,
    serve,
    tgz,
    write,
    zipped,
)

from coinbench.data import celebahq, stanfordcars

ONE, CAR = "CUB_200_2011.tgz", "car_devkit.tgz"


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setenv("COINBENCH_CACHE", str(tmp_path / "cache"))
    return functools.partial(in_process, capfd)


Change = Callable[[dict[str, Files]], None]


def _cub(file: str, content: bytes | None) -> Change:
    def change(contents: dict[str, Files]) -> None:
        contents[ONE][f"CUB_200_2011/{file}"] = content or b""
        if content is None:
            del contents[ONE][f"CUB_200_2011/{file}"]

    return change


def _hq(file: str, content: bytes | None) -> Change:
    def change(contents: dict[str, Files]) -> None:
        contents["CelebAMask-HQ.zip"][f"CelebAMask-HQ/{file}"] = content or b""
        if content is None:
            del contents["CelebAMask-HQ.zip"][f"CelebAMask-HQ/{file}"]

    return change


def _car(archive: str, file: str, content: bytes | None) -> Change:
    def change(contents: dict[str, Files]) -> None:
        contents[archive][file] = content or b""
        if content is None:
            del contents[archive][file]

    return change


def _other_split(contents: dict[str, Files]) -> None:
    # The last of CelebA's validation images becomes one to test with.
    contents[celebahq.PARTITION][""] = contents[celebahq.PARTITION][""].replace(b"000095.jpg 1", b"000095.jpg 2")


def _without_the_last_car(contents: dict[str, Files]) -> None:
    del contents["cars_test.tgz"]["cars_test/00004.jpg"]
    contents[stanfordcars.LABELLED][""] = annotated([2, 1, 2])


CUT = annotated([2, 1, 2, 1])[:300]
THREE = matlab(class_names=np.array([["AM General Hummer 2000", "Audi S4", "Audi S5"]], dtype=object))
FACE, BIRD, TRAIN = f"{celebahq.IMAGES}/3.jpg", "images/001.Black_Bird/Black_Bird_1.jpg", "cars_train.tgz"
SEVEN = lines(*(f"{i} 1" for i in range(1, 8)))
WRONG: dict[str, tuple[str, Change, tuple[str, ...]]] = {
    "cub: an image is missing": ("cub200", _cub(BIRD, None), ("1 image", "Black_Bird_1.jpg", "missing")),
    "cub: an image too many": ("cub200", _cub("images/x.jpg", photo(9)), ("images/x.jpg", "not in the official list")),
    "cub: an image is cut": ("cub200", _cub(BIRD, photo(1)[:200]), ("Black_Bird_1.jpg", "unusable")),
    "cub: a class beyond": ("cub200", _cub("image_class_labels.txt", lines("1 3")), ("line 1", "'3'", "1 to 2")),
    "cub: no number": ("cub200", _cub("train_test_split.txt", lines("1 yes")), ("line 1", "'yes'", "0 to 1")),
    "cub: a value is missing": ("cub200", _cub("train_test_split.txt", SEVEN), ("image 8 has no line",)),
    "cub: a value twice": ("cub200", _cub("train_test_split.txt", lines("1 1", "1 0")), ("image 1 has a value",)),
    "cub: no text": ("cub200", _cub("classes.txt", b"\xff\xfe"), ("classes.txt", "cannot be read")),
    "cub: other order": ("cub200", _cub("classes.txt", lines("2 a", "1 b")), ("line 1", "'2'", "1 to 1")),
    "cub: other counts": ("cub200", _cub("train_test_split.txt", SEVEN + b"8 0\n"), ("7 train images, 4 are",)),
    "celebahq: an image is missing": ("celebahq", _hq(FACE, None), ("1 image", f"{FACE}", "missing")),
    "celebahq: an image too many": (
        "celebahq",
        _hq(f"{celebahq.IMAGES}/8.jpg", photo(7)),
        ("8.jpg has no attributes",),
    ),
    "celebahq: another name": ("celebahq", _hq(f"{celebahq.IMAGES}/a.jpg", photo(7)), ("a.jpg has no number",)),
    "celebahq: another kind": ("celebahq", _hq(f"{celebahq.IMAGES}/9.png", photo(7)), ("9.png", "not in the official")),
    "celebahq: a label": ("celebahq", _hq(celebahq.ATTRIBUTES, lines(1, "Male Young", "0.jpg 1 7")), ("Young is '7'",)),
    "celebahq: no Young": ("celebahq", _hq(celebahq.ATTRIBUTES, lines(1, "Male Old", "0.jpg 1 1")), ("no attribute",)),
    "celebahq: a short row": (
        "celebahq",
        _hq(celebahq.ATTRIBUTES, lines(1, "Male Young", "0.jpg 1")),
        ("1 values, 2",),
    ),
    "celebahq: other counts": (
        "celebahq",
        _other_split,
        ("5 train images, 6 are published",),
    ),
    "celebahq: no mapping": ("celebahq", _hq(celebahq.MAPPING, None), ("has no CelebA-HQ-to", "data.partition=hash")),
    "cars: an image is missing": ("stanfordcars", _car(TRAIN, "cars_train/00003.jpg", None), ("00003.jpg", "missing")),
    "cars: an image too many": ("stanfordcars", _car(TRAIN, "cars_train/7.jpg", photo(1)), ("7.jpg", "not in the")),
    "cars: no MATLAB file": (
        "stanfordcars",
        _car(CAR, "devkit/cars_train_annos.mat", b"MATLAB" * 99),
        ("no such MATLAB",),
    ),
    "cars: no such row": ("stanfordcars", _car(CAR, "devkit/cars_meta.mat", annotated([1])), ("no such MATLAB",)),
    "cars: a class beyond": (
        "stanfordcars",
        _car(CAR, "devkit/cars_train_annos.mat", annotated([1, 2, 3, 1, 2, 1])),
        ("row 3", "'3'", "1 to 2"),
    ),
    "cars: a cut MATLAB file": ("stanfordcars", _car(stanfordcars.LABELLED, "", CUT), ("cars_test", "no such MATLAB")),
    "cars: a class that is no number": (
        "stanfordcars",
        _car(CAR, "devkit/cars_train_annos.mat", annotated(["x"] * 6)),
        ("row 1", "no file name and class"),
    ),
    "cars: an image without a row": (
        "stanfordcars",
        _car(stanfordcars.LABELLED, "", annotated([1, 2, 1])),
        ("cars_test/00004.jpg", "not in the official list"),
    ),
    "cars: other counts": ("stanfordcars", _without_the_last_car, ("9 images, 10 are published",)),
    "cars: other classes": ("stanfordcars", _car(CAR, "devkit/cars_meta.mat", THREE), ("3 classes, 2 are published",)),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_not_as_published_is_one_line(
    case: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, change, pieces = WRONG[case]
    contents = archives(name)
    change(contents)
    files = packed(contents)
    publish(monkeypatch, name, files)
    with serve(files) as served:
        one_line(cli(*from_server(name, tmp_path / "data", served)), 4, *pieces)


@pytest.mark.parametrize(
    ("make", "pieces"),
    [
        (lambda whole: whole[: len(whole) // 2], ("cannot be unpacked",)),
        (lambda whole: b"<html>try again tomorrow</html>" * 40, ("cannot be unpacked",)),
        (lambda whole: tgz({"../out.txt": b"x"}), ("cannot be unpacked", "outside the destination")),
        (lambda whole: zipped({"../out.txt": b"x"}), ("lies outside the archive's folder",)),
        (lambda whole: tgz({"other/images.txt": b"x"}), ("holds no images.txt",)),
    ],
    ids=["cut", "a web page", "tar out of its folder", "zip out of its folder", "another archive"],
)
def test_a_broken_archive_leaves_nothing(
    make: Callable[[bytes], bytes], pieces: tuple[str, ...], cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {ONE: make(packed(archives("cub200"))[ONE])}
    publish(monkeypatch, "cub200", files)
    write(tmp_path / "data", files)
    one_line(cli(*command("cub200", tmp_path / "data")), 4, *pieces)
    assert not (tmp_path / "out.txt").exists()
    assert not (tmp_path / "data" / "CUB_200_2011").exists()
    assert not (tmp_path / "data" / ".unpacking").exists()
