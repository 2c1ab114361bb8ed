"""report.html: one file with everything a reader needs, images inside, no scripts, nothing loaded from outside."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from coinbench.reports import gallery
from coinbench.reports.drawing import Plot
from coinbench.reports.folder import CellFolder, RunFolder, Series, mapping, series_of
from coinbench.reports.gallery import Exhibits, Images
from coinbench.reports.layout import Numbers, Table, protocol
from coinbench.reports.tables import title_of

CONTROLS = {
    "chance": "what chance or the most frequent class gives",
    "mean image": "x̃ replaced by the mean training image",
    "train images": "training images against the test images (floor)",
    "random": "as many concepts removed at random",
    "permuted": "labels or classes permuted",
    "untrained": "the same method at initialisation",
}
"""What the controls of the built-in metrics are."""
_SHRINK = 0.65
"""Of the figures in the page, against the 200 dpi of the files."""
_TILE = 96
"""Largest height of a tile in the page, in pixels."""


@dataclass(frozen=True, slots=True)
class Measure:
    """How one number is measured."""

    title: str
    name: str
    version: str
    unit: str
    direction: str
    n: str
    protocol: str
    controls: str


@dataclass(frozen=True, slots=True)
class Picture:
    """An image inside the page."""

    uri: str
    width: int
    height: int


def missing(
    run: RunFolder,
    tables: Sequence[Table],
    images: Images,
    titles: Mapping[str, str] | None = None,
) -> list[str]:
    """Say, a sentence each, what the folder does not hold."""
    found = [
        f"{cell.name}: {cell.status}{f' ({cell.error})' if cell.error else ''}."
        for cell in run.cells
        if cell.status != "complete"
    ]
    found += [f"No number: {name}." for name in run.unmeasured]
    found += [f"Table {table.title}: nothing was measured." for table in tables if not table.rows]
    holes: dict[str, list[str]] = {}
    for table in tables:
        for note in table.notes:
            if "issing:" in note or note.startswith("Not "):
                holes.setdefault(note, []).append(table.title)
    found += [f"Table {', '.join(names)}: {note}" for note, names in holes.items()]
    series = series_of(Numbers(run.records).keys(), titles)
    found += [f"Images: {lacking}." for lacking in _lacking(run, images, series)]
    found += [] if "experiments" in run.config else ["Configuration: config.json is missing, or not that of a run."]
    return found


def _lacking(run: RunFolder, images: Images, series: Sequence[Series]) -> list[str]:
    """Say which images are not there or not readable."""
    found = []
    kinds = (("reconstructions", "reconstructions"), ("sheet", "concept sheet"), ("local", "single images"))
    for dataset in sorted({record.dataset for record in run.records}):
        shown = [(one.title, images.get((dataset, one), Exhibits())) for one in series]
        for field, name in kinds:
            bare = [title for title, item in shown if getattr(item, field) is None]
            found += [f"no {name} of {', '.join(bare)} on {dataset}"] if bare else []
        for title, item in shown:
            more = f" and {len(item.broken) - 3} more" if len(item.broken) > 3 else ""
            names = f"{', '.join(item.broken[:3])}{more}"
            found += [f"missing or not readable for {title} on {dataset}: {names}"] if item.broken else []
    return found


def page(
    run: RunFolder,
    tables: Sequence[Table],
    plots: Sequence[Plot],
    images: Images,
    absent: Sequence[str],
    titles: Mapping[str, str] | None = None,
) -> str:
    """Return the page; the figures of `plots` have been written to figures/."""
    numbers = Numbers(run.records)
    series = series_of(numbers.keys(), titles)
    datasets = numbers.datasets()
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    source = files("coinbench.reports").joinpath("templates", "report.html.j2")
    environment.filters["relevance"] = gallery.relevance
    template = environment.from_string(source.read_text(encoding="utf-8"))
    # Sheets are set as HTML from the small tiles: sharp at any size, and a fraction of the bytes.
    drawn = [(plot, _drawing(plot, run.path / "figures")) for plot in plots if plot.kind != "sheet"]
    return template.render(
        title=f"coinbench: {', '.join(one.title for one in series)} on {', '.join(datasets)}",
        series=series,
        datasets=datasets,
        seeds=sorted({record.seed for record in run.records}),
        command=_command(run),
        config=json.dumps(run.config, indent=2, ensure_ascii=False) if "experiments" in run.config else "",
        cells=[(cell, _summary(cell)) for cell in run.cells],
        tables=tables,
        drawn=drawn,
        sheets=_sheets(images, datasets, series),
        singles=_singles(images, datasets, series),
        absent=absent,
        measures=_measures(numbers),
        provenance=_provenance(run.cells),
    )


def _drawing(plot: Plot, folder: Path) -> Picture:
    """Read back a figure that was written, at a moderate size."""
    with Image.open(folder / f"{plot.name}.png") as image:
        paper = Image.new("RGB", image.size, "white")
        paper.paste(image, mask=image.getchannel("A") if image.mode == "RGBA" else None)
    size = (round(paper.width * _SHRINK), round(paper.height * _SHRINK))
    small = paper.resize(size, Image.Resampling.LANCZOS)
    # Lines and text need few colours; photographs keep theirs.
    flat = plot.kind != "reconstructions"
    return _picture(small.quantize(128, dither=Image.Dither.NONE) if flat else small)


def _picture(image: Image.Image) -> Picture:
    buffer = BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    text = base64.b64encode(buffer.getvalue()).decode("ascii")
    return Picture(f"data:image/png;base64,{text}", image.width, image.height)


def _sheets(images: Images, datasets: Sequence[str], series: Sequence[Series]) -> list[dict[str, Any]]:
    """Return the sheets of class-concept pairs, with a picture of each row."""
    found = []
    for key in ((dataset, one) for dataset in datasets for one in series):
        if (shown := images.get(key)) and (sheet := shown.sheet):
            pairs = [(pair, [_strip(row) for row in pair.rows]) for pair in sheet.items]
            found.append({"title": f"{key[1].title} on {key[0]}", "sheet": sheet, "pairs": pairs})
    return found


def _singles(images: Images, datasets: Sequence[str], series: Sequence[Series]) -> list[dict[str, Any]]:
    """Return the sheets of single images, with a picture of x and x̃ and one of each concept."""
    found = []
    for key in ((dataset, one) for dataset in datasets for one in series):
        if (shown := images.get(key)) and (sheet := shown.local):
            cards = [
                (image, _strip(image.tiles), [(part, _strip(part.tiles)) for part in image.parts])
                for image in sheet.items
            ]
            found.append({"title": f"{key[1].title} on {key[0]}", "sheet": sheet, "cards": cards})
    return found


def _strip(tiles: np.ndarray) -> Picture:
    """Join tiles at their own size (large ones reduced) with transparent gaps; the page enlarges them."""
    strip = Image.fromarray(gallery.join(tiles, gap=1, size=tiles.shape[1]))
    if strip.height > _TILE:
        strip = strip.resize((round(strip.width * _TILE / strip.height), _TILE), Image.Resampling.LANCZOS)
    return _picture(strip)


def _command(run: RunFolder) -> str:
    """Return the command line, wherever it was written down."""
    sources = (run.config, *(cell.provenance for cell in run.cells))
    found = next((s[key] for s in sources for key in ("command", "argv") if s.get(key)), "")
    return " ".join(map(str, found)) if isinstance(found, list) else str(found)


def _summary(cell: CellFolder) -> dict[str, str]:
    """Return what the table of cells shows of a cell's provenance."""
    seconds = cell.provenance.get("seconds")
    # A method without a training loop has no time of its fit.
    parts = {key: value for key, value in mapping(seconds).items() if isinstance(value, int | float)}
    total = parts.get("total", sum(parts.values()))
    if isinstance(seconds, int | float):
        total = seconds
    return {
        "device": str(cell.provenance.get("device", "")),
        "seconds": f"{total:.0f}" if seconds is not None else "",
        "detail": ", ".join(f"{key} {value:.1f}" for key, value in parts.items()),
    }


