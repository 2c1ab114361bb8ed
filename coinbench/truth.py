"""What a data set offers whose images can be drawn anew with other parts: the truth that metrics are held against."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class GroundTruth(Protocol):
    """A source that draws any of its scenes with any parts; all that does not belong to a part stays as it is."""

    part_names: tuple[str, ...]
    part_values: tuple[tuple[str, ...], ...]
    """Names of the values of each part; a factor is a position in them, or -1: none of them, as far as it can be."""
    factors: np.ndarray
    """int64 [N, parts]: the parts of each image of the data set."""

    def images(self, index: np.ndarray, size: int, factors: np.ndarray | None = None) -> np.ndarray:
        """Return uint8 [n, size, size, C]: the scenes at `index` with `factors` [n, parts], or with their own."""
        ...

    def coverage(self, index: np.ndarray, size: int, factors: np.ndarray | None = None) -> np.ndarray:
        """Return float32 [n, parts, size, size]: the share of each pixel that shows a part; 0 where it cannot."""
        ...


def changed(factors: np.ndarray, part: int, value: int) -> np.ndarray:
    """Return factors [n, parts] with one part at another value.

    >>> changed(np.array([[0, 1], [2, 1]]), 1, 3).tolist()
    [[0, 3], [2, 3]]
    """
    factors = factors.copy()
    factors[:, part] = value
    return factors


def region(truth: GroundTruth, index: np.ndarray, size: int, factors: np.ndarray, part: int) -> np.ndarray:
    """Return bool [n, size, size]: where a part can change the picture, whichever of its values it takes, or none."""
    values = range(-1, len(truth.part_values[part]))
    return np.any([truth.coverage(index, size, changed(factors, part, v))[:, part] > 0 for v in values], axis=0)
