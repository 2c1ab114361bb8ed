"""Numbers that need several seeds of a method, made from the records that its cells stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from coinbench import records, registry, results
from coinbench.metric import Metric
from coinbench.plan import Planned

if TYPE_CHECKING:
    import pandas as pd


def rows_across(planned: Sequence[Planned], run: str) -> list[pd.DataFrame]:
    """Return the rows of each measured cell that only its fellows of other seeds make possible.

    Args:
        planned: cells of a run.
        run: its name.

    Raises:
        DataError: stored records are damaged.
    """
    groups: dict[tuple[str, str, str], list[Planned]] = {}
    for cell in planned:
        if cell.measured:
            groups.setdefault((cell.cell.dataset, cell.cell.variant, cell.cell.method.name), []).append(cell)
    tables = []
    for (dataset, variant, method), cells in groups.items():
        for name in cells[0].cell.metrics:
            metric: type[Metric] = registry.METRICS.load(name)
            if metric.across is Metric.across:
                continue
            # A metric that failed in a cell has no records there.
            have = [cell for cell in cells if (cell.folder / "samples" / f"{name}.parquet").is_file()]
            have.sort(key=lambda cell: cell.cell.seed)
            if len(have) < 2:
                continue
            found = metric.across(
                [records.read(cell.folder / "samples" / f"{name}.parquet") for cell in have], have[0].cell.evaluation
            )
            for cell, scores in zip(have, found, strict=True):
                provenance = {"run": run, "dataset": dataset, "method": method, "seed": cell.cell.seed}
                provenance |= {"variant": variant, "cell": cell.digest}
                provenance["classifier_digest"] = _classifier(cell)
                if scores:
                    tables.append(results.frame(scores, **provenance))
    return tables


def _classifier(cell: Planned) -> str:
    return str(results.read(cell.folder, cell.remedy)["classifier_digest"].iloc[0])
