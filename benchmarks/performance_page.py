"""docs/performance.md and its figures from benchmarks/results/{scaling,benchmarks}.json; no number is typed by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from coinbench.files import write_atomically

INK, FAINT, BLUE = "#333333", "#8a8a8a", "#1f5fa8"
LABELS = {
    "images": "test images",
    "concepts": "concepts K",
    "seeds": "seeds",
}
TITLES = {
    "images": "An evaluation against test images",
    "concepts": "An evaluation against concepts",
    "seeds": "A run against seeds",
}


@dataclass(frozen=True, slots=True)
class Fit:
    """The straight line a + b x through points, and how straight they are."""

    a: float
    """Seconds that do not depend on x."""
    b: float
    """Seconds for one more."""
    r2: float
    """Share of the variance that the line explains."""
    power: float
    """Slope of log(y) over log(x): 1 for y ∝ x, less where a weighs."""
    power_without_constant: float
    """The same for y - a, or for y where a <= 0."""

    @property
    def linear(self) -> bool:
        """Straight, and not growing faster than x."""
        return self.r2 > 0.98 and self.power <= 1.1 and self.power_without_constant <= 1.1


def fit(x: Sequence[float], y: Sequence[float]) -> Fit:
    """Return the least-squares line.

    >>> line = fit([1, 2, 4], [3.0, 5.0, 9.0])
    >>> round(line.a, 6), round(line.b, 6), round(line.r2, 6), round(line.power_without_constant, 6)
    (1.0, 2.0, 1.0, 1.0)
    """
    xs, ys = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    b, a = np.polyfit(xs, ys, 1)
    left = np.square(ys - a - b * xs).sum()
    total = np.square(ys - ys.mean()).sum()
    # A fitted constant above the smallest point leaves nothing to take the logarithm of.
    rest = ys - a if 0 < a < ys.min() else ys
    powers = [np.polyfit(np.log(xs), np.log(values), 1)[0] for values in (ys, rest)]
    return Fit(float(a), float(b), float(1 - left / total), *map(float, powers))


def medians(samples: Mapping[str, Sequence[float]]) -> tuple[list[int], list[float]]:
    """Return the points that have samples, and the median of each.

    >>> medians({"20": [3.0, 1.0, 2.0], "10": [1.0], "30": []})
    ([10, 20], [1.0, 2.0])
    """
    points = sorted((int(value), float(np.median(found))) for value, found in samples.items() if found)
    return [x for x, _ in points], [y for _, y in points]


def draw(axis: str, samples: Mapping[str, Sequence[float]], line: Fit) -> Figure:
    """Return the figure of an axis: every sample, the medians, the straight line."""
    x, y = medians(samples)
    figure = Figure(figsize=(4.6, 3.2), dpi=160, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(facecolor="white")
    ends = np.array([0, max(x) * 1.05])
    axes.plot(ends, line.a + line.b * ends, color=BLUE, linewidth=1.5, label=f"straight line, R² = {line.r2:.4f}")
    each = [(int(value), second) for value, found in samples.items() for second in found]
    axes.scatter(*zip(*each, strict=True), s=12, color=FAINT, label="sample", zorder=2)
    axes.scatter(x, y, s=30, color=INK, label="median", zorder=3)
    axes.set(xlabel=LABELS[axis], ylabel="time (seconds)", title=TITLES[axis], xlim=(0, ends[1]), ylim=(0, None))
    axes.set_xticks(x if axis == "seeds" else [tick for tick in x if tick >= max(x) / 9])
    axes.grid(color="#e4e4e4", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left")
    return figure


def verdict(axis: str, x: list[int], y: list[float], line: Fit) -> str:
    """Return the sentence that says whether the cost is linear."""
    one = LABELS[axis].removesuffix("s K").removesuffix("s")
    share = max(line.a, 0) / y[0]
    unit, factor = ("s", 1.0) if line.b >= 1 else ("ms", 1000.0)
    text = (
        f"One more {one} costs {line.b * factor:.3g} {unit}; the constant part is {line.a:.2f} s, {share:.0%} of the "
        f"smallest point. R² of the straight line is {line.r2:.4f}; the log-log slope is {line.power:.2f}"
    )
    if line.a > 0:
        text += f", and {line.power_without_constant:.2f} without the constant part"
    if line.linear:
        return text + ". The cost is linear."
    first, last = (y[1] - y[0]) / (x[1] - x[0]), (y[-1] - y[-2]) / (x[-1] - x[-2])
    if last < first:
        return text + ". The cost bends below a straight line: the last ones cost less than the first ones."
    return text + ". **The cost is not linear.**"


def cost_table(samples: Mapping[str, Mapping[str, Sequence[float]]]) -> list[str]:
    """Return the Markdown table of all points."""
    rows = [
        "| against | point | median (s) | lowest (s) | highest (s) | samples |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for axis, points in samples.items():
        for value, found in sorted(points.items(), key=lambda item: int(item[0])):
            if found:
                numbers = f"{np.median(found):.2f} | {min(found):.2f} | {max(found):.2f} | {len(found)}"
                rows.append(f"| {LABELS[axis]} | {value} | {numbers} |")
    return rows


def benchmark_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the Markdown table of the pytest-benchmark medians, group by group."""
    lines = ["| group | what | median (ms) | IQR (ms) | ratio | more |", "| --- | --- | ---: | ---: | ---: | --- |"]
    before = None
    for row in sorted(rows, key=lambda row: row["group"]):
        group = row["group"] if row["group"] != before else ""
        before = row["group"]
        numbers = f"{row['median'] * 1e3:.4g} | {row['iqr'] * 1e3:.2g} | {row['ratio']:.2f}"
        lines.append(f"| {group} | {row['name']} | {numbers} | {more(row['extra_info'])} |")
    return lines


