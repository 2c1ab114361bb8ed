"""A table of a paper: the numbers of a run beside the published ones, and a verdict on each that can be compared."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from coinbench.inference import FEWEST_SEEDS
from coinbench.published import Address, Column, Line, Paper, PublishedTable, Value
from coinbench.published.settings import RULE, called, obstacle, plain, setting_of
from coinbench.reports.layout import describe, significant
from coinbench.reports.paper_run import Measured, PaperRun, Variant
from coinbench.reports.tables import title_of

REPRODUCED, DIFFERS, APART, UNAVAILABLE = "reproduced", "differs", "not comparable", "unavailable"
BESIDE = {
    "lpips_vgg": ("pd_p",),
    "fid": ("fd_p", "fd_f"),
    "visualisation_fid": ("visualisation_fd_f",),
}
"""What stands beside a metric that needs weights, under its own name."""
_BY_DATASET = "data set"
"""First header of a table whose lines are data sets; in others data sets stand in turn below each line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One place of a table: what the paper has there, and what the run."""

    title: str
    """Of its column."""
    address: Address
    published: Value | None
    measured: Measured | None
    verdict: str = ""
    """reproduced, differs, not comparable, unavailable; empty where nothing was asked."""
    reason: str = ""
    decimals: int

    @property
    def scale(self) -> float:
        """Return what a number of results is multiplied with to stand in the table."""
        return 100.0 if self.address.percent else 1.0

    @property
    def difference(self) -> tuple[float, float, float] | None:
        """Return measured less published with its interval, in the unit of the table; None where one is missing."""
        if self.published is None or self.measured is None or self.verdict not in (REPRODUCED, DIFFERS):
            return None
        numbers = (self.measured.entry.value, self.measured.low, self.measured.high)
        value, low, high = (number * self.scale - self.published.value for number in numbers)
        return value, low, high


@dataclass(frozen=True, slots=True, kw_only=True)
class Printed:
    """One line of the table."""

    labels: tuple[str, ...]
    dataset: str
    """As tables call it."""
    variant: str = ""
    """Empty: published."""
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SideBySide:
    """A table, published and measured."""

    paper: Paper
    table: PublishedTable
    columns: tuple[str, ...]
    lines: tuple[Printed, ...]
    notes: tuple[str, ...]

    @property
    def judged(self) -> list[tuple[Printed, Cell]]:
        """Return the numbers that were held against the paper's."""
        return [(line, c) for line in self.lines for c in line.cells if c and c.verdict in (REPRODUCED, DIFFERS)]

    @property
    def differing(self) -> int:
        """Return how many of them differ."""
        return sum(cell.verdict == DIFFERS for _, cell in self.judged)


def build(paper: Paper, table: PublishedTable, run: PaperRun | None = None) -> SideBySide:
    """Lay a table out; without a run the published numbers stand alone."""
    said: Sequence[str] = ()
    if run is None:
        lines, columns = [_published(paper, table, row, 0) for row in table.rows], table.columns
    else:
        filled = _Filled(paper, table, run)
        lines, columns = filled.lines(), filled.columns
        said = (*filled.open, *_judgements(paper, table, lines, run))
    return SideBySide(
        paper=paper,
        table=table,
        columns=tuple(column.title for column in columns),
        lines=tuple(lines),
        notes=(*_about(paper, table), *said),
    )


def _dataset(table: PublishedTable, row: Line) -> str:
    return table.address(row, table.columns[0]).dataset


def _labels(table: PublishedTable, row: Line, title: str) -> tuple[str, ...]:
    if table.headers[0] != _BY_DATASET:
        return (row.label,)
    return (title, row.label) if len(table.headers) > 1 else (title,)


def _published(paper: Paper, table: PublishedTable, row: Line, extra: int) -> Printed:
    cells = [
        Cell(title=c.title, address=table.address(row, c), published=v, measured=None, decimals=v.decimals)
        if v
        else None
        for c, v in zip(table.columns, row.values, strict=True)
    ]
    title = paper.datasets[_dataset(table, row)].title
    return Printed(labels=_labels(table, row, title), dataset=title, cells=(*cells, *(None,) * extra))


