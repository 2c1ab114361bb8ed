"""What of a run belongs to a published table: which cells, their numbers with intervals, why one is missing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from coinbench.errors import DataError
from coinbench.inference import seed_interval
from coinbench.published import Address, Line, PublishedTable
from coinbench.published.settings import carried, changed, covers, setting_of
from coinbench.reports.folder import CellFolder, Record, RunFolder, Series, load
from coinbench.reports.layout import Entry, Numbers

_MAKERS = {
    "accuracy_f": "accuracy",
    "accuracy_reconstruction": "accuracy",
    "fid": "inception",
    "part_consistency_half": "part_consistency",
}
"""Rows of results whose metric has another name."""
_WEIGHTS = {"lpips_vgg": "vgg16", "fid": "inception", "visualisation_fid": "inception"}
"""Rows that need weights."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One method with one setting on one data set, whatever the seed."""

    dataset: str
    """As tables call it."""
    key: str
    """Its name in the registry."""
    method: str
    variant: str
    tree: Mapping[str, Any]
    """The settings of a cell."""
    cells: tuple[CellFolder, ...]


@dataclass(frozen=True, slots=True)
class Measured:
    """A number of a run."""

    entry: Entry
    """As the tables of the run print it."""
    low: float
    high: float
    """95 % interval; NaN: there is none."""
    records: tuple[Record, ...]
    """What it is the mean of."""


class PaperRun:
    """A run folder as published tables see it."""

    def __init__(self, run: RunFolder) -> None:
        """Group its cells by data set, method and variant.

        Raises:
            DataError: no cell says with which settings its numbers were measured.
        """
        if not run.cells:
            raise DataError(f"{run.path}: no cells/*/cell.json there; give the whole --out folder of a run")
        self.run = run
        self.numbers = Numbers(run.records, run.resamples)
        groups: dict[tuple[str, str, str], list[CellFolder]] = {}
        for cell in run.cells:
            groups.setdefault((cell.dataset, cell.method, cell.variant), []).append(cell)
        self.variants = [self._variant(key, cells) for key, cells in groups.items()]

    def _variant(self, key: tuple[str, str, str], cells: Sequence[CellFolder]) -> Variant:
        tree = load(cells[0].path / "cell.json")
        return Variant(key[0], str(tree.get("dataset", key[0])), key[1], key[2], tree, tuple(cells))

    def datasets(self) -> dict[str, str]:
        """Return the data sets, as tables call them, with their names in the registry."""
        return {variant.dataset: variant.key for variant in self.variants}

    def of(self, dataset: str, method: str) -> list[Variant]:
        """Return the variants of a method on a data set, the default first; any method's where none is named."""
        found = [v for v in self.variants if v.dataset == dataset and method in ("", v.method)]
        return sorted(found, key=lambda v: (v.variant != "default", v.method != "viscoin", v.variant))

    def plain(self, dataset: str, method: str) -> list[Variant]:
        """Return the variants that are no point of an ablation: the default one, or all where there is none."""
        found = self.of(dataset, method)
        default = [v for v in found if v.variant == "default"]
        return default or found

    def at(self, dataset: str, row: Line, table: PublishedTable, main: Mapping[str, Any]) -> Variant | None:
        """Return the variant with a row's setting, carried over to the size of the run; None: it has none."""
        base = self.base(dataset, table)
        if base is None:
            return None
        wanted = carried(row.setting, main, base.tree)
        return next((v for v in self.along(dataset, table) if _holds(v.tree, wanted)), None)

    def base(self, dataset: str, table: PublishedTable) -> Variant | None:
        """Return the variant that the others are changes of."""
        return next(iter(self.of(dataset, table.where.method or "")), None)

    def along(self, dataset: str, table: PublishedTable) -> list[Variant]:
        """Return the variants that differ from the base in nothing but what a table varies."""
        base = self.base(dataset, table)
        axis = table.axis or tuple(dict.fromkeys(path for row in table.rows for path in row.setting))
        if base is None:
            return []
        same = self.of(dataset, base.method)
        return [v for v in same if all(covers(axis, path) for path in changed(v.tree, base.tree))]

    def measured(self, variant: Variant, address: Address) -> Measured | None:
        """Return the number of a variant at an address; None: it was not measured."""
        one = Series(variant.method, variant.variant, "")
        given = (variant.dataset, one, address.metric, address.params, address.arm)
        entry = self.numbers.over_concepts(*given)
        if entry is None:
            return None
        rows = [
            r
            for r in self.numbers.of(address.metric)
            if (r.dataset, r.method, r.variant) == (variant.dataset, variant.method, variant.variant)
            and (r.params, r.arm) == (address.params, address.arm)
        ]
        return Measured(entry, *interval(rows), tuple(rows))

    def params(self, metric: str) -> list[str]:
        """Return the settings at which a metric was measured."""
        return [
            params
            for params in self.numbers.params(metric)
            if any(r.params == params and r.arm == "method" for r in self.numbers.of(metric))
        ]

    def why_missing(self, variant: Variant | None, address: Address) -> str:
        """Say why a variant has no number at an address."""
        if variant is None:
            return f"{address.method or 'the setting'} is not in this run"
        failed = next((cell for cell in variant.cells if cell.status in ("failed", "unfinished")), None)
        if failed and all(cell.status in ("failed", "unfinished") for cell in variant.cells):
            return f"the cell {failed.status}" + (f" ({failed.error})" if failed.error else "")
        metric = _MAKERS.get(address.metric, address.metric)
        for cell in variant.cells:
            if reason := load(cell.path / "unavailable.json").get(metric):
                return str(reason)
        if address.params and (elsewhere := self.params(address.metric)):
            return self._other_params(variant, address.params, elsewhere)
        weights = _WEIGHTS.get(address.metric)
        fetched = f"`coinbench weights fetch {weights}` and " if weights else ""
        return f"not measured in this run; {fetched}--metrics {metric} {'bring' if weights else 'brings'} it"

    @staticmethod
    def _other_params(variant: Variant, wanted: str, measured: Sequence[str]) -> str:
        """Say that a metric was measured, but not with a wanted setting of it."""
        setting, _, number = wanted.partition("=")
        concepts = setting_of(variant.tree, "method.K")
        if setting == "N" and isinstance(concepts, int) and int(number) > concepts:
            return f"K is {concepts} in this run"
        return f"measured at {', '.join(measured)}, not at {wanted}"


def _holds(tree: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(setting_of(tree, path) == value for path, value in wanted.items())


def interval(rows: Sequence[Record]) -> tuple[float, float]:
    """Return a 95 % interval of the mean over seeds: Student's over 5 seeds or more, else what the seeds' own span.

    Below 5 seeds the deviation between seeds is not estimable, and the span of their intervals over images does not
    cover it.
    """
    if over_seeds := seed_interval([row.value for row in rows]):
        return over_seeds
    ends = [end for row in rows for end in (row.low, row.high) if not math.isnan(end)]
    return (min(ends), max(ends)) if ends else (math.nan, math.nan)
