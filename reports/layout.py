"""What a table is before it is written: entries pooled over seeds, columns, rows, marks and captions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from coinbench.inference import FEWEST_SEEDS, Measured, seed_interval
from coinbench.reports.folder import Record, Series
from coinbench.reports.verdicts import Verdicts
from coinbench.resampled import Place
from coinbench.results import Resamples

MISSING = "–"
_UNKNOWN_SPREAD = "between-seed uncertainty not estimable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One number of a table."""

    value: float
    low: float = math.nan
    high: float = math.nan
    """95 % interval: over the sample of a single seed, over seeds from five on; NaN between."""
    spread: float = math.nan
    """Sample standard deviation over seeds or over concepts; NaN for a single one."""
    seeds: tuple[int, ...]
    n: int

    def text(self, scale: float, decimals: int) -> str:
        """Print the number with its spread or its interval.

        >>> Entry(value=0.5, spread=0.02, seeds=(0, 1), n=9).text(100.0, 1)
        '50.0 ± 2.0'
        >>> Entry(value=0.5, low=0.4, high=0.6, seeds=(0,), n=9).text(1.0, 2)
        '0.50 [0.40, 0.60]'
        """
        value, low, high, spread = (
            rounded(number * scale, decimals) for number in (self.value, self.low, self.high, self.spread)
        )
        if not math.isnan(self.low) and not math.isnan(self.high):
            return f"{value} [{low}, {high}]"
        return value if math.isnan(self.spread) else f"{value} ± {spread}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of numbers."""

    title: str
    series: Series | None = None
    """None for a control, which is never marked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of numbers."""

    labels: tuple[str, ...]
    """What stands in the label columns, the data set first."""
    quantity: str
    dataset: str
    metric: str
    params: str = ""
    arm: str = "method"
    entries: tuple[Entry | None, ...]
    unit: str
    scale: float = 1.0
    """100 where the table shows a fraction in per cent."""
    decimals: int = 3
    higher_is_better: bool | None = None
    """None where no entry is to be marked."""
    over: str = "seeds"
    """What the spread is over."""
    optional: bool = False
    """Whether a dash means that a method has no such number, not that it is missing."""
    verdicts: Verdicts | None = None
    """What tests between the methods of the row say; None where none is to be marked."""

    @property
    def name(self) -> str:
        """Return what a note calls the row."""
        return f"{self.quantity} at {setting(self.params)}" if self.params else self.quantity


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table with its caption."""

    name: str
    title: str
    headers: tuple[str, ...]
    """Of the label columns."""
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    """Sentences: what is printed, what is missing."""
    protocols: tuple[str, ...] = ()
    """How each number was measured."""

    @property
    def caption(self) -> str:
        """Return the whole caption."""
        return " ".join((f"{self.title}.", *self.notes, *self.protocols))

    def texts(self, row: Row) -> list[str]:
        """Return the printed entries: a dash where a method lacks one, nothing where a control has none."""
        cells = zip(self.columns, row.entries, strict=True)
        return [
            entry.text(row.scale, row.decimals) if entry else MISSING if column.series else ""
            for column, entry in cells
        ]

    def marks(self, row: Row) -> list[str]:
        """Return "best", "second", "tie" or "" for every column: a mark needs a difference that the tests show."""
        at = [i for i, c in enumerate(self.columns) if c.series and row.entries[i]]
        marks = [""] * len(self.columns)
        if row.higher_is_better is None or row.verdicts is None or len(at) < 2:
            return marks
        values = {i: entry.value for i in at if (entry := row.entries[i])}
        ranks = sorted(at, key=lambda i: values[i], reverse=row.higher_is_better)
        best, *rest = ranks
        tied = [i for i in rest if row.verdicts.tied(best, i)]
        if tied:
            return ["tie" if i == best or i in tied else "" for i in range(len(marks))]
        if not all(row.verdicts.differ(best, i) for i in rest):
            return marks
        marks[best] = "best"
        second, *others = rest
        # Behind a single rival there is no second place to win.
        if others and all(row.verdicts.differ(second, i) for i in others):
            marks[second] = "second"
        return marks


def rounded(value: float, decimals: int) -> str:
    """Print with so many decimals and no negative zero.

    >>> rounded(-0.0001, 2)
    '0.00'
    """
    return f"{round(float(value), decimals) + 0.0:.{decimals}f}"


def significant(entries: Sequence[Entry | None], digits: int = 3) -> int:
    """Return the decimals that give the largest entry so many digits.

    >>> significant([Entry(value=39.73, seeds=(0,), n=1), Entry(value=8.5, seeds=(0,), n=1)])
    1
    """
    largest = max((abs(e.value) for e in entries if e), default=0.0)
    if largest == 0 or not math.isfinite(largest):
        return digits
    return min(max(digits - 1 - math.floor(math.log10(largest)), 0), 5)


class Numbers:
    """The rows of results, found by what they are."""

    def __init__(self, records: Sequence[Record], resamples: Mapping[Place, Resamples] | None = None) -> None:
        """Index the rows; those without a number are left out."""
        self._resamples = resamples or {}
        self.records = [record for record in records if record.measured]
        self._groups: dict[tuple[str, ...], list[Record]] = {}
        for r in self.records:
            subject = r.subject.partition(":")[0]
            key = (r.dataset, r.method, r.variant, r.metric, r.params, r.arm, subject)
            self._groups.setdefault(key, []).append(r)

    def keys(self) -> set[tuple[str, str]]:
        """Return each (method, variant)."""
        return {(record.method, record.variant) for record in self.records}

    def datasets(self) -> list[str]:
        """Return the data sets, in alphabetical order."""
        return sorted({record.dataset for record in self.records})

    def of(self, metric: str) -> list[Record]:
        """Return the rows of a metric about the whole sample."""
        return [r for r in self.records if r.metric == metric and r.subject == "all"]

    def metrics(self, *prefixes: str) -> list[str]:
        """Return the metrics whose names begin so, in the order of the prefixes."""
        names = sorted({record.metric for record in self.records})
        found = [name for prefix in prefixes for name in names if name.startswith(prefix)]
        return list(dict.fromkeys(found))

    def params(self, metric: str, descending: bool = False) -> list[str]:
        """Return the settings a metric was measured at, by their number."""
        return sorted(sorted({r.params for r in self.of(metric)}), key=parameter, reverse=descending)

    def direction(self, metric: str) -> bool | None:
        """Return the metric's higher_is_better."""
        return next((r.higher_is_better for r in self.of(metric)), None)

    def read_with(self, metric: str) -> list[str]:
        """Return the numbers that a metric must be read with."""
        text = next((r.read_with for r in self.of(metric)), "")
        return text.split(", ") if text else []

    def unit(self, metric: str) -> str:
        """Return the metric's unit."""
        return next((r.unit for r in self.of(metric)), "")

    def entry(self, dataset: str, series: Series, metric: str, params: str = "", arm: str = "method") -> Entry | None:
        """Pool a number over seeds."""
        key = (dataset, series.method, series.variant, metric, params, arm, "all")
        rows = self._groups.get(key)
        return pool(rows) if rows else None

    def measured(self, dataset: str, series: Series, metric: str, params: str) -> list[Measured]:
        """Return a number of each seed with its resamples, as tests between methods need it."""
        rows = self._groups.get((dataset, series.method, series.variant, metric, params, "method", "all"), [])
        found = ((row, self._resamples.get(Place(row.cell, metric, params))) for row in rows)
        return [Measured(value=row.value, seed=row.seed, n=row.n, resamples=drawn) for row, drawn in found]

    def shared(self, dataset: str, series: Sequence[Series], metric: str, arm: str = "method") -> Entry | None:
        """Return a number that belongs to the data set: the first method's that has it."""
        entries = (self.entry(dataset, one, metric, arm=arm) for one in series)
        return next((entry for entry in entries if entry), None)

    def over_concepts(self, dataset: str, series: Series, metric: str, params: str, arm: str) -> Entry | None:
        """Return mean and spread over concepts, each averaged over seeds."""
        by_seed = _by_seed(self.concepts(dataset, series, metric, params, arm))
        if not by_seed:
            return self.entry(dataset, series, metric, params, arm)
        spreads = [np.std(values, ddof=1) for values in by_seed.values() if len(values) > 1]
        return Entry(
            value=float(np.mean([np.mean(values) for values in by_seed.values()])),
            spread=float(np.mean(spreads)) if spreads else math.nan,
            seeds=tuple(by_seed),
            n=min(len(values) for values in by_seed.values()),
        )

    def concepts(self, dataset: str, series: Series, metric: str, params: str, arm: str) -> list[Record]:
        """Return the rows of the single concepts."""
        key = (dataset, series.method, series.variant, metric, params, arm, "concept")
        return self._groups.get(key, [])


