"""Sparsity: how many concepts matter for a class (paper section 4, table 13; docs/metrics.md 8)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int

from coinbench.bank import class_means
from coinbench.config import EvaluationConfig
from coinbench.metric import Metric, MetricSpec, Records
from coinbench.results import Score
from coinbench.statistics import summarise
from coinbench.trace import Trace

SPARSITY = MetricSpec(
    name="sparsity",
    version=1,
    unit="concepts",
    bounds=(0.0, np.inf),
    higher_is_better=None,
    source="paper section 4, table 13",
    protocol=(
        "number of concepts with r_{k,c} > t, r_{k,c} the mean of r_k(x) over unaugmented training images with "
        "argmax g(x) = c (0 for a class never predicted); mean over all classes; 95 % interval over classes"
    ),
    null=(
        "permuted: r_k(x) averaged over randomly permuted predicted classes, mean over the draws: the number of "
        "concepts that are relevant whatever the class"
    ),
    formula="mean over c of |{k: r_{k,c} > t}|",
    oracle="as many concepts as a class is made of; neither few nor many is better in itself",
)


def relevant(relevance: Float[np.ndarray, "Y K"], threshold: float) -> Int[np.ndarray, "Y"]:
    """Return how many concepts of each class have r_{k,c} > threshold.

    >>> relevant(np.array([[0.9, 0.5, -1.0], [0.1, 0.2, 0.3]]), 0.2).tolist()
    [2, 1]
    """
    return (relevance > threshold).sum(1)


class Sparsity(Metric):
    """Counts on the global relevance of the training images; the test split is not used."""

    takes_turns = True
    specs = (SPARSITY,)
    cost = "no pass: relevances of the training images, averaged once more for each permutation"

    def update(self, trace: Trace) -> None:
        """Use nothing of the test split."""

    def records(self) -> Records:
        """Return r_{k,c}, one row per arm, draw and class."""
        bank, n_classes = self.evaluation.bank, self.evaluation.problem.n_classes
        tables = [("method", 0, bank.predicted)]
        for draw in range(self.evaluation.config.permutations):
            # Ranks of index-keyed uniforms: a permutation that does not depend on the order of the bank.
            rng = self.evaluation.rng.child("sparsity", draw)
            order = rng.uniform(bank.index.numpy(), 1)[:, 0].argsort()
            tables.append(("permuted", draw, bank.predicted[torch.from_numpy(order)]))
        return {
            "arm": np.repeat([arm for arm, _, _ in tables], n_classes),
            "draw": np.repeat([draw for _, draw, _ in tables], n_classes),
            "class": np.tile(np.arange(n_classes), len(tables)),
            "relevance": np.concatenate(
                [class_means(bank.relevance, classes, n_classes).numpy() for _, _, classes in tables]
            ),
        }

    @staticmethod
    def score(records: Records, config: EvaluationConfig) -> list[Score]:
        """Return the mean count over classes for each threshold and arm."""
        rows = []
        n_classes = int(records["class"].max()) + 1
        for threshold in config.sparsity_thresholds:
            for arm in ("method", "permuted"):
                table = records["relevance"][records["arm"] == arm]
                # [class, draw]: the draws of a class are resampled with it.
                counts = relevant(table, threshold).reshape(-1, n_classes).T
                params = f"t={threshold:g}"
                rows.append(summarise(SPARSITY, counts, config, arm=arm, params=params, over="classes"))
        return rows
