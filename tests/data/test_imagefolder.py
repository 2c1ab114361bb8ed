"""imagefolder: layouts, the record of the check, refusals, each on files made here."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from image_files import BLUE, RED, encode, make_tree, opened, paint
from PIL import Image
from pydantic import ValidationError

from coinbench.data import image_files
from coinbench.data.imagefolder import DATASET, ImageFolderConfig
from coinbench.data.source import pixels
from coinbench.errors import DataError


@pytest.fixture
def tree(tmp_path) -> Path:
    return make_tree(tmp_path / "tree")


@pytest.fixture
def listed(tmp_path) -> Path:
    """Ten images that labels.csv describes."""
    root = tmp_path / "listed"
    for i in range(10):
        paint(root / f"{i}.png", (i, 2 * i, 3 * i))
    return root


def table(root: Path, text: str) -> Path:
    (root / "labels.csv").write_text(text, encoding="utf-8")
    return root


# --- layouts


def test_folders_are_splits_and_classes(tree):
    source = opened(tree)
    assert source.card.class_names == ("blue", "red")
    assert source.card.title == "tree"
    assert [name for name, _ in source.contents()][:3] == [f"test/blue/{i}.png" for i in (0, 1)] + ["test/red/0.png"]
    assert source.labels.tolist() == [0, 0, 1, 1, 0, 0, 0, 1, 1, 1]
    assert source.is_test.tolist() == [True] * 4 + [False] * 6
    assert source.notes() == []


def test_pixels_are_the_whole_image_and_decoded_once(tree, tmp_path, monkeypatch):
    left = Image.new("RGB", (40, 10), RED)
    left.paste(BLUE, (20, 0, 40, 10))
    left.save(tree / "train" / "red" / "wide.png")
    source = opened(tree)
    index = np.arange(len(source.labels))
    drawn = pixels(source, index, 8, tmp_path / "map.npy")
    wide = drawn[-1]
    assert wide[0, 0].tolist() == list(RED), "not cropped: the left edge is there"
    assert wide[0, -1].tolist() == list(BLUE)
    monkeypatch.setattr(image_files, "decode", None)
    assert np.array_equal(pixels(source, index, 8, tmp_path / "map.npy"), drawn)


def test_reducing_is_antialiased(tree):
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    Image.fromarray(stripes).save(tree / "train" / "red" / "stripes.png")
    source = opened(tree)
    image = source.images(np.array([len(source.labels) - 1]), 8)
    assert np.abs(image.astype(int) - 127).max() < 25


def test_val_folder_counts_as_train_and_the_card_says_so(tree):
    paint(tree / "val" / "red" / "0.png", (1, 2, 3))
    source = opened(tree)
    assert (~source.is_test).sum() == 7
    assert "val count as train" in source.card.notes


def test_extensions_in_any_case_nested_folders_and_non_ascii_names(tree):
    paint(tree / "train" / "red" / "größe" / "鳥 1.JPG")
    paint(tree / "train" / "red" / "a.Jpeg")
    names = [name for name, _ in opened(tree).contents()]
    assert "train/red/größe/鳥 1.JPG" in names
    assert "train/red/a.Jpeg" in names


def test_a_name_that_is_no_text_can_be_recorded_and_printed(tree):
    raw = os.fsencode(tree / "train" / "red") + b"/\xff.png"
    try:
        with open(raw, "wb") as file:
            file.write(encode(Image.new("L", (8, 8), 5)))
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    first, again = opened(tree), opened(tree)
    assert first.fingerprint == again.fingerprint
    assert again.notes()[0].encode("utf-8").startswith(b"greyscale: 1 image (train/red/\\udcff.png)")


def test_what_is_no_image_by_name_is_counted_not_read(tree):
    (tree / "train" / "red" / "notes.txt").write_text("x")
    (tree / "train" / "red" / ".hidden.png").write_text("x")
    paint(tree / "train" / "stray.png")
    notes = opened(tree).notes()
    assert "1 hidden files or folders ignored" in notes
    assert "1 files ignored, whose extension is no image's" in notes
    assert "1 images outside train/CLASS and test/CLASS ignored" in notes


def test_a_link_that_leads_back_up_ends(tree):
    (tree / "train" / "red" / "loop").symlink_to(tree / "train", target_is_directory=True)
    assert len(opened(tree).labels) == 10


def test_numbers_sort_as_numbers(tmp_path):
    for name in ("10", "9", "-1", "2.5"):
        paint(tmp_path / "n" / "train" / name / "0.png")
        paint(tmp_path / "n" / "test" / name / "0.png")
    assert opened(tmp_path / "n").card.class_names == ("-1", "2.5", "9", "10")


def test_labels_csv_with_split(listed):
    rows = "".join(f"{i}.png,{'ab'[i % 2]},{('train', 'test', 'val')[i % 3]}\n" for i in range(9))
    source = opened(table(listed, "\ufefffile,label,split\n" + rows))
    assert source.card.class_names == ("a", "b")
    assert source.labels.tolist() == [i % 2 for i in range(9)]
    assert source.is_test.tolist() == [i % 3 == 1 for i in range(9)]
    assert "1 images ignored, which labels.csv does not list" in source.notes()


def test_labels_csv_without_split_takes_a_fifth_by_name(tmp_path):
    root = tmp_path / "many"
    for i in range(60):
        paint(root / f"{i:02}.png", (i, 0, 0), size=(8, 8))
    rows = [f"{i:02}.png,{i % 2}\n" for i in range(60)]
    first = opened(table(root, "file,label\n" + "".join(rows)))
    assert 4 <= first.is_test.sum() <= 20
    # An image keeps its split whatever else is there.
    fewer = opened(table(root, "file,label\n" + "".join(reversed(rows[7:]))))
    assert fewer.is_test.tolist() == first.is_test.tolist()[7:]
    assert "hash of the file name" in first.card.notes


def test_the_faces_packs_header_gives_young_and_old(tmp_path):
    root = tmp_path / "pack"
    rows = ["file,age,gender,race,young,split"]
    for i in range(8):
        paint(root / "utkface" / f"{i}.jpg", (i * 9, 0, 0))
        rows.append(f"{i}.jpg,{20 + i},0,1,{i % 2},{'test' if i > 5 else 'train'}")
    source = opened(table(root, "\n".join(rows)))
    assert source.card.class_names == ("old", "young")
    assert source.labels.tolist() == [0, 1] * 4
    assert "classes are the column 'young' of labels.csv" in source.notes()
    by_age = "name one with --set data.label_column=NAME \\(there are: age, gender, race, young\\)"
    with pytest.raises(DataError, match=by_age):
        opened(root, label_column="colour")


# --- the record of the check


def test_a_second_opening_decodes_nothing_and_a_new_file_alone_is_read(tree, monkeypatch):
    first = opened(tree)
    looked_at = []
    inspect = image_files.inspect

    def spy(path: Path):
        looked_at.append(path.name)
        return inspect(path)

    monkeypatch.setattr(image_files, "inspect", spy)
    assert opened(tree).fingerprint == first.fingerprint
    assert looked_at == []
    paint(tree / "train" / "red" / "new.png", (7, 7, 7))
    assert opened(tree).fingerprint != first.fingerprint
    assert looked_at == ["new.png"]


def test_a_broken_record_is_made_anew(tree, tmp_path):
    first = opened(tree)
    (record,) = (tmp_path / "cache" / "imagefolder").iterdir()
    for text in ("{", "[]", '{"train/red/0.png": {"size": 1}}'):
        record.write_text(text)
        assert opened(tree).fingerprint == first.fingerprint


def test_the_fingerprint_follows_bytes_label_split_and_channels_but_not_the_place(tree, tmp_path):
    seen = {opened(tree).fingerprint, opened(tree, channels=1).fingerprint}
    assert len(seen) == 2
    moved = tree.rename(tmp_path / "moved")
    assert opened(moved).fingerprint in seen
    (moved / "train" / "red" / "0.png").rename(moved / "train" / "blue" / "9.png")
    seen.add(opened(moved).fingerprint)
    (moved / "train" / "red" / "1.png").rename(moved / "test" / "red" / "1b.png")
    seen.add(opened(moved).fingerprint)
    paint(moved / "test" / "red" / "1b.png", (1, 1, 1))
    seen.add(opened(moved).fingerprint)
    assert len(seen) == 5


def test_a_file_changed_behind_the_record_is_refused(tree):
    source = opened(tree)
    path = tree / "train" / "red" / "0.png"
    stat, data = path.stat(), bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    every = np.arange(len(source.labels))
    for use in (source.contents, lambda: source.images(every, 8)):
        with pytest.raises(DataError, match=r"train/red/0.png: its bytes are not those that were checked"):
            use()
    path.unlink()
    with pytest.raises(DataError, match=r"train/red/0.png: cannot be read"):
        source.images(every, 8)


# --- refusals


def test_a_root_that_is_missing_a_file_or_one_folder_too_high(tree, tmp_path):
    with pytest.raises(DataError, match=r"no such folder; name one with --set data.root=DIR"):
        opened(tmp_path / "nowhere")
    with pytest.raises(DataError, match="unpack it first"):
        opened(paint(tmp_path / "pack.png"))
    with pytest.raises(DataError, match=f"did you mean {tree}"):
        opened(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no images in train/CLASS"):
        opened(tmp_path / "empty")


def test_splits_and_classes_that_make_no_task(tree, tmp_path):
    paint(tree / "test" / "green" / "0.png")
    with pytest.raises(DataError, match="class 'green' has test images but no train images"):
        opened(tree)
    (tree / "test").rename(tmp_path / "kept")
    with pytest.raises(DataError, match="no test images"):
        opened(tree)
    (tree / "train").rename(tree / "test")
    with pytest.raises(DataError, match="no train images"):
        opened(tree)
    paint(tmp_path / "single" / "train" / "a" / "0.png")
    paint(tmp_path / "single" / "test" / "a" / "0.png")
    with pytest.raises(DataError, match=r"one class only \('a'\)"):
        opened(tmp_path / "single")


def test_a_class_without_test_images_is_allowed_and_said(tree):
    paint(tree / "train" / "green" / "0.png")
    assert opened(tree).notes() == ["no test images: green"]


def test_a_class_lost_to_unusable_images_is_refused(tree):
    for split in ("train", "test"):
        (tree / split / "green").mkdir()
        (tree / split / "green" / "0.png").write_bytes(b"")
    with pytest.raises(DataError, match="class 'green' has no usable image; repair some"):
        opened(tree, max_bad=2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "labels.csv: empty"),
        ("file,class\n0.png,a\n", "no column 'label'; name one with .*there are: class"),
        ("name,label\n0.png,a\n", r"no column 'file' \(there are: name, label\)"),
        ("file,label\n0.png,a\n11.png,b\n", r"row 3: 11.png is not in "),
        ("file,label\n0.png,a\n1.png,b\n./0.png,a\n", "row 4: 0.png is listed already in row 2"),
        ("file,label\n0.png,a\n1.png, \n", "row 3: empty label of 1.png"),
        ("file,label\n0.png\n", "row 2: empty label of 0.png"),
        ("file,label\n,a\n", "row 2: empty file"),
        ("file,label,split\n0.png,a,train\n\n1.png,b,dev\n", "row 4: unknown split 'dev'"),
        ("file,label\n../tree/0.png,a\n", r"row 2: \.\./tree/0.png lies outside data.root"),
        ("file,label\n/etc/passwd,a\n", "row 2: /etc/passwd lies outside data.root"),
        ("file,label\n", "no train images"),
        (f"file,label\n{'x' * 300}.png,a\n", "row 2: x+.png is not in "),
        ("file,label,label\n0.png,a,b\n", "2 columns 'label'; keep one"),
    ],
)
def test_a_wrong_labels_csv_names_the_row(listed, text, message):
    with pytest.raises(DataError, match=message) as caught:
        opened(table(listed, text))
    assert "\n" not in str(caught.value)


def test_labels_csv_in_another_encoding(listed):
    (listed / "labels.csv").write_bytes("file,label\n0.png,größe\n".encode("latin-1"))
    with pytest.raises(DataError, match="save it as CSV in UTF-8"):
        opened(listed)


def test_the_title_is_the_name_of_the_folder_and_changes_no_key(tmp_path):
    config = ImageFolderConfig(root=tmp_path / "deep" / "faces")
    assert config.title == "faces"
    other = ImageFolderConfig(root=tmp_path / "deep" / "faces", title="CelebA & more")
    assert other.title == "CelebA & more"
    assert config.digest() == other.digest()
    assert "title" not in config.key()
    assert ImageFolderConfig(root=tmp_path / f"a\n{'x' * 80}").title == f"a {'x' * 58}"
    for wrong in ("", " faces", "two\nlines", "x" * 61):
        with pytest.raises(ValueError, match="title"):
            ImageFolderConfig(root=tmp_path, title=wrong)


def test_config(tmp_path, monkeypatch):
    assert DATASET.config is ImageFolderConfig
    with pytest.raises(ValidationError, match="root"):
        ImageFolderConfig.model_validate({"name": "imagefolder"})
    with pytest.raises(ValidationError, match="channels"):
        ImageFolderConfig.model_validate({"root": tmp_path, "channels": 4})
    monkeypatch.chdir(tmp_path)
    assert ImageFolderConfig(root=Path("a/../b")).root == tmp_path / "b"
