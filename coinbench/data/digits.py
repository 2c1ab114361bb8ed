"""digits: 1,797 real handwritten digits, bundled with scikit-learn (Alpaydin and Kaynak 1998). No torch."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from coinbench.config import DataConfig
from coinbench.data.source import Card, Source
from coinbench.rng import Rng
from coinbench.specs import DatasetSpec

_LEVELS = 16  # the grey levels are 0..16

_CARD = Card(
    name="digits",
    title="Handwritten digits (scikit-learn)",
    source=(
        "sklearn.datasets.load_digits: the 1,797 digits of the test set of UCI's Optical Recognition of "
        "Handwritten Digits (E. Alpaydin, C. Kaynak 1998), 8x8 pixels, 17 grey levels"
    ),
    licence="CC BY 4.0 by the UCI repository (not verified here); bundled with scikit-learn (BSD-3-Clause)",
    class_names=tuple("0123456789"),
    notes=(
        "No official split of these images: 20 % are the test split, chosen by a hash of the image's "
        "position. The 13 writers are not marked, so a writer occurs in train and test. No two images are "
        "identical. Enlarged smoothly (bicubic on the grey levels, clipped): the pixels hold no more than 8x8."
    ),
)


class DigitsConfig(DataConfig):
    """The bundled digits at a size."""

    name: Literal["digits"] = "digits"  # pyright: ignore[reportIncompatibleVariableOverride]
    flip: bool = False
    """A mirrored digit is no digit."""


class Digits(Source):
    """All 1,797 digits, in scikit-learn's order."""

    card = _CARD
    channels = 1

    def __init__(self) -> None:
        """Read the arrays that come with scikit-learn."""
        # Not at the top: listing the data sets must not take the second that scikit-learn takes.
        from sklearn.datasets import load_digits

        pixels, labels = load_digits(return_X_y=True)
        self._grey = np.asarray(pixels, dtype=np.uint8).reshape(-1, 8, 8)
        self.labels = np.asarray(labels, dtype=np.int64)
        position = np.arange(len(self.labels))
        self.is_test = Rng(0, ("digits", "test")).uniform(position, 1)[:, 0] < 0.2
        parts = (self._grey, self.labels, self.is_test)
        self.fingerprint = hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()

    def images(self, index: np.ndarray, size: int) -> np.ndarray:
        """Return uint8 [n, size, size, 1], bicubic."""
        out = np.empty((len(index), size, size, 1), dtype=np.uint8)
        for row, position in enumerate(index):
            grey = Image.fromarray(self._grey[position].astype(np.float32))
            smooth = np.asarray(grey.resize((size, size), Image.Resampling.BICUBIC))
            out[row, :, :, 0] = np.rint(smooth.clip(0, _LEVELS) * (255 / _LEVELS))
        return out

    def contents(self) -> list[tuple[str, str]]:
        """Return (name, digest) of each image."""
        return [(f"image {i}", hashlib.sha256(grey.tobytes()).hexdigest()) for i, grey in enumerate(self._grey)]


def _open(config: DigitsConfig, cache: Path) -> Digits:
    return Digits()


DATASET = DatasetSpec(config=DigitsConfig, open=_open, summary="1,797 real handwritten digits, bundled, grey")
