"""Data sets as their authors publish them: archives, layout, counts; `coinbench data prepare` uses it. No torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, field_validator

from coinbench import registry
from coinbench.config import DataConfig, absolute
from coinbench.data.decode import EXTENSIONS, VERSION
from coinbench.data.image_files import ImageFiles, check_files, some
from coinbench.data.listing import shown
from coinbench.data.source import Card
from coinbench.errors import DataError
from coinbench.fetch import Remote

ANEW = "delete that folder, and prepare the data set again"
"""What mends an unpacked archive: it is unpacked only where there is none."""


class OfficialConfig(DataConfig):
    """A data set in its official layout."""

    size: int = Field(default=256, ge=8, le=1024)
    root: Path | None = None
    """Folder with the unpacked archives; default: datasets/NAME in the cache folder."""
    complete: bool = True
    """Refuse other counts than the published ones; off for a part of the data set, as for tests."""

    @field_validator("root")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return None if value is None else absolute(value)


def root_of(config: OfficialConfig, cache: Path) -> Path:
    """Return where the data set lies or will lie."""
    return config.root or cache / "datasets" / config.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Archive:
    """A published file and what it becomes."""

    remote: Remote
    leaves: tuple[str, ...]
    """Paths below a folder of the data set, any of which shows that it was unpacked; of a plain file the file."""
    needed: Callable[[Any], bool] = lambda config: True
    """(config) -> whether such settings cannot do without it."""

    @property
    def packed(self) -> bool:
        """Tell whether it is unpacked, or serves as it is."""
        return self.remote.name.endswith((".zip", ".tgz", ".tar", ".tar.gz"))

    def found(self, places: Iterable[Path]) -> Path | None:
        """Return where what it holds is there; None: nowhere."""
        return next((place / leaf for place in places for leaf in self.leaves if (place / leaf).exists()), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What is published of a data set's size."""

    images: int
    classes: int
    train: int
    """To train with, val included."""
    test: int
    val: int = 0
    """Of those to train with, what the official split keeps for validation; 0: a share is carved from them."""


@dataclass(frozen=True, slots=True)
class Item:
    """One image."""

    name: str
    """Path below the folder of the data set, with forward slashes."""
    label: int
    split: str
    """train, val or test."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """What the official lists say."""

    folder: Path
    """What the items' names are below."""
    items: list[Item]
    """In official order."""
    counts: Counts
    """As published."""
    card: Card


@dataclass(frozen=True, slots=True, kw_only=True)
class Official:
    """What `coinbench data prepare` needs of a data set."""

    archives: tuple[Archive, ...]
    inner: str
    """Folder that its archives make."""
    listed: Callable[[Any, Path], Listed]
    """(config, cache folder) -> its lists; raises DataError where they are missing or not as published."""
    counts: Callable[[Any], Counts]
    """(config) -> what is published of its size, which plans go by before the data are here."""


class OfficialImages(ImageFiles):
    """Images that an official list names, each there and usable."""

    def __init__(self, config: OfficialConfig, cache: Path, listed: Listed) -> None:
        """Check counts and files, or recall the check of files of the same size and time.

        Raises:
            DataError: a count, a label or a file is not as published; names the first and how many more.
        """
        folder, items, card = listed.folder, listed.items, listed.card
        where = f"{config.name}: {folder}"
        refuse_missing(where, folder, items)
        self.labels = np.array([item.label for item in items], dtype=np.int64)
        self.is_test = np.array([item.split == "test" for item in items], dtype=bool)
        self.is_val = np.array([item.split == "val" for item in items], dtype=bool)
        found = Counts(
            images=len(items),
            classes=len(card.class_names),
            train=int((~self.is_test).sum()),
            test=int(self.is_test.sum()),
            val=int(self.is_val.sum()),
        )
        if config.complete:
            _refuse_other_counts(where, listed.counts, found)
        elif found != listed.counts:
            card = replace(card, notes=f"{card.notes} {part_of(found, listed.counts)}")
        names = [item.name for item in items]
        facts = check_files(folder, names, cache)
        if bad := [f"{name}: {facts[name].bad}" for name in names if facts[name].bad]:
            raise DataError(f"{where}: {some(bad, 3)}: unusable; {ANEW}")
        super().__init__(folder, names, [facts[name] for name in names], 3)
        rows = zip(names, self.labels.tolist(), (item.split for item in items), self._facts, strict=True)
        told = [[name, card.class_names[label], split, fact.sha256] for name, label, split, fact in rows]
        self.fingerprint = hashlib.sha256(json.dumps([VERSION, *told]).encode()).hexdigest()
        self.card = card

    def split(self, name: str, val_fraction: float) -> np.ndarray:
        """Return the sorted positions of a split; val is the official one where there is one."""
        if not self.is_val.any():
            return super().split(name, val_fraction)
        chosen = {"test": self.is_test, "val": self.is_val, "train": ~self.is_test & ~self.is_val}
        return np.flatnonzero(chosen[name])


