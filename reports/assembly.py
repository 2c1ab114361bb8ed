"""From rows of numbers to a table: holes, tests between the methods of a row, and all that the caption says of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from coinbench.reports import companions
from coinbench.reports.layout import (
    Column,
    Entry,
    Numbers,
    Row,
    Table,
    describe,
    missing_notes,
    rounded,
    seeds_note,
    significant,
)
from coinbench.reports.verdicts import judge, paired_over

_MARKS = "Bold: better than every other; underlined: second, and better than the rest; =: tied with the best."
_TESTED = "Differences count at 5 % after Holm's correction over the pairs of a row, {}; controls are never marked."


def assemble(
    title_of: Callable[[str], str],
    name: str,
    title: str,
    headers: Sequence[str],
    columns: Sequence[Column],
    rows: Iterable[Row],
    numbers: Numbers,
    metrics: Sequence[str],
    notes: Sequence[str] = (),
) -> Table:
    """Put a table together: rows without any number go, tests and notes on seeds, marks and holes come.

    Args:
        title_of: how tables call a metric.
        name: of the files.
        title: begins the caption.
        headers: of the label columns.
        columns: of the numbers.
        rows: not yet tested.
        numbers: where the rows come from.
        metrics: whose protocols the caption has, and which it names where they are absent.
        notes: sentences of the caption.
    """
    kept = [_tested(row, columns, numbers) for row in rows if any(row.entries)]
    table = Table(name=name, title=title, headers=tuple(headers), columns=tuple(columns), rows=tuple(kept))
    if not kept:
        return table
    measured = set(numbers.metrics(""))
    absent = [title_of(metric) for metric in metrics if metric not in measured]
    said = [
        seeds_note(kept),
        *_verdict_notes(kept),
        *companions.notes(title_of, columns, kept, numbers),
        *notes,
        *missing_notes(columns, kept),
    ]
    said += [f"Not measured in this run: {', '.join(absent)}."] if absent else []
    protocols = tuple(
        f"{title_of(metric)} [{describe(numbers.of(metric))}]." for metric in metrics if metric in measured
    )
    return replace(table, notes=tuple(said), protocols=protocols)


def _tested(row: Row, columns: Sequence[Column], numbers: Numbers) -> Row:
    """Add what tests between the methods of a row say, where one of them may be marked."""
    if row.higher_is_better is None:
        return row
    found = {
        i: numbers.measured(row.dataset, column.series, row.metric, row.params)
        for i, column in enumerate(columns)
        if column.series and row.entries[i]
    }
    return replace(row, verdicts=judge(found)) if len(found) > 1 else row


def _verdict_notes(rows: Sequence[Row]) -> list[str]:
    """Say what the marks mean, what the rows could have shown, and which rows were not tested."""
    tested = [row for row in rows if row.verdicts]
    over = list(dict.fromkeys(v.over for row in tested if (v := row.verdicts) and v.over))
    notes = [f"{_MARKS} {_TESTED.format(paired_over(over))}"] if over else []
    sizes: dict[str, list[str]] = {}
    obstacles: dict[str, list[str]] = {}
    for row in tested:
        assert row.verdicts is not None
        if (size := row.verdicts.detectable) is not None:
            sizes.setdefault(row.dataset, []).append(f"{row.name} {_size(size * row.scale)}")
        for why in row.verdicts.obstacles:
            obstacles.setdefault(why, []).append(f"{row.name} on {row.dataset}")
    if sizes:
        listed = "; ".join(f"{dataset}: {', '.join(found)}" for dataset, found in sizes.items())
        notes.append(f"Smallest difference that a row would show four times in five: {listed}.")
    for why, names in obstacles.items():
        which = "all rows" if len(names) == len(tested) else ", ".join(names)
        notes.append(f"Not marked, since not comparable ({why}): {which}.")
    if len(obstacles.get("no resamples stored", ())) == len(tested) > 0:
        notes.append("`coinbench score RUN` stores resamples.")
    return notes


def _size(value: float) -> str:
    """Print a size with two digits.

    >>> _size(0.01234), _size(3.21), _size(42.3), _size(math.nan)
    ('0.012', '3.2', '42', 'not estimable')
    """
    if math.isnan(value):
        return "not estimable"
    return rounded(value, significant([Entry(value=value, seeds=(), n=0)], digits=2))