def more(info: Mapping[str, Any]) -> str:
    """Return extra_info in words.

    >>> more({"images": 200, "passes an image": {"f": 3.0, "p": 2.1}})
    'images 200; passes an image: f 3, p 2.1'
    """
    parts = []
    for name, value in info.items():
        inner = isinstance(value, Mapping)
        parts.append(f"{name}: " + ", ".join(f"{k} {v:g}" for k, v in value.items()) if inner else f"{name} {value}")
    return "; ".join(parts)


def section(axis: str, samples: Mapping[str, Sequence[float]], line: Fit, fixed: str) -> list[str]:
    """Return the Markdown of one axis."""
    x, y = medians(samples)
    picture = f"![{TITLES[axis]}: time in seconds, with a straight line through the medians](images/cost_{axis}.png)"
    return [f"## {TITLES[axis]}", "", f"{verdict(axis, x, y, line)} Fixed: {fixed}.", "", picture, ""]


def page(scaling: Mapping[str, Any], benchmarks: Mapping[str, Any] | None) -> str:
    """Return docs/performance.md."""
    samples = {axis: points for axis, points in scaling["samples"].items() if len(medians(points)[0]) > 1}
    settings = ", ".join(f"{name} = {_plain(value)}" for name, value in scaling["settings"].items())
    lines = [
        "# Performance",
        "",
        "What an evaluation costs, and how it grows. Written by `benchmarks/scaling.py`; the numbers come from "
        "`benchmarks/results/scaling.json` and `benchmarks.json`.",
        "",
        f"* Images and concepts: all metrics in one pass over {scaling['method']} at initialisation, networks of the "
        "birds preset at 32 px, noise images; the concepts of the training images are given. Evaluation settings: "
        f"{settings}.",
        "* Seeds: `coinbench run` for tiny cells one after the other, f and G in the cache; start-up and report count.",
        f"* Machine: {scaling['device']}; {_versions(scaling['versions'])}; commit {scaling['commit']}.",
        f"* Again: `{scaling['command']} --fresh`. Seconds of another machine differ; straightness should not.",
        "",
    ]
    for axis, points in samples.items():
        lines += section(axis, points, fit(*medians(points)), scaling["fixed"][axis])
    lines += ["## All points", "", *cost_table(samples), ""]
    if benchmarks:
        lines += [
            "## Benchmarks",
            "",
            f"`{benchmarks['command']}` on {benchmarks['device']}, commit {benchmarks['commit']}. The ratio is to the "
            "fastest of the group; passes an image count how often f, `encode`, `decode` and p see an image.",
            "",
            *benchmark_table(benchmarks["benchmarks"]),
            "",
        ]
    return "\n".join(lines)


def _plain(value: Any) -> str:
    return ", ".join(f"{v:g}" for v in value) if isinstance(value, list | tuple) else f"{value:,}".replace(",", " ")


def _versions(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {versions[name]}" for name in ("python", "torch", "numpy", "scikit-learn"))


def write_page(results: Path, docs: Path) -> None:
    """Write the page and its figures from the stored results."""
    scaling = json.loads((results / "scaling.json").read_text(encoding="utf-8"))
    path = results / "benchmarks.json"
    benchmarks = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    for axis, points in scaling["samples"].items():
        if len(medians(points)[0]) > 1:
            with write_atomically(docs / "images" / f"cost_{axis}.png") as temporary:
                draw(axis, points, fit(*medians(points))).savefig(temporary, format="png")
    with write_atomically(docs / "performance.md") as temporary:
        temporary.write_text(page(scaling, benchmarks), encoding="utf-8")