def places(root: Path, inner: str) -> tuple[Path, ...]:
    """Return where a data set may lie: the root, or `inner` below it, or that twice, as some mirrors pack it."""
    return root, root / inner, root / inner / inner


def find_folder(config: OfficialConfig, cache: Path, mark: str, inner: str) -> Path:
    """Return the folder that holds `mark`.

    Raises:
        DataError: none does; says how to get the data set.
    """
    root = root_of(config, cache)
    refuse_file(root)
    for folder in places(root, inner):
        if (folder / mark).exists():
            return folder
    official = registry.PROBLEMS.load(config.name).official
    assert official is not None
    raise DataError(
        f"{config.name}: no {mark} in {root} or {root / inner}; {way_to_get(official, config, cache, root)}; or name "
        "the folder that holds it with --set data.root=DIR"
    )


def refuse_file(root: Path) -> None:
    """Refuse a file in the place of a folder.

    Raises:
        DataError: it is one.
    """
    if root.is_file():
        raise DataError(f"data.root={root}: a file, not a folder; name the folder it lies in")


def lacking(official: Official, config: OfficialConfig, cache: Path) -> list[Remote]:
    """Return the archives that settings cannot do without and that are not there, unpacked or as plain files."""
    around = places(root_of(config, cache), official.inner)
    return [archive.remote for archive in official.archives if archive.needed(config) and not archive.found(around)]


def way_to_get(official: Official, config: OfficialConfig, cache: Path, root: Path | None = None) -> str:
    """Say which command brings a data set; --download only where a program may fetch all that is lacking."""
    where = "" if root is None else f" --root {root}"
    download = " --download" if all(remote.url for remote in lacking(official, config, cache)) else ""
    return f"`coinbench data prepare {config.name}{where}{download}` brings it or says how to get it"


def read_table(path: Path, columns: int) -> list[list[str]]:
    """Return the cells of a table that is separated by spaces; the last column takes what is left of a line.

    Raises:
        DataError: it is missing, no text, or a line has too few cells; names the line.
    """
    return list(iterate_table(path, columns))


def iterate_table(path: Path, columns: int) -> Iterator[list[str]]:
    """Yield the same line by line, for tables that are long."""
    try:
        with path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                cells = line.split(maxsplit=columns - 1)
                if cells and len(cells) < columns:
                    text = shown(line[:60].strip())
                    raise DataError(f"{path} line {number}: {text!r} has not {columns} columns; take the official file")
                if cells:
                    yield [*cells[:-1], cells[-1].strip()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{path}: cannot be read ({reason}); {ANEW}") from error


def whole(where: str, text: str, least: int, most: int) -> int:
    """Return a whole number of a table.

    Raises:
        DataError: it is none, or outside its range.
    """
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if not least <= number <= most:
        raise DataError(
            f"{where}: {shown(text[:40])!r} is no whole number from {least} to {most}; take the official file"
        )
    return number


def refuse_extra(where: str, folder: Path, images: Path, listed: Iterable[str]) -> None:
    """Refuse a folder with images that the official list does not name: two data sets were mixed.

    Raises:
        DataError: there is one; names it and how many more.
    """
    known = set(listed)
    extra = [
        path.relative_to(folder).as_posix()
        for path in sorted(images.rglob("*"))
        if path.suffix.lower() in EXTENSIONS and not path.name.startswith(".")
    ]
    if extra := [name for name in extra if name not in known]:
        raise DataError(f"{where}: {some(extra, 3)} not in the official list; move what does not belong there")


def refuse_missing(where: str, folder: Path, items: list[Item]) -> None:
    """Refuse lists that name no image, or one that is not there.

    Raises:
        DataError: names the first and how many more.
    """
    if not items:
        raise DataError(f"{where}: the official list names no image; take the official file")
    outside = [item.name for item in items if ".." in item.name.split("/") or item.name.startswith("/")]
    if outside:
        raise DataError(f"{where}: {some(outside, 3)} outside the folder; take the official list")
    missing = [item.name for item in items if not (folder / item.name).is_file()]
    if missing:
        raise DataError(f"{where}: {some(missing, 3)} missing; {ANEW}")


def part_of(found: Counts, counts: Counts) -> str:
    """Say how much of a data set is here.

    >>> a = Counts(images=2889, classes=50, train=1500, test=1389)
    >>> part_of(a, Counts(images=11788, classes=200, train=5994, test=5794))
    'A part: 2,889 of 11,788 images, 50 of 200 classes (data.complete=false).'
    """
    images, classes = f"{found.images:,} of {counts.images:,} images", f"{found.classes} of {counts.classes} classes"
    return f"A part: {images}, {classes} (data.complete=false)."


def _refuse_other_counts(where: str, counts: Counts, found: Counts) -> None:
    for name in ("images", "classes", "train", "val", "test"):
        if getattr(found, name) != getattr(counts, name):
            what = name if name in ("images", "classes") else f"{name} images"
            raise DataError(
                f"{where}: {getattr(found, name):,} {what}, {getattr(counts, name):,} are published; unpack the "
                "official archive again, or take a part on purpose with --set data.complete=false"
            )
