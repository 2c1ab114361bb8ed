"""cub200, celebahq, stanfordcars: prepared from small archives in the official layout, served and broken here."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commands import Cli, in_process, one_line
from official_files import (
    MODULES,
    Files,
    Served,
    annotated,
    archives,
    lines,
    packed,
    photo,
    publish,
    serve,
    tgz,
    write,
    zipped,
)

from coinbench import fetch, registry
from coinbench.data import celebahq, stanfordcars
from coinbench.data.cub200 import CUB200, CUB200Config
from coinbench.data.source import SPLITS
from coinbench.errors import Interrupted
from coinbench.log import Log

NAMES = tuple(MODULES)
FIRST = {name: next(iter(archives(name))) for name in NAMES}


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setenv("COINBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetch, "_TRIES", 1)
    return functools.partial(in_process, capfd)


def command(name: str, root: Path, *more: object) -> tuple[object, ...]:
    return ("data", "prepare", name, "--root", root, "--quiet", *more)


def from_server(name: str, root: Path, served: Served) -> tuple[object, ...]:
    return command(name, root, "--download", "--mirror", served.url)


def opened(name: str, root: Path, tmp_path: Path, **settings: object):
    spec = registry.PROBLEMS.load(name)
    return spec.open(spec.config(root=root, **settings), tmp_path / "cache")


@pytest.mark.parametrize("name", NAMES)
def test_prepare_fetches_verifies_unpacks_and_checks(
    name: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = packed(archives(name))
    publish(monkeypatch, name, files)
    with serve(files) as served:
        ran = cli(*from_server(name, tmp_path / "data", served))
        assert ran.code == 0, ran.err
        asked = len(served.asked)
        again = cli(*from_server(name, tmp_path / "data", served))
        assert again.code == 0
        assert len(served.asked) == asked, "nothing is fetched twice"
    assert "all there and readable" in ran.out
    assert f"next: coinbench run --methods viscoin,flint --dataset {name}" in ran.out
    recorded = json.loads((tmp_path / "data" / "coinbench.json").read_text())
    # CelebA's own attributes are fetched only where the archive lacks them.
    assert set(recorded) == set(files) - {celebahq.OF_CELEBA}
    source = opened(name, tmp_path / "data", tmp_path)
    drawn = source.images(np.arange(len(source.labels)), 16)
    assert drawn.shape == (len(source.labels), 16, 16, 3)
    parts = np.concatenate([source.split(split, 0.25) for split in SPLITS])
    assert sorted(parts) == list(range(len(source.labels)))
    assert cli("data", "card", name, "--set", f"data.root={tmp_path / 'data'}").code == 0
    verified = cli("data", "verify", name, "--set", f"data.root={tmp_path / 'data'}")
    assert "stored images read anew, all as recorded" in verified.out


@pytest.mark.parametrize("name", NAMES)
def test_a_cut_download_is_gone_on_with(name: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files, first = packed(archives(name)), FIRST[name]
    publish(monkeypatch, name, files)
    half, folder = len(files[first]) // 2, tmp_path / "data"
    with serve(files) as served:
        # Cut, and then no server for as long as the command tries.
        served.script[first] = [-half, 503, 503]
        one_line(cli(*from_server(name, folder, served)), 4, "the server answers 503", first)
        assert (folder / f".{first}.part").stat().st_size == half
        assert not (folder / first).exists()
        ran = cli(*from_server(name, folder, served))
        assert ran.code == 0, ran.err
        assert (first, f"bytes={half}-") in served.asked
    assert (folder / first).read_bytes() == files[first]
    assert not list(folder.glob(".*.part*"))


def test_an_interrupted_download_keeps_what_came(tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(3 * 10**6)
    remote = fetch.Remote(name="big.bin", digests=(("md5", hashlib.md5(content).hexdigest()),))
    with serve({"big.bin": content}) as served:
        remote = replace(remote, url=f"{served.url}/big.bin")
        log = Log(tmp_path, lambda event: log.stop.set() if "step" in event else None)
        with pytest.raises(Interrupted):
            fetch.download(remote, tmp_path, log)
        came = (tmp_path / ".big.bin.part").stat().st_size
        assert 0 < came < len(content)
        path = fetch.download(remote, tmp_path, Log(tmp_path))
        assert served.asked[-1][1] == f"bytes={came}-"
    assert path.read_bytes() == content


def test_a_download_begins_anew_where_the_server_has_another_file(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, first = packed(archives("cub200")), FIRST["cub200"]
    publish(monkeypatch, "cub200", files)
    other = {first: files[first][::-1]}
    with serve(other) as served:
        served.script[first] = [-1000, 503, 503]
        assert cli(*from_server("cub200", tmp_path, served)).code == 4
        served.files = files
        ran = cli(*from_server("cub200", tmp_path, served))
        assert ran.code == 0, ran.err
        assert served.asked[-1] == (first, "bytes=1000-"), "asked for the rest, given the whole"


def test_a_server_without_ranges_gives_the_whole_again(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, first = packed(archives("cub200")), FIRST["cub200"]
    publish(monkeypatch, "cub200", files)
    with serve(files) as served:
        served.ranges, served.script[first] = False, [-1000]
        ran = cli(*from_server("cub200", tmp_path, served))
        assert ran.code == 0, ran.err


@pytest.mark.parametrize("name", NAMES)
def test_another_file_than_the_published_one_is_refused_and_not_kept(
    name: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = packed(archives(name))
    publish(monkeypatch, name, files)
    # The last that is needed: every data set has a digest for that one.
    remotes = [a.remote for a in registry.PROBLEMS.load(name).official.archives if a.needed]
    wrong = [remote.name for remote in remotes if remote.digests][-1]
    content = bytearray(files[wrong])
    content[len(content) // 2] ^= 1
    with serve(files | {wrong: bytes(content)}) as served:
        one_line(
            cli(*from_server(name, tmp_path / "data", served)), 4, f"not the published {wrong}", "nothing was kept"
        )
        served.files = files | {wrong: bytes(content[:-1])}
        one_line(cli(*from_server(name, tmp_path / "data", served)), 4, "offers", "bytes", wrong)
    assert not list((tmp_path / "data").glob(f"*{wrong}"))
    assert not list((tmp_path / "data").glob(".*.part*"))


@pytest.mark.parametrize("name", NAMES)
def test_what_the_server_does_not_have_is_one_line(
    name: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = packed(archives(name))
    publish(monkeypatch, name, files)
    with serve({}) as served:
        one_line(cli(*from_server(name, tmp_path / "data", served)), 4, "the server answers 404", FIRST[name])
    one_line(cli(*from_server(name, tmp_path / "data", served)), 4, "cannot be reached", FIRST[name])


def test_an_archive_without_a_published_digest_is_trusted_once(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = packed(archives("celebahq"))
    publish(monkeypatch, "celebahq", files)
    write(tmp_path, files)
    ran = cli(*command("celebahq", tmp_path))
    assert "no checksum is published: recorded as the one to trust" in ran.out
    (tmp_path / "CelebAMask-HQ").rename(tmp_path / "away")
    write(tmp_path, {"CelebAMask-HQ.zip": files["CelebAMask-HQ.zip"] + b"x"})
    one_line(cli(*command("celebahq", tmp_path)), 4, "recorded", "restore that file")


Change = Callable[[dict[str, Files]], None]
ONE, CAR = "CUB_200_2011.tgz", "car_devkit.tgz"


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
    "celebahq: an image is missing": ("celebahq", _hq(FACE, None), ("7 images, 8 are published",)),
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
    "cars: other counts": (
        "stanfordcars",
        _car(stanfordcars.LABELLED, "", annotated([1, 2, 1])),
        ("cars_test/00004.jpg", "not in the official list"),
    ),
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
    write(tmp_path / "data", files)
    one_line(cli(*command(name, tmp_path / "data")), 4, *pieces)


@pytest.mark.parametrize(
    ("make", "pieces"),
    [
        (lambda whole: whole[: len(whole) // 2], ("cannot be unpacked",)),
        (lambda whole: b"<html>try again tomorrow</html>" * 40, ("cannot be unpacked",)),
        (lambda whole: tgz({"../out.txt": b"x"}), ("cannot be unpacked", "outside the destination")),
        (lambda whole: zipped({"../out.txt": b"x"}), ("lies outside the archive's folder",)),
        (lambda whole: tgz({"other/images.txt": b"x"}), ("holds no CUB_200_2011/images.txt",)),
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


@pytest.mark.parametrize("name", NAMES)
def test_what_is_missing_is_told_with_the_way_to_get_it(name: str, cli: Cli, tmp_path: Path) -> None:
    missing = cli(*command(name, tmp_path / "none"))
    one_line(missing, 4, f"lacks {FIRST[name]}")
    assert "http" in missing.err or "github.com" in missing.err or "kaggle.com" in missing.err
    one_line(cli("data", "card", name, "--set", f"data.root={tmp_path}"), 4, f"coinbench data prepare {name}")


def test_what_needs_no_preparation_says_so(cli: Cli, tmp_path: Path) -> None:
    one_line(cli(*command("birds", tmp_path)), 2)
    one_line(cli("data", "prepare", "birds"), 2, "needs no preparation")


def test_cub_knows_parts_and_attributes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, "cub200", packed(archives("cub200")))
    source = CUB200(CUB200Config(root=write(tmp_path / "data", archives("cub200")[ONE])), tmp_path / "cache")
    assert source.card.class_names == ("Black Bird", "White Bird")
    assert source.part_names == ("back", "left eye")
    assert source.parts[0].tolist() == [[10.5, 20.0, 1.0], [0.0, 0.0, 0.0]]
    assert source.parts[7, 1].tolist() == [3.0, 4.0, 1.0]
    assert source.attribute_names == ("bill::long", "bill::short", "wing::red")
    assert source.class_attributes.tolist() == [[0.0, 0.5, 1.0], [0.25, 0.0, 0.125]]
    assert source.image_attributes[0].tolist() == [1, -1, -1], "certainty 1: not visible"
    assert source.image_attributes[7].tolist() == [-1, -1, 1], "a cell too many is not looked at"


def test_celebahq_is_split_as_celeba_or_by_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = archives("celebahq")
    publish(monkeypatch, "celebahq", packed(contents))
    write(tmp_path / "data", contents["CelebAMask-HQ.zip"])
    write(tmp_path / "data", {celebahq.PARTITION: contents[celebahq.PARTITION][""]})
    source = opened("celebahq", tmp_path / "data", tmp_path)
    assert source.card.class_names == ("old", "young")
    assert source.labels.tolist() == [1, 0] * 4
    assert [source.split(name, 0.1).tolist() for name in SPLITS] == [[0, 1, 2, 3], [4, 5], [6, 7]]
    # Without the archive's own attributes, CelebA's through the mapping: here the opposite on purpose.
    (tmp_path / "data" / "CelebAMask-HQ" / celebahq.ATTRIBUTES).unlink()
    write(tmp_path / "data", {celebahq.OF_CELEBA: contents[celebahq.OF_CELEBA][""]})
    assert opened("celebahq", tmp_path / "data", tmp_path).labels.tolist() == [0, 1] * 4
    by_hash = opened("celebahq", tmp_path / "data", tmp_path, partition="hash", complete=False)
    assert by_hash.fingerprint != source.fingerprint
    assert "by a hash of the number" in by_hash.card.notes


def test_a_fifth_of_all_faces_is_tested_where_a_hash_decides() -> None:
    config = celebahq.CelebAHQConfig(partition="hash")
    split = celebahq._split(config, Path("."), (), None)
    assert sum(split(number) == "test" for number in range(30000)) == 6000
