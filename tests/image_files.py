"""Tiny image files and folders for the tests of imagefolder."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import Image

from coinbench.data.imagefolder import ImageFolder, ImageFolderConfig

RED, BLUE = (200, 30, 20), (10, 40, 220)


def paint(path: Path, colour: object = RED, mode: str = "RGB", size: tuple[int, int] = (12, 8), **save) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **save)  # pyright: ignore[reportArgumentType]
    return path


def encode(image: Image.Image, kind: str = "PNG", **save) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **save)
    return out.getvalue()


def make_tree(root: Path) -> Path:
    """Two classes, three training and two test images each, all different."""
    for split, n in (("train", 3), ("test", 2)):
        for name, colour in (("red", RED), ("blue", BLUE)):
            for i in range(n):
                paint(root / split / name / f"{i}.png", (*colour[:2], colour[2] + 5 * i + (split == "test")))
    return root


def opened(root: Path, **settings) -> ImageFolder:
    return ImageFolder(ImageFolderConfig(root=root, **settings), root.parent / "cache")
