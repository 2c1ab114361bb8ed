"""What all figures share: their style, their colours, how they are saved."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import seaborn
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from coinbench.files import write_atomically

INK, FAINT = "#333333", "#8a8a8a"


@dataclass(frozen=True, slots=True)
class Plot:
    """A figure to be drawn: where it goes and what it shows."""

    name: str
    """Of the file, without ending."""
    kind: str
    title: str
    caption: str
    draw: Callable[[], Figure]


@contextmanager
def style() -> Iterator[None]:
    """Set the style of the figures, and take it back."""
    settings: dict[Any, Any] = {
        **seaborn.axes_style("whitegrid"),
        **seaborn.plotting_context("paper"),
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "axes.titlesize": 10,
        "axes.titleweight": "bold",
        "axes.edgecolor": FAINT,
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": "#e4e4e4",
        "legend.frameon": False,
        "pdf.fonttype": 42,
        # A strip of tiles stays the pixels it is, whatever lies beside it.
        "image.composite_image": False,
        # Names of data sets, classes and variants are text, whatever dollar signs they hold.
        "text.parse_math": False,
        **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    }
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # A letter that the font lacks is drawn as a box; the page and the tables have it right.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


def save(plot: Plot, folder: Path) -> list[Path]:
    """Write NAME.png at 200 dpi and NAME.pdf, each atomically."""
    paths = [folder / f"{plot.name}{suffix}" for suffix in (".png", ".pdf")]
    with style():
        drawn = plot.draw()
        for path in paths:
            with write_atomically(path) as temporary:
                drawn.savefig(temporary, dpi=200, bbox_inches="tight", pad_inches=0.08)
    return paths


def figure(width: float, height: float) -> Figure:
    """Make a figure that no global state knows of."""
    made = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(made)
    return made


def plain(width: float, height: float) -> Figure:
    """Make a figure whose axes are placed by hand; what hangs over its edges is saved too."""
    made = Figure(figsize=(width, height))
    FigureCanvasAgg(made)
    return made
