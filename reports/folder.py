"""What a run left on disk: scores, cells and saved images, as the reports see them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coinbench import resampled, results
from coinbench.errors import DataError
from coinbench.resampled import Place
from coinbench.results import Resamples

if TYPE_CHECKING:
    import pandas as pd

TITLES = {"viscoin": "VisCoIN", "random": "Random concepts"}
"""Names in tables that are not the name in capitals; a caller's mapping goes first."""
_UNKNOWN = "?"
_PAPER_ORDER = {"random": 0, "flint": 1, "flaem": 2, "viscoin": 4}
"""Columns of the paper's tables; every other method stands at 3."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One row of results.parquet, as typed values."""

    dataset: str
    method: str
    variant: str
    seed: int
    metric: str
    params: str
    arm: str
    subject: str
    value: float
    low: float
    high: float
    n: int
    unit: str
    higher_is_better: bool | None
    version: int
    protocol: str
    classifier_digest: str
    cell: str
    read_with: str = ""

    @property
    def measured(self) -> bool:
        """Return whether the row holds a number.

        A dead concept has no images of its own (n = 0), yet its score of 0.5 counts in the mean over concepts.
        """
        return math.isfinite(self.value) and (self.n > 0 or self.subject != "all")


@dataclass(frozen=True, slots=True)
class Series:
    """One column of the tables, one line of the figures: a method in a variant."""

    method: str
    variant: str
    title: str


@dataclass(frozen=True, slots=True)
class CellFolder:
    """One folder in cells/, whatever became of it."""

    path: Path
    dataset: str
    method: str
    variant: str
    seed: int
    status: str
    """complete, incomplete (some metric is unavailable), failed or unfinished."""
    error: str
    provenance: Mapping[str, Any]
    steps: int | None = None
    """Optimiser steps of its training."""
    title: str = ""
    """Name of the data set in tables where it has one of its own."""
    fingerprint: str = ""
    """Of the images and labels."""

    @property
    def name(self) -> str:
        """Return what identifies the cell to a reader."""
        variant = "" if self.variant == "default" else f", {self.variant}"
        return f"{self.method}{variant} on {self.dataset}, seed {self.seed}"


@dataclass(frozen=True, slots=True)
class RunFolder:
    """A run folder that holds results."""

    path: Path
    records: tuple[Record, ...]
    """The rows that hold a number."""
    unmeasured: tuple[str, ...]
    """Rows that hold none, as a reader calls them."""
    cells: tuple[CellFolder, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    resamples: Mapping[Place, Resamples] = field(default_factory=dict)
    """For tests between methods; empty in a run of an older version."""

    def keys(self) -> set[tuple[str, str]]:
        """Return each (method, variant) that was asked for."""
        return {(cell.method, cell.variant) for cell in self.cells if cell.method != _UNKNOWN}

    def cell(self, dataset: str, series: Series) -> CellFolder | None:
        """Return the cell with the lowest seed that has scores, whose pictures are shown."""
        found = [
            cell
            for cell in self.cells
            if (cell.dataset, cell.method, cell.variant) == (dataset, series.method, series.variant)
            and cell.status in ("complete", "incomplete")
        ]
        return min(found, key=lambda cell: cell.seed, default=None)


def read_folder(path: Path) -> RunFolder:
    """Read a run folder; cells may be missing, failed or cut short.

    Raises:
        DataError: it holds no results.
    """
    cells = read_cells(path)
    called = _datasets(cells)
    cells = [replace(cell, dataset=called[cell.path.name]) for cell in cells]
    records = [replace(r, dataset=called.get(r.cell, r.dataset)) for r in read_records(path)]
    names = [
        f"{r.metric}{f' at {r.params}' if r.params else ''} ({r.arm}): {r.method} on {r.dataset}, seed {r.seed}"
        for r in records
        if not r.measured and r.subject == "all"
    ]
    kept = tuple(r for r in records if r.measured)
    if not kept:
        raise DataError(f"{path}: the results hold no number; run the same command again")
    digests = {r.cell for r in kept}
    cells = [_with_status(cell, digests) for cell in cells]
    cells.sort(key=lambda cell: (cell.dataset, cell.method, cell.variant, cell.seed))
    return RunFolder(path, kept, tuple(names), tuple(cells), load(path / "config.json"), resampled.read(path))


def read_records(path: Path) -> list[Record]:
    """Read the rows of a run folder.

    Raises:
        DataError: it holds no results, or values that are none.
    """
    table = results.read(path)
    try:
        return records_of(table)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{path / 'results.parquet'}: not a table of results ({error}); run the same command again"
        ) from error


def read_cells(path: Path) -> list[CellFolder]:
    """Read the cells of a run folder, as far as they came.

    Cells that an earlier command left there with other settings are no part of this run.
    """
    planned = load(path / "plan.json").get("cells")
    folders = (file.parent for file in sorted((path / "cells").glob("*/cell.json")))
    return [_read_cell(folder) for folder in folders if not isinstance(planned, list) or folder.name in planned]


def _datasets(cells: Iterable[CellFolder]) -> dict[str, str]:
    """Return how tables call the data set of each cell; two that share a title get a piece of their fingerprints."""
    found = {cell.path.name: (cell.title or cell.dataset, cell.fingerprint if cell.title else "") for cell in cells}
    shared = [title for title, _ in set(found.values())]
    return {
        name: f"{title} [{print_[:6]}]" if print_ and shared.count(title) > 1 else title
        for name, (title, print_) in found.items()
    }


