"""What an ablation shows: the change against the default, seed by seed, beside the change that the paper reports."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure

from coinbench.inference import seed_interval
from coinbench.published import Address, Column, Line, Paper, PublishedTable
from coinbench.reports import drawing
from coinbench.reports.drawing import FAINT, INK, Plot
from coinbench.reports.folder import Series, slug
from coinbench.reports.layout import Entry, Numbers, significant
from coinbench.reports.paper_run import PaperRun, Variant
from coinbench.reports.paper_tables import BESIDE
from coinbench.reports.render import grid
from coinbench.reports.tables import title_of

SHOWS, REVERSED, UNCLEAR = "as in the paper", "reversed", "unclear"
_FAITHFULNESS = ("faithfulness", "tau=0.2")
_DISTANCE = ("lpips_vgg", "pd_p")
"""Perceptual distance of the trade-off: the first that was measured."""
_PANELS = (
    (("accuracy", ""),),
    (_FAITHFULNESS,),
    (("mse", ""),),
    (("lpips_vgg", ""), ("pd_p", "")),
    (("fid", ""), ("fd_f", "")),
)
"""What figures show, each the first that was measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What a setting changes, in the paper and here."""

    table: str
    label: str
    metric: str
    """As tables call it; another than the paper's where that was not measured."""
    published: float
    """Change in the paper."""
    changes: tuple[float, ...]
    """Here, one for each seed, against the default with the same seed."""
    decimals: int

    @property
    def ends(self) -> tuple[float, float]:
        """Return Student's 95 % interval over 5 seeds or more, else the smallest and the largest change."""
        return seed_interval(self.changes) or (min(self.changes), max(self.changes))

    @property
    def verdict(self) -> str:
        """Tell whether the paper's direction shows: the whole range lies on its side of 0. One seed shows nothing."""
        low, high = self.ends
        if self.published == 0 or len(self.changes) < 2 or low <= 0 <= high:
            return UNCLEAR
        return SHOWS if (low > 0) == (self.published > 0) else REVERSED


Points = Sequence[tuple[str, str]]
"""Label and variant of each setting of an ablation."""


def effects(paper: Paper, table: PublishedTable, run: PaperRun, dataset: str) -> list[Effect]:
    """Return the effects of all settings of a table but the default one."""
    main = paper.main(table.datasets[0])
    variants = {row.label: run.at(dataset, row, table, main) for row in table.rows}
    usual = next((row for row in table.rows if variants[row.label] == run.base(dataset, table)), None)
    if usual is None:
        return []
    found = []
    for row in (row for row in table.rows if row is not usual):
        for number, column in enumerate(table.columns):
            found += _effects(table, row, usual, number, column, variants, run)
    return found


def _effects(
    table: PublishedTable,
    row: Line,
    usual: Line,
    number: int,
    column: Column,
    variants: dict[str, Variant | None],
    run: PaperRun,
) -> list[Effect]:
    one, other = row.values[number], usual.values[number]
    here, base = variants[row.label], variants[usual.label]
    if one is None or other is None or here is None or base is None:
        return []
    address = table.address(row, column)
    found = []
    for metric in (address.metric, *BESIDE.get(address.metric, ())):
        changes = _paired(run, here, base, address, metric)
        if not changes:
            continue
        scale = 100.0 if address.percent else 1.0
        own = metric == address.metric
        title = column.title if own else title_of(metric)
        # What stands beside the paper's metric has another size.
        largest = Entry(value=max(map(abs, changes)), seeds=(), n=0)
        decimals = max(one.decimals, other.decimals, 2) if own else significant([largest])
        found.append(
            Effect(
                table=table.id,
                label=row.label,
                metric=title,
                published=one.value - other.value,
                changes=tuple(scale * change for change in changes),
                decimals=decimals,
            )
        )
        if own:
            break
    return found


def _paired(run: PaperRun, here: Variant, base: Variant, address: Address, metric: str) -> list[float]:
    values = [
        {
            r.seed: r.value
            for r in run.numbers.of(metric)
            if (r.dataset, r.method, r.variant) == (v.dataset, v.method, v.variant)
            and (r.params, r.arm) == (address.params, address.arm)
        }
        for v in (here, base)
    ]
    return [values[0][seed] - values[1][seed] for seed in sorted(values[0].keys() & values[1].keys())]


def as_text(found: Sequence[Effect]) -> str:
    """Return effects as Markdown."""
    headers = ["table", "setting", "metric", "change in the paper", "change here", "direction"]
    lines = [
        [
            *(effect.table, effect.label, effect.metric, f"{effect.published:+.3g}".replace("-", "−")),
            f"{_signed(float(np.mean(effect.changes)), effect.decimals)} "
            f"[{', '.join(_signed(end, effect.decimals) for end in effect.ends)}]",
            effect.verdict,
        ]
        for effect in found
    ]
    said = (
        "Changes are against the default with the same seed, in brackets the smallest and the largest over seeds, or "
        "Student's 95 % interval from 5 seeds on; a direction is said where all of that lies on one side of 0, never "
        "of one seed. PD-p, FD-p and FD-f are held against the paper's LPIPS and FID."
    )
    return "\n".join((*grid(headers, lines, 3), "", said, ""))


