"""What an ablation looks like: its numbers over the settings as figures and as lines."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from coinbench.reports import drawing
from coinbench.reports.drawing import FAINT, INK, Plot
from coinbench.reports.folder import Series, slug
from coinbench.reports.layout import Entry, Numbers, significant
from coinbench.reports.render import grid
from coinbench.reports.tables import title_of

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


Points = Sequence[tuple[str, str]]
"""Label and variant of each setting of an ablation."""


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
    middle = (min(x.value for x, _, _ in both) + max(x.value for x, _, _ in both)) / 2 if both else 0.0
    for place, (x, y, label) in enumerate(both):
        across, up = np.array([_error(x)]).T, np.array([_error(y)]).T
        axes.errorbar([x.value], [y.value], yerr=up, xerr=across, color=INK, marker="o", markersize=5, capsize=2)
        # Towards the middle, above and below in turn, so that neighbours do not lie over each other.
        right, below = x.value > middle, place % 2
        away = {"xytext": (-5 if right else 5, -11 if below else 5), "ha": "right" if right else "left"}
        axes.annotate(label, (x.value, y.value), textcoords="offset points", fontsize=7, **away)
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
