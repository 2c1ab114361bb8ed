"""Generated labels files and images of `imagefolder`: exit 0 or 4, one line, never a traceback."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st
from image_files import encode, make_tree, opened, paint
from oracle import COUNTS, answered, edits, for_each
from PIL import Image

CELL = st.one_of(
    st.sampled_from(
        ["0.png", "1.png", "9.png", "a", "b", "train", "test", "val", "dev", "", " ", "../0.png", "/etc/passwd", "."]
    ),
    st.sampled_from(
        [
            "./0.png",
            "0.PNG",
            "notes.txt",
            "labels.csv",
            "x" * 300 + ".png",
            "0.png/",
            "größe",
            "鳥 1",
            "\x00",
            "\x1b[2J",
        ]
    ),
    st.sampled_from(["nan", "1e400", "-0", "٣", "1_0", '"', '""', "a\nb", "\ufeff", "a,b", "x" * 140_000, "0.png\x00"]),
    st.text(max_size=8),
)
HEADER = st.one_of(
    st.sampled_from(
        [
            *("file,label", "file,label,split", " file , label ", "file,young", "label,file", "file,file,label"),
            *(
                "file;label",
                "FILE,LABEL",
                "file",
                "label",
                "",
                "file,label,label",
                "file,label,split,split",
                '"file,label',
            ),
        ]
    ),
    st.text(max_size=10),
)
GOOD_ROW = st.builds(
    "{}.png,{},{}".format, st.integers(0, 9), st.sampled_from("ab"), st.sampled_from(["train", "test"])
)
ROW = st.one_of(GOOD_ROW, GOOD_ROW, st.lists(CELL, max_size=4).map(",".join))
ENCODING = st.sampled_from(["utf-8"] * 6 + ["utf-8-sig", "utf-16", "utf-32-be", "latin-1", "cp037"])
END = st.sampled_from(["\n", "\n", "\r\n", "\r", "\n\n", "\u2028", ""])
TABLE = st.one_of(
    st.builds(
        lambda header, rows, encoding, end: end.join([header, *rows]).encode(encoding, "replace"),
        *(HEADER, st.lists(ROW, max_size=12), ENCODING, END),
    ),
    st.builds(
        lambda edit, rows: edit("\n".join(["file,label,split", *rows]).encode()),
        *(edits(), st.lists(GOOD_ROW, max_size=12, unique=True)),
    ),
)


@pytest.mark.parametrize("count", COUNTS)
def test_a_generated_labels_file(count: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "listed"
    for i in range(10):
        paint(root / f"{i}.png", (i, 2 * i, 3 * i))
    (root / "notes.txt").write_text("no image")
    where = ("imagefolder", "--set", f"data.root={root}", "--cache", tmp_path / "cache")

    def check(given: tuple[str, bytes]) -> None:
        command, data = given
        (root / "labels.csv").write_bytes(data)
        answered(capfd, ("data", command, *where), {0, 4}, root)

    for_each(st.tuples(st.sampled_from(["verify", "card"]), TABLE), count, check)


def _images() -> list[tuple[str, bytes]]:
    """One small file of each kind of image."""
    noise = Image.effect_noise((24, 20), 60)
    colour = Image.merge("RGB", [noise, noise.rotate(90).resize(noise.size), noise])
    deep = Image.fromarray(np.asarray(noise).astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = {"save_all": True, "append_images": [colour.rotate(180), noise.convert("RGB")]}
    return [
        *(("png", encode(image)) for image in (colour, noise, deep, colour.convert("P"), colour.convert("RGBA"))),
        *(("png", encode(image)) for image in (colour.convert("1"), colour.quantize(5), noise.convert("LA"))),
        ("png", encode(colour.quantize(5), transparency=2)),
        ("png", encode(colour, "PNG", **frames)),
        ("jpg", encode(colour, "JPEG")),
        ("jpg", encode(colour, "JPEG", exif=exif)),
        ("jpg", encode(colour, "JPEG", progressive=True)),
        ("jpg", encode(colour.convert("CMYK"), "JPEG")),
        ("jpg", encode(noise, "JPEG")),
        ("jpg", encode(colour, "MPO", **frames)),
        ("gif", encode(colour, "GIF")),
        ("gif", encode(colour, "GIF", **frames)),
        ("bmp", encode(colour, "BMP")),
        ("bmp", encode(colour.convert("P"), "BMP")),
        *(("tif", encode(image, "TIFF")) for image in (colour, deep, colour.convert("LAB"), colour.convert("YCbCr"))),
        *(("tif", encode(colour, "TIFF", compression=how)) for how in ("tiff_lzw", "tiff_adobe_deflate", "jpeg")),
        ("tif", encode(colour.convert("1"), "TIFF", compression="group4")),
        ("tif", encode(colour.copy(), "TIFF", save_all=True, append_images=[noise.copy()])),
        ("webp", encode(colour, "WEBP")),
        ("webp", encode(colour, "WEBP", lossless=True, exif=exif)),
        ("webp", encode(colour, "WEBP", **frames)),
        ("ppm", encode(colour, "PPM")),
        ("pgm", encode(deep, "PPM")),
        ("pbm", b"P1\n3 2\n1 0 1 0 1 0\n"),
        ("ppm", b"P6\n99999 99999\n255\n" + b"x" * 30),
        ("bmp", _resized_header(encode(colour, "BMP"), 18, "<ii", 0, 5)),
        ("bmp", _resized_header(encode(colour, "BMP"), 18, "<ii", 2**31 - 1, 2**31 - 1)),
        ("gif", _resized_header(encode(colour, "GIF"), 6, "<HH", 0, 0)),
        ("gif", _resized_header(encode(colour, "GIF"), 6, "<HH", 65535, 65535)),
    ]


def _resized_header(data: bytes, at: int, form: str, *sizes: int) -> bytes:
    changed = struct.pack(form, *sizes)
    return data[:at] + changed + data[at + len(changed) :]


def _png_of(size: tuple[int, int], data: bytes) -> bytes:
    """A PNG whose header claims a size, with the right checksum."""
    head = data[12:16] + struct.pack(">II", *size) + data[24:29]
    return data[:8] + data[8:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:]


IMAGES = _images()
IMAGE = st.builds(
    lambda image, edit, ending: (ending or image[0], edit(image[1])),
    *(st.sampled_from(IMAGES), st.one_of(edits(), st.just(bytes)), st.sampled_from(["", "", "png", "JPG", "tiff"])),
)
CLAIMED = st.builds(
    lambda w, h: ("png", _png_of((w, h), IMAGES[0][1])),
    *([st.sampled_from([0, 1, 24, 30_000, 2**31 - 1, 2**32 - 1])] * 2),
)


@pytest.mark.parametrize("count", COUNTS)
def test_a_generated_image(count: int, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    root = make_tree(tmp_path / "tree")

    def check(given: tuple[str, bytes]) -> None:
        ending, data = given
        path = root / "train" / "red" / f"odd.{ending}"
        path.write_bytes(data)
        ran = answered(
            capfd,
            ("data", "verify", "imagefolder", "--set", f"data.root={root}", "--cache", tmp_path / "cache"),
            {0, 4},
            path.name,
        )
        if ran.code == 0:
            source = opened(root)
            pixels = source.images(np.arange(len(source.labels)), 8)
            assert pixels.shape == (11, 8, 8, 3)
        path.unlink()

    for_each(st.one_of(IMAGE, IMAGE, IMAGE, CLAIMED), count, check)
    assert capfd.readouterr() == ("", ""), "a decoder of C spoke for itself"
