"""The images a cell saved, read back: reconstructions, concepts of classes and of single images, what each changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from PIL import Image

from coinbench.reports.folder import CellFolder, RunFolder, Series, load

INDEX = "index.json"
Item = TypeVar("Item")


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
class Scale:
    """One brightness for all images of change on a sheet, so that they can be compared with each other."""

    gain: float
    """Of differences, from 1 to 8: all but the strongest 0.5 % of the values keep their proportions."""
    white: float
    """Energy that is shown white: all but the strongest 0.5 % keep their proportions."""

    @staticmethod
    def of(changes: Sequence[tuple[np.ndarray, np.ndarray]]) -> Scale:
        """Choose the scale for pairs of tiles (high λ, λ = 1)."""
        if not changes:
            return Scale(1.0, 1.0)
        strongest = np.percentile([np.abs(high.astype(float) - low) for high, low in changes], 99.5)
        white = np.percentile([energy(high, low) for high, low in changes], 99.5)
        return Scale(float(np.clip(255 / max(strongest, 1e-9), 1, 8)) if strongest else 1.0, float(white) or 1.0)

    def show(self, high: np.ndarray, low: np.ndarray) -> np.ndarray:
        """Return uint8 [3, H, W, 3]: what `high` adds to `low`, what it takes away, and the energy; black is no change.

        >>> low, high = np.array([[[9, 9, 9]]], np.uint8), np.array([[[19, 9, 4]]], np.uint8)
        >>> Scale(2.0, energy(high, low).item()).show(high, low).reshape(3, 3).tolist()
        [[20, 0, 0], [0, 0, 10], [255, 255, 255]]
        """
        change = (high.astype(float) - low) * self.gain
        grey = np.repeat(energy(high, low)[..., None] * 255 / self.white, 3, axis=-1)
        return np.stack([np.clip(np.round(part), 0, 255) for part in (change, -change, grey)]).astype(np.uint8)


def energy(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    """Return the sum over channels of the squared change of each pixel, in units of [-1, 1].

    >>> energy(np.array([[[255, 0, 0]]], np.uint8), np.array([[[0, 0, 0]]], np.uint8)).item()
    4.0
    """
    return (((high.astype(float) - low) / 127.5) ** 2).sum(axis=-1)


@dataclass(frozen=True, slots=True)
class Pair:
    """A class with a concept that is relevant to it, shown on a few images."""

    label: str
    concept: int
    relevance: float
    rows: tuple[np.ndarray, ...]
    """Each uint8 [1 + number of λ + 3, H, W, 3]: original, the λ, the changes."""


@dataclass(frozen=True, slots=True)
class Part:
    """A concept of one image."""

    concept: int
    relevance: float
    tiles: np.ndarray
    """uint8 [number of λ + 3, H, W, 3]: the λ, the changes."""


@dataclass(frozen=True, slots=True)
class Local:
    """One test image with the concepts that speak most for its prediction, and the one most against it."""

    index: int
    label: str
    predicted: str
    tiles: np.ndarray
    """uint8 [2, H, W, 3]: x, x̃."""
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Sheet(Generic[Item]):
    """Pairs, or single images, of a cell, in one scale."""

    headers: tuple[str, ...]
    """What the tiles of a row show."""
    items: tuple[Item, ...]
    scale: Scale

    @property
    def note(self) -> str:
        """Return how the last three tiles are to be read."""
        more, less, _ = (header.replace(" ", "\N{NO-BREAK SPACE}") for header in self.headers[-3:])
        return (
            f"Last three tiles of a row, black where nothing changes: what is added ({more}), what is taken away "
            f"({less}), both × {self.scale.gain:.1f}, and the energy (squared change summed over channels; "
            "the strongest 0.5 % are white). One scale for all rows of this method."
        )


@dataclass(frozen=True, slots=True)
class Exhibits:
    """All images of a cell; None where it has none."""

    reconstructions: Reconstructions | None = None
    sheet: Sheet[Pair] | None = None
    local: Sheet[Local] | None = None
    broken: tuple[str, ...] = ()
    """Files that are named and missing, or not readable."""


Images = Mapping[tuple[str, Series], Exhibits]
"""(data set, series) -> what the cell of its lowest seed saved."""


def read_all(run: RunFolder, series: Sequence[Series]) -> Images:
    """Read the images of each data set and series that has a cell with scores."""
    datasets = sorted({record.dataset for record in run.records})
    cells = {(dataset, one): run.cell(dataset, one) for dataset in datasets for one in series}
    return {key: read(cell) for key, cell in cells.items() if cell}


def read(cell: CellFolder) -> Exhibits:
    """Read the images of a cell; whatever is missing or damaged is named, never an error."""
    folder = cell.path / "images"
    index = load(folder / INDEX)
    strips = _Strips(folder, index)
    if not index and (folder / INDEX).exists():
        strips.broken.append(INDEX)
    reconstructions = strips.guard(_reconstructions, index)
    sheet = strips.guard(_sheet, index)
    local = strips.guard(_local, index)
    return Exhibits(reconstructions, sheet, local, tuple(dict.fromkeys(strips.broken)))


@dataclass
class _Strips:
    """The PNG strips of a folder, and which of them could not be read."""

    folder: Path
    index: dict[str, Any]
    broken: list[str] = field(default_factory=list)

    def read(self, name: Any, tiles: int = 0) -> np.ndarray | None:
        """Return the tiles of a strip; None where it is missing, broken or has another number than `tiles`."""
        size = self.index.get("reconstructions", {}).get("tile")
        found = read_strip(self.folder / Path(str(name)).name, size)
        if found is None or (tiles and len(found) != tiles):
            self.broken.append(Path(str(name)).name)
            return None
        return found

    def guard(self, parse: Callable[[_Strips, dict[str, Any]], Item | None], index: dict[str, Any]) -> Item | None:
        """Return what `parse` makes of the index; None where it is not as exhibits.py writes it."""
        try:
            return parse(self, index)
        except (ArithmeticError, AttributeError, IndexError, KeyError, TypeError, ValueError):
            self.broken.append(INDEX)
            return None


def _reconstructions(strips: _Strips, index: dict[str, Any]) -> Reconstructions | None:
    item = index.get("reconstructions")
    if item is None:
        return None
    originals = strips.read(item["originals"])
    made = strips.read(item["reconstructions"])
    if originals is None or made is None or len(originals) != len(made):
        return None
    return Reconstructions(originals, made, tuple(map(int, item["index"])), tuple(map(str, item["labels"])))


def _lambdas(index: dict[str, Any]) -> tuple[tuple[str, ...], int, int]:
    """Return the headers of λ and changes, and the places of the largest λ and of λ = 1, the plain reconstruction."""
    values = [float(value) for value in index["lambdas"]]
    most = max(values)
    names = (*(f"λ = {value:g}" for value in values), f"{most:g} − 1", f"1 − {most:g}", "energy")
    return names, values.index(most), values.index(1.0)


def _sheet(strips: _Strips, index: dict[str, Any]) -> Sheet[Pair] | None:
    """Read the class-concept pairs; None where there are none."""
    if not index.get("sheet"):
        return None
    names, high, plain = _lambdas(index)
    count = len(names) - 2
    read = [(item, [strips.read(image["tiles"], count) for image in item["images"]]) for item in index["sheet"]]
    found = [(item, whole) for item, tiles in read if (whole := [t for t in tiles if t is not None])]
    if not found:
        return None
    scale = Scale.of([(t[1 + high], t[1 + plain]) for _, tiles in found for t in tiles])
    pairs = tuple(
        Pair(
            str(item["class"]),
            int(item["concept"]),
            float(item["relevance"]),
            tuple(np.concatenate([t, scale.show(t[1 + high], t[1 + plain])]) for t in tiles),
        )
        for item, tiles in found
    )
    return Sheet(("original", *names), pairs, scale)


def _local(strips: _Strips, index: dict[str, Any]) -> Sheet[Local] | None:
    """Read the single images; None where there are none, as in runs from before they were saved."""
    if not index.get("local"):
        return None
    names, high, plain = _lambdas(index)
    step = len(names) - 3
    read = [(item, strips.read(item["tiles"], 1 + step * len(item["concepts"]))) for item in index["local"]]
    found = [
        (item, tiles[0], tiles[1:].reshape(-1, step, *tiles.shape[1:]))
        for item, tiles in read
        if tiles is not None and len(tiles) > 1
    ]
    if not found:
        return None
    scale = Scale.of([(row[high], row[plain]) for _, _, rows in found for row in rows])
    images = tuple(
        Local(
            int(item["index"]),
            str(item["label"]),
            str(item["predicted"]),
            np.stack([x, rows[0][plain]]),
            tuple(
                Part(
                    int(concept["concept"]),
                    float(concept["relevance"]),
                    np.concatenate([row, scale.show(row[high], row[plain])]),
                )
                for concept, row in zip(item["concepts"], rows, strict=True)
            ),
        )
        for item, x, rows in found
    )
    return Sheet(names, images, scale)


def relevance(r: float) -> str:
    """Print a relevance with a minus sign that reads as one.

    >>> relevance(-0.3)
    '−0.30'
    """
    return f"{r:.2f}".replace("-", "−")


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


def join(tiles: np.ndarray, gap: int = 2, size: int = 96) -> np.ndarray:
    """Lay tiles side by side as RGBA, enlarged to about `size` pixels without smoothing, transparent gaps."""
    factor = max(1, round(size / tiles.shape[1]))
    large = tiles.repeat(factor, axis=1).repeat(factor, axis=2)
    opaque = np.full((*large.shape[:3], 1), 255, np.uint8)
    padded = np.pad(np.concatenate([large, opaque], axis=3), ((0, 0), (0, 0), (0, gap * factor), (0, 0)))
    joined = padded.transpose(1, 0, 2, 3).reshape(large.shape[1], -1, 4)
    return joined[:, : joined.shape[1] - gap * factor]
