"""What a caption says of the numbers that a table's must be read with, and of a leader who fails one of them.

Never imports torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from coinbench.companions import parse
from coinbench.reports.layout import Column, Numbers, Row


def notes(
    title_of: Callable[[str], str], columns: Sequence[Column], rows: Iterable[Row], numbers: Numbers
) -> list[str]:
    """Return what to read the numbers with, and a warning for each leader that is no better than a control.

    Args:
        title_of: how tables call a metric.
        columns: of the table.
        rows: of the table; those of controls and of numbers without a direction lead nobody astray.
        numbers: of the run. Companions that were not measured in it are left out.
    """
    groups: dict[str, list[str]] = {}
    failing: dict[tuple[str, str, str], list[str]] = {}
    for row in (row for row in rows if row.arm == "method" and row.higher_is_better is not None):
        companions = numbers.read_with(row.metric)
        measured = [text for text in companions if numbers.of(parse(text)[0])]
        if named := ", ".join(_named(title_of, text) for text in measured):
            groups.setdefault(named, []).append(title_of(row.metric))
        leader = _leader(columns, row)
        for text in measured if leader else ():
            if _fails(leader, row, text, numbers):
                failing.setdefault((leader.title, row.dataset, text), []).append(row.name)
    said = [f"Read {', '.join(dict.fromkeys(metrics))} with: {named}." for named, metrics in groups.items()]
    for (method, dataset, text), names in failing.items():
        name, control = parse(text)
        said.append(
            f"Warning: {method} leads {', '.join(dict.fromkeys(names))} on {dataset}, and its {title_of(name)} is no "
            f"better than the control ({control})."
        )
    return said


def _named(title_of: Callable[[str], str], text: str) -> str:
    name, control = parse(text)
    return f"{title_of(name)} (control: {control})" if control else title_of(name)


def _leader(columns: Sequence[Column], row: Row) -> Column | None:
    """Return the column of the method with the best number; None where a single method has one."""
    found = [(entry.value, i) for i, entry in enumerate(row.entries) if entry and columns[i].series]
    if len(found) < 2:
        return None
    return columns[(max if row.higher_is_better else min)(found)[1]]


def _fails(leader: Column, row: Row, text: str, numbers: Numbers) -> bool:
    """Tell whether a companion of a method is nowhere better than its control; of the row itself, at its setting."""
    name, control = parse(text)
    better, series = numbers.direction(name), leader.series
    if not control or better is None or series is None:
        return False
    settings = [row.params] if name == row.metric else numbers.params(name)
    pairs = [
        (numbers.entry(row.dataset, series, name, params), numbers.entry(row.dataset, series, name, params, control))
        for params in settings
    ]
    both = [(own.value, null.value) for own, null in pairs if own and null]
    return bool(both) and all(own <= null if better else own >= null for own, null in both)
