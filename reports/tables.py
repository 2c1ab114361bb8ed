"""The tables of a run, laid out as Tables 1 and 2 of the VisCoIN paper (arXiv 2407.01331), controls beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from coinbench.errors import DataError
from coinbench.reports import concept_tables
from coinbench.reports.assembly import assemble
from coinbench.reports.folder import Record, RunFolder, Series, budget, read_folder, records_of, series_of, titles_of
from coinbench.reports.layout import (
    Column,
    Entry,
    Numbers,
    Row,
    Table,
    parameter,
    significant,
    value_of,
)
from coinbench.reports.render import to_markdown

if TYPE_CHECKING:
    import pandas as pd

NAMES = {
    "accuracy": "accuracy of g",
    "accuracy_f": "accuracy of f",
    "accuracy_own_f": "accuracy of its own f",
    "agreement": "agreement of g with f",
    "agreement_own_f": "agreement of g with its own f",
    "accuracy_reconstruction": "accuracy of g on x̃",
    "probability_reconstruction": "mean g(x̃)_ĉ",
    "mse": "MSE",
    "lpips_vgg": "LPIPS (vgg)",
    "lpips_alex": "LPIPS (alex)",
    "lpips_squeeze": "LPIPS (squeeze)",
    "fid": "FID",
    "kid": "KID",
    "pd_p": "PD-p",
    "fd_p": "FD-p",
    "fd_f": "FD-f",
    "faithfulness": "median FF_x",
    "removed": "concepts removed",
    "consistency": "consistency",
    "consistency_shift": "relative shift",
    "dead_concepts": "dead concepts",
    "sparsity": "sparsity",
    **concept_tables.NAMES,
}
"""How tables and figures call the metrics; others by their name."""
_SHOWN_ELSEWHERE = frozenset({"faithfulness_mean", "faithfulness_iqr"})
"""Numbers of coinbench that no table shows: others stand for them."""
_RECONSTRUCTION = ("mse", "lpips", "fid", "kid", "pd_", "fd_p", "fd_", "kd_")
"""How the names of the rows of that table begin, in its order."""
_SAME = "same distribution"
OWN_F = "†"


def build_tables(
    records: Sequence[Record],
    titles: Mapping[str, str] | None = None,
    expected: Iterable[tuple[str, str]] = (),
    run: RunFolder | None = None,
) -> list[Table]:
    """Return the five tables; where there are any, three of further numbers, and one of those that no other shows.

    A table that nothing was measured for has no rows.

    Args:
        records: the rows of results.
        titles: names of methods, in the order given.
        expected: each (method, variant) that has a column even where all of its cells failed.
        run: whose resamples tell which methods differ, and whose training budget the captions name.

    Raises:
        DataError: no row holds a number.
    """
    numbers = Numbers(records, run.resamples if run else None)
    if not numbers.records:
        raise DataError("the results hold no number: no cell came to its evaluation; run them again")
    series = series_of(numbers.keys() | set(expected), titles)
    builders = (_accuracy, _consistency, _reconstruction, _faithfulness, _sparsity)
    spent = budget(run, series) if run else ""
    tables = [builder(numbers, series) for builder in builders]
    tables += concept_tables.concept_tables(numbers, series, _table, _methods(series))
    others = _others(numbers, series)
    tables += [others] if others.rows else []
    return [replace(t, notes=(*t.notes, spent)) if spent and t.rows else t for t in tables]


def print_tables(run: Path | pd.DataFrame, titles: Mapping[str, str] | None = None) -> str:
    """Return the tables of a run folder, or of its rows, as Markdown aligned for a terminal.

    Raises:
        DataError: the folder holds no results.
    """
    if isinstance(run, Path):
        folder = read_folder(run)
        tables = build_tables(folder.records, titles or titles_of(run), folder.keys(), folder)
    else:
        tables = build_tables(records_of(run), titles)
    return "\n".join(to_markdown(table, terminal=True) for table in tables)


def title_of(metric: str) -> str:
    """Return how tables call a metric."""
    return NAMES.get(metric, metric.upper() if len(metric) < 4 else metric.replace("_", "-").upper())


_table = partial(assemble, title_of)


def _methods(series: Sequence[Series]) -> list[Column]:
    return [Column(title=one.title, series=one) for one in series]


def _accuracy(numbers: Numbers, series: Sequence[Series]) -> Table:
    others = [one for one in series if _has_own_f(numbers, one)]
    methods = [Column(title=f"{one.title}{OWN_F}" if one in others else one.title, series=one) for one in series]
    columns = [Column(title="Chance"), Column(title="Original-f"), *methods]
    quantities = (
        *(("accuracy", "accuracy", "method"), ("accuracy_own_f", "accuracy of its own f", "method")),
        *(("accuracy_reconstruction", "accuracy on x̃", "method"), ("agreement", "agreement with f", "method")),
        *(("agreement_own_f", "agreement with its own f", "method"), ("agreement", "agreement by chance", "chance")),
    )
    rows = []
    for dataset in numbers.datasets():
        majority = numbers.shared(dataset, series, "accuracy", "chance")
        original = numbers.shared(dataset, series, "accuracy_f")
        for metric, label, arm in quantities:
            # Labels are the same for g(x) and g(x̃), so chance is too; f says nothing of the others.
            chance = majority if metric.startswith("accuracy") else None
            own = metric.endswith("_own_f")
            f = original if metric == "accuracy" else None
            entries = [numbers.entry(dataset, one, metric, arm=arm) for one in series]
            rows.append(
                Row(
                    labels=(dataset, label),
                    quantity=label,
                    dataset=dataset,
                    metric=metric,
                    arm=arm,
                    entries=(_point(chance), _point(f, seeds=1), *entries),
                    unit="fraction",
                    scale=100.0,
                    decimals=1,
                    # Different classifiers are no competitors for one mark.
                    higher_is_better=numbers.direction(metric) if arm == "method" and not own else None,
                    optional=own,
                )
            )
    notes = ["Chance: share of the most frequent class."] if any(r.entries[0] for r in rows) else []
    notes += [f"{OWN_F} Trained with its own classifier, so Original-f is not its f."] if others else []
    notes += _other_classifiers(numbers, series)
    shown = ("accuracy", "accuracy_f", "agreement", "accuracy_reconstruction")
    shown += ("accuracy_own_f", "agreement_own_f") if others else ()
    headers = ("data set", "quantity")
    return _table("accuracy", "Accuracy (%)", headers, columns, rows, numbers, shown, notes)


def _has_own_f(numbers: Numbers, one: Series) -> bool:
    return any(numbers.entry(dataset, one, "accuracy_own_f") for dataset in numbers.datasets())


def _point(entry: Entry | None, seeds: int = 0) -> Entry | None:
    """Drop the spread of a number that does not depend on the method's seed."""
    if entry is None or entry.spread > 1e-9:
        return entry
    several = len(entry.seeds) > 1 or not seeds
    low, high = (float("nan"),) * 2 if several else (entry.low, entry.high)
    return Entry(value=entry.value, low=low, high=high, seeds=entry.seeds, n=entry.n)


