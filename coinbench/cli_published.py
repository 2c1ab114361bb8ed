"""Commands about published numbers: `table`, `repro`, `ablate`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Format(StrEnum):
    """What a table can be written as."""

    md = "md"
    tex = "tex"
    csv = "csv"
    html = "html"


def table(
    name: Annotated[str, typer.Argument(metavar="TABLE", help="As 1a, 2b, 14, figure8 or viscoin-table5.")],
    folder: Annotated[
        Path | None, typer.Argument(metavar="[RUN]", help="Output folder of a run (default: published numbers alone).")
    ] = None,
    format_: Annotated[Format, typer.Option("--format", "-f", help="md, tex, csv or html.")] = Format.md,
) -> None:
    """Lay a table of the paper out, with the numbers of a run beside the published ones and a verdict on each."""
    from coinbench.published import find
    from coinbench.reports import paper_tables, paper_text
    from coinbench.reports.folder import read_folder
    from coinbench.reports.paper_run import PaperRun

    paper, wanted = find(name)
    run = PaperRun(read_folder(folder.absolute())) if folder else None
    print(paper_text.render(paper_tables.build(paper, wanted, run), format_.value), end="")
