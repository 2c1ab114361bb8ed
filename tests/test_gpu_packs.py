"""benchmarks/gpu_packs.py: packs of the test's own, sorted, cut and shrunk."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import gpu_packs
import numpy as np
import pytest
from PIL import Image

from coinbench.data.cub200 import CUB200, CUB200Config
from coinbench.data.imagefolder import ImageFolder, ImageFolderConfig
from coinbench.errors import DataError


def jpeg(width: int, height: int) -> bytes:
    coded = io.BytesIO()
    noise = np.random.default_rng(width * height).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(coded, "JPEG", quality=95)
    return coded.getvalue()


def packed(path: Path, files: dict[str, str | bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    rows = [(f"{i}.jpg", str(i % 2), "test" if i > 7 else "train") for i in range(12)]
    lines = ["file,age,young,split", *(f"{file},30,{young},{split}" for file, young, split in rows)]
    files = {f"utkface/{file}": jpeg(40 + i, 40) for i, (file, *_) in enumerate(rows)}
    return packed(tmp_path / "packs" / gpu_packs.FACES, {**files, "labels.csv": "\n".join(lines)})


@pytest.fixture
def cub(tmp_path: Path) -> Path:
    names = [f"{c:03}.Kind/{c}_{i}.jpg" for c in (1, 2, 3) for i in (1, 2, 3)]
    numbered = list(enumerate(names, 1))
    lists = {
        "images.txt": [f"{n} {name}" for n, name in numbered],
        "image_class_labels.txt": [f"{n} {int(name[:3])}" for n, name in numbered],
        "train_test_split.txt": [f"{n} {int(n % 3 != 0)}" for n, _ in numbered],
        "bounding_boxes.txt": [f"{n} 10.0 20.0 30.0 40.0" for n, _ in numbered],
        "parts/part_locs.txt": [f"{n} {p} 30.0 40.0 1" for n, _ in numbered for p in (1, 2)],
        "parts/parts.txt": ["1 back", "2 left eye"],
        "classes.txt": ["1 001.Kind", "2 002.Kind", "3 003.Kind"],
        "attributes/class_attribute_labels_continuous.txt": ["10 20", "30 40", "50 60"],
    }
    files: dict[str, str | bytes] = {f"CUB_200_2011/{name}": "\n".join(lines) for name, lines in lists.items()}
    files |= {f"CUB_200_2011/images/{name}": jpeg(80, 60) for name in names}
    return packed(tmp_path / "packs" / gpu_packs.CUB, {**files, "attributes.txt": "1 a\n2 b"})


def test_faces_are_sorted_by_split_and_age(faces: Path, tmp_path: Path) -> None:
    gpu_packs.unpack_faces(faces, tmp_path / "all")
    source = ImageFolder(ImageFolderConfig(root=tmp_path / "all"), tmp_path / "cache")
    assert source.card.class_names == ("old", "young")
    assert (len(source.labels), int(source.is_test.sum()), int(source.labels.sum())) == (12, 4, 6)
    assert (tmp_path / "all" / "test" / "young" / "9.jpg").is_file()
    gpu_packs.unpack_faces(faces, tmp_path / "few", most=1)
    assert sorted(p.name for p in (tmp_path / "few").rglob("*.jpg")) == ["0.jpg", "1.jpg", "8.jpg", "9.jpg"]


def test_the_first_classes_of_cub_are_a_part_in_the_official_layout(cub: Path, tmp_path: Path) -> None:
    for classes, kept in ((None, 3), (2, 2)):
        root = tmp_path / f"{kept}"
        gpu_packs.unpack_cub(cub, root, classes)
        source = CUB200(CUB200Config(root=root, complete=False), tmp_path / "cache")
        assert np.bincount(source.labels).tolist() == [3] * kept
        assert source.parts.shape == (3 * kept, 2, 3)
        assert source.class_attributes.shape == (kept, 2)
        assert source.attribute_names == ("a", "b")


def test_shrunk_packs_keep_names_and_move_boxes_and_parts_along(cub: Path, faces: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    for path in (cub, faces):
        gpu_packs.shrink(path, small / path.name, side=30, quality=80)
        assert (small / path.name).stat().st_size < path.stat().st_size
    gpu_packs.unpack_cub(small / gpu_packs.CUB, tmp_path / "cub")
    source = CUB200(CUB200Config(root=tmp_path / "cub", complete=False), tmp_path / "cache")
    assert source.parts[0, 0].tolist() == [15.0, 20.0, 1.0]
    boxes = (tmp_path / "cub" / "CUB_200_2011" / "bounding_boxes.txt").read_text().splitlines()
    assert boxes[0].split() == ["1", "5.00", "10.00", "15.00", "20.00"]
    with Image.open(next((tmp_path / "cub").rglob("1_1.jpg"))) as image:
        assert image.size == (40, 30)
    gpu_packs.unpack_faces(small / gpu_packs.FACES, tmp_path / "faces")
    with Image.open(tmp_path / "faces" / "train" / "old" / "4.jpg") as image:
        assert image.size == (33, 30)


def test_an_image_that_is_small_enough_is_not_coded_worse() -> None:
    content = jpeg(60, 50)
    small, scale = gpu_packs.shrunk(content, 50, 50)
    assert (len(small) < len(content), scale) == (True, (1.0, 1.0))
    assert gpu_packs.shrunk(small, 50, 95) == (small, (1.0, 1.0))


def test_a_pack_that_is_missing_or_another_one_is_named(faces: Path, cub: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--packs names a folder"):
        gpu_packs.unpack_faces(tmp_path / "none.zip", tmp_path / "a")
    with pytest.raises(DataError, match="official layout"):
        gpu_packs.unpack_cub(faces, tmp_path / "b")
    with pytest.raises(DataError, match=r"labels\.csv has file, young, split"):
        gpu_packs.unpack_faces(cub, tmp_path / "c")
    with pytest.raises(DataError, match="no such file"):
        gpu_packs.squeezenet(tmp_path, tmp_path / "f.safetensors")
