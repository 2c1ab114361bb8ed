"""What must be here before a run begins to train: found out at once, not in the middle of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from coinbench import registry, shipped
from coinbench.cache import Cache
from coinbench.digests import classifier_digest, fit_digest, generator_digest, perceptual_digest
from coinbench.errors import DataError, UsageError
from coinbench.group import refuse_uneven
from coinbench.plan import Planned
from coinbench.published_weights import folder, known


def missing(cell: Planned, cache: Cache) -> Iterator[DataError]:
    """Yield what a cell would start from or train with and is not here, each with how to get it."""
    if cell.done:
        return
    problem, here = cell.cell.problem, folder(cache.root)
    asked: list[Callable[[], object]] = [lambda: problem.perceptual.file(here)]
    if not cache.has("generator", generator_digest(cell.cell)):
        asked.append(lambda: problem.generator.begin(here))
    if not cache.has("classifier", classifier_digest(cell.cell)):
        f = problem.classifier
        asked.insert(0, lambda: registry.CLASSIFIERS.load(f.net).start(f, here))
    for ask in asked:
        try:
            ask()
        except DataError as error:
            yield error


def unmeasured(planned: list[Planned], cache: Cache) -> list[str]:
    """Return a line for each metric that will have no numbers because its weights are not here."""
    told: dict[str, None] = {}
    for cell in (cell for cell in planned if not cell.done):
        given, here = cell.cell.evaluation.weights, folder(cache.root)
        for metric in cell.cell.metrics:
            for name in registry.METRICS.load(metric).needs:
                if getattr(given, name, None) is None and not (here / known(name).remote.name).is_file():
                    told[f"{metric} will have no numbers: `coinbench weights fetch {name}` brings what it needs"] = None
    return list(told)


def check_ready(planned: list[Planned], cache: Cache) -> None:
    """Refuse to begin where something is not here that a training would start from or uses.

    Raises:
        DataError: names it and how to get it.
    """
    for cell in planned:
        for error in missing(cell, cache):
            raise error


def check_shares(planned: list[Planned], cache: Cache, size: int) -> None:
    """Refuse trainings that so many processes cannot share.

    Raises:
        UsageError: names the setting and what to do.
    """
    if size == 1:
        return
    for cell in (planned.cell for planned in planned if not planned.done):
        problem = cell.problem
        trained = {"classifier": classifier_digest, "generator": generator_digest}
        if problem.perceptual.net == "parts":
            trained["perceptual"] = perceptual_digest
        missing = {
            kind: config
            for kind, digest in trained.items()
            if not shipped.find(kind, config := getattr(problem, kind), cell) and not cache.has(kind, digest(cell))
        }
        for kind, config in missing.items():
            if kind == "generator" and registry.GENERATORS.load(config.net).alone(config):
                raise UsageError(
                    f"problem.generator.net={config.net}: trains on one device only; train it first with `coinbench "
                    f"pretrain generator --dataset {cell.dataset}` and the same settings, then run with several"
                )
            refuse_uneven(config.train.batch, size, f"problem.{kind}.train.batch")
        if not cache.has("fit", fit_digest(cell)):
            refuse_uneven(cell.method.train.batch, size, f"methods.{cell.method.name}.train.batch")
