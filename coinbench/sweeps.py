"""Ablations: which variants of a method a table of the paper, or an axis of settings, asks for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from coinbench import registry
from coinbench.errors import UsageError
from coinbench.overrides import parse
from coinbench.plan import Request, RunConfig, names, resolve
from coinbench.published import Line, Paper, PublishedTable, find, label_of
from coinbench.published.settings import Tree, called, carried, setting_of

DEFAULT = "default"
"""Name of the variant that changes nothing; all ablations of a run share it."""
PRESETS = tuple(f"table{number}" for number in range(14, 22))
"""The ablations of the paper."""
METRICS = ("accuracy", "mse", "lpips_vgg", "fid", "faithfulness", "pd_p", "fd_p", "fd_f")
"""Rows of results that ablations show; the last three stand beside LPIPS and FID."""


@dataclass(frozen=True, slots=True)
class Point:
    """One setting of an ablation."""

    label: str
    """The paper's, or of the axis."""
    variant: str
    changes: tuple[str, ...]
    """As after --set; none for the default."""
    here: str = ""
    """The label with what is another at the size of the experiment; empty where nothing is."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """One ablation."""

    name: str
    """table14, or the axis."""
    title: str
    points: tuple[Point, ...]

    @property
    def named(self) -> list[tuple[str, str]]:
        """Return label and variant of each point, as reports take them."""
        return [(point.here or point.label, point.variant) for point in self.points]


def tree_of(dataset: str, method: str, sets: Sequence[str] = ()) -> dict[str, Any]:
    """Return the settings of a method on a data set, as its preset and `sets` make them, in the form of a cell.

    Raises:
        UsageError: anything unknown or out of range.
    """
    config = resolve(Request(methods=method, datasets=dataset, sets=tuple(sets)))
    ((experiment,),) = (tuple(variants.values()) for variants in config.experiments.values())
    whole = experiment.model_dump(mode="json")
    return {**{part: whole[part] for part in ("data", "problem", "evaluation")}, "method": whole["methods"][method]}


def of_table(paper: Paper, table: PublishedTable, base: Tree) -> Sweep:
    """Return the ablation of a table at the size of an experiment; rows that coinbench cannot run are left out.

    Args:
        paper: gives the main settings.
        table: whose rows have settings.
        base: what the settings are carried over to.
    """
    points = []
    for row in (row for row in table.rows if not missing(row)):
        own = carried(row.setting, paper.main(table.datasets[0]), base)
        points.append(replace(point_of(row.label, own, base), here=called(row.label, row.setting, own)))
    return Sweep(label_of(table.id), table.title, tuple(points))


def missing(row: Line) -> str:
    """Say what coinbench lacks for a row; empty where it lacks nothing.

    >>> from coinbench.published import find
    >>> [missing(row) for row in find("4")[1].rows]
    ["coinbench has no generator 'progressivegan'", '']
    """
    for path, known in (
        ("problem.generator.net", registry.GENERATORS),
        ("problem.classifier.net", registry.CLASSIFIERS),
    ):
        if path in row.setting and row.setting[path] not in known.names():
            return f"coinbench has no {known.kind} {row.setting[path]!r}"
    return ""


def of_axis(text: str, base: Tree) -> Sweep:
    """Read an axis, as method.gamma=0,0.1,0.2,0.5.

    >>> [(point.label, point.variant) for point in of_axis("method.K=12,24", {"method": {"K": 24}}).points]
    [('K = 12', 'K=12'), ('K = 24', 'default')]

    Raises:
        UsageError: no path or fewer than two values, or the method has no such setting.
    """
    path, equals, values = text.partition("=")
    found = [parse(f"{path}={value}")[1] for value in values.split(",") if value.strip()] if equals else []
    if len(found) < 2 or len({_json(value) for value in found}) < len(found):
        raise UsageError(f"--axis {text!r}: expected path=value,value with different values, as method.gamma=0,0.1")
    if path.startswith("method.") and setting_of(base, path) is None:
        known = ", ".join(key for key in base["method"] if key not in ("name", "train"))
        raise UsageError(f"--axis {text!r}: {base['method'].get('name')} has no setting {path[7:]!r} (known: {known})")
    short = path.rpartition(".")[2]
    points = [point_of(f"{short} = {_value(value)}", {path: value}, base) for value in found]
    return Sweep(short, path, tuple(points))


def point_of(label: str, setting: dict[str, Any], base: Tree) -> Point:
    """Return a point; settings that the base has anyway are no change, so that unchanged cells are shared."""
    moved = {path: value for path, value in setting.items() if setting_of(base, path) != value}
    name = ",".join(f"{_short(path)}={_value(value)}" for path, value in moved.items())
    return Point(label, name or DEFAULT, tuple(f"{path}={_json(value)}" for path, value in moved.items()))


def _short(path: str) -> str:
    """Return the last key of a path, of a net the part that it is."""
    *_, before, last = ("", *path.split("."))
    return before if last == "net" else last


def _value(value: Any) -> str:
    return value if isinstance(value, str) else _json(value)


def _json(value: Any) -> str:
    """Return a value as --set reads it; 0.0 and 0 are one setting."""
    return f"{value:g}" if isinstance(value, float) else json.dumps(value)


def chosen(presets: Sequence[str], axes: Sequence[str], base: Tree) -> list[Sweep]:
    """Return the ablations that were asked for.

    Raises:
        UsageError: none, or an unknown one.
    """
    asked = [name for text in presets for name in names(text)]
    asked = [one for name in asked for one in (PRESETS if name == "all" else (name,))]
    if not asked and not axes:
        raise UsageError(f"no ablation given: --preset all, --preset {' or '.join(PRESETS[:2])}, or --axis path=values")
    found = []
    for name in dict.fromkeys(asked):
        paper, table = find(name)
        if not table.axis:
            raise UsageError(f"--preset {name!r}: table {table.id} is no ablation; known: all, {', '.join(PRESETS)}")
        if base["method"]["name"] != table.where.method:
            raise UsageError(f"--preset {name!r}: an ablation of {table.where.method}, not of {base['method']['name']}")
        found.append(of_table(paper, table, base))
    return found + [of_axis(text, base) for text in axes]


def variants_of(sweeps: Sequence[Sweep]) -> tuple[str, ...]:
    """Return the different variants of ablations, as after --variant; the default first.

    >>> base = {"method": {"K": 24}}
    >>> variants_of([of_axis("method.K=24,12", base), of_axis("method.K=12,6", base)])
    ('default:', 'K=12:method.K=12', 'K=6:method.K=6')
    """
    points = (Point("", DEFAULT, ()), *(point for sweep in sweeps for point in sweep.points))
    return tuple(dict.fromkeys(f"{point.variant}:{';'.join(point.changes)}" for point in points))


def makers(rows: Sequence[str], datasets: tuple[str, ...]) -> tuple[str, ...]:
    """Return the metrics that make some rows of results: those that need weights only where the preset has them.

    Raises:
        UsageError: a plug-in's metric cannot be imported.
    """
    from coinbench.presets import default_metrics

    usual = default_metrics(datasets)
    wanted = [name for name in registry.METRICS.names() if {spec.name for spec in _specs(name)} & set(rows)]
    return tuple(name for name in wanted if name in usual or not registry.METRICS.load(name).needs)


def _specs(metric: str) -> Any:
    return registry.METRICS.load(metric).specs


def resolved(
    sweeps: Sequence[Sweep], dataset: str, method: str, seeds: str, sets: Sequence[str], metrics: str | None
) -> RunConfig:
    """Return the run that measures ablations.

    Raises:
        UsageError: anything unknown or out of range.
    """
    measured = metrics or ",".join(makers(METRICS, (dataset,)))
    given = {"methods": method, "datasets": dataset, "seeds": seeds, "metrics": measured, "sets": tuple(sets)}
    return resolve(Request(variants=variants_of(sweeps), **given))
