"""What must be here before a run begins to train: found out at once, not in the middle of it."""

from __future__ import annotations

from coinbench import registry
from coinbench.cache import Cache
from coinbench.digests import classifier_digest
from coinbench.plan import Planned
from coinbench.published_weights import folder, known


def check_ready(planned: list[Planned], cache: Cache) -> list[str]:
    """Refuse to begin where something is not here that a training would start from or uses.

    Returns:
        a line for each metric that will have no numbers because its weights are not here.

    Raises:
        DataError: names it and how to get it.
    """
    told: dict[str, None] = {}
    for cell in (cell for cell in planned if not cell.done):
        problem, given, here = cell.cell.problem, cell.cell.evaluation.weights, folder(cache.root)
        if not cache.has("classifier", classifier_digest(cell.cell)):
            registry.CLASSIFIERS.load(problem.classifier.net).start(problem.classifier, here)
        problem.perceptual.file(here)
        for metric in cell.cell.metrics:
            for name in registry.METRICS.load(metric).needs:
                if getattr(given, name, None) is None and not (here / known(name).remote.name).is_file():
                    told[f"{metric} will have no numbers: `coinbench weights fetch {name}` brings what it needs"] = None
    return list(told)
