"""What must be here before a run begins to train: found out at once, not in the middle of it."""

from __future__ import annotations

from collections.abc import Iterator

from coinbench import registry
from coinbench.cache import Cache
from coinbench.digests import classifier_digest
from coinbench.errors import DataError
from coinbench.plan import Planned
from coinbench.published_weights import folder


def missing(cell: Planned, cache: Cache) -> Iterator[DataError]:
    """Yield what a cell would start from and is not here, each with how to get it."""
    f = cell.cell.problem.classifier
    if not cell.done and not cache.has("classifier", classifier_digest(cell.cell)):
        try:
            registry.CLASSIFIERS.load(f.net).start(f, folder(cache.root))
        except DataError as error:
            yield error


def check_ready(planned: list[Planned], cache: Cache) -> None:
    """Refuse to begin where something is not here that a training would start from.

    Raises:
        DataError: names it and how to get it.
    """
    for cell in planned:
        for error in missing(cell, cache):
            raise error