def _other_classifiers(numbers: Numbers, series: Sequence[Series]) -> list[str]:
    """Name methods that were measured against another f than the one shown as Original-f."""
    notes = []
    for dataset in numbers.datasets():
        first = numbers.shared(dataset, series, "accuracy_f")
        for one in series:
            own = numbers.entry(dataset, one, "accuracy_f")
            if first and own and own.value != first.value:
                notes.append(f"Original-f of {one.title} on {dataset} is another: {own.text(100.0, 1)} %.")
    return notes


def _consistency(numbers: Numbers, series: Sequence[Series]) -> Table:
    quantities = (
        *(("consistency", "consistency", "method"), ("consistency", "permuted labels", "permuted")),
        *(("consistency", "untrained", "untrained"), ("consistency_shift", "shift", "method")),
        *(("consistency_shift", "shift, untrained", "untrained"),),
        *(("dead_concepts", "dead concepts", "method"), ("dead_concepts", "dead, untrained", "untrained")),
    )
    settings = sorted({p for m, _, _ in quantities for p in numbers.params(m)}, key=_no_setting_last)
    rows = []
    for dataset in numbers.datasets():
        for params in settings:
            for metric, label, arm in quantities:
                if params in numbers.params(metric):
                    rows.append(_concept_row(numbers, series, dataset, metric, label, params, arm))
    notes = [
        "Permuted labels: SVM trained on shuffled labels; untrained: the method at initialisation. "
        "Shift: relative shift of the mean embedding between x⁺ and x⁻, in %; "
        "dead concepts, in %, score 50 % and count."
    ]
    metrics = ("consistency", "consistency_shift", "dead_concepts")
    headers, columns = ("data set", "λ", "quantity"), _methods(series)
    return _table("consistency", "Consistency (%)", headers, columns, rows, numbers, metrics, notes)


