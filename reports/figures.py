"""The figures of a run: faithfulness, consistency, training curves; those made of images are in sheets.py."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from coinbench.reports import drawing, sheets
from coinbench.reports.drawing import FAINT, INK, Plot
from coinbench.reports.folder import RunFolder, Series, series_of, slug
from coinbench.reports.gallery import Images
from coinbench.reports.layout import Numbers, parameter, setting

_ORDER = (0, 1, 2, 4, 3, 9, 5, 6, 7, 8)
"""Of the colours of seaborn's palette: neighbours in a figure differ most."""
_MARKERS = "osD^vP*X"
_ARMS = (("method", "trained", "o"), ("untrained", "untrained", "D"), ("permuted", "permuted labels", "s"))


def plots(run: RunFolder, images: Images, titles: Mapping[str, str] | None = None) -> list[Plot]:
    """Return the figures that the folder has the numbers or images for."""
    numbers = Numbers(run.records)
    series = series_of(numbers.keys(), titles)
    palette = seaborn.color_palette("colorblind", max(len(series), len(_ORDER)))
    # The palette's own fourth colour is too near its second.
    palette = [palette[place] for place in _ORDER] + palette[len(_ORDER) :]
    colours = dict(zip(series, palette, strict=False))
    found: list[Plot] = []
    for dataset in numbers.datasets():
        found += _faithfulness(numbers, dataset, series, colours)
        found += _consistency(numbers, dataset, series, colours)
        found += _few(numbers, dataset, series, colours)
    for dataset in numbers.datasets():
        found += sheets.plots(images, dataset, series)
    for dataset in numbers.datasets():
        found += _training(run, dataset, series)
    return found


def _faithfulness(
    numbers: Numbers, dataset: str, series: Sequence[Series], colours: Mapping[Series, Any]
) -> list[Plot]:
    params = numbers.params("faithfulness")
    drawn = [s for s in series if any(numbers.entry(dataset, s, "faithfulness", p) for p in params)]
    if not drawn:
        return []

    def draw() -> Figure:
        figure = drawing.figure(5.2, 3.3)
        axes = figure.subplots()
        for i, one in enumerate(drawn):
            for arm, dashed in (("random", True), ("method", False)):
                _line(axes, numbers, dataset, one, "faithfulness", arm, params, colours[one], _MARKERS[i % 8], dashed)
        axes.axhline(0, color=FAINT, linewidth=0.8, zorder=1)
        axes.set(xlabel="threshold τ", ylabel="median faithfulness FF", title=dataset)
        axes.set_xticks([parameter(p) for p in params])
        axes.margins(x=0.06)
        axes.grid(axis="x", visible=False)
        handles = [
            Line2D([], [], color=colours[one], marker=_MARKERS[i % 8], label=one.title) for i, one in enumerate(drawn)
        ]
        random = Line2D([], [], color=FAINT, linestyle=(0, (3, 2)), label="same number at random")
        figure.legend(handles=[*handles, random], loc="outside right center")
        return figure

    caption = (
        "Median faithfulness over the threshold τ above which concepts are removed; dashed, in the "
        "method's colour: as many concepts removed at random. Bands: standard deviation over seeds, "
        "or the 95 % interval where there is one seed."
    )
    return [Plot(slug("faithfulness", dataset), "faithfulness", f"Faithfulness, {dataset}", caption, draw)]


