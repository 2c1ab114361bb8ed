"""The figures made of images: reconstructions, the concepts of classes, the concepts of single test images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from coinbench.reports import gallery
from coinbench.reports.drawing import INK, Plot, figure, plain
from coinbench.reports.folder import Series, slug
from coinbench.reports.gallery import Images, Local, Pair, Sheet, relevance

_TILE = 0.46
"""Side of a tile, in inches."""
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
        count = max(len(tiles) for _, tiles, _ in strips)
        rows = len(strips)
        made = figure(1.2 + 0.72 * count, 0.78 * rows + 0.45)
        for axes, (name, tiles, labels) in zip(made.subplots(rows, 1, squeeze=False)[:, 0], strips, strict=True):
            _show(axes, tiles, name, labels, count)
        return made

    caption = "Test images and their reconstructions x̃ by each method (lowest seed)."
    name, title = slug("reconstructions", dataset), f"Reconstructions, {dataset}"
    return [Plot(name, "reconstructions", title, caption, draw)]


def _show(axes: Axes, tiles: np.ndarray, name: str, labels: Sequence[str], count: int, gap: int = 2) -> None:
    """Show a strip of tiles with its name at the left and labels above."""
    strip = gallery.join(tiles, gap)
    width = strip.shape[1] / (len(tiles) + (len(tiles) - 1) * gap / tiles.shape[2])
    step = width * (1 + gap / tiles.shape[2])
    axes.imshow(strip, interpolation="none")
    axes.set_xlim(-0.5, count * step - 0.5)
    axes.axis("off")
    height = strip.shape[0] / 2
    axes.text(-width * 0.12, height, name, ha="right", va="center", fontsize=8, linespacing=1.3)
    for i, label in enumerate(labels):
        short = label if len(label) <= 12 else f"{label[:11]}…"
        at = (i * step + width / 2, -width * 0.07)
        axes.text(*at, short, ha="center", va="bottom", fontsize=6.5, color=INK)


def _global(sheet: Sheet[Pair]) -> Figure:
    blocks = max(len(pair.rows) for pair in sheet.items)
    tiles = len(sheet.headers)
    made = plain(_TILE * tiles * blocks, 0.5 * len(sheet.items))
    grid = made.add_gridspec(len(sheet.items), blocks, left=0.0, right=1, top=1, bottom=0, wspace=0.035, hspace=0.08)
    for i, pair in enumerate(sheet.items):
        for j, row in enumerate(pair.rows):
            name = f"{pair.label}\nconcept {pair.concept}, r = {relevance(pair.relevance)}"
            labels = sheet.headers if i == 0 else ()
            _show(made.add_subplot(grid[i, j]), row, name if j == 0 else "", labels, tiles)
    return made


def _local(sheet: Sheet[Local]) -> Figure:
    """Draw a block for each image, two abreast: x and x̃ at the left, a row for each concept."""
    tiles, step = len(sheet.headers), 1.08
    wide = tiles + 4.5
    tall = step * max(len(image.parts) for image in sheet.items) + 0.9
    abreast = min(2, len(sheet.items))
    made = plain(_TILE * wide * abreast, _TILE * tall * -(-len(sheet.items) // abreast))
    for n, image in enumerate(sheet.items):
        x, y = wide * (n % abreast), tall * (n // abreast)
        said = image.label if image.label == image.predicted else f"{image.label}, predicted {image.predicted}"
        _show(_place(made, x, y, 2), image.tiles, "", ("x", "x̃"), 2)
        axes = _place(made, x, y + step, 2)
        axes.axis("off")
        axes.text(0, 1, f"{said}\ntest image {image.index}", va="top", fontsize=7, transform=axes.transAxes)
        for i, part in enumerate(image.parts):
            labels = sheet.headers if i == 0 else ()
            name = f"concept {part.concept}\nr = {relevance(part.relevance)}"
            _show(_place(made, x + 4.2, y + step * i, tiles), part.tiles, name, labels, tiles)
    return made


def _place(made: Figure, x: float, y: float, wide: int) -> Axes:
    """Add axes for a strip of `wide` tiles whose upper left corner is `x`, `y` tiles from that of the figure."""
    width, height = made.get_size_inches() / _TILE
    return made.add_axes((x / width, 1 - (y + 1) / height, wide / width, 1 / height))
