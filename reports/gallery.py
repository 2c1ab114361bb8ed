"""The images a cell saved, read back: reconstructions and the sheet of its most relevant class-concept pairs."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from coinbench.reports.folder import CellFolder, load

_DAMAGED = (KeyError, IndexError, TypeError, ValueError, AttributeError, ArithmeticError)
"""What reading an index.json of another shape raises."""


@dataclass(frozen=True, slots=True)
class Reconstructions:
    """Test images and what a method made of them."""

    originals: np.ndarray
    """uint8 [n, H, W, 3]."""
    reconstructions: np.ndarray
    """uint8 [n, H, W, 3]."""
    index: tuple[int, ...]
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Pair:
    """A class with a concept that is relevant to it, shown on a few images."""

    label: str
    concept: int
    relevance: float
    rows: tuple[np.ndarray, ...]
    """Each uint8 [2 + number of λ, H, W, 3]: original, the λ, the difference."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """The most relevant class-concept pairs of a cell."""

    headers: tuple[str, ...]
    """What the tiles of a row show."""
    pairs: tuple[Pair, ...]
    gain: float
    """Contrast of the differences."""

    @property
    def note(self) -> str:
        """Return how the last tile is to be read."""
        gain = f", contrast × {self.gain:.1f}" if self.gain > 1 else ""
        return f"Last tile of a row: signed difference {self.headers[-1]}, grey where nothing changes{gain}."


def read_reconstructions(cell: CellFolder) -> Reconstructions | None:
    """Read the strips of originals and reconstructions; None where the cell has none, or damaged ones."""
    with suppress(*_DAMAGED):
        return _reconstructions(cell.path / "images")
    return None


def _reconstructions(folder: Path) -> Reconstructions | None:
    item = load(folder / "index.json").get("reconstructions")
    if not isinstance(item, dict):
        return None
    originals = read_strip(folder / str(item["originals"]), item["tile"])
    made = read_strip(folder / str(item["reconstructions"]), item["tile"])
    if originals is None or made is None or len(originals) != len(made):
        return None
    return Reconstructions(originals, made, tuple(map(int, item["index"])), tuple(map(str, item["labels"])))


def read_sheet(cell: CellFolder) -> Sheet | None:
    """Read the class-concept pairs with their differences (largest λ minus λ = 1); None where there are none."""
    with suppress(*_DAMAGED):
        return _sheet(cell.path / "images")
    return None


def _sheet(folder: Path) -> Sheet | None:
    index = load(folder / "index.json")
    lambdas = [float(value) for value in index.get("lambdas", [])]
    tile = index.get("reconstructions", {}).get("tile")
    found = []
    for item in index.get("sheet", []):
        strips = [read_strip(folder / str(image["tiles"]), tile) for image in item["images"]]
        whole = [s for s in strips if s is not None and len(s) == 1 + len(lambdas)]
        if whole:
            found.append((item, whole))
    if not found or 1.0 not in lambdas:
        return None
    # The first tile is the original; λ = 1 is the plain reconstruction.
    high, plain = 1 + lambdas.index(max(lambdas)), 1 + lambdas.index(1.0)
    changes = [s[high].astype(float) - s[plain] for _, strips in found for s in strips]
    gain = contrast(changes)
    pairs = tuple(
        Pair(
            str(item["class"]),
            int(item["concept"]),
            float(item["relevance"]),
            tuple(np.concatenate([s, difference(s[high], s[plain], gain)[None]]) for s in strips),
        )
        for item, strips in found
    )
    headers = ("original", *(f"λ = {value:g}" for value in lambdas))
    return Sheet((*headers, f"{max(lambdas):g} − 1"), pairs, gain)


def read_strip(path: Path, tile: Sequence[int] | None) -> np.ndarray | None:
    """Cut a horizontal strip into tiles [n, H, W, 3]; None where the file is missing or broken.

    A tile is square where its size is not given.
    """
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
    # Pillow raises almost anything on a damaged file.
    except Exception:
        return None
    width = int(tile[1]) if tile else pixels.shape[0]
    if pixels.shape[1] % width:
        return None
    return pixels.reshape(pixels.shape[0], -1, width, 3).transpose(1, 0, 2, 3)


def contrast(changes: Sequence[np.ndarray]) -> float:
    """Return the gain, from 1 to 8, at which all but the strongest 0.5 % of changes keep their proportions."""
    strongest = np.percentile(np.abs(np.stack(changes)), 99.5) if changes else 0.0
    return float(np.clip(255 / max(strongest, 1e-9), 1, 8)) if strongest > 0 else 1.0


def difference(high: np.ndarray, low: np.ndarray, gain: float = 1.0) -> np.ndarray:
    """Return `high` - `low` as an image: grey where they agree, brighter where `high` is.

    >>> difference(np.array([255, 9], np.uint8), np.array([0, 9], np.uint8)).tolist()
    [255, 128]
    """
    change = (high.astype(float) - low.astype(float)) * gain / 2
    return np.clip(np.round(change + 127.5), 0, 255).astype(np.uint8)


def join(tiles: np.ndarray, gap: int = 2, size: int = 96) -> np.ndarray:
    """Lay tiles side by side as RGBA, enlarged to about `size` pixels without smoothing, transparent gaps."""
    factor = max(1, round(size / tiles.shape[1]))
    large = tiles.repeat(factor, axis=1).repeat(factor, axis=2)
    opaque = np.full((*large.shape[:3], 1), 255, np.uint8)
    padded = np.pad(np.concatenate([large, opaque], axis=3), ((0, 0), (0, 0), (0, gap * factor), (0, 0)))
    joined = padded.transpose(1, 0, 2, 3).reshape(large.shape[1], -1, 4)
    return joined[:, : joined.shape[1] - gap * factor]
