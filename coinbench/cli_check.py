"""`coinbench check`: does a method, metric, data set or generator keep all laws?"""

from __future__ import annotations

import json
from typing import Annotated

import typer

from coinbench.cli_info import AsJson, CacheRoot, Plugins


def check(
    targets: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME|MODULE:ATTRIBUTE]...", help="Default: all that the --plugin files declare."),
    ] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", help="Of a data set, as data.root=DIR.")] = None,
    cache: CacheRoot = None,
    plugin: Plugins = None,
    as_json: AsJson = False,
) -> None:
    """Try all that is asked of methods, metrics, data sets and generators; exit code 1 if a law is broken."""
    from coinbench import check as suite

    found = [suite.find(target) for target in targets or suite.in_files()]
    reports = [suite.check(subject, tuple(sets or ()), cache) for subject in found]
    if as_json:
        print(json.dumps([report.as_dict() for report in reports], indent=2))
    else:
        print("\n\n".join(report.text() for report in reports))
    raise typer.Exit(0 if all(report.passed for report in reports) else 1)