def _few(numbers: Numbers, dataset: str, series: Sequence[Series], colours: Mapping[Series, Any]) -> list[Plot]:
    """Return the curves of the accuracy from N concepts, by Θ alone and on decoded images."""
    panels = [metric for metric in ("topn_accuracy", "auc_ff_curve") if numbers.params(metric)]
    params = {metric: numbers.params(metric) for metric in panels}
    drawn = [one for one in series if any(numbers.entry(dataset, one, m, p) for m in panels for p in params[m])]
    if not drawn:
        return []

    def draw() -> Figure:
        figure = drawing.figure(1.6 + 3.0 * len(panels), 3.3)
        for axes, metric in zip(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True):
            for i, one in enumerate(drawn):
                for arm, dashed in (("random", True), ("method", False)):
                    _line(
                        axes, numbers, dataset, one, metric, arm, params[metric], colours[one], _MARKERS[i % 8], dashed
                    )
            on = "Θ of N concepts" if metric == "topn_accuracy" else "g on x_N"
            axes.set(xlabel="number of concepts N", ylabel=f"accuracy of {on}", title=dataset, ylim=(0, 1.02))
        handles = [
            Line2D([], [], color=colours[one], marker=_MARKERS[i % 8], label=one.title) for i, one in enumerate(drawn)
        ]
        random = Line2D([], [], color=FAINT, linestyle=(0, (3, 2)), label="N at random")
        figure.legend(handles=[*handles, random], loc="outside right center")
        return figure

    caption = (
        "Accuracy from the N most active concepts: of Θ on them alone, and of g on the images that they decode to; "
        "dashed, in the method's colour: N concepts at random. Bands: standard deviation over seeds, or the 95 % "
        "interval where there is one seed."
    )
    return [Plot(slug("few concepts", dataset), "few", f"Few concepts, {dataset}", caption, draw)]


def _line(
    axes: Axes,
    numbers: Numbers,
    dataset: str,
    one: Series,
    metric: str,
    arm: str,
    params: Sequence[str],
    colour: Any,
    marker: str,
    dashed: bool,
) -> None:
    points = [(p, numbers.entry(dataset, one, metric, p, arm)) for p in params]
    kept = [(parameter(p), entry) for p, entry in points if entry]
    x = [at for at, _ in kept]
    y = np.array([entry.value for _, entry in kept])
    lows = [e.low if math.isnan(e.spread) else e.value - e.spread for _, e in kept]
    highs = [e.high if math.isnan(e.spread) else e.value + e.spread for _, e in kept]
    shape: dict[str, Any] = {"linewidth": 1.8, "marker": marker, "markersize": 5}
    if dashed:
        shape = {"linewidth": 1.0, "linestyle": (0, (3, 2)), "alpha": 0.7}
    axes.plot(x, y, color=colour, **shape)
    alpha = 0.10 if dashed else 0.20
    axes.fill_between(x, lows, highs, color=colour, alpha=alpha, linewidth=0)


def _consistency(numbers: Numbers, dataset: str, series: Sequence[Series], colours: Mapping[Series, Any]) -> list[Plot]:
    params = numbers.params("consistency")
    drawn = [one for one in series if any(numbers.concepts(dataset, one, "consistency", p, "method") for p in params)]
    if not drawn:
        return []

    def draw() -> Figure:
        figure = drawing.figure(max(3.2, 0.6 + 1.15 * len(drawn)) * len(params), 3.4)
        panels = figure.subplots(1, len(params), sharey=True, squeeze=False)[0]
        for axes, value in zip(panels, params, strict=True):
            axes.axhline(50, color=FAINT, linewidth=0.9, linestyle=(0, (3, 2)), zorder=1)
            for place, one in enumerate(drawn):
                for j, (arm, _, marker) in enumerate(_ARMS):
                    rows = numbers.concepts(dataset, one, "consistency", value, arm)
                    colour = colours[one] if arm == "method" else ("#777777", "#b4b4b4")[j - 1]
                    _swarm(axes, place + (j - 1) * 0.28, [100 * r.value for r in rows], colour, marker)
            axes.set_xticks(range(len(drawn)), [one.title for one in drawn])
            axes.set(title=f"{dataset}, {setting(value)}", xlim=(-0.55, len(drawn) - 0.45))
            axes.grid(axis="x", visible=False)
        panels[0].set_ylabel("accuracy of the SVM (%)")
        shades = (INK, "#777777", "#b4b4b4")
        handles = [
            Line2D([], [], color=shade, marker=marker, linestyle="", markersize=5, label=label)
            for (_, label, marker), shade in zip(_ARMS, shades, strict=True)
        ]
        mean = Line2D([], [], color="black", linewidth=2, label="mean ± std")
        chance = Line2D([], [], color=FAINT, linestyle=(0, (3, 2)), label="chance")
        figure.legend(handles=[*handles, mean, chance], loc="outside lower center", ncols=5)
        return figure

    caption = (
        "Consistency of every concept (a point is a concept of one seed): accuracy with which a linear "
        "SVM on the classifier's features tells images with the concept raised from images without it, "
        "beside the method at initialisation and an SVM trained on permuted labels. Bars: mean ± std."
    )
    return [Plot(slug("consistency", dataset), "consistency", f"Consistency, {dataset}", caption, draw)]


