"""What settings of an ablation change against the default, tested, and whether that is the paper's direction.

Never imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from coinbench.inference import FEWEST_SEEDS, LEVEL, Difference, Measured, difference, holm
from coinbench.published import Address, Column, Line, Paper, PublishedTable
from coinbench.reports.folder import Series
from coinbench.reports.layout import Entry, significant
from coinbench.reports.paper_run import PaperRun, Variant
from coinbench.reports.paper_tables import BESIDE
from coinbench.reports.render import grid
from coinbench.reports.tables import title_of

SHOWS, REVERSED, NONE = "as in the paper", "reversed", "no difference shown"
UNEVEN, EQUAL = "not asked: the paper's numbers rise and fall", "not asked: no change in the paper"


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What a setting changes, in the paper and here."""

    table: str
    label: str
    metric: str
    """As tables call it; another than the paper's where that was not measured."""
    beside: str = ""
    """The paper's metric that another one is held against; empty where it is the same."""
    published: float
    """Change in the paper."""
    found: Difference | str
    """Setting less default, in the unit of the table; or why the two cannot be compared."""
    changes: tuple[float, ...]
    """The same for each seed that both have."""
    open: str = ""
    """Why no direction is asked for; empty where one is."""
    p: float = math.nan
    """After Holm's correction over the table's effects whose direction is asked for; NaN: not tested."""
    decimals: int

    @property
    def asked(self) -> bool:
        """Tell whether its direction is tested."""
        return not self.open and not isinstance(self.found, str)

    @property
    def verdict(self) -> str:
        """Tell whether the paper's direction shows.

        Below five seeds the error is over images alone and trainings may differ by more, so each of them must agree.
        """
        if isinstance(self.found, str):
            return f"not comparable: {self.found}"
        if self.open:
            return self.open
        up = self.found.value > 0
        agree = len(self.changes) >= FEWEST_SEEDS or all((change > 0) == up for change in self.changes)
        if self.p >= LEVEL or not agree:
            return NONE
        return SHOWS if up == (self.published > 0) else REVERSED


def effects(paper: Paper, table: PublishedTable, run: PaperRun, dataset: str) -> list[Effect]:
    """Return the effects of all settings of a table but the default one, with p after Holm's correction."""
    main = paper.main(table.datasets[0])
    variants = {row.label: run.at(dataset, row, table, main) for row in table.rows}
    usual = next((row for row in table.rows if variants[row.label] == run.base(dataset, table)), None)
    if usual is None:
        return []
    found: list[Effect] = []
    for row in (row for row in table.rows if row is not usual):
        here, base = variants[row.label], variants[usual.label]
        if here is not None and base is not None:
            for number, column in enumerate(table.columns):
                found += _effects(table, row, usual, number, column, here, base, run)
    corrected = iter(holm([one.found.p for one in found if one.asked and isinstance(one.found, Difference)]))
    return [replace(one, p=next(corrected)) if one.asked else one for one in found]


def _effects(
    table: PublishedTable,
    row: Line,
    usual: Line,
    number: int,
    column: Column,
    here: Variant,
    base: Variant,
    run: PaperRun,
) -> list[Effect]:
    """Return the effect on the paper's metric, or on those that stand beside one that was not measured."""
    one, other = row.values[number], usual.values[number]
    if one is None or other is None:
        return []
    address = table.address(row, column)
    published = one.value - other.value
    why = UNEVEN if uneven(table, number) else EQUAL if published == 0 else ""
    found = []
    for metric in (address.metric, *BESIDE.get(address.metric, ())):
        sides = [_measured(run, variant, metric, address) for variant in (base, here)]
        values = [{m.seed: m.value for m in side} for side in sides]
        scale = 100.0 if address.percent else 1.0
        changes = [scale * (values[1][s] - values[0][s]) for s in sorted(values[0].keys() & values[1].keys())]
        if not changes:
            continue
        own = metric == address.metric
        # What stands beside the paper's metric has another size.
        largest = Entry(value=max(map(abs, changes)), seeds=(), n=0)
        effect = Effect(
            table=table.id,
            label=row.label,
            metric=column.title if own else title_of(metric),
            beside="" if own else column.title,
            published=published,
            found=_scaled(difference(*sides), scale),
            changes=tuple(changes),
            open=why,
            decimals=max(one.decimals, other.decimals, 2) if own else significant([largest]),
        )
        found.append(effect)
        if own:
            break
    return found


