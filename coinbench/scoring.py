"""`coinbench score`: numbers anew from stored records, without a model and without torch's networks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from coinbench import records, registry, reports, results
from coinbench.errors import DataError, UsageError
from coinbench.plan import names, read_cell


def rescore(out: Path, metrics: str | None, bootstrap: int | None) -> None:
    """Replace the rows of the named metrics (default: all that have records) in every cell and in the run.

    Raises:
        DataError: the folder is no run, or a cell has no records of a metric.
        UsageError: an unknown metric.
    """
    import pandas as pd

    chosen = names(metrics)
    for name in chosen:
        registry.METRICS.check(name)
    run = results.read(out)
    tables = []
    for folder in sorted(path.parent for path in (out / "cells").glob("*/results.parquet")):
        if folder.name not in set(run["cell"]):
            continue
        cell = read_cell(folder / "cell.json")
        table = results.read(folder)
        for name in chosen or cell.metrics:
            path = folder / "samples" / f"{name}.parquet"
            if not path.is_file():
                if chosen:
                    raise DataError(f"{folder}: no records of {name!r}; run with --metrics {name} first")
                continue
            table = _replaced(table, name, path, cell.evaluation, bootstrap)
        results.write(table, folder)
        tables.append(table.assign(run=out.name, cell=folder.name))
    if not tables:
        raise UsageError(f"{out}: no finished cell there")
    results.write(pd.concat(tables, ignore_index=True), out)
    reports.report(out)


def _replaced(table: Any, name: str, path: Path, config: Any, bootstrap: int | None) -> Any:
    import pandas as pd

    metric = registry.METRICS.load(name)
    if bootstrap is not None:
        config = config.model_copy(update={"bootstrap": bootstrap})
    scores = metric.score(records.read(path), config)
    same = {column: table[column].iloc[0] for column in ("run", "dataset", "method", "seed", "variant")}
    same |= {column: table[column].iloc[0] for column in ("classifier_digest", "cell")}
    mine = {spec.name for spec in metric.specs}
    return pd.concat([table[~table["metric"].isin(mine)], results.frame(scores, **same)], ignore_index=True)
