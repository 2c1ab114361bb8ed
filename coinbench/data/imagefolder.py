"""imagefolder: real images in root/{train,test}/CLASS/* or root/labels.csv (file,label[,split]). No torch."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from coinbench.config import DataConfig, absolute
from coinbench.data.decode import VERSION
from coinbench.data.image_files import ImageFiles, check_files, some
from coinbench.data.listing import Entry, read_listing, shown
from coinbench.data.source import Card
from coinbench.errors import DataError
from coinbench.rng import Rng
from coinbench.specs import DatasetSpec

_TEST_SHARE = 0.2


class ImageFolderConfig(DataConfig):
    """A folder of images at a size."""

    name: Literal["imagefolder"] = "imagefolder"  # pyright: ignore[reportIncompatibleVariableOverride]
    root: Path
    """Folder with train/CLASS/* and test/CLASS/*, or with labels.csv (file,label[,split])."""
    channels: Literal[1, 3] = 3
    """C: 3 (RGB), or 1 (grey)."""
    label_column: str | None = None
    """Column of labels.csv that holds the class; default: label, or else young."""
    max_bad: int = Field(default=0, ge=0)
    """Unusable images that may be left out; more are an error, so that n never changes unseen."""

    @field_validator("root")
    @classmethod
    def _absolute(cls, value: Path) -> Path:
        return absolute(value)

    @model_validator(mode="before")
    @classmethod
    def _named(cls, values: Any) -> Any:
        """Call the data set as its folder, where nothing better is given; the tables name no path."""
        root = values.get("root") if isinstance(values, dict) else None
        if not isinstance(root, str | Path) or values.get("title") is not None:
            return values
        name = os.path.basename(os.path.abspath(Path(root).expanduser()))
        printable = "".join(c if c.isprintable() else " " for c in shown(name))
        return {**values, "title": printable.strip()[:60].strip() or None}


class ImageFolder(ImageFiles):
    """The usable images of a folder, sorted by name."""

    def __init__(self, config: ImageFolderConfig, cache: Path) -> None:
        """List the folder and check every file, or recall the check of files of the same size and time.

        Raises:
            DataError: anything that keeps the folder from being a data set, with the remedy.
        """
        listing = read_listing(config.root, config.label_column)
        facts = check_files(config.root, [entry.name for entry in listing.entries], cache)
        self._bad = [(e.name, facts[e.name].bad) for e in listing.entries if facts[e.name].bad]
        _refuse_bad(config, self._bad)
        entries = [entry for entry in listing.entries if not facts[entry.name].bad]
        names = [entry.name for entry in entries]
        super().__init__(config.root, names, [facts[name] for name in names], config.channels)
        self._listed = listing.notes
        self.is_test = _is_test(entries)
        class_names = _class_names(config.root, entries, self.is_test)
        _refuse_lost(config.root, listing.entries, class_names)
        number = {name: i for i, name in enumerate(class_names)}
        self.labels = np.array([number[entry.label] for entry in entries], dtype=np.int64)
        self.fingerprint = hashlib.sha256(
            json.dumps([VERSION, self.channels, *self._rows(class_names)]).encode()
        ).hexdigest()
        self.card = _card(config, class_names, entries)
        untested = sorted(set(class_names) - {e.label for e, test in zip(entries, self.is_test, strict=True) if test})
        if untested:
            more = f" and {len(untested) - 10} more" if len(untested) > 10 else ""
            self._listed = [*self._listed, f"no test images: {', '.join(map(shown, untested[:10]))}{more}"]

    def _rows(self, class_names: tuple[str, ...]) -> Iterable[tuple[str, str, bool, str]]:
        for name, label, test, facts in zip(self._names, self.labels, self.is_test, self._facts, strict=True):
            yield name, class_names[label], bool(test), facts.sha256

    def notes(self) -> list[str]:
        """Return a line for each file left out, for each rule with the files it was applied to, and the rest."""
        left_out = [f"left out: {shown(name)}: {reason}" for name, reason in self._bad]
        return left_out + super().notes() + self._listed


def _refuse_bad(config: ImageFolderConfig, bad: list[tuple[str, str]]) -> None:
    if len(bad) > config.max_bad:
        raise DataError(
            f"data.root={config.root}: {some([f'{n}: {reason}' for n, reason in bad], 3)}: unusable, "
            f"and data.max_bad={config.max_bad}; repair or remove them, or leave them out with "
            f"--set data.max_bad={len(bad)}"
        )


def _is_test(entries: list[Entry]) -> np.ndarray:
    """Return bool [N]; where no split is given, a fifth by a hash of the file name."""
    keys = [int.from_bytes(hashlib.blake2b(os.fsencode(e.name), digest_size=8).digest()) for e in entries]
    drawn = Rng(0, ("imagefolder", "test")).uniform(np.array(keys, dtype=np.uint64), 1)[:, 0]
    given = np.array([entry.split is not None for entry in entries], dtype=bool)
    official = np.array([entry.split == "test" for entry in entries], dtype=bool)
    return np.where(given, official, drawn < _TEST_SHARE)


def _class_names(root: Path, entries: list[Entry], is_test: np.ndarray) -> tuple[str, ...]:
    """Return the classes of the training images, sorted; numbers by value."""
    where = f"data.root={root}"
    for name, count in (("train", (~is_test).sum()), ("test", is_test.sum())):
        if not count:
            raise DataError(f"{where}: no {name} images; add some, or mark them in labels.csv")
    train, test = (
        {entry.label for entry, t in zip(entries, is_test, strict=True) if t == wanted} for wanted in (False, True)
    )
    if test - train:
        name = sorted(test - train)[0]
        raise DataError(f"{where}: class {name!r} has test images but no train images; add some")
    if len(train) < 2:
        raise DataError(f"{where}: one class only ({train.pop()!r}); a classifier needs two or more")
    numeric = all(map(_is_number, train))
    return tuple(sorted(train, key=lambda name: (float(name) if numeric else 0.0, name)))


def _refuse_lost(root: Path, listed: list[Entry], class_names: tuple[str, ...]) -> None:
    """Refuse to go on without a class all of whose images were left out as unusable."""
    for name in sorted({entry.label for entry in listed} - set(class_names)):
        raise DataError(f"data.root={root}: class {name!r} has no usable image; repair some, or remove the class")


def _is_number(name: str) -> bool:
    try:
        return math.isfinite(float(name))
    except ValueError:
        return False


def _card(config: ImageFolderConfig, class_names: tuple[str, ...], entries: list[Entry]) -> Card:
    splits = {entry.split for entry in entries}
    notes = ["Resized without cropping, so proportions change where an image is not square."]
    if None in splits:
        notes.append("No split was given: 20 % are the test split, chosen by a hash of the file name.")
    if "val" in splits:
        notes.append("Images marked val count as train; val is carved from train like everywhere.")
    if config.channels == 1:
        notes.append("Colours are reduced to grey (ITU-R 601-2 luma).")
    return Card(
        name="imagefolder",
        title=config.root.name,
        source="a folder of the user's images",
        licence="as stated by whoever provides the images",
        class_names=tuple(map(shown, class_names)),
        notes=" ".join(notes),
    )


DATASET = DatasetSpec(
    config=ImageFolderConfig,
    open=ImageFolder,
    summary="your images: root/{train,test}/CLASS/* or root/labels.csv (--set data.root=DIR)",
)