def _by_seed(rows: Sequence[Record]) -> dict[int, list[float]]:
    seeds = sorted({row.seed for row in rows})
    return {seed: [row.value for row in rows if row.seed == seed] for seed in seeds}


def pool(rows: Sequence[Record]) -> Entry:
    """Average over seeds; a single seed keeps its interval."""
    values = {seed: float(np.mean(found)) for seed, found in _by_seed(rows).items()}
    mean, n = float(np.mean(list(values.values()))), min(row.n for row in rows)
    if len(values) > 1:
        spread = float(np.std(list(values.values()), ddof=1))
        low, high = seed_interval(list(values.values())) or (math.nan, math.nan)
        return Entry(value=mean, low=low, high=high, spread=spread, seeds=tuple(values), n=n)
    return Entry(value=mean, low=rows[0].low, high=rows[0].high, seeds=tuple(values), n=n)


def parameter(params: str) -> float:
    """Return the number in a setting, for sorting.

    >>> parameter("tau=0.4")
    0.4
    """
    try:
        return float(params.rpartition("=")[2])
    except ValueError:
        return math.inf


def value_of(params: str) -> str:
    """Return the number in a setting as printed.

    >>> value_of("tau=0.4")
    '0.4'
    """
    return params.partition("=")[2] or params


def setting(params: str) -> str:
    """Print a setting with the paper's letter.

    >>> setting("tau=0.1")
    'τ = 0.1'
    """
    letter, _, value = params.partition("=")
    names = {"tau": "τ", "lambda": "λ"}
    return f"{names.get(letter, letter)} = {value}" if value else params


