"""The figures made of images: reconstructions, the concepts of classes, the concepts of single test images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from coinbench.reports import gallery
from coinbench.reports.drawing import INK, Plot, plain
from coinbench.reports.folder import Series, slug
from coinbench.reports.gallery import Images, Local, Pair, Sheet, relevance

_TILE = 0.46
"""Side of a tile, in inches."""
_GAP = 2
"""Pixels between the tiles of a strip."""
_SCALED = "the concept is scaled by λ, all else kept"


def plots(images: Images, dataset: str, series: Sequence[Series]) -> list[Plot]:
    """Return the figures of a data set that there are images for."""
    found = _reconstructions(images, dataset, series)
    for one in series:
        shown = images.get((dataset, one))
        where = (dataset, one.method, *([one.variant] if one.variant != "default" else []))
        if shown and (sheet := shown.sheet):
            caption = (
                f"{one.title} on {dataset}: its most relevant class-concept pairs on their most activating training "
                f"images. r is the relevance of the concept to the class; {_SCALED}. {sheet.note}"
            )
            title = f"Concepts of {one.title}, {dataset}"
            found.append(Plot(slug("concepts", *where), "sheet", title, caption, lambda s=sheet: _global(s)))
        if shown and (local := shown.local):
            caption = (
                f"{one.title} on {dataset}: test images x, drawn by index, with their reconstructions x̃ and the "
                "concepts that speak most for the prediction; last, the one most against it. r is the relevance r_k(x) "
                f"of the concept; {_SCALED}. {local.note}"
            )
            title = f"Single images by {one.title}, {dataset}"
            found.append(Plot(slug("local", *where), "sheet", title, caption, lambda s=local: _local(s)))
    return found


def _reconstructions(images: Images, dataset: str, series: Sequence[Series]) -> list[Plot]:
    found = [(one, e.reconstructions) for one in series if (e := images.get((dataset, one))) and e.reconstructions]
    if not found:
        return []
    strips: list[tuple[str, np.ndarray, tuple[str, ...]]] = []
    shown: tuple[int, ...] = ()
    for one, item in found:
        if item.index != shown:
            name = "original" if not shown else f"original\n({one.title})"
            strips.append((name, item.originals, item.labels))
            shown = item.index
        strips.append((one.title, item.reconstructions, ()))

    def draw() -> Figure:
        step = 1.12
        made, axes = _canvas(max(_width(tiles) for _, tiles, _ in strips), len(strips) * step, 0.66)
        for row, (name, tiles, labels) in enumerate(strips):
            _show(axes, 0.0, row * step, tiles, name, labels)
        return made

    caption = "Test images and their reconstructions x̃ by each method (lowest seed)."
    name, title = slug("reconstructions", dataset), f"Reconstructions, {dataset}"
    return [Plot(name, "reconstructions", title, caption, draw)]


def _canvas(width: float, height: float, tile: float = _TILE) -> tuple[Figure, Axes]:
    """Make a figure of one pair of axes, measured in tiles from its upper left corner.

    One, since each of the hundred strips of a sheet on axes of its own takes four times as long to draw.
    """
    made = plain(tile * width, tile * height)
    axes = made.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    return made, axes


def _show(axes: Axes, x: float, y: float, tiles: np.ndarray, name: str, labels: Sequence[str]) -> None:
    """Show a strip whose upper left corner is at `x`, `y`, with its name at the left and labels above."""
    strip = gallery.join(tiles, _GAP)
    axes.imshow(strip, extent=(x, x + strip.shape[1] / strip.shape[0], y + 1, y), interpolation="none", aspect="auto")
    axes.text(x - 0.12, y + 0.5, name, ha="right", va="center", fontsize=8, linespacing=1.3)
    wide = tiles.shape[2] / tiles.shape[1]
    for i, label in enumerate(labels):
        short = label if len(label) <= 12 else f"{label[:11]}…"
        at = x + i * (wide + _GAP / tiles.shape[1]) + wide / 2
        axes.text(at, y - 0.07, short, ha="center", va="bottom", fontsize=6.5, color=INK)


def _width(tiles: np.ndarray) -> float:
    """Return the width of a strip, as a multiple of its height."""
    count, height, width, _ = tiles.shape
    return (count * width + (count - 1) * _GAP) / height


def _global(sheet: Sheet[Pair]) -> Figure:
    """Draw a row for each pair, its images side by side."""
    wide, tall = _width(sheet.items[0].rows[0]) + 0.4, 1.08
    made, axes = _canvas(wide * max(len(pair.rows) for pair in sheet.items), tall * len(sheet.items))
    for i, pair in enumerate(sheet.items):
        for j, row in enumerate(pair.rows):
            name = f"{pair.label}\nconcept {pair.concept}, r = {relevance(pair.relevance)}"
            _show(axes, wide * j, tall * i, row, name if j == 0 else "", sheet.headers if i == 0 else ())
    return made


def _local(sheet: Sheet[Local]) -> Figure:
    """Draw a block for each image, two abreast: x and x̃ at the left, a row for each concept."""
    step, wide = 1.08, _width(sheet.items[0].parts[0].tiles) + 4.7
    tall = step * max(len(image.parts) for image in sheet.items) + 0.9
    abreast = min(2, len(sheet.items))
    made, axes = _canvas(wide * abreast, tall * -(-len(sheet.items) // abreast) - 0.9)
    for n, image in enumerate(sheet.items):
        x, y = wide * (n % abreast), tall * (n // abreast)
        said = image.label if image.label == image.predicted else f"{image.label}, predicted {image.predicted}"
        _show(axes, x, y, image.tiles, "", ("x", "x̃"))
        axes.text(x, y + step, f"{said}\ntest image {image.index}", va="top", fontsize=7)
        for i, part in enumerate(image.parts):
            name = f"concept {part.concept}\nr = {relevance(part.relevance)}"
            _show(axes, x + 4.2, y + step * i, part.tiles, name, sheet.headers if i == 0 else ())
    return made