def _no_setting_last(params: str) -> tuple[bool, float, str]:
    return (params == "", parameter(params), params)


def _concept_row(
    numbers: Numbers,
    series: Sequence[Series],
    dataset: str,
    metric: str,
    label: str,
    params: str,
    arm: str,
) -> Row:
    pooled = metric == "consistency"
    get = numbers.over_concepts if pooled else numbers.entry
    return Row(
        labels=(dataset, value_of(params) or "all", label),
        quantity=label,
        dataset=dataset,
        metric=metric,
        params=params,
        arm=arm,
        entries=tuple(get(dataset, one, metric, params, arm) for one in series),
        unit=numbers.unit(metric),
        scale=100.0,
        decimals=1,
        higher_is_better=numbers.direction(metric) if pooled and arm == "method" else None,
        over="concepts" if pooled else "seeds",
    )


def _reconstruction(numbers: Numbers, series: Sequence[Series]) -> Table:
    controls = [("Mean image", "mean image"), ("Train images", "train images")]
    # Runs of older versions have none.
    controls += [("Same distribution", _SAME)] if any(r.arm == _SAME for r in numbers.records) else []
    columns = [*(Column(title=title) for title, _ in controls), *_methods(series)]
    metrics = numbers.metrics(*_RECONSTRUCTION)
    rows = []
    for dataset in numbers.datasets():
        for metric in metrics:
            nulls = [_point(numbers.shared(dataset, series, metric, arm)) for _, arm in controls]
            entries = [numbers.entry(dataset, one, metric) for one in series]
            direction = numbers.direction(metric)
            arrow = {True: " ↑", False: " ↓", None: ""}[direction]
            rows.append(
                Row(
                    labels=(dataset, title_of(metric) + arrow),
                    quantity=title_of(metric),
                    dataset=dataset,
                    metric=metric,
                    entries=(*nulls, *entries),
                    unit=numbers.unit(metric),
                    decimals=significant(entries),
                    higher_is_better=direction,
                )
            )
    notes = [
        "Mean image: x̃ replaced by the mean training image; "
        "train images: training images against the test images, the floor of a Fréchet distance; "
        "same distribution: what two samples of n from one distribution show; intervals, too, are of the distance at "
        "that n."
    ]
    shown = tuple(dict.fromkeys(("mse", "pd_p", "fd_p", "fd_f", *metrics)))
    headers = ("data set", "metric")
    return _table("reconstruction", "Reconstruction", headers, columns, rows, numbers, shown, notes)


