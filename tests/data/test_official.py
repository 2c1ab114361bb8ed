"""cub200, celebahq, stanfordcars: prepared from small archives in the official layout, served and broken here."""

from __future__ import annotations

import functools
import json
import os
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from commands import Cli, in_process, one_line
from official_files import (
    MODULES,
    Files,
    archives,
    command,
    from_server,
    opened,
    packed,
    publish,
    serve,
    write,
)

from coinbench import fetch, registry
from coinbench.data import celebahq, stanfordcars
from coinbench.data.birds import BirdsConfig
from coinbench.data.cub200 import CUB200, CUB200Config
from coinbench.data.prepare import prepare
from coinbench.data.source import SPLITS
from coinbench.log import Log
from coinbench.plan import dataset_config
from coinbench.pretrain import truth_of

NAMES = tuple(MODULES)
PACK = "COINBENCH_CUB_PACK"
"""A variable that names a zip with some classes of the real data set."""
ONE, CAR = "CUB_200_2011.tgz", "car_devkit.tgz"
FIRST = {name: next(iter(archives(name))) for name in NAMES}


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    monkeypatch.setenv("COINBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetch, "_TRIES", 1)
    return functools.partial(in_process, capfd)


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
    spec = registry.PROBLEMS.load(name)
    remotes = [a.remote for a in spec.official.archives if a.needed(spec.config())]
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


def test_an_archive_that_cannot_be_unpacked_is_not_trusted(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = packed(archives("celebahq"))
    publish(monkeypatch, "celebahq", files)
    whole = files["CelebAMask-HQ.zip"]
    write(tmp_path, files | {"CelebAMask-HQ.zip": whole[: len(whole) // 2]})
    one_line(cli(*command("celebahq", tmp_path)), 4, "cannot be unpacked")
    write(tmp_path, files)
    assert cli(*command("celebahq", tmp_path)).code == 0


@pytest.mark.parametrize(("name", "file"), [("celebahq", celebahq.PARTITION), ("stanfordcars", stanfordcars.LABELLED)])
def test_a_plain_file_put_there_by_hand_is_verified(
    name: str, file: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = packed(archives(name))
    publish(monkeypatch, name, files)
    wrong = bytearray(files[file])
    wrong[-2] ^= 1
    write(tmp_path, files | {file: bytes(wrong)})
    one_line(cli(*command(name, tmp_path)), 4, file, "the published file has")
    write(tmp_path, files)
    assert cli(*command(name, tmp_path)).code == 0
    assert file in json.loads((tmp_path / "coinbench.json").read_text())


@pytest.mark.parametrize("damage", ["[]", '{"CUB_200_2011.tgz": 3}', "{"])
def test_a_damaged_record_is_one_line(damage: str, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = packed(archives("cub200"))
    publish(monkeypatch, "cub200", files)
    write(tmp_path, files | {"coinbench.json": damage.encode()})
    ran = cli(*command("cub200", tmp_path))
    assert ran.code in (1, 4)
    one_line(ran, ran.code, "coinbench.json", "delete it")


@pytest.mark.parametrize("mirror", ["foo", "ftp://host/x", "http://[bad", "http://"])
def test_a_wrong_mirror_is_one_line(mirror: str, cli: Cli, tmp_path: Path) -> None:
    one_line(cli(*command("cub200", tmp_path, "--download", "--mirror", mirror)), 2, "--mirror", "give the address")


def test_stanford_cars_in_the_layouts_of_its_copies(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contents = archives("stanfordcars")
    publish(monkeypatch, "stanfordcars", packed(contents))
    labels = contents[stanfordcars.LABELLED][""]
    images = contents["cars_train.tgz"] | contents["cars_test.tgz"]
    inside = {f"stanford_cars/{name}": content for name, content in (images | contents[CAR]).items()}
    doubled = {f"{name.split('/')[0]}/{name}": content for name, content in images.items()}
    layouts: list[Files] = [
        inside | {f"stanford_cars/{stanfordcars.LABELLED}": labels},
        inside | {stanfordcars.LABELLED: labels},
        {f"stanford_cars/{n}": c for n, c in images.items()} | contents[CAR] | {stanfordcars.LABELLED: labels},
        doubled | contents[CAR] | {f"devkit/{stanfordcars.LABELLED}": labels},
    ]
    for number, files in enumerate(layouts):
        root = write(tmp_path / f"with space {number}", files)
        ran = cli(*command("stanfordcars", root))
        assert ran.code == 0, ran.err
        assert f"--set 'data.root=\"{root}\"'" in ran.out
        assert len(opened("stanfordcars", root, tmp_path).labels) == 10


def test_a_folder_of_another_name_is_found_as_run_finds_it(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = archives("cub200")[ONE]
    publish(monkeypatch, "cub200", packed(archives("cub200")))
    assert (
        cli(*command("cub200", write(tmp_path / "twice", {f"CUB_200_2011/{n}": c for n, c in contents.items()}))).code
        == 0
    )
    flat = {name.removeprefix("CUB_200_2011/"): content for name, content in contents.items()}
    assert cli(*command("cub200", write(tmp_path / "flat", flat))).code == 0


def test_prepare_decodes_what_run_reads(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = packed(archives("cub200"))
    publish(monkeypatch, "cub200", files)
    assert cli(*command("cub200", write(tmp_path / "data", files))).code == 0
    maps = {path.name for path in (tmp_path / "cache" / "data").glob("*/*.npy")}
    assert maps == {"train-256.npy", "train-282.npy", "val-256.npy", "test-256.npy"}


def test_a_part_is_taken_on_purpose_and_called_so(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write(tmp_path / "data", archives("cub200")[ONE])
    one_line(cli(*command("cub200", root)), 4, "8 images, 11,788 are published", "--set data.complete=false")
    part = ("--set", "data.complete=false", "--set", "data.size=16")
    told = "A part: 8 of 11,788 images, 2 of 200 classes (data.complete=false)."
    ran = cli(*command("cub200", root, *part))
    assert ran.code == 0, ran.err
    assert told in ran.out
    assert "--set data.complete=false" in ran.out.splitlines()[-1]
    assert told in cli("data", "card", "cub200", "--set", f"data.root={root}", *part).out
    # Nothing is said where all of it is there after all.
    publish(monkeypatch, "cub200", packed(archives("cub200")))
    assert "A part" not in cli(*command("cub200", root, *part)).out


@pytest.mark.skipif(PACK not in os.environ, reason=f"{PACK} names no zip of a part of CUB-200-2011")
def test_photographs_in_the_official_layout(cli: Cli, tmp_path: Path) -> None:
    with zipfile.ZipFile(os.environ[PACK]) as archive:
        archive.extractall(tmp_path / "data")
    ran = cli(*command("cub200", tmp_path / "data", "--set", "data.complete=false", "--set", "data.size=32"))
    assert ran.code == 0, ran.err
    source = CUB200(CUB200Config(root=tmp_path / "data", complete=False), tmp_path / "cache")
    n, classes = len(source.labels), len(source.card.class_names)
    assert f"{n:,} images, {classes} classes: all there and readable" in ran.out
    assert f"A part: {n:,} of 11,788 images, {classes} of 200 classes" in ran.out
    assert np.bincount(source.labels, minlength=classes).min() > 0
    assert source.parts.shape == (n, 15, 3)
    assert source.parts[..., 2].any(1).mean() > 0.99
    assert source.class_attributes.shape == (classes, 312)
    assert len(source.attribute_names) == 312
    sizes = {path.name for path in (tmp_path / "cache" / "data").glob("*/*.npy")}
    assert sizes == {"train-32.npy", "train-35.npy", "val-32.npy", "test-32.npy"}
    verified = cli(
        "data", "verify", "cub200", "--set", f"data.root={tmp_path / 'data'}", "--set", "data.complete=false"
    )
    assert f"{n} stored images read anew, all as recorded" in verified.out


def test_the_split_by_hash_needs_no_partition(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = packed(archives("celebahq"))
    publish(monkeypatch, "celebahq", files)
    only = {"CelebAMask-HQ.zip": files["CelebAMask-HQ.zip"]}
    by_hash = ("--set", "data.partition=hash", "--set", "data.complete=false")
    ran = cli(*command("celebahq", write(tmp_path, only), *by_hash))
    assert ran.code == 0, ran.err
    assert "--set data.partition=hash" in ran.out.splitlines()[-1]


def test_two_commands_at_once_unpack_once(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = packed(archives("cub200"))
    publish(monkeypatch, "cub200", files)
    write(tmp_path, files)
    config = dataset_config("cub200", (f"data.root={tmp_path}",))
    with ThreadPoolExecutor(2) as pool:
        works = [pool.submit(prepare, config, (), tmp_path / "cache", False, None, Log(tmp_path)) for _ in range(2)]
        assert all("all there and readable" in " ".join(work.result()) for work in works)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_missing_is_told_with_the_way_to_get_it(name: str, cli: Cli, tmp_path: Path) -> None:
    missing = cli(*command(name, tmp_path / "none"))
    one_line(missing, 4, f"lacks {FIRST[name]}")
    assert "http" in missing.err or "github.com" in missing.err or "kaggle.com" in missing.err
    card = cli("data", "card", name, "--set", f"data.root={tmp_path}")
    one_line(card, 4, f"`coinbench data prepare {name} --root {tmp_path}")
    # No program may fetch all of the other two.
    assert ("--download" in card.err) == (name == "cub200")


@pytest.mark.parametrize("name", NAMES)
def test_a_file_in_the_place_of_the_folder_is_told_before_anything_else(name: str, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("mine")
    ran = cli(*command(name, tmp_path / "data", "--mirror", "no address"))
    one_line(ran, 4, f"data.root={tmp_path / 'data'}: a file, not a folder; name the folder it lies in")
    assert (tmp_path / "data").read_text() == "mine"


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


def test_a_run_reads_no_parts_of_cub_that_nobody_asks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, "cub200", packed(archives("cub200")))
    files = {name: content for name, content in archives("cub200")[ONE].items() if "/parts/" not in name}
    source = opened("cub200", write(tmp_path / "data", files), tmp_path)
    assert truth_of("cub200", source) is None
    assert "part_names" not in vars(source)
    assert truth_of("birds", registry.PROBLEMS.load("birds").open(BirdsConfig(), tmp_path)) is not None


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
