"""What must be here before a run begins to train: found out at once, not in the middle of it."""

from __future__ import annotations

from coinbench import registry
from coinbench.cache import Cache
from coinbench.digests import classifier_digest
from coinbench.plan import Planned
from coinbench.published_weights import folder


def check_ready(planned: list[Planned], cache: Cache) -> None:
    """Refuse to begin where something is not here that a training would start from.

    Raises:
        DataError: names it and how to get it.
    """
    for cell in planned:
        f = cell.cell.problem.classifier
        if not cell.done and not cache.has("classifier", classifier_digest(cell.cell)):
            registry.CLASSIFIERS.load(f.net).start(f, folder(cache.root))
