"""imagefolder: real images in root/{train,test}/CLASS/* or root/labels.csv (file,label[,split]). No torch."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from coinbench.config import DataConfig, absolute, digest
from coinbench.data.decode import (
    RULES,
    VERSION,
    BadImageError,
    Facts,
    decode,
    inspect,
    pillow_warnings,
    resized,
)
from coinbench.data.listing import Entry, read_listing, shown
from coinbench.data.source import Card, Source
from coinbench.errors import CoinbenchError, DataError
from coinbench.files import read_json, write_atomically
from coinbench.rng import Rng
from coinbench.specs import DatasetSpec

_TEST_SHARE = 0.2
_NAMES_SHOWN = 10


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


class ImageFolder(Source):
    """The usable images of a folder, sorted by name."""

    def __init__(self, config: ImageFolderConfig, cache: Path) -> None:
        """List the folder and check every file, or recall the check of files of the same size and time.

        Raises:
            DataError: anything that keeps the folder from being a data set, with the remedy.
        """
        listing = read_listing(config.root, config.label_column)
        facts = _check_files(config.root, [entry.name for entry in listing.entries], cache)
        self._bad = [(e.name, facts[e.name].bad) for e in listing.entries if facts[e.name].bad]
        _refuse_bad(config, self._bad)
        entries = [entry for entry in listing.entries if not facts[entry.name].bad]
        self._root, self._listed = config.root, listing.notes
        self._names = [entry.name for entry in entries]
        self._facts = [facts[name] for name in self._names]
        self.channels = config.channels
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

    def images(self, index: np.ndarray, size: int) -> np.ndarray:
        """Return uint8 [n, size, size, C], bilinear with anti-aliasing, not cropped.

        Raises:
            DataError: a file is gone or has changed since it was checked; names it.
        """

        def draw(position: int) -> np.ndarray:
            data = self._read(position)
            try:
                return resized(decode(data)[0], size, self.channels)
            except BadImageError as error:
                raise DataError(f"{self._path(position)}: {error}; repair or remove it") from error

        with pillow_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
            drawn = list(pool.map(draw, index.tolist()))
        return np.stack(drawn) if drawn else np.empty((0, size, size, self.channels), np.uint8)

    def notes(self) -> list[str]:
        """Return a line for each file left out, for each rule with the files it was applied to, and the rest."""
        lines = [f"left out: {shown(name)}: {reason}" for name, reason in self._bad]
        for rule, text in RULES.items():
            by_rule = [n for n, f in zip(self._names, self._facts, strict=True) if rule in f.rules]
            if by_rule and not (rule == "greyscale" and self.channels == 1):
                lines.append(f"{rule}: {_some(by_rule, _NAMES_SHOWN)}: {text}")
        return lines + self._listed

    def contents(self) -> list[tuple[str, str]]:
        """Return (name, sha256) of each file, read anew.

        Raises:
            DataError: a file is gone, or its bytes have changed under the same size and time.
        """
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in pool.map(self._read, range(len(self._names))):
                pass
        return [(shown(n), f.sha256) for n, f in zip(self._names, self._facts, strict=True)]

    def _path(self, position: int) -> str:
        return shown(str(self._root / self._names[position]))

    def _read(self, position: int) -> bytes:
        try:
            data = (self._root / self._names[position]).read_bytes()
        except OSError as error:
            raise DataError(
                f"{self._path(position)}: cannot be read ({error.strerror}); bring it back and run again"
            ) from error
        if hashlib.sha256(data).hexdigest() != self._facts[position].sha256:
            raise DataError(
                f"{self._path(position)}: its bytes are not those that were checked; "
                "restore the file, or `touch` it to have it checked anew"
            )
        return data


def _check_files(root: Path, names: list[str], cache: Path) -> dict[str, Facts]:
    """Return the facts of each file; those of unchanged size and time come from the record in the cache."""
    record = cache / "imagefolder" / f"{digest(str(root.resolve()), VERSION)}.json"
    try:
        known = {name: Facts(**facts | {"rules": tuple(facts["rules"])}) for name, facts in read_json(record).items()}
    except (CoinbenchError, TypeError, KeyError, AttributeError):  # no record, or a broken one: check anew
        known = {}

    def unchanged(name: str) -> bool:
        if name not in known:
            return False
        try:
            stat = (root / name).stat()
        except OSError:
            return False
        return (stat.st_size, stat.st_mtime_ns) == (known[name].size, known[name].mtime_ns)

    stale = [name for name in names if not unchanged(name)]
    with pillow_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        fresh = dict(zip(stale, pool.map(lambda name: inspect(root / name), stale), strict=True))
    if fresh:
        known |= fresh
        with write_atomically(record) as temporary:
            # ASCII: a file name may hold bytes that are no text.
            text = json.dumps({name: asdict(facts) for name, facts in known.items()})
            temporary.write_text(text, encoding="ascii")
    return {name: known[name] for name in names}


def _refuse_bad(config: ImageFolderConfig, bad: list[tuple[str, str]]) -> None:
    if len(bad) > config.max_bad:
        raise DataError(
            f"data.root={config.root}: {_some([f'{n}: {reason}' for n, reason in bad], 3)}: unusable, "
            f"and data.max_bad={config.max_bad}; repair or remove them, or leave them out with "
            f"--set data.max_bad={len(bad)}"
        )


def _some(names: list[str], limit: int) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    plural = "image" if len(names) == 1 else "images"
    return f"{len(names)} {plural} ({', '.join(map(shown, names[:limit]))}{more})"


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
