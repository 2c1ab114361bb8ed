"""`coinbench score`: numbers anew from stored records, without a model and without torch's networks."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coinbench import records, registry, reports, resampled, results
from coinbench.errors import DataError
from coinbench.outfolder import locked
from coinbench.plan import names, read_cell
from coinbench.results import Score

if TYPE_CHECKING:
    from coinbench.config import EvaluationConfig


def rescore(out: Path, metrics: str | None, bootstrap: int | None) -> None:
    """Replace the rows of the named metrics (default: all that have records) in the results of a run.

    The cells keep theirs: the next `coinbench run` collects those again.

    Raises:
        DataError: the folder is no run, or a cell has no records of a metric.
        UsageError: an unknown metric, or a run is using the folder.
    """
    import pandas as pd

    chosen = names(metrics)
    for name in chosen:
        registry.METRICS.check(name)
    rows = results.read(out)
    with locked(out):
        tables, drawn = [], resampled.read(out)
        for digest, table in rows.groupby("cell", sort=False):
            folder = out / "cells" / str(digest)
            cell = read_cell(folder / "cell.json")
            for name in chosen or cell.metrics:
                path = folder / "samples" / f"{name}.parquet"
                if path.is_file():
                    scores = _scores(name, path, cell.evaluation, bootstrap)
                    table = _replaced(table, scores)
                    drawn |= resampled.of_scores(scores, str(digest))
                elif chosen:
                    raise DataError(f"{folder}: no records of {name!r}; run with --metrics {name} first")
            tables.append(table)
        results.write(pd.concat(tables, ignore_index=True), out)
        resampled.write(drawn, out)
        reports.report(out)


def _scores(name: str, path: Path, config: EvaluationConfig, bootstrap: int | None) -> list[Score]:
    metric = registry.METRICS.load(registry.METRICS.stored(name))
    if bootstrap is not None:
        config = config.model_copy(update={"bootstrap": bootstrap})
    found = records.read(path)
    try:
        # A number that damaged records do not give is NaN, which the report names; numpy's warning names no file.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            return metric.score(found, config)
    except Exception as error:
        raise DataError(
            f"{path}: {name} makes no numbers of these records ({type(error).__name__}: {error}); "
            f"delete {path.parents[1]} and run the same command again"
        ) from error


def _replaced(table: Any, scores: list[Score]) -> Any:
    """Return the rows of a cell with those of one metric replaced."""
    import pandas as pd

    same = {column: table[column].iloc[0] for column in ("run", "dataset", "method", "seed", "variant")}
    same |= {column: table[column].iloc[0] for column in ("classifier_digest", "cell")}
    # Numbers of several seeds stay: the records of one cell do not make them.
    mine = {score.metric for score in scores}
    return pd.concat([table[~table["metric"].isin(mine)], results.frame(scores, **same)], ignore_index=True)