class _Filled:
    """A table with the lines of a run among its own."""

    def __init__(self, paper: Paper, table: PublishedTable, run: PaperRun) -> None:
        self.paper, self.table, self.run = paper, table, run
        self.extra = self._extra_columns()
        self.columns = (*table.columns, *self.extra)
        self.shown: set[tuple[str, str]] = set()
        """Data sets and variants of an ablation that have a line."""
        self.open: dict[str, None] = {}
        """Notes on settings that the paper leaves open and numbers held against it have another way, in order."""

    def lines(self) -> list[Printed]:
        """Return all lines: those of other data sets last, or below each line where the lines are no data sets."""
        table, datasets = self.table, self.run.datasets()
        by_dataset = table.headers[0] == _BY_DATASET
        found: list[Printed] = []
        for row in table.rows:
            found.append(_published(self.paper, table, row, len(self.extra)))
            for shown, key in datasets.items():
                if not by_dataset or key == _dataset(table, row):
                    found += self._measured(row, shown)
        model = [row for row in table.rows if _dataset(table, row) == table.datasets[0]]
        for shown, key in datasets.items():
            if by_dataset and key not in table.datasets:
                for row in model:
                    found += self._measured(_emptied(row, dataset=key), shown)
            found += self._further(shown)
        return found

    def _measured(self, row: Line, shown: str) -> list[Printed]:
        """Return the lines of a data set of the run for a published one, and those of what stands beside its metric."""
        found = []
        for variant in self._variants(row, shown):
            found.append(self._line(row, shown, variant))
            for metric in BESIDE.get(row.metric or "", ()):
                beside = self._line(_emptied(row, metric=metric, label=title_of(metric)), shown, variant)
                found += [beside] if any(cell and cell.measured for cell in beside.cells) else []
        return found

    def _variants(self, row: Line, shown: str) -> list[str]:
        """Return the variants with a line of their own; "" where the run has none such."""
        if row.setting:
            found = self._at(row, shown)
            return [found.variant if found else ""]
        methods = dict.fromkeys(self.table.address(row, column).method for column in self.columns)
        found = [v.variant for method in methods for v in self.run.plain(shown, method)]
        return list(dict.fromkeys(found)) or [""]

    def _main(self, row: Line) -> dict[str, Any]:
        name = _dataset(self.table, row)
        return self.paper.main(name if name in self.paper.datasets else self.table.datasets[0])

    def _at(self, row: Line, shown: str) -> Variant | None:
        return self.run.at(shown, row, self.table, self._main(row))

    def _line(self, row: Line, shown: str, variant: str, label: str = "") -> Printed:
        fixed = self._at(row, shown) if row.setting else None
        cells = []
        for number, column in enumerate(self.columns):
            address = self.table.address(row, column)
            value = row.values[number] if number < len(row.values) else None
            alike = (v for v in self.run.of(shown, address.method) if v.variant == variant)
            one = fixed or next(alike, None)
            found = self.run.measured(one, address) if one else None
            verdict, reason = self._judge(row, address, value, one, found, shown)
            if number >= len(self.table.columns) and found is None:
                verdict, reason = "", ""
            cell = Cell(
                title=column.title,
                address=address,
                published=value,
                measured=found,
                verdict=verdict,
                reason=reason,
                decimals=self._decimals(address, found),
            )
            cells.append(cell if value or found or verdict else None)
        if fixed:
            self.shown.add((shown, fixed.variant))
            label = called(row.label, row.setting, {path: setting_of(fixed.tree, path) for path in row.setting})
        # One data set has one name, unless the run gave it another.
        same = self.paper.datasets.get(shown) if self.run.datasets()[shown] == shown else None
        title = same.title if same else shown
        labels = (label,) if label else _labels(self.table, row, title)
        return Printed(labels=labels, dataset=title, variant=variant or "none", cells=tuple(cells))

    def _further(self, shown: str) -> list[Printed]:
        """Return the points of an ablation of one setting that the paper does not have."""
        if len(self.table.axis) != 1:
            return []
        (path,) = self.table.axis
        found = []
        for one in self.run.along(shown, self.table):
            own = setting_of(one.tree, path)
            if own is not None and (shown, one.variant) not in self.shown:
                label = f"{path.rpartition('.')[2]} = {plain(own)}"
                row = _emptied(self.table.rows[0], setting={})
                found.append(self._line(row, shown, one.variant, label))
        return found

    def _decimals(self, address: Address, found: Measured | None) -> int:
        """Return as many decimals as the paper prints of a metric at most; of other metrics three digits."""
        kind = (address.metric, address.percent)
        known = [v.decimals for *_, other, v in self.table.cells() if v and (other.metric, other.percent) == kind]
        return max(known) if known else significant([found.entry] if found else [])

    def _judge(
        self,
        row: Line,
        address: Address,
        value: Value | None,
        variant: Variant | None,
        found: Measured | None,
        shown: str,
    ) -> tuple[str, str]:
        """Return the verdict on a place of the table and its reason."""
        key, table = self.run.datasets()[shown], self.table
        if found is None:
            if value is None and key in table.datasets:
                return "", ""
            if row.setting and variant is None:
                return UNAVAILABLE, "no cell of this run has that setting"
            return UNAVAILABLE, self.run.why_missing(variant, address)
        if key not in table.datasets or key != address.dataset:
            titles = ", ".join(self.paper.datasets[name].title for name in table.datasets)
            return APART, f"other data: measured on {shown}, published on {titles}"
        if value is None:
            return APART, "the paper has no such number"
        assert variant is not None
        how = self.paper.measuring(address.metric)
        main = {**self._main(row), **how.conditions, **row.setting}
        if not address.method:
            # The accuracy of f does not depend on the method whose cell it stands in.
            main = {path: wanted for path, wanted in main.items() if not path.startswith("method")}
        if reason := obstacle(variant.tree, main, how.least):
            return APART, reason
        self.open |= {one.note: None for one in how.open if obstacle(variant.tree, one.setting)}
        return (REPRODUCED if agrees(value, found, address) else DIFFERS), ""

    def _extra_columns(self) -> list[Column]:
        """Return columns that only the run fills: what stands beside a metric, and other settings of it."""
        found, own = [], self.table.where.metric or ""
        measured = {metric: self.run.params(metric) for metrics in BESIDE.values() for metric in metrics}
        for column in self.table.columns:
            # In a table of one such metric the columns are methods.
            for metric in BESIDE.get(column.metric or own, ()):
                title = title_of(metric) if column.metric else f"{column.title}, {title_of(metric)}"
                beside = column.model_copy(update={"title": title, "metric": metric})
                found += [beside] if measured[metric] else []
        known = {column.params for column in self.table.columns}
        if own and None not in known:
            more = [params for params in self.run.params(own) if params not in known]
            found += [Column(title=params.replace("=", " = "), params=params) for params in more]
        return found