def _provenance(cells: Sequence[CellFolder]) -> list[tuple[str, list[str]]]:
    """Return every recorded fact but times, with its different values over the cells."""
    values: dict[str, list[str]] = {}
    for cell in cells:
        for key, value in _flat(cell.provenance):
            if not key.startswith("seconds") and value not in values.setdefault(key, []):
                values[key].append(value)
    return list(values.items())


def _flat(value: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    found = []
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, dict):
            found += _flat(item, f"{name}.")
        else:
            found.append((name, item if isinstance(item, str) else json.dumps(item)))
    return found


def _measures(numbers: Numbers) -> list[Measure]:
    found = []
    for metric in numbers.metrics(""):
        rows = numbers.of(metric)
        if not rows:
            continue
        low, high = min(row.n for row in rows), max(row.n for row in rows)
        better = {True: "higher is better", False: "lower is better", None: "neither"}
        arms = sorted({row.arm for row in rows} - {"method"})
        found.append(
            Measure(
                title=title_of(metric),
                name=metric,
                version=", ".join(str(v) for v in sorted({row.version for row in rows})),
                unit=rows[0].unit,
                direction=better[rows[0].higher_is_better],
                n=str(low) if low == high else f"{low} to {high}",
                protocol=protocol(rows),
                controls="; ".join(f"{a}: {CONTROLS[a]}" if a in CONTROLS else a for a in arms),
            )
        )
    return found
