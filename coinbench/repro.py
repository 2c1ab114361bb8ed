"""Which run fills a table of a paper: its data sets, methods, settings and metrics, with the presets' own settings."""

from __future__ import annotations

import json
from collections.abc import Sequence

from coinbench.errors import UsageError
from coinbench.plan import Request, RunConfig, resolve
from coinbench.published import Paper, PublishedTable, label_of
from coinbench.reports.paper_tables import BESIDE
from coinbench.sweeps import makers, missing, of_table, tree_of, variants_of


def resolved(
    paper: Paper, table: PublishedTable, seeds: str, dataset: str | None = None, sets: Sequence[str] = ()
) -> RunConfig:
    """Return the run that fills a table.

    Args:
        paper: that the table is of.
        table: what to fill.
        seeds: as after --seeds.
        dataset: another one than the table's; its numbers stand beside the published ones.
        sets: further settings, as after --set. Before them go those that the paper measured with; not on other data,
            where nothing is comparable and a small preset has its own.

    Raises:
        UsageError: nothing of the table can be measured, or a setting is wrong.
    """
    every = [address for _, _, address, _ in table.cells()]
    datasets = (dataset,) if dataset else table.datasets
    if not set(datasets) - set(table.datasets):
        sets = (*(f"{path}={json.dumps(value)}" for path, value in paper.evaluation(table).items()), *sets)
    methods = list(dict.fromkeys(address.method for address in every if address.method))
    rows = [row for address in every for row in (address.metric, *BESIDE.get(address.metric, ()))]
    metrics = makers(tuple(dict.fromkeys(rows)), datasets)
    if not metrics:
        raise UsageError(f"table {table.id}: no metric here makes {', '.join(sorted({a.metric for a in every}))}")
    variants: tuple[str, ...] = ()
    if any(row.setting for row in table.rows):
        sweep = of_table(paper, table, tree_of(datasets[0], methods[0], sets))
        if not sweep.points:
            raise UsageError(f"table {table.id}: coinbench can run none of its settings")
        variants = tuple(text for text in variants_of([sweep]) if _asked(text, {p.variant for p in sweep.points}))
    return resolve(
        Request(
            methods=",".join(methods),
            datasets=",".join(datasets),
            seeds=seeds,
            metrics=",".join(metrics),
            variants=variants,
            sets=tuple(sets),
        )
    )


def _asked(text: str, names: set[str]) -> bool:
    return text.partition(":")[0] in names


def lacking(table: PublishedTable, config: RunConfig) -> list[str]:
    """Return a line for each part of a table that the run will leave open."""
    found = [f"{row.label}: {why}" for row in table.rows if (why := missing(row))]
    wanted = {address.metric for _, _, address, _ in table.cells()}
    for metric in sorted(wanted):
        if not set(makers((metric,), tuple(config.experiments))) & set(config.metrics):
            found.append(f"{metric}: no metric of this run makes it")
    return [f"{label_of(table.id)}, {line}" for line in found]
