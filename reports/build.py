"""From a run folder to its tables, figures and report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from coinbench.files import write_atomically
from coinbench.reports.folder import read_folder, series_of, titles_of
from coinbench.reports.render import write_table
from coinbench.reports.tables import build_tables


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFiles:
    """What a report wrote, and what it could not show."""

    tables: tuple[Path, ...]
    figures: tuple[Path, ...]
    html: Path
    missing: tuple[str, ...]
    """Sentences, one for each thing that the folder does not hold."""


def report(folder: Path, titles: Mapping[str, str] | None = None) -> ReportFiles:
    """Write tables/, figures/ and report.html of a run folder; whatever is missing is named in them.

    Args:
        folder: holds results.parquet, and cells/ as far as they came.
        titles: names of methods in tables, in order; default: as the cells recorded them.

    Raises:
        DataError: the folder holds no results.
    """
    # Drawing loads pandas and matplotlib: seconds that commands which only print tables need not wait.
    from coinbench.reports import drawing, figures, gallery, html

    run = read_folder(folder)
    titles = titles or titles_of(folder)
    tables = build_tables(run.records, titles, run.keys(), run)
    images = gallery.read_all(run, series_of({(r.method, r.variant) for r in run.records}, titles))
    plots = figures.plots(run, images, titles)
    written = [path for table in tables for path in write_table(table, folder / "tables")]
    drawn = [path for plot in plots for path in drawing.save(plot, folder / "figures")]
    missing = html.missing(run, tables, images, titles)
    with write_atomically(folder / "report.html") as temporary:
        page = html.page(run, tables, plots, images, missing, titles)
        temporary.write_text(page, encoding="utf-8")
    return ReportFiles(
        tables=tuple(written),
        figures=tuple(drawn),
        html=folder / "report.html",
        missing=tuple(missing),
    )
