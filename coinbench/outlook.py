"""How far a run is: of each cell what is there, begun or to do, and what would have to be brought first. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coinbench import registry, shipped
from coinbench.cache import CHECKPOINT, Cache
from coinbench.config import Cell, DataConfig
from coinbench.data.source import SPLITS, Source, split_files
from coinbench.digests import classifier_digest, evaluate_digest, fit_digest, generator_digest, perceptual_digest
from coinbench.errors import DataError
from coinbench.plan import Planned, RunConfig, cells_on, pinned, refuse_empty_val
from coinbench.preflight import missing, unmeasured

THERE = ("cached", "shipped", "none")
"""States of a stage that costs nothing."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What is known of a data set without its pixels."""

    classes: int
    channels: int
    train: int
    val: int
    test: int
    parts: tuple[int, ...] = ()
    """Number of values of each part, where parts are known."""
    here: bool = True
    unstored: tuple[tuple[int, int], ...] = ()
    """(images, pixels a side) of each file of pixels that is not in the cache yet."""

    @property
    def stored(self) -> bool:
        """Tell whether the pixels of all splits are in the cache."""
        return self.here and not self.unstored

    @property
    def bytes(self) -> int:
        """Size of the pixels that are not in the cache yet."""
        return sum(n * side * side * self.channels for n, side in self.unstored)


@dataclass(frozen=True, slots=True)
class Stage:
    """One thing that a cell needs: f, G, p, the trained method."""

    kind: str
    digest: str
    state: str
    """cached, shipped, none (nothing to train), begun or to do."""
    steps: int
    """Left to train."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """All cells of a run, and what is missing for them."""

    planned: list[Planned]
    shapes: dict[str, Shape]
    """Of the data of each cell, by its digest."""
    missing: list[str]
    """What has to be brought, each with how."""
    unmeasured: list[str]
    """Metrics that will have no numbers, each with what to bring; they keep no run from starting."""


def survey(config: RunConfig, cache: Cache, out: Path) -> Outlook:
    """Look at a run as `look` does.

    Raises:
        DataError: nothing is known of any data set of the run.
        UsageError: f is to be chosen by validation images of which there are none.
    """
    found = look(config, cache, out)
    if not found.planned:
        raise DataError(found.missing[0])
    return found


def look(config: RunConfig, cache: Cache, out: Path) -> Outlook:
    """Look at a run without changing anything; of data that are missing, the published size stands in.

    Raises:
        UsageError: f is to be chosen by validation images of which there are none.
    """
    planned: list[Planned] = []
    shapes: dict[str, Shape] = {}
    lacking: list[DataError] = []
    try:
        config = pinned(config, cache)
    except DataError as error:
        lacking.append(error)
    for dataset, variants in config.experiments.items():
        for variant, experiment in variants.items():
            try:
                shape, fingerprint = _look(dataset, experiment, cache, lacking)
                found = cells_on(fingerprint, dataset, variant, config, out)
            except DataError as error:
                lacking.append(error)
                continue
            planned += found
            shapes |= {cell.digest: shape for cell in found}
    for cell in planned:
        lacking += missing(cell, cache)
    return Outlook(planned, shapes, list(dict.fromkeys(map(str, lacking))), unmeasured(planned, cache))


def _look(dataset: str, experiment: Any, cache: Cache, lacking: list[DataError]) -> tuple[Shape, str]:
    from coinbench.pretrain import open_source

    try:
        source = open_source(experiment.data, cache)
    except DataError as error:
        shape = _published(experiment.data)
        if shape is None:
            raise
        lacking.append(error)
        return shape, "not here"
    refuse_empty_val(experiment, source, dataset)
    return shape_of(source, experiment.data, cache), source.fingerprint


def shape_of(source: Source, data: DataConfig, cache: Cache) -> Shape:
    """Return the shape of an opened data set, and which of its pixels are not stored yet."""
    counts = {name: len(source.split(name, data.val_fraction)) for name in SPLITS}
    unstored = [
        (counts[name], side)
        for name in SPLITS
        for side, path in split_files(name, data, source, cache.root).items()
        if not path.is_file()
    ]
    parts = () if source.factors is None else tuple(int(n) + 1 for n in source.factors.max(0))
    return Shape(
        classes=len(source.card.class_names),
        channels=source.channels,
        train=counts["train"],
        val=counts["val"],
        test=counts["test"],
        parts=parts,
        unstored=tuple(unstored),
    )


def _published(data: DataConfig) -> Shape | None:
    official = registry.PROBLEMS.load(data.name).official
    if official is None:
        return None
    counts = official.counts(data)
    val = counts.val or round(counts.train * data.val_fraction)
    train = counts.train - val
    files = ((train, data.size), (train, data.resized), (val, data.size), (counts.test, data.size))
    return Shape(counts.classes, 3, train, val, counts.test, here=False, unstored=files)


def stages(cell: Cell, cache: Cache) -> Iterator[Stage]:
    """Yield f, G, p and the trained method of a cell."""
    problem = cell.problem
    for kind, key, config in (
        ("classifier", classifier_digest(cell), problem.classifier),
        ("generator", generator_digest(cell), problem.generator),
        ("perceptual", perceptual_digest(cell), problem.perceptual),
        ("fit", fit_digest(cell), cell.method),
    ):
        state = state_of(cache, kind, key)
        if kind == "perceptual" and problem.perceptual.net == "random":
            state = "none"
        elif kind != "fit" and shipped.find(kind, config, cell):
            state = "shipped"
        left = 0 if state in THERE else config.train.steps - (_begun_at(cache, kind, key) if state == "begun" else 0)
        yield Stage(kind, key, state, left)


def state_of(cache: Cache, kind: str, key: str) -> str:
    """Return how far a stage is."""
    if cache.has(kind, key):
        return "cached"
    return "begun" if cache.path(kind, f"{key}.partial").is_dir() else "to do"


def _begun_at(cache: Cache, kind: str, key: str) -> int:
    """Return the step of the checkpoint of a begun stage; 0 where there is none to read."""
    from safetensors import safe_open

    # Whether it can be continued is found out by the training itself.
    with suppress(Exception), safe_open(cache.path(kind, f"{key}.partial") / CHECKPOINT, framework="np") as file:
        return max(0, int((file.metadata() or {})["step"]))
    return 0


def rows(outlook: Outlook, cache: Cache) -> list[dict[str, Any]]:
    """Return a row per cell: what of data, f, G, p, fit and evaluation is there, and how many steps are left."""
    found, counted = [], set()
    for cell in outlook.planned:
        parts = list(stages(cell.cell, cache))
        # Cells share f, G and p: the first that needs one trains it.
        left = [part for part in parts if part.steps and (part.kind, part.digest) not in counted and not cell.done]
        counted |= {(part.kind, part.digest) for part in parts}
        shape = outlook.shapes[cell.digest]
        found.append(
            {
                "cell": cell.digest if shape.here else "",
                "label": cell.label,
                "data": "missing" if not shape.here else "stored" if shape.stored else "to do",
                **{part.kind: part.state for part in parts},
                "steps": sum(part.steps for part in left),
                "evaluate": "done" if cell.done else state_of(cache, "evaluate", evaluate_digest(cell.cell)),
                "metrics": list(cell.cell.metrics),
            }
        )
    return found


def told(outlook: Outlook, cache: Cache) -> dict[str, Any]:
    """Return what a plan says before any trial: its cells, what is missing, and which metrics will have no numbers."""
    return {
        "cells": rows(outlook, cache),
        "estimate": None,
        "missing": outlook.missing,
        "unmeasured": outlook.unmeasured,
    }