def _swarm(axes: Axes, centre: float, values: Sequence[float], colour: Any, marker: str) -> None:
    """Draw points side by side where they would cover each other, with mean and deviation."""
    if not values:
        return
    y = np.sort(np.asarray(values))
    bins = np.round(y / 2.5).astype(int)
    crowd = max(np.bincount(bins - bins.min()).max(), 6)
    rank = np.arange(len(y)) - np.searchsorted(bins, bins)
    side = np.where(rank % 2 == 0, -1, 1) * ((rank + 1) // 2)
    size = 13 if len(y) < 200 else 6
    x = centre + side / crowd * 0.23
    axes.scatter(x, y, s=size, color=colour, marker=marker, alpha=0.55, linewidths=0, zorder=3)
    deviation = float(np.std(y, ddof=1)) if len(y) > 1 else 0.0
    axes.plot([centre - 0.1, centre + 0.1], [y.mean()] * 2, color="black", linewidth=2, zorder=5)
    axes.plot([centre] * 2, [y.mean() - deviation, y.mean() + deviation], color="black", lw=1, zorder=4)


_NO_TERMS = frozenset({"step", "seconds", "rate", "loss"})
"""Columns of train.csv that are no term of the loss."""


def _training(run: RunFolder, dataset: str, series: Sequence[Series]) -> list[Plot]:
    logs = []
    for one in series:
        cell = run.cell(dataset, one)
        log = _read_log(cell.path / "train.csv") if cell else None
        if log is not None:
            logs.append((one, log))
    if not logs:
        return []

    def draw() -> Figure:
        figure = drawing.figure(3.4 * len(logs) + 0.4, 3.6)
        panels = figure.subplots(1, len(logs), squeeze=False)[0]
        # A term keeps its colour in all panels, so that one legend serves them.
        terms = list(dict.fromkeys(name for _, log in logs for name in log if name not in _NO_TERMS))
        colours = dict(zip(terms, seaborn.color_palette("husl", len(terms)), strict=True))
        lines = {}
        for axes, (one, log) in zip(panels, logs, strict=True):
            for name in (name for name in log if name == "loss" or name in colours):
                shade, width = (INK, 1.8) if name == "loss" else (colours[name], 1.1)
                lines[name] = axes.plot(log["step"], log[name], label=name, color=shade, linewidth=width)[0]
            axes.set(title=f"{one.title}, {dataset}", xlabel="step")
            axes.set_yscale("symlog", linthresh=1e-3)
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        panels[0].set_ylabel("loss term")
        figure.legend(handles=list(lines.values()), loc="outside lower center", ncols=5, fontsize=7)
        return figure

    caption = "Loss terms during training (lowest seed); symmetric logarithmic axis."
    return [Plot(slug("training", dataset), "training", f"Training, {dataset}", caption, draw)]


def _read_log(path: Path) -> dict[str, list[float]] | None:
    """Return the columns of train.csv; None where there is no log with at least two steps."""
    try:
        table = pd.read_csv(path).select_dtypes("number")
    except (OSError, ValueError):
        return None
    if len(table) < 2 or "step" not in table:
        return None
    return {str(name): table[name].astype(float).tolist() for name in table.columns}
