"""Decoding rules and unusable files, seen through a folder of images."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from image_files import BLUE, RED, encode, make_tree, opened, paint
from PIL import Image, ImageOps

from coinbench.errors import DataError


@pytest.fixture
def tree(tmp_path) -> Path:
    return make_tree(tmp_path / "tree")


def one(tree: Path, data: bytes, name: str = "odd.png", **settings) -> tuple[np.ndarray, list[str]]:
    """Add a file, open the folder, return that image at 8 x 8 and the notes that name the file."""
    (tree / "train" / "red" / name).write_bytes(data)
    source = opened(tree, **settings)
    position = [n for n, _ in source.contents()].index(f"train/red/{name}")
    return source.images(np.array([position]), 8)[0], [line for line in source.notes() if name in line]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied(tree, orientation):
    corners = Image.new("RGB", (8, 8), RED)
    corners.paste(BLUE, (4, 0, 8, 4))
    corners.paste((0, 255, 0), (0, 4, 4, 8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(corners, exif=exif)
    drawn, notes = one(tree, data)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert np.array_equal(drawn, np.asarray(upright))
    expected = ["EXIF: 1 image (train/red/odd.png): EXIF orientation, applied"]
    assert notes == (expected if orientation > 1 else [])


def test_a_broken_exif_block_does_no_harm(tree):
    data = encode(Image.new("RGB", (8, 8), RED), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    assert np.abs(one(tree, data, "odd.jpg")[0].astype(int) - RED).max() < 8


def test_transparency_lies_on_white(tree):
    drawn, notes = one(tree, encode(Image.new("RGBA", (8, 8), (*RED, 0))))
    assert (drawn == 255).all()
    assert notes[0].startswith("alpha: 1 image")
    half, _ = one(tree, encode(Image.new("LA", (8, 8), (0, 128))), "half.png")
    assert np.abs(half.astype(int) - 127).max() <= 1


def test_palette_with_a_transparent_colour(tree):
    image = Image.new("P", (8, 8), 1)
    image.putpalette([9, 9, 9, *RED])
    assert one(tree, encode(image))[0][0, 0].tolist() == list(RED)
    drawn, notes = one(tree, encode(image, transparency=1), "clear.png")
    assert (drawn == 255).all()
    assert sorted(line.split(":")[0] for line in notes) == ["alpha", "palette"]


def test_cmyk(tree):
    drawn, notes = one(tree, encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"), "odd.jpg")
    assert drawn[0, 0, 0] > 240
    assert drawn[0, 0, 1:].max() < 15
    assert notes[0].startswith("CMYK: 1 image")


def test_sixteen_bit_grey_keeps_its_high_byte(tree):
    grey = np.full((8, 8), 0x4080, np.uint16)
    drawn, notes = one(tree, encode(Image.fromarray(grey)))
    assert (drawn == 0x40).all()
    assert sorted(line.split(":")[0] for line in notes) == ["16-bit", "greyscale"]


def test_sixteen_bit_colour_is_noticed(tree):
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    row = b"\0" + struct.pack(">3H", 0x4080, 0x2010, 0xFFFF) * 4
    head = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    data = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(row * 4)) + chunk(b"IEND", b"")
    drawn, notes = one(tree, b"\x89PNG\r\n\x1a\n" + data)
    assert drawn[0, 0].tolist() == [0x40, 0x20, 0xFF]
    assert notes[0].startswith("16-bit: 1 image")


def test_first_frame_of_an_animation(tree):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, BLUE)]
    drawn, notes = one(tree, encode(frames[0], "GIF", save_all=True, append_images=frames[1:]), "odd.gif")
    assert np.abs(drawn[0, 0].astype(int) - RED).max() < 8
    assert any(line.startswith("frames: 1 image") for line in notes)


def test_grey_files_and_grey_data_sets(tree):
    grey = encode(Image.new("L", (8, 8), 77))
    drawn, notes = one(tree, grey)
    assert drawn.shape == (8, 8, 3)
    assert (drawn == 77).all()
    assert notes[0].startswith("greyscale: 1 image")
    drawn, notes = one(tree, grey, channels=1)
    assert drawn.shape == (8, 8, 1)
    assert notes == []


def test_long_lists_of_names_are_cut(tree):
    for i in range(12):
        paint(tree / "train" / "red" / f"grey{i:02}.png", 9, "L")
    (line,) = opened(tree).notes()
    assert line.startswith("greyscale: 12 images (train/red/grey00.png")
    assert "grey09.png and 2 more)" in line


def _crc_broken() -> bytes:
    data = bytearray(encode(Image.new("RGB", (8, 8), RED)))
    data[data.index(b"IEND") - 5] ^= 1  # the last byte of the checksum of the pixels
    return bytes(data)


BAD = {
    "empty": (b"", "empty file"),
    "text": (b"no image at all", "no image of a known format"),
    "truncated": (encode(Image.effect_noise((64, 64), 50), "JPEG")[:900], "corrupt or truncated"),
    "checksum": (_crc_broken(), "corrupt or truncated"),
    "script": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n", "no image of a known format"),
    "float": (encode(Image.new("F", (8, 8), 0.5), "TIFF"), "floating-point pixels"),
    "range": (encode(Image.new("I", (8, 8), 70000), "TIFF"), "32-bit pixels"),
}


@pytest.mark.parametrize("kind", BAD)
def test_an_unusable_file_is_an_error_unless_allowed(tree, kind):
    data, reason = BAD[kind]
    (tree / "train" / "red" / "bad.jpg").write_bytes(data)
    with pytest.raises(DataError, match=r"--set data\.max_bad=1") as caught:
        opened(tree)
    assert f"train/red/bad.jpg: {reason}" in str(caught.value)
    assert "\n" not in str(caught.value)
    source = opened(tree, max_bad=1)
    assert len(source.labels) == 10
    assert source.notes()[0].startswith(f"left out: train/red/bad.jpg: {reason}")


def test_a_decompression_bomb_is_unusable(tree, monkeypatch):
    paint(tree / "train" / "red" / "bomb.png", size=(60, 40))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2000)
    with pytest.raises(DataError, match=r"bomb.png: more than 2000 pixels"):
        opened(tree)


def test_an_unreadable_file_is_unusable(tree):
    (tree / "train" / "red" / "gone.png").symlink_to(tree / "nowhere.png")
    with pytest.raises(DataError, match=r"gone.png: cannot be read \(No such file"):
        opened(tree)


def test_the_first_three_of_many_are_named(tree):
    for i in range(5):
        (tree / "train" / "red" / f"bad{i}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"5 images .*bad2.png: empty file and 2 more.*max_bad=2.*max_bad=5"):
        opened(tree, max_bad=2)
