"""A data set of noise with the shape of another: a training step takes as long on it, whatever images show."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from coinbench.config import DataConfig
from coinbench.data.source import Card, Source
from coinbench.problem import Split
from coinbench.rng import Rng


class Noise(Source):
    """Images that are drawn, each from its position; labels and parts go round in turn."""

    fingerprint = "noise"

    def __init__(self, *, classes: int, channels: int, train: int, test: int, parts: Sequence[int] = ()) -> None:
        """Take the shape.

        Args:
            classes: Y.
            channels: 1 or 3.
            train: images to train with.
            test: images to test with.
            parts: number of values of each part, where parts are known.
        """
        names = tuple(f"class {y}" for y in range(classes))
        self.card = Card(name="noise", title="Noise", source="drawn", licence="none", class_names=names)
        self.channels = channels
        position = np.arange(train + test)
        self.labels = position % classes
        self.is_test = position >= train
        if parts:
            self.factors = np.stack([position % n for n in parts], 1)

    def images(self, index: np.ndarray, size: int) -> np.ndarray:
        """Return uint8 [n, size, size, C] of uniform noise."""
        dice = Rng(0).child("noise", size, *index[:1]).numpy()
        return dice.integers(0, 256, (len(index), size, size, self.channels), dtype=np.uint8)


def noise_split(name: str, data: DataConfig, source: Noise, n: int, device: torch.device | None = None) -> Split:
    """Return n images of noise as a split with the sizes of `data`; they are the first of their split's positions."""
    index = source.split("test" if name == "test" else "train", 0.0)[:n]
    small = source.images(index, data.size)
    large = source.images(index, data.resized) if name == "train" else small
    return Split(name, small, source.labels[index], index, large, data.flip, device or torch.device("cpu"))
