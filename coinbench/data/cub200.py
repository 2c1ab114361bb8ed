"""cub200: Caltech-UCSD Birds 200 (2011) in its official layout and split, with parts and attributes. No torch."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from coinbench.data.official import (
    ANEW,
    Archive,
    Counts,
    Item,
    Listed,
    Official,
    OfficialConfig,
    OfficialImages,
    find_folder,
    iterate_table,
    read_table,
    refuse_extra,
    whole,
)
from coinbench.data.source import Attributes, Card
from coinbench.errors import DataError
from coinbench.fetch import Remote
from coinbench.specs import DatasetSpec

COUNTS = Counts(images=11788, classes=200, train=5994, test=5794)
INNER = "CUB_200_2011"
ARCHIVES = (
    Archive(
        remote=Remote(
            name="CUB_200_2011.tgz",
            url="https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
            size=1_150_585_339,
            digests=(
                ("sha256", "0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081"),
                ("md5", "97eceeb196236b17998738112f37df78"),
            ),
        ),
        leaves=("images.txt",),
    ),
)


class CUB200Config(OfficialConfig):
    """CUB-200-2011 at a size."""

    name: Literal["cub200"] = "cub200"  # pyright: ignore[reportIncompatibleVariableOverride]


def listed(config: CUB200Config, cache: Path) -> Listed:
    """Read the official lists.

    Raises:
        DataError: the data set is not there, or not as published.
    """
    folder = find_folder(config, cache, "images.txt", INNER)
    classes = _numbered(folder / "classes.txt")
    files = _numbered(folder / "images.txt")
    labels = _values(folder / "image_class_labels.txt", files, 1, len(classes))
    trained = _values(folder / "train_test_split.txt", files, 0, 1)
    items = [
        Item(f"images/{name}", labels[number] - 1, "train" if trained[number] else "test")
        for number, name in files.items()
    ]
    refuse_extra(f"cub200: {folder}", folder, folder / "images", [item.name for item in items])
    return Listed(folder=folder, items=items, counts=COUNTS, card=_card(tuple(classes.values())))


class CUB200(OfficialImages):
    """All images in official order, with parts and attributes."""

    def __init__(self, config: CUB200Config, cache: Path) -> None:
        """Read the official lists and check every file.

        Raises:
            DataError: the data set is not there, or not as published.
        """
        found = listed(config, cache)
        super().__init__(config, cache, found)
        self.folder = found.folder

    @cached_property
    def part_names(self) -> tuple[str, ...]:
        """Names of the 15 parts."""
        return tuple(_numbered(self.folder / "parts" / "parts.txt").values())

    @cached_property
    def parts(self) -> np.ndarray:
        """float32 [N, parts, 3]: x and y in pixels of the file, and whether the part is visible.

        Raises:
            DataError: the table is missing or not as published.
        """
        path, n = self.folder / "parts" / "part_locs.txt", len(self.part_names)
        found = np.zeros((len(self.labels), n, 3), dtype=np.float32)
        for row, (image, part, x, y, visible) in enumerate(read_table(path, 5), 1):
            at = whole(f"{path} line {row}", image, 1, len(found)), whole(f"{path} line {row}", part, 1, n)
            try:
                found[at[0] - 1, at[1] - 1] = float(x), float(y), float(visible)
            except ValueError as error:
                raise DataError(f"{path} line {row}: {error}; take the official file") from error
        return found

    @cached_property
    def attribute_names(self) -> tuple[str, ...]:
        """Names of the 312 attributes; the official archive has them beside its folder.

        Raises:
            DataError: the list is missing.
        """
        beside = self.folder.parent / "attributes.txt"
        inside = self.folder / "attributes" / "attributes.txt"
        return tuple(_numbered(inside if inside.is_file() else beside).values())

    @cached_property
    def class_attributes(self) -> np.ndarray:
        """float32 [classes, attributes] in 0..1: the share of people who saw an attribute on a class's images.

        Raises:
            DataError: the table is missing or not as published.
        """
        path = self.folder / "attributes" / "class_attribute_labels_continuous.txt"
        try:
            found = np.loadtxt(path, dtype=np.float32, ndmin=2) / 100
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: cannot be read ({error}); {ANEW}") from error
        if len(found) != len(self.card.class_names):
            raise DataError(
                f"{path}: {len(found)} rows for {len(self.card.class_names)} classes; take the official file"
            )
        return found

    def attributes(self) -> Attributes:
        """Return the 312 attributes of all images.

        Raises:
            DataError: a table is missing or not as published.
        """
        return Attributes(self.attribute_names, self.image_attributes)

    @cached_property
    def image_attributes(self) -> np.ndarray:
        """int8 [N, attributes]: 1 present, 0 not, -1 where the annotator could not see it or no row is there.

        Raises:
            DataError: the table is missing or not as published.
        """
        path, n = self.folder / "attributes" / "image_attribute_labels.txt", len(self.attribute_names)
        found = np.full((len(self.labels), n), -1, dtype=np.int8)
        # Some official lines have a cell too many behind the fourth: it is not looked at.
        for row, (image, attribute, present, rest) in enumerate(iterate_table(path, 4), 1):
            where = f"{path} line {row}"
            at = whole(where, image, 1, len(found)) - 1, whole(where, attribute, 1, n) - 1
            # Certainty 1: not visible.
            found[at] = -1 if rest.split()[0] == "1" else whole(where, present, 0, 1)
        return found


def _numbered(path: Path) -> dict[int, str]:
    """Return the lines "number name", which count from 1."""
    found: dict[int, str] = {}
    for row, (number, name) in enumerate(read_table(path, 2), 1):
        found[whole(f"{path} line {row}", number, row, row)] = name
    return found


def _values(path: Path, files: dict[int, str], least: int, most: int) -> dict[int, int]:
    """Return the value of each image.

    Raises:
        DataError: an image has none, or two, or one outside the range.
    """
    found: dict[int, int] = {}
    for row, (number, value) in enumerate(read_table(path, 2), 1):
        where = f"{path} line {row}"
        image = whole(where, number, 1, len(files))
        if image in found:
            raise DataError(f"{where}: image {image} has a value already; take the official file")
        found[image] = whole(where, value, least, most)
    if missing := [number for number in files if number not in found]:
        raise DataError(
            f"{path}: image {missing[0]} has no line, as have {len(missing) - 1} more; take the official file"
        )
    return found


def _card(class_names: tuple[str, ...]) -> Card:
    return Card(
        name="cub200",
        title="CUB-200-2011",
        source="Wah, Branson, Welinder, Perona, Belongie 2011 (data.caltech.edu, record 65de6-vp158)",
        licence="non-commercial research and education; the photographs belong to their makers",
        class_names=tuple(name.partition(".")[2].replace("_", " ") or name for name in class_names),
        notes="Official split; val is carved from train. Resized without cropping.",
    )


DATASET = DatasetSpec(
    config=CUB200Config,
    open=CUB200,
    summary="11,788 photographs of 200 kinds of birds; `data prepare cub200 --download`",
    official=Official(archives=ARCHIVES, inner=INNER, listed=listed, counts=lambda config: COUNTS),
)