def _faithfulness(numbers: Numbers, series: Sequence[Series]) -> Table:
    measured = numbers.keys()
    able = [one for one in series if (one.method, one.variant) in measured]
    lender = next((one for one in able if one.method == "viscoin"), able[-1])
    columns = [Column(title="Random removal"), *_methods(series)]
    quantities = (
        *(("faithfulness", "median FF", "method"), ("faithfulness", "own random removal", "random")),
        *(("removed", "concepts removed", "method"), ("probability_reconstruction", "mean g(x̃)_ĉ", "method")),
    )
    rows = []
    for dataset in numbers.datasets():
        for metric, label, arm in quantities:
            main = metric == "faithfulness" and arm == "method"
            for params in numbers.params(metric):
                entries = [numbers.entry(dataset, one, metric, params, arm) for one in series]
                chance = numbers.entry(dataset, lender, metric, params, "random") if main else None
                rows.append(
                    Row(
                        labels=(dataset, label, value_of(params)),
                        quantity=label,
                        dataset=dataset,
                        metric=metric,
                        params=params,
                        arm=arm,
                        entries=(chance, *entries),
                        unit=numbers.unit(metric),
                        decimals=1 if metric == "removed" else 3,
                        higher_is_better=numbers.direction(metric) if arm == "method" else None,
                    )
                )
    notes = [
        f"Random removal: as many concepts as {lender.title} removed, drawn at random; "
        "own random removal: the same for each method."
    ]
    headers = ("data set", "quantity", "τ")
    metrics = ("faithfulness", "removed", "probability_reconstruction")
    return _table("faithfulness", "Median faithfulness", headers, columns, rows, numbers, metrics, notes)


def _sparsity(numbers: Numbers, series: Sequence[Series]) -> Table:
    rows = [
        Row(
            labels=(dataset, value_of(params), label),
            quantity=label,
            dataset=dataset,
            metric="sparsity",
            params=params,
            arm=arm,
            entries=tuple(numbers.entry(dataset, one, "sparsity", params, arm) for one in series),
            unit=numbers.unit("sparsity"),
            decimals=2,
            higher_is_better=numbers.direction("sparsity") if arm == "method" else None,
        )
        for dataset in numbers.datasets()
        for params in numbers.params("sparsity", descending=True)
        for arm, label in (("method", "concepts"), ("permuted", "permuted classes"))
    ]
    notes = ["Mean over classes of the number of concepts with r_{k,c} > t."]
    headers, columns = ("data set", "t", "quantity"), _methods(series)
    title = "Sparsity"
    return _table("sparsity", title, headers, columns, rows, numbers, ("sparsity",), notes)


def _others(numbers: Numbers, series: Sequence[Series]) -> Table:
    """Return the numbers that the other tables do not know: those of plug-ins, one row per arm and setting."""
    known = {*NAMES, *_SHOWN_ELSEWHERE, *numbers.metrics(*_RECONSTRUCTION)}
    metrics = [metric for metric in numbers.metrics("") if metric not in known]
    rows = []
    for dataset in numbers.datasets():
        for metric in metrics:
            keys = {(r.params, r.arm) for r in numbers.of(metric)}
            for params, arm in sorted(keys, key=lambda key: (parameter(key[0]), key[1] != "method", key)):
                entries = tuple(numbers.entry(dataset, one, metric, params, arm) for one in series)
                rows.append(
                    Row(
                        labels=(dataset, title_of(metric), params, "" if arm == "method" else arm),
                        quantity=title_of(metric),
                        dataset=dataset,
                        metric=metric,
                        params=params,
                        arm=arm,
                        entries=entries,
                        unit=numbers.unit(metric),
                        decimals=significant(entries),
                        higher_is_better=numbers.direction(metric) if arm == "method" else None,
                    )
                )
    notes = [f"{title_of(metric)} in {unit}." for metric in metrics if (unit := numbers.unit(metric))]
    headers = ("data set", "metric", "setting", "control")
    return _table("others", "Other metrics", headers, _methods(series), rows, numbers, metrics, notes)
