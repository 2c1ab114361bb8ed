"""`coinbench gate`: has a number of this run regressed?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coinbench.cli_info import AsJson


def gate(
    folder: Annotated[Path, typer.Argument(help="Output folder of a run.")],
    baseline: Annotated[Path, typer.Option("--baseline", help="JSON file of expected numbers and tolerances.")],
    update: Annotated[bool, typer.Option("--update", help="Write the numbers of the run into it.")] = False,
    junit: Annotated[Path | None, typer.Option("--junit", help="Also write JUnit XML there.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Print unchanged numbers too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Hold a run against a baseline; exit code 3 if a number regressed, changed or is missing."""
    from coinbench.reports import baseline as baselines
    from coinbench.reports import gate as gates
    from coinbench.reports.folder import read_folder

    run = read_folder(folder)
    known = baselines.read(baseline) if baseline.exists() or not update else baselines.Baseline()
    found = gates.hold(run, known)
    fresh = baselines.of_run(run, known) if update else None
    if junit:
        gates.write_junit(found, junit)
    if fresh:
        baselines.write(fresh, baseline)
        print(f"{baseline}: {len(fresh.numbers)} numbers written")
    if not fresh or known.numbers:
        print(gates.as_json(found) if as_json else gates.as_text(found, everything))
    raise typer.Exit(0 if fresh or found.passed else 3)
