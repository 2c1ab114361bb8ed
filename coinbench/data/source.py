"""An opened data set: what every module in this folder returns, and its split and its cached pixels. No torch."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coinbench.config import DataConfig, digest
from coinbench.errors import DataError
from coinbench.files import write_atomically
from coinbench.locks import locked
from coinbench.log import Log
from coinbench.rng import Rng

SPLITS = ("train", "val", "test")
_AT_ONCE, _TOLD = 256, 2000
"""Images between two writes, and from how many on a split takes so long that progress is shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What a reader must know of a data set before using its numbers."""

    name: str
    title: str
    source: str
    """Where the images come from."""
    licence: str
    class_names: tuple[str, ...]
    notes: str = ""


@dataclass(frozen=True, slots=True)
class Attributes:
    """What each image of a data set shows, as far as somebody told."""

    names: tuple[str, ...]
    """Of J attributes, as "eye colour: red"."""
    values: np.ndarray
    """int8 [N, J]: 1 shown, 0 not shown, -1 not told."""


class Source(ABC):
    """All images of a data set, by position 0..N-1; opening one reads no pixels."""

    card: Card
    channels: int
    """1 (grey) or 3 (RGB)."""
    fingerprint: str
    """Hex digest of the content: changes whenever an image, a label or the official split changes."""
    labels: np.ndarray
    """int64 [N], in 0..Y-1."""
    is_test: np.ndarray
    """bool [N]: the official test split."""
    factors: np.ndarray | None = None
    """int64 [N, parts]: which value each part of an image has, where that is known."""

    @abstractmethod
    def images(self, index: np.ndarray, size: int) -> np.ndarray:
        """Return uint8 [n, size, size, C]: the images at `index`, resized without cropping, anti-aliased.

        Raises:
            DataError: an image cannot be read; names the file.
        """

    def attributes(self) -> Attributes | None:
        """Return the attributes of all images; of a data set with `factors` each value of each part; else None.

        Raises:
            DataError: they are damaged.
        """
        if self.factors is None:
            return None
        columns, names = [], []
        for part, values in enumerate(self.factors.T):
            for value in range(int(values.max(initial=0)) + 1):
                columns.append(values == value)
                names.append(self.attribute_name(part, value))
        return Attributes(tuple(names), np.stack(columns, 1).astype(np.int8))

    def attribute_name(self, part: int, value: int) -> str:
        """Return what a value of a part is called."""
        return f"part {part}: {value}"

    def notes(self) -> list[str]:
        """Return one line for each file that was handled by rule or left out."""
        return []

    def contents(self) -> list[tuple[str, str]]:
        """Return (name, digest) of each stored image, read anew; nothing where images are drawn.

        Raises:
            DataError: an image is not what it was at opening; names the file.
        """
        return []

    def split(self, name: str, val_fraction: float) -> np.ndarray:
        """Return the sorted positions of a split; val is carved from train by index hash, never from test.

        A class keeps its first training image in train, so that f sees every class.
        """
        position = np.arange(len(self.labels))
        in_val = Rng(0, ("val",)).uniform(position, 1)[:, 0] < val_fraction
        trained = position[~self.is_test]
        _, first = np.unique(self.labels[trained], return_index=True)
        in_val[trained[first]] &= np.isin(self.labels[trained[first]], self.labels[~self.is_test & ~in_val])
        chosen = {"test": self.is_test, "val": ~self.is_test & in_val, "train": ~self.is_test & ~in_val}
        return position[chosen[name]]


def check(source: Source, name: str) -> Source:
    """Return `source` if a classifier can be trained and measured on it, whoever wrote it.

    A class may lack test images: no number of its own is then measured for it. It may not lack training images.

    Raises:
        DataError: fewer than two classes, a label outside them, a class or a split without images.
    """
    labels, test, names = source.labels, source.is_test, source.card.class_names
    if len(labels) != len(test):
        raise DataError(f"{name}: {len(labels)} labels for {len(test)} images; mend the data set")
    if len(names) < 2:
        raise DataError(f"{name}: {len(names)} class ({', '.join(names)}); a classifier needs two or more")
    outside = np.flatnonzero((labels < 0) | (labels >= len(names)))
    if len(outside):
        raise DataError(
            f"{name}: image {outside[0]} has label {labels[outside[0]]}, outside 0..{len(names) - 1}, as have "
            f"{len(outside) - 1} more; correct them, or the names of the classes"
        )
    empty = np.flatnonzero(np.bincount(labels[~test], minlength=len(names)) == 0)
    if len(empty):
        raise DataError(
            f"{name}: class {names[empty[0]]!r} has no train images, as have {len(empty) - 1} more of {len(names)} "
            "classes; add some, or leave the class out"
        )
    if not test.any():
        raise DataError(f"{name}: no test images; add some")
    return source


def split_files(name: str, config: DataConfig, source: Source, cache: Path) -> dict[int, Path]:
    """Return where the pixels of a split are stored, by their size: what is shown, and what crops are cut from."""
    folder = cache / "data" / digest(source.fingerprint, config.val_fraction)
    sizes = (config.size, config.resized) if name == "train" else (config.size,)
    return {size: folder / f"{name}-{size}.npy" for size in sizes}


def split_pixels(
    name: str, config: DataConfig, source: Source, cache: Path, log: Log | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return positions of a split, its pixels, and what training crops are cut from; drawn or decoded once.

    Args:
        name: train, val or test.
        config: with the sizes.
        source: the data set, opened.
        cache: cache folder.
        log: of progress.

    Raises:
        DataError: a file is damaged, or an image cannot be read.
        Interrupted: asked to stop.
    """
    index = source.split(name, config.val_fraction)
    stored = {
        size: pixels(source, index, size, path, log) for size, path in split_files(name, config, source, cache).items()
    }
    return index, stored[config.size], stored.get(config.resized, stored[config.size])


def pixels(source: Source, index: np.ndarray, size: int, path: Path, log: Log | None = None) -> np.ndarray:
    """Return uint8 [n, size, size, C] as a memory map of `path`, drawn or decoded there once.

    The file is written beside and renamed, so a killed run leaves no half map. Another process that needs the same
    waits for it.

    Raises:
        DataError: the file is damaged, or an image cannot be read.
        Interrupted: asked to stop.
    """
    shape = (len(index), size, size, source.channels)
    if not path.is_file():
        log = log or Log(path.parent)
        with locked(path.with_suffix(".lock"), log):
            if not path.is_file():
                _store(source, index, shape, path, log)
    try:
        array = np.lib.format.open_memmap(path, mode="r")
        if (array.shape, array.dtype) != (shape, np.uint8):
            raise ValueError(f"{array.dtype} {list(array.shape)}, expected uint8 {list(shape)}")
    # A damaged header raises almost anything: ValueError, SyntaxError, EOFError, tokenize.TokenError, ...
    except Exception as error:
        raise DataError(f"{path}: not the pixels that were stored there ({error}); delete it and run again") from error
    return array


def _store(source: Source, index: np.ndarray, shape: tuple[int, ...], path: Path, log: Log) -> None:
    began = time.monotonic()
    # Written, not mapped: on a full disk a write fails, while a store into a map kills the process.
    with write_atomically(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for start in range(0, len(index), _AT_ONCE):
            log.check()
            file.write(source.images(index[start : start + _AT_ONCE], shape[1]).tobytes())
            done = min(start + _AT_ONCE, len(index))
            left = (time.monotonic() - began) / done * (len(index) - done)
            if len(index) > _TOLD:
                log.progress(done, len(index), left, f"{path.stem}: images decoded")