def budget(run: RunFolder, series: Sequence[Series]) -> str:
    """Return how long each method trained: which budget a comparison has (docs/metrics.md 5)."""
    said = []
    for dataset in sorted({cell.dataset for cell in run.cells}):
        spent = []
        for one in series:
            key = (dataset, one.method, one.variant)
            cells = [c for c in run.cells if (c.dataset, c.method, c.variant) == key and c.steps]
            seconds = [number for c in cells if (number := _number(mapping(c.provenance.get("seconds")).get("fit")))]
            if seconds:
                spent.append(f"{one.title} {cells[0].steps} steps in {sum(seconds) / len(seconds):.0f} s")
        said += [f"{dataset}: {', '.join(spent)}"] if spent else []
    return f"Training, mean over seeds: {'; '.join(said)}." if said else ""


def titles_of(path: Path) -> dict[str, str]:
    """Return the names of methods in tables, as the cells of a run folder recorded them."""
    folders = sorted(file.parent for file in (path / "cells").glob("*/provenance.json"))
    pairs = ((mapping(load(f / "cell.json").get("method")), load(f / "provenance.json")) for f in folders)
    named = ((method.get("name"), origin.get("title")) for method, origin in pairs)
    return {str(name): str(title) for name, title in named if name and title}


def records_of(table: pd.DataFrame) -> list[Record]:
    """Return the rows of a table of results."""
    names = [item.name for item in fields(Record)]
    return [_record({name: row[name] for name in names}) for row in table.to_dict("records")]


def _record(row: dict[str, Any]) -> Record:
    better = row["higher_is_better"]
    texts = ("dataset", "method", "variant", "metric", "params", "arm", "subject", "unit")
    row |= {key: str(row[key]) for key in (*texts, "protocol", "read_with", "classifier_digest", "cell")}
    row |= {key: int(row[key]) for key in ("seed", "n", "version")}
    row |= {key: float(row[key]) for key in ("value", "low", "high")}
    row |= {key: math.nan for key in ("low", "high") if math.isinf(row[key])}
    # A column of True, False and None comes back from Parquet with NaN for None.
    row["higher_is_better"] = None if better is None or better != better else bool(better)
    return Record(**row)


def _read_cell(path: Path) -> CellFolder:
    config, error = load(path / "cell.json"), load(path / "error.json")
    method, data = mapping(config.get("method")), mapping(config.get("data"))
    return CellFolder(
        path=path,
        dataset=str(config.get("dataset", _UNKNOWN)),
        method=str(method.get("name", _UNKNOWN)),
        variant=str(config.get("variant", "default")),
        seed=int(_number(config.get("seed")) or 0),
        status="failed" if error else "unfinished",
        error=str(error.get("error", "")),
        provenance=load(path / "provenance.json"),
        steps=int(_number(mapping(method.get("train")).get("steps")) or 0) or None,
        title=str(data.get("title") or _part(config)),
        fingerprint=str(config.get("data_fingerprint", "")),
    )


def _part(cell: dict[str, Any]) -> str:
    """Return what tables call a data set of which only a part need be here; nothing where all of it is."""
    whole = mapping(cell.get("data")).get("complete", True)
    return "" if whole else f"{cell.get('dataset', _UNKNOWN)} (part)"


def _with_status(cell: CellFolder, measured: set[str]) -> CellFolder:
    if cell.path.name not in measured:
        return cell
    reasons = load(cell.path / "unavailable.json").items()
    error = "; ".join(
        [cell.error] * bool(cell.error) + [f"{name} not available, because {why}" for name, why in reasons]
    )
    return replace(cell, status="incomplete" if error else "complete", error=error)


def load(path: Path) -> dict[str, Any]:
    """Read a JSON object; what a cell cut short left half-done or not at all counts as empty."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        # Half a surrogate pair is a text to JSON, and to nobody that writes a report.
        json.dumps(value, ensure_ascii=False).encode()
    except (OSError, ValueError, RecursionError):
        return {}
    return mapping(value)


def mapping(value: Any) -> dict[str, Any]:
    """Return what should be a JSON object, or an empty one."""
    return value if isinstance(value, dict) else {}


def _number(value: Any) -> int | float | None:
    """Return what should be a number, or None."""
    return value if isinstance(value, int | float) and abs(value) < 1e15 else None


def series_of(keys: Iterable[tuple[str, str]], titles: Mapping[str, str] | None = None) -> list[Series]:
    """Return a column for each (method, variant): the paper's order, plug-ins before VisCoIN as in `titles`.

    >>> keys = [("viscoin", "default"), ("mine", "default"), ("flint", "default")]
    >>> [series.title for series in series_of(keys, {"mine": "Mine"})]
    ['FLINT', 'Mine', 'VisCoIN']
    """
    known = {**TITLES, **(titles or {})}
    given = list(titles or {})
    keys = set(keys)

    def place(key: tuple[str, str]) -> tuple[int, int, str, bool, str]:
        method, variant = key
        at = given.index(method) if method in given else len(given)
        return (_PAPER_ORDER.get(method, 3), at, method, variant != "default", variant)

    named = len({variant for _, variant in keys}) > 1
    found = []
    for method, variant in sorted(keys, key=place):
        title = known.get(method, method.upper())
        shown = named or variant != "default"
        found.append(Series(method, variant, f"{title} ({variant})" if shown else title))
    return found


def slug(*parts: str) -> str:
    """Return a file name made of `parts`.

    >>> slug("concepts", "My birds", "VisCoIN (γ=0)")
    'concepts-my-birds-viscoin-γ-0'
    """
    text = "-".join(parts).lower()
    words = "".join(c if c.isalnum() or c == "_" else " " for c in text).split()
    return "-".join(words)
