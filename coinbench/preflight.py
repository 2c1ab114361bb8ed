"""What must be here before a run begins to train: found out at once, not in the middle of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from coinbench import registry
from coinbench.cache import Cache
from coinbench.digests import classifier_digest, generator_digest
from coinbench.errors import DataError
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