def seeds_note(rows: Sequence[Row]) -> str:
    """Say what the spread is over."""
    entries = [(row, e) for row in rows for e in row.entries if e]
    counts = sorted({len(e.seeds) for _, e in entries})
    seeds = sorted({seed for _, e in entries for seed in e.seeds})
    listed = ", ".join(map(str, seeds))
    over_concepts = any(row.over == "concepts" for row in rows)
    if counts == [1]:
        text = f"One seed ({listed}): {_UNKNOWN_SPREAD}; [low, high] is a 95 % interval over the sample."
    else:
        number = "–".join(str(c) for c in dict.fromkeys((counts[0], counts[-1])))
        if counts[0] >= FEWEST_SEEDS:
            text = f"Mean [low, high] over {number} seeds ({listed}), a 95 % t interval over seeds."
        else:
            text = f"Mean ± sample standard deviation over {number} seeds ({listed}): {_UNKNOWN_SPREAD}."
            if counts[-1] >= FEWEST_SEEDS:
                text += f" [low, high]: from {FEWEST_SEEDS} seeds on, a 95 % t interval over seeds."
    if over_concepts:
        text = (
            "Consistency: mean ± sample standard deviation over concepts, averaged over seeds. "
            f"Other rows: {text[0].lower()}{text[1:]}"
        )
    return text


def missing_notes(columns: Sequence[Column], rows: Sequence[Row]) -> list[str]:
    """Name what prints as a dash, and the seeds that a method lacks."""
    notes: dict[str, list[str]] = {}
    expected = {
        row.dataset: {seed for r in rows if r.dataset == row.dataset for e in r.entries if e for seed in e.seeds}
        for row in rows
    }
    for i, column in enumerate(columns):
        if column.series is None:
            continue
        for dataset, seeds in expected.items():
            mine = [row for row in rows if row.dataset == dataset]
            holes = [row.name for row in mine if row.entries[i] is None and not row.optional]
            have = {seed for row in mine if (e := row.entries[i]) for seed in e.seeds}
            where = f"{column.title} on {dataset}"
            if not have:
                notes.setdefault(where, []).append("all rows")
                continue
            notes.setdefault(where, []).extend(holes)
            notes[where].extend(f"seed {seed}" for seed in sorted(seeds - have))
    texts = [f"{where} ({', '.join(holes)})" for where, holes in notes.items() if holes]
    return [f"{MISSING} Missing: {'; '.join(texts)}."] if texts else []


def describe(rows: Sequence[Record]) -> str:
    """Return n, version and protocol of one metric's rows; what differs between rows is listed after."""
    low, high = min(r.n for r in rows), max(r.n for r in rows)
    n = f"n = {low}" if low == high else f"n = {low} to {high}"
    versions = ", ".join(f"v{version}" for version in sorted({r.version for r in rows}))
    return f"{n}; {versions}; {protocol(rows)}"


def protocol(rows: Sequence[Record]) -> str:
    """Return the protocol of one metric's rows: what they share, then in brackets what differs."""
    parts = [text.split("; ") for text in dict.fromkeys(r.protocol for r in rows)]
    common = [part for part in parts[0] if all(part in other for other in parts)]
    rest = ["; ".join(part for part in one if part not in common) for one in parts]
    differing = " or ".join(f"({text})" for text in rest if text)
    return "; ".join(text for text in (*common, differing) if text)
