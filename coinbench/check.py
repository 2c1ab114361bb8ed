"""`coinbench check`: the conformance suite over a name, a MODULE:ATTRIBUTE or what a plug-in file declares."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coinbench import plugins
from coinbench.catalogue import KINDS
from coinbench.conformance.report import Report as Report
from coinbench.errors import UsageError, unknown
from coinbench.registry import Registry


@dataclass(frozen=True, slots=True)
class Subject:
    """What is to be checked."""

    kind: str
    """methods, datasets, metrics, classifiers or generators."""
    entry: Any
    name: str | None = None
    """What it is registered as, where it is."""


def find(target: str) -> Subject:
    """Return what a name or a MODULE:ATTRIBUTE stands for.

    Raises:
        UsageError: nothing has that name, or it is nothing that can be checked.
    """
    if ":" in target:
        return _imported(target)
    for kind, registry in KINDS.items():
        if target in registry.targets:
            return Subject(kind, registry.load(target), target)
    raise unknown("name", target, [name for registry in KINDS.values() for name in registry.names()])


def in_files() -> list[str]:
    """Return all names that the plug-in files declare.

    Raises:
        UsageError: no plug-in file was given.
    """
    found = [name for kind in plugins.EXPECTED for name in plugins.declared(kind)]
    if not found:
        raise UsageError("check: nothing named; give a NAME, a MODULE:ATTRIBUTE or --plugin FILE.py")
    return found


def _imported(target: str) -> Subject:
    module, _, attribute = target.partition(":")
    try:
        entry = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise UsageError(f"check {target}: cannot be imported ({plugins.told(error)})") from error
    for kind, registry in KINDS.items():
        try:
            plugins.checked(registry.entries, entry, target)
        except UsageError:
            continue
        return Subject(kind, entry, _registered(registry, target))
    raise UsageError(
        f"check {target}: is a {type(entry).__name__}, expected a MethodSpec, DatasetSpec, ClassifierSpec, "
        "GeneratorSpec or a subclass of Metric with its specs"
    )


def _registered(registry: Registry, target: str) -> str | None:
    """Return the name under which a target is registered."""
    points = [point for points in registry.installed.values() for point in points]
    known = {**{value: name for name, value in registry.built_in.items()}, **{p.value: p.name for p in points}}
    return known.get(target)


def check(subject: Subject | str, sets: tuple[str, ...] = (), cache: Path | None = None) -> Report:
    """Try every law on a method, metric, data set, classifier or generator.

    Args:
        subject: a name, a "module:attribute", or what `find` returned.
        sets: settings of a data set, as "data.root=DIR".
        cache: cache folder of a data set; default $COINBENCH_CACHE.

    Raises:
        UsageError: nothing has that name, or a setting is wrong.
        DataError: a data set is missing or damaged.
    """
    given = find(subject) if isinstance(subject, str) else subject
    if sets and given.kind != "datasets":
        raise UsageError(
            "check: --set gives settings of a data set, as data.root=DIR; the others are checked as they are"
        )
    # Each suite is imported when it is needed: that of data sets needs no torch.
    if given.kind == "methods":
        from coinbench.conformance.methods import check_method

        return check_method(given.entry, given.name)
    if given.kind == "metrics":
        from coinbench.conformance.metrics import check_metric

        return check_metric(given.entry, given.name)
    if given.kind == "classifiers":
        from coinbench.conformance.classifiers import check_classifier

        return check_classifier(given.entry, given.name)
    if given.kind == "generators":
        from coinbench.conformance.generators import check_generator

        return check_generator(given.entry, given.name)
    return _dataset(given, sets, cache)


def _dataset(given: Subject, sets: tuple[str, ...], cache: Path | None) -> Report:
    from coinbench.cache import default_root
    from coinbench.conformance.datasets import check_dataset
    from coinbench.plan import dataset_config

    if given.name is not None:
        config = dataset_config(given.name, sets)
    elif sets:
        raise UsageError("check: --set needs a data set that is registered; give its name")
    else:
        config = given.entry.config()
    return check_dataset(given.entry, config, (cache or default_root()).absolute(), given.name)
