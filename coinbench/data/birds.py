"""`birds`: procedurally drawn birds whose parts are the ground-truth concepts; own design and drawing.

A class is a rule over part values. Each part of an image keeps the value that its class asks for, or is drawn
anew with probability `noise`, so that no concept is a function of the class.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Int, UInt8
from pydantic import Field

from coinbench.config import DataConfig, digest
from coinbench.data.birds_draw import NUISANCES, PART_NAMES, PARTS, RENDERER_VERSION, coverage, draw
from coinbench.data.source import Card, Source
from coinbench.errors import unknown
from coinbench.rng import Rng
from coinbench.specs import DatasetSpec

# Found by search. Two pairs of classes differ in two parts only (emberlark and fernwhistler in body and wing, barkpipit
# and dunehopper in beak and tail), all others in four or more. An ideal reader of the parts then names 98.6 % of the
# classes under the default noise; where all pairs were three or more apart, a small network exceeded 98 %.
RULES: dict[str, tuple[str, ...]] = {
    "emberlark": ("red", "plain", "none", "long", "black", "black", "long"),
    "cinderjay": ("red", "bars", "white", "short", "black", "red", "short"),
    "tidewren": ("blue", "spots", "black", "long", "yellow", "black", "short"),
    "harbourling": ("blue", "spots", "black", "short", "red", "red", "long"),
    "honeyflit": ("yellow", "bars", "white", "short", "yellow", "blue", "fan"),
    "saffronet": ("yellow", "plain", "black", "hooked", "yellow", "black", "fan"),
    "mossdrake": ("green", "plain", "white", "hooked", "yellow", "red", "forked"),
    "fernwhistler": ("green", "bars", "none", "long", "black", "black", "long"),
    "barkpipit": ("brown", "dark", "none", "hooked", "red", "blue", "forked"),
    "dunehopper": ("brown", "dark", "none", "short", "red", "blue", "short"),
}
"""Class name -> the value of each of PARTS."""
MASK_COVERAGE = 0.1
"""Share of a pixel that a part must show in to own it; low, so that a thin beak has a mask at 32 px."""


class BirdsConfig(DataConfig):
    """Which birds are drawn."""

    name: Literal["birds"] = "birds"  # pyright: ignore[reportIncompatibleVariableOverride]
    flip: bool = False
    """Mirror training images at random; off, since without `mirror` all test birds face right."""
    n_train: int = Field(default=3000, ge=10, le=200_000)
    """Training images; a larger number keeps the earlier ones as they are."""
    n_test: int = Field(default=500, ge=10, le=200_000)
    """Test images."""
    seed: int = Field(default=0, ge=0)
    """Fixes all images."""
    noise: float = Field(default=0.10, ge=0, le=1)
    """Probability that a part is drawn anew, evenly from all its values."""
    mirror: bool = False
    """Let every second bird, at random, face left."""


class Birds(Source):
    """Birds by position, with their factors, their part masks and their counterfactuals."""

    channels = 3
    card = Card(
        name="birds",
        title="Birds with known parts",
        source="Drawn by coinbench itself; no outside material.",
        licence="Apache-2.0",
        class_names=tuple(RULES),
        notes="Ten classes, rules over seven parts; factors, part masks and counterfactuals are exact.",
    )
    part_names = PART_NAMES
    """Columns of `factors`."""
    part_values = tuple(PARTS.values())
    """Names of the values of each part, in the order of the integers in `factors`."""

    factors: Int[np.ndarray, "N parts"]
    """The ground-truth concepts: for each image the value of each part."""

    def __init__(self, config: BirdsConfig) -> None:
        """Draw labels, factors and nuisances, but no image."""
        # A stream for each split, so that the test birds do not depend on the number of training birds.
        streams = [("train", config.n_train), ("test", config.n_test)]
        number = np.concatenate([np.arange(n) for _, n in streams])
        self.is_test = np.arange(len(number)) >= config.n_train
        # Classes in turn: every beginning of a split is balanced.
        self.labels = number % len(RULES)
        root = Rng(config.seed, ("birds",))

        def uniform(purpose: str, width: int) -> np.ndarray:
            rows = [root.child(s, purpose).uniform(np.arange(n), width) for s, n in streams]
            return np.concatenate(rows)

        anew = (uniform("value", len(PARTS)) * [len(v) for v in self.part_values]).astype(np.int64)
        redrawn = uniform("noise", len(PARTS)) < config.noise
        self.factors = np.where(redrawn, anew, rule_table()[self.labels])  # pyright: ignore[reportIncompatibleVariableOverride]
        self._nuisances = uniform("nuisance", len(NUISANCES))
        self._mirrored = (uniform("mirror", 1)[:, 0] < 0.5) & config.mirror
        content = config.model_dump(include={"seed", "noise", "mirror", "n_train", "n_test"})
        self.fingerprint = digest("birds", RENDERER_VERSION, rule_table().tolist(), content)

    def images(
        self, index: np.ndarray, size: int, factors: Int[np.ndarray, "n parts"] | None = None
    ) -> UInt8[np.ndarray, "n {size} {size} 3"]:
        """Return the images at `index`; with `factors` given, the same scenes around birds of those parts.

        A factor of `NEUTRAL` draws a part as none of its values.
        """
        return draw(*self._scenes(index, factors), size)

    def coverage(
        self, index: np.ndarray, size: int, factors: Int[np.ndarray, "n parts"] | None = None
    ) -> Float32[np.ndarray, "n parts {size} {size}"]:
        """Return which share of each pixel of `images` shows each part; 0 where it cannot change the pixel."""
        return coverage(*self._scenes(index, factors), size)

    def masks(
        self, index: np.ndarray, size: int, factors: Int[np.ndarray, "n parts"] | None = None
    ) -> Bool[np.ndarray, "n parts {size} {size}"]:
        """Return where each part covers `MASK_COVERAGE` of a pixel or more; empty for a cap that is "none"."""
        return self.coverage(index, size, factors) >= MASK_COVERAGE

    def attribute_name(self, part: int, value: int) -> str:
        """Return what a value of a part is called, as "eye colour: red"."""
        return f"{PART_NAMES[part]}: {self.part_values[part][value]}"

    def with_part(self, index: np.ndarray, part: str, value: str) -> Int[np.ndarray, "n parts"]:
        """Return the factors of the images at `index` with one part changed.

        Passed on to `images` or `masks` they give the exact counterfactual: all nuisances stay.

        Raises:
            UsageError: the part or the value is unknown.
        """
        if part not in PARTS:
            raise unknown("part", part, list(PART_NAMES))
        if value not in PARTS[part]:
            raise unknown(part, value, list(PARTS[part]))
        factors = self.factors[index]
        factors[:, PART_NAMES.index(part)] = PARTS[part].index(value)
        return factors

    def _scenes(self, index: np.ndarray, factors: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        factors = self.factors[index] if factors is None else factors
        return factors, self._nuisances[index], self._mirrored[index]


def rule_table() -> Int[np.ndarray, "classes parts"]:
    """Return `RULES` as factors, one row per class."""
    return np.array(
        [[values.index(v) for values, v in zip(PARTS.values(), rule, strict=True)] for rule in RULES.values()]
    )


def _open(config: BirdsConfig, cache: Path) -> Birds:
    """Open the data set; nothing is read from or kept in `cache`."""
    return Birds(config)


DATASET = DatasetSpec(
    config=BirdsConfig,
    open=_open,
    truth=True,
    summary="drawn birds with known parts, 10 classes, RGB, any size; always at hand",
)
