"""From what was asked to the cells of a run: methods x data sets x seeds x variants, each with a digest."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, field_validator

from coinbench import registry
from coinbench.cache import Cache
from coinbench.config import Cell, Config, DataConfig, Experiment
from coinbench.digests import cell_digest
from coinbench.errors import CoinbenchError, DataError, UsageError, unknown
from coinbench.files import read_json
from coinbench.overrides import apply, flatten, parse, read_yaml, validate
from coinbench.presets import VARIANTS, applies, default_metrics, other_classifier, other_generator, preset
from coinbench.published_weights import folder

if TYPE_CHECKING:
    from coinbench.data.source import Source


class RunConfig(Config):
    """A whole run, resolved: written to config.json before anything runs, and accepted by --config."""

    experiments: dict[str, dict[str, Experiment]] = Field(min_length=1)
    """Data set -> variant -> experiment."""
    metrics: tuple[str, ...] = Field(min_length=1)
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)
    plugins: dict[str, str] = Field(default_factory=dict)
    """What of it is not coinbench's, as "method pca" -> where it came from."""

    @field_validator("metrics", "seeds")
    @classmethod
    def _each_once(cls, value: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(value)) != len(value):
            raise ValueError("each may be given once only")
        return value


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the command line asks for; None means not given."""

    methods: str | None = None
    datasets: str | None = None
    seeds: str | None = None
    metrics: str | None = None
    variants: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()
    config: Path | None = None


def names(text: str | None) -> tuple[str, ...]:
    """Split a comma-separated list.

    >>> names("viscoin, flint")
    ('viscoin', 'flint')
    """
    parts = tuple(part.strip() for part in (text or "").split(",") if part.strip())
    if len(set(parts)) != len(parts):
        raise UsageError(f"{text!r}: a name is given twice")
    return parts


def seeds(text: str) -> tuple[int, ...]:
    """Read seeds: a number, a list, or a range without its end.

    >>> seeds("0:3"), seeds("1,5")
    ((0, 1, 2), (1, 5))

    Raises:
        UsageError: anything else, or a negative, repeated or missing seed.
    """
    help_ = f"--seeds {text!r}: expected numbers >= 0 as in 0, 0,1,2 or 0:3"
    found: list[int] = []
    for part in text.split(","):
        low, colon, high = part.strip().partition(":")
        if not low.isdecimal() or (colon and not high.isdecimal()):
            raise UsageError(help_)
        if int(high or low) - int(low) > 10_000:
            raise UsageError(f"--seeds {text!r}: more than 10,000 seeds")
        found += range(int(low), int(high)) if colon else [int(low)]
    if not found or len(set(found)) != len(found):
        raise UsageError(f"{help_}, each once")
    return tuple(found)


_KEYS = ("dataset", "methods", "seeds", "metrics", "variants", "set", "data", "problem", "method", "evaluation")


def resolve(request: Request) -> RunConfig:
    """Return the resolved configuration: preset, then the file, then the flags.

    Raises:
        UsageError: anything unknown or out of range.
    """
    tree = read_yaml(request.config) if request.config else {}
    if "experiments" in tree:
        _require(tree.get("plugins", {}), request.config)
        return _restricted(validate(RunConfig, tree), request)
    for key in tree:
        if key not in _KEYS:
            raise _unknown_key(request.config, str(key))
    methods = names(request.methods or _text(tree.get("methods")))
    datasets = names(request.datasets or _text(tree.get("dataset")))
    if not datasets:
        raise UsageError(f"no data set given; known: {', '.join(registry.PROBLEMS.names())}")
    metrics = names(request.metrics or _text(tree.get("metrics"))) or default_metrics(datasets)
    for metric in metrics:
        registry.METRICS.check(metric)
        if not any(applies(metric, dataset) for dataset in datasets):
            raise UsageError(
                f"--metrics {metric}: does not apply to {', '.join(datasets)}, which cannot draw images with other "
                f"parts; leave it out, or take a data set that can (birds)"
            )
    changes = flatten({k: tree[k] for k in ("data", "problem", "method", "evaluation") if k in tree})
    changes += [parse(text) for text in (*_texts(tree, "set"), *request.sets)]
    variants = _variants((*_texts(tree, "variants"), *request.variants))
    experiments = {
        dataset: {variant: _experiment(dataset, methods, changes + extra) for variant, extra in variants.items()}
        for dataset in datasets
    }
    return RunConfig(
        experiments=experiments,
        plugins=_plugins(experiments, metrics),
        metrics=metrics,
        seeds=seeds(_given(request.seeds, _text(tree.get("seeds")), "0")),
    )


def dataset_config(name: str, sets: tuple[str, ...]) -> DataConfig:
    """Return the configuration of a data set alone, as its preset and `--set` make it."""
    method = registry.METHODS.names()[0]
    return _experiment(name, (method,), [parse(text) for text in sets]).data


def _experiment(dataset: str, methods: tuple[str, ...], changes: list[tuple[list[str], Any]]) -> Experiment:
    base = preset(dataset, methods)
    if (g := _last(changes, "generator")) not in (None, base.problem.generator.net):
        # Another G has other settings; what is set of them comes on top.
        sizes = [value for keys, value in changes if keys == ["data", "size"] and isinstance(value, int)]
        size = sizes[-1] if sizes else base.data.size
        # A size out of range is refused when all settings are there.
        base = other_generator(base, str(g), max(16, min(size, 1024)))
    if (f := _last(changes, "classifier")) not in (None, base.problem.classifier.net):
        base = other_classifier(base, str(f))
    fields = registry.PROBLEMS.load(dataset).config.model_fields
    known = {name: field.get_default(call_default_factory=True) for name, field in fields.items()}
    required = {name for name, field in fields.items() if field.is_required()}
    given = {keys[1] for keys, _ in changes if keys[0] == "data" and len(keys) > 1}
    defaults = {name: value for name, value in known.items() if name not in required or name in given}
    return apply(base, changes, {"data": {**defaults, "name": dataset}})


def _last(changes: list[tuple[list[str], Any]], network: str) -> Any:
    """Return the net that the changes choose; None where they choose none."""
    return next((value for keys, value in reversed(changes) if keys == ["problem", network, "net"]), None)


def _variants(texts: tuple[str, ...]) -> dict[str, list[tuple[list[str], Any]]]:
    variants: dict[str, list[tuple[list[str], Any]]] = {}
    for text in texts:
        name, colon, changes = text.partition(":")
        if not colon and name in VARIANTS:
            colon, changes = ":", ";".join(VARIANTS[name])
        if not colon or not name or name in variants:
            known = " or ".join(VARIANTS)
            raise UsageError(f"--variant {text!r}: expected NAME:path=value[;path=value], or {known}; each name once")
        variants[name] = [parse(part) for part in changes.split(";") if part.strip()]
    return variants or {"default": []}


def _restricted(config: RunConfig, request: Request) -> RunConfig:
    if request.methods or request.datasets or request.sets or request.variants:
        raise UsageError(
            "--config: a resolved config.json is run as it is; of the flags only --seeds and --metrics change it"
        )
    metrics = names(request.metrics) or config.metrics
    for metric in metrics:
        registry.METRICS.check(metric)
    chosen = config.seeds if request.seeds is None else seeds(request.seeds)
    used = _plugins(config.experiments, metrics)
    return config.model_copy(update={"metrics": metrics, "seeds": chosen, "plugins": used})


def _plugins(experiments: dict[str, dict[str, Experiment]], metrics: tuple[str, ...]) -> dict[str, str]:
    """Return where the plug-ins of a run come from."""
    parts = [experiment for variants in experiments.values() for experiment in variants.values()]
    used = [(registry.PROBLEMS, part.data.name) for part in parts]
    used += [(registry.METHODS, name) for part in parts for name in part.methods]
    used += [(registry.CLASSIFIERS, part.problem.classifier.net) for part in parts]
    used += [(registry.GENERATORS, part.problem.generator.net) for part in parts]
    used += [(registry.METRICS, name) for name in metrics]
    return {f"{of.kind} {name}": origin for of, name in used if (origin := of.targets[name])}


def _require(plugins: Any, path: Path | None) -> None:
    """Refuse a configuration whose plug-ins are not here.

    Raises:
        UsageError: names the first that is missing and where it came from.
    """
    every = (registry.PROBLEMS, registry.METHODS, registry.CLASSIFIERS, registry.GENERATORS, registry.METRICS)
    registries = {of.kind: of for of in every}
    for used, origin in plugins.items() if isinstance(plugins, dict) else ():
        kind, _, name = used.rpartition(" ")
        if kind in registries and name not in registries[kind].targets:
            how = f"give --plugin {origin}" if str(origin).endswith(".py") else f"install {origin}"
            raise UsageError(f"--config {path}: needs the {kind} {name!r}, which is a plug-in's; {how}")


def _given(*values: str | None) -> str:
    """Return the first that was given; an empty text is given, and wrong."""
    return next(value for value in values if value is not None)


def _unknown_key(path: Path | None, key: str) -> UsageError:
    return UsageError(f"--config {path}: {unknown('key', key, list(_KEYS))}")


def _texts(tree: dict[str, Any], key: str) -> list[str]:
    value = tree.get(key, [])
    if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
        raise UsageError(
            f"--config: {key} must be a list of texts, each as after --{key.removesuffix('s')}, got {value!r}"
        )
    return value


def _text(value: Any) -> str | None:
    if isinstance(value, list | tuple):
        return ",".join(str(v) for v in value)
    return None if value is None else str(value)


@dataclass(frozen=True, slots=True)
class Planned:
    """A cell of a run and how far it is."""

    cell: Cell
    digest: str
    folder: Path
    """Where its results go."""

    @property
    def label(self) -> str:
        """Name for messages: "birds/viscoin seed 0"."""
        variant = "" if self.cell.variant == "default" else f" [{self.cell.variant}]"
        return f"{self.cell.dataset}/{self.cell.method.name}{variant} seed {self.cell.seed}"

    @property
    def done(self) -> bool:
        """Tell whether all its numbers are on disk."""
        return self.measured and not self.unavailable

    @property
    def unavailable(self) -> dict[str, str]:
        """Return the metrics without numbers of a measured cell, with the reasons.

        Raises:
            DataError: the file that says so is damaged.
        """
        path = self.folder / "unavailable.json"
        try:
            found = read_json(path)
        except CoinbenchError as error:
            raise DataError(f"{path}: not readable as JSON; {self.remedy}") from error
        if not isinstance(found, dict) or not all(isinstance(reason, str) for reason in found.values()):
            raise DataError(f"{path}: not a list of metrics with reasons; {self.remedy}")
        return found

    @property
    def remedy(self) -> str:
        """Return what helps where a file of the cell is damaged: what was trained is in the cache."""
        return _remedy(self.folder)

    @property
    def measured(self) -> bool:
        """Tell whether it has numbers on disk, if not of every metric."""
        return all((self.folder / name).is_file() for name in ("results.parquet", "unavailable.json"))


def _remedy(folder: Path) -> str:
    return f"delete {folder} and run the same command again"


def cells(config: RunConfig, cache: Cache, out: Path) -> list[Planned]:
    """Return the cells of a run in order: by data set, variant, seed, method.

    Raises:
        DataError: a data set is missing or damaged, before anything is fitted.
        UsageError: f is to be chosen by validation images of which there are none.
    """
    from coinbench.pretrain import open_source

    config, planned = pinned(config, cache), []
    for dataset, variants in config.experiments.items():
        for variant, experiment in variants.items():
            source = open_source(experiment.data, cache)
            refuse_empty_val(experiment, source, dataset)
            planned += cells_on(source.fingerprint, dataset, variant, config, out)
    return planned


def pinned(config: RunConfig, cache: Cache) -> RunConfig:
    """Return a run whose digests tell which file each published G is.

    Raises:
        DataError: one cannot be read, or is not what the settings say.
    """
    here = folder(cache.root)

    def of(experiment: Experiment) -> Experiment:
        generator = experiment.problem.generator.pinned(here)
        problem = experiment.problem.model_copy(update={"generator": generator})
        return experiment.model_copy(update={"problem": problem})

    parts = config.experiments.items()
    experiments = {dataset: {name: of(one) for name, one in variants.items()} for dataset, variants in parts}
    return config.model_copy(update={"experiments": experiments})


def cells_on(fingerprint: str, dataset: str, variant: str, config: RunConfig, out: Path) -> list[Planned]:
    """Return the cells of one variant on data with a fingerprint."""
    experiment, planned = config.experiments[dataset][variant], []
    for seed in config.seeds:
        for method in experiment.methods.values():
            cell = Cell(
                dataset=dataset,
                data_fingerprint=fingerprint,
                data=experiment.data,
                problem=experiment.problem,
                method=method,
                evaluation=experiment.evaluation,
                # In a run on several data sets a metric may apply to some of them only.
                metrics=tuple(metric for metric in config.metrics if applies(metric, dataset)),
                seed=seed,
                variant=variant,
            )
            name = cell_digest(cell)
            planned.append(Planned(cell, name, out / "cells" / name))
    return planned


def refuse_empty_val(experiment: Experiment, source: Source, dataset: str) -> None:
    """Refuse a choice of f's state by images that are not there: never by test images instead.

    Raises:
        UsageError: says what to set.
    """
    every, share = experiment.problem.classifier.select_every, experiment.data.val_fraction
    if every and not len(source.split("val", share)):
        raise UsageError(
            f"problem.classifier.select_every={every}: {dataset} has no validation images to choose f by with "
            f"data.val_fraction={share:g}; raise data.val_fraction, or set problem.classifier.select_every=0"
        )


def read_cell(path: Path) -> Cell:
    """Read a cell that was written as JSON.

    Raises:
        DataError: it is no cell.
    """
    try:
        cell = validate(Cell, read_json(path))
        for metric in cell.metrics:
            registry.METRICS.check(metric)
    except CoinbenchError as error:
        raise DataError(f"{path}: not the settings of a cell ({error}); {_remedy(path.parent)}") from error
    return cell