def uneven(table: PublishedTable, number: int) -> bool:
    """Tell whether a paper's numbers rise and fall along a setting: then a change has no direction to be held against.

    Args:
        table: an ablation.
        number: of the column.

    >>> from coinbench.published import find
    >>> table = find("14")[1]
    >>> [(column.title, uneven(table, number)) for number, column in enumerate(table.columns)]
    [('FF, τ = 0.2', False), ('MSE', False), ('LPIPS', False), ('FID', True)]
    """
    if len(table.axis) != 1:
        return False
    (path,) = table.axis
    points = [(row.setting[path], value.value) for row in table.rows if (value := row.values[number])]
    if any(isinstance(setting, bool) or not isinstance(setting, int | float) for setting, _ in points):
        return False
    values = [value for _, value in sorted(points)]
    steps = [after - before for before, after in pairwise(values)]
    return min(steps) < 0 < max(steps)


def _measured(run: PaperRun, variant: Variant, metric: str, address: Address) -> list[Measured]:
    series = Series(variant.method, variant.variant, "")
    return run.numbers.measured(variant.dataset, series, metric, address.params)


def _scaled(found: Difference | str, scale: float) -> Difference | str:
    if isinstance(found, str):
        return found
    names = ("value", "low", "high", "error")
    return replace(found, **{name: scale * getattr(found, name) for name in names})


def as_text(found: Sequence[Effect]) -> str:
    """Return effects as Markdown."""
    headers = ["table", "setting", "metric", "in the paper", "here", "p (Holm)", "direction"]
    lines = [
        [
            *(one.table, one.label, f"{one.metric} for {one.beside}" if one.beside else one.metric),
            f"{one.published:+.3g}".replace("-", "−"),
            _change(one),
            "–" if math.isnan(one.p) else f"{one.p:.2g}",
            one.verdict,
        ]
        for one in found
    ]
    return "\n".join((*grid(headers, lines, 3), "", " ".join(_explained(found)), ""))


def _change(one: Effect) -> str:
    if isinstance(one.found, str):
        return _signed(sum(one.changes) / len(one.changes), one.decimals)
    ends = (_signed(end, one.decimals) for end in (one.found.low, one.found.high))
    return f"{_signed(one.found.value, one.decimals)} [{', '.join(ends)}]"


def _explained(found: Sequence[Effect]) -> list[str]:
    compared = [one.found for one in found if isinstance(one.found, Difference)]
    said = ["Changes are against the default with the same seeds."]
    if compared:
        over = " or ".join(dict.fromkeys(one.over for one in compared))
        said.append(
            f"[95 % interval], paired over {over}; p corrected by Holm over the effects of a table whose direction is "
            f"asked for; a direction is said at {LEVEL:.0%}."
        )
    if any(len(one.seeds) < FEWEST_SEEDS for one in compared):
        said.append(
            f"Below {FEWEST_SEEDS} seeds between-seed uncertainty is not estimable: intervals and p speak of these "
            "trainings alone, and a direction is said only where every one of them agrees."
        )
    if any(one.open == UNEVEN for one in found):
        said.append(
            "Where the paper's numbers rise and fall along the setting, a change has no direction to agree with."
        )
    if beside := {one.metric: one.beside for one in found if one.beside}:
        pairs = ", ".join(f"{metric} against the paper's {other}" for metric, other in beside.items())
        said.append(f"Other numbers than the paper's, held against its own by their direction alone: {pairs}.")
    return said


def _signed(value: float, decimals: int) -> str:
    return f"{value:+.{decimals}f}".replace("-", "−")


def as_rows(found: Sequence[Effect]) -> list[Mapping[str, Any]]:
    """Return effects for JSON."""
    return [
        {
            "table": one.table,
            "setting": one.label,
            "metric": one.metric,
            "beside": one.beside or None,
            "paper": one.published,
            "changes": one.changes,
            **_tested(one),
            "direction": one.verdict,
        }
        for one in found
    ]


def _tested(one: Effect) -> dict[str, Any]:
    if isinstance(one.found, str):
        return {"change": None, "low": None, "high": None, "p": None, "over": None}
    numbers = {name: getattr(one.found, name) for name in ("low", "high")}
    return {"change": one.found.value, **numbers, "p": None if math.isnan(one.p) else one.p, "over": one.found.over}
