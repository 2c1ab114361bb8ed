"""An opened data set: what every module in this folder returns, and its split and its cached pixels. No torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from coinbench.errors import DataError
from coinbench.files import write_atomically
from coinbench.rng import Rng

SPLITS = ("train", "val", "test")


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

    @abstractmethod
    def images(self, index: np.ndarray, size: int) -> np.ndarray:
        """Return uint8 [n, size, size, C]: the images at `index`, resized without cropping, anti-aliased.

        Raises:
            DataError: an image cannot be read; names the file.
        """

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
        """Return the sorted positions of a split; val is carved from train by index hash, never from test."""
        position = np.arange(len(self.labels))
        in_val = Rng(0, ("val",)).uniform(position, 1)[:, 0] < val_fraction
        chosen = {"test": self.is_test, "val": ~self.is_test & in_val, "train": ~self.is_test & ~in_val}
        return position[chosen[name]]


def pixels(source: Source, index: np.ndarray, size: int, path: Path) -> np.ndarray:
    """Return uint8 [n, size, size, C] as a memory map of `path`, drawn or decoded there once.

    The file is written beside and renamed, so a killed run leaves no half map.

    Raises:
        DataError: the file is damaged, or an image cannot be read.
    """
    shape = (len(index), size, size, source.channels)
    if not path.is_file():
        # Written, not mapped: on a full disk a write fails, while a store into a map kills the process.
        with write_atomically(path) as temporary, temporary.open("wb") as file:
            header = {"descr": "|u1", "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, len(index), 256):
                file.write(source.images(index[start : start + 256], size).tobytes())
    try:
        array = np.load(path, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not readable ({error}); delete it and run again") from error
    if array.shape != shape or array.dtype != np.uint8:
        raise DataError(f"{path}: holds {array.dtype} {array.shape}, expected uint8 {shape}; delete it and run again")
    return array