def agrees(value: Value, found: Measured, address: Address) -> bool:
    """Tell whether a published number, give or take its rounding, lies in the interval of the measured one."""
    scale = 100.0 if address.percent else 1.0
    low, high = ((found.entry.value if math.isnan(end) else end) * scale for end in (found.low, found.high))
    if value.below:
        return low < value.value
    return low - value.rounding <= value.value <= high + value.rounding


def _emptied(row: Line, **changes: Any) -> Line:
    return row.model_copy(update={"values": (None,) * len(row.values), **changes})


def _about(paper: Paper, table: PublishedTable) -> list[str]:
    also = f" (table {table.v1} of v1)" if table.v1 else ""
    page = f", page {table.page}" if table.page else ""
    name = table.id if table.id.startswith("figure") else f"table {table.id}"
    said = [f"Published: {paper.authors.split(',')[0]} et al., {paper.venue}, {name}{also}{page}."]
    said += [f"n: {table.n}. Protocol: {table.protocol}.", *table.notes]
    said += [note for metric in paper.metrics_of(table) for note in paper.measuring(metric).notes]
    return [*said, *paper.notes]


def _judgements(paper: Paper, table: PublishedTable, lines: Sequence[Printed], run: PaperRun) -> list[str]:
    """Return verdicts in sentences, one for each reason, and how the run measured."""
    reasons: dict[tuple[str, str], list[str]] = {}
    cells = [(line, cell) for line in lines for cell in line.cells if cell and line.variant]
    for line, cell in cells:
        if cell.verdict in (APART, UNAVAILABLE):
            reasons.setdefault((cell.verdict, cell.reason), []).append(f"{cell.title} of {' '.join(line.labels)}")
    said = []
    absent = [paper.datasets[key].title for key in table.datasets if key not in run.datasets().values()]
    said += [f"{UNAVAILABLE}: this run has no {', no '.join(absent)}."] if absent else []
    for (verdict, reason), names in reasons.items():
        which = f"{len(names)} numbers" if len(names) > 3 else ", ".join(names)
        said.append(f"{verdict} ({which}): {reason}.")
    if any(cell.verdict in (REPRODUCED, DIFFERS) for _, cell in cells):
        said.append(
            f"{REPRODUCED}: the published number, give or take its rounding, lies in the 95 % interval of the measured "
            f"one: Student's over {FEWEST_SEEDS} seeds or more, else the span of the seeds' intervals over the sample."
        )
    if any(row.setting for row in table.rows) and any(key not in table.datasets for key in run.datasets().values()):
        said.append(RULE)
    metrics = dict.fromkeys(cell.address.metric for _, cell in cells if cell.measured)
    return said + [f"Measured {title_of(m)} [{describe(run.numbers.of(m))}]." for m in metrics]