def _signed(value: float, decimals: int) -> str:
    return f"{value:+.{decimals}f}".replace("-", "−")


def plots(name: str, title: str, points: Points, numbers: Numbers, dataset: str, method: str) -> list[Plot]:
    """Return the figures of an ablation: its metrics over the settings, and faithfulness against distance."""
    series = [(label, Series(method, variant, label)) for label, variant in points]
    panels = [panel for choices in _PANELS if (panel := _first(numbers, dataset, series, choices))]
    found = []
    if panels:
        caption = f"{title} on {dataset}: each number over the settings. Bars: standard deviation over seeds."
        found.append(
            Plot(slug("ablation", name, dataset), "ablation", title, caption, lambda: _draw_panels(panels, series))
        )
    distance = _first(numbers, dataset, series, [(metric, "") for metric in _DISTANCE])
    faithful = _first(numbers, dataset, series, [_FAITHFULNESS])
    if distance and faithful:
        caption = f"{title} on {dataset}: median faithfulness at τ = 0.2 against {distance[0]}. Bars: as above."
        draw = lambda: _draw_trade(distance, faithful, series, dataset)  # noqa: E731
        found.append(Plot(slug("tradeoff", name, dataset), "tradeoff", title, caption, draw))
    return found


_Panel = tuple[str, list[Entry | None]]


def _first(
    numbers: Numbers, dataset: str, series: Sequence[tuple[str, Series]], choices: Sequence[tuple[str, str]]
) -> _Panel | None:
    """Return the first metric that was measured, with its number at each point."""
    for metric, params in choices:
        entries = [numbers.entry(dataset, one, metric, params) for _, one in series]
        if any(entries):
            letter = f", {params.replace('tau=', 'τ = ')}" if params else ""
            return f"{title_of(metric)}{letter}", entries
    return None


def _error(entry: Entry) -> tuple[float, float]:
    """Return how far the bar of a number reaches down and up: its spread, or the interval of a single seed."""
    if not math.isnan(entry.spread):
        return entry.spread, entry.spread
    ends = (entry.value - entry.low, entry.high - entry.value)
    return (0.0, 0.0) if any(math.isnan(end) for end in ends) else (max(ends[0], 0.0), max(ends[1], 0.0))


def _draw_panels(panels: Sequence[_Panel], series: Sequence[tuple[str, Series]]) -> Figure:
    figure = drawing.figure(2.1 * len(panels) + 0.4, 2.9)
    for axes, (title, entries) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        kept = [(place, entry) for place, entry in enumerate(entries) if entry]
        errors = np.array([_error(entry) for _, entry in kept]).T
        x, y = [place for place, _ in kept], [entry.value for _, entry in kept]
        axes.errorbar(x, y, yerr=errors, color=INK, marker="o", markersize=4, linewidth=1.2, capsize=2)
        axes.set_xticks(range(len(series)), [label for label, _ in series], rotation=35, ha="right", fontsize=7)
        axes.set(title=title, xlim=(-0.4, len(series) - 0.6))
    return figure


def _draw_trade(distance: _Panel, faithful: _Panel, series: Sequence[tuple[str, Series]], dataset: str) -> Figure:
    figure = drawing.figure(3.8, 3.2)
    axes = figure.subplots()
    both = [(x, y, s[0]) for x, y, s in zip(distance[1], faithful[1], series, strict=True) if x and y]
    axes.plot([x.value for x, _, _ in both], [y.value for _, y, _ in both], color=FAINT, linewidth=1.0, zorder=1)
    for x, y, label in both:
        across, up = np.array([_error(x)]).T, np.array([_error(y)]).T
        axes.errorbar([x.value], [y.value], yerr=up, xerr=across, color=INK, marker="o", markersize=5, capsize=2)
        axes.annotate(label, (x.value, y.value), xytext=(5, 5), textcoords="offset points", fontsize=7)
    axes.set(xlabel=distance[0], ylabel=f"{faithful[0]}", title=dataset)
    axes.margins(0.15)
    return figure


def axis_lines(points: Points, numbers: Numbers, dataset: str, method: str) -> str:
    """Return the numbers of a free axis as Markdown, a line for each setting."""
    series = [(label, Series(method, variant, label)) for label, variant in points]
    choices = [
        *(("accuracy", ""), _FAITHFULNESS, ("mse", "")),
        *((m, "") for m in ("lpips_vgg", "fid", "pd_p", "fd_p", "fd_f")),
    ]
    panels = [panel for choice in choices if (panel := _first(numbers, dataset, series, [choice]))]
    lines = []
    for place, (label, _) in enumerate(series):
        entries = [(entries[place], significant(entries)) for _, entries in panels]
        lines.append([label, *(entry.text(1.0, decimals) if entry else "–" for entry, decimals in entries)])
    return "\n".join((*grid(["setting", *(title for title, _ in panels)], lines, 1), ""))
