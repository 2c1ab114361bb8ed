"""Concept stability: are the concepts of one seed found again in another (docs/metrics.md 16).

A number of several cells, made when their rows are collected, from the activations that concept_flags stores.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float
from scipy.optimize import linear_sum_assignment

from coinbench.config import EvaluationConfig
from coinbench.metric import MetricSpec
from coinbench.records import Records
from coinbench.results import Score
from coinbench.rng import Rng

STABILITY = MetricSpec(
    name="concept_stability",
    version=1,
    unit="correlation",
    bounds=(-1.0, 1.0),
    higher_is_better=True,
    source="docs/metrics.md 16; matching: Kuhn 1955, Munkres 1957, as scipy has it",
    protocol=(
        "correlation of pooled_k over the test images that two seeds share, between concepts matched one to one so "
        "that the sum is largest; a concept that is the same in all images has correlation 0; mean over the matched "
        "concepts, then over the other seeds; needs two seeds; seeds share images, f and G, so no interval is given"
    ),
    null=(
        "permuted: the images of the other seed dealt anew (index-keyed) before matching: what the best matching of "
        "unrelated concepts reaches, above 0 and rising with K"
    ),
    formula="max over matchings π of mean over k of corr(pooled_k, pooled′_π(k))",
    oracle="1: the same concepts in any order",
)


def correlations(a: Float[np.ndarray, "n K"], b: Float[np.ndarray, "n L"]) -> Float[np.ndarray, "K L"]:
    """Return the correlation of each pair of columns; 0 where one of them never changes.

    >>> a = np.array([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    >>> correlations(a, -a).round(6).tolist()
    [[-1.0, 0.0], [0.0, 0.0]]
    """

    def unit(x: np.ndarray) -> np.ndarray:
        centred = x - x.mean(0)
        length = np.linalg.norm(centred, axis=0)
        return np.divide(centred, length, out=np.zeros_like(centred), where=length > 1e-12)

    return (unit(a).T @ unit(b)).clip(-1, 1)


def matched(a: Float[np.ndarray, "n K"], b: Float[np.ndarray, "n L"]) -> float:
    """Return the mean correlation of the best one-to-one matching of columns.

    >>> a = np.array([[0.0, 2.0], [1.0, 0.0], [2.0, 1.0]])
    >>> matched(a, 3 * a[:, ::-1] + 1)
    1.0
    """
    found = correlations(a, b)
    return round(float(found[linear_sum_assignment(-found)].mean()), 12)


def stability(cells: Sequence[Records], config: EvaluationConfig) -> list[list[Score]]:
    """Return for each seed how well its concepts are found again in the others, and by chance.

    Args:
        cells: index and pooled activations of each seed.
        config: gives the draws of the control.
    """
    rng = Rng(config.seed).child("evaluation", "stability")
    rows = []
    for i, one in enumerate(cells):
        values: dict[str, list[float]] = {"method": [], "permuted": []}
        n = 0
        for other in (cell for j, cell in enumerate(cells) if j != i):
            shared = np.intersect1d(one["index"], other["index"])
            a, b = (c["pooled"][np.isin(c["index"], shared)].astype(np.float64) for c in (one, other))
            if len(shared) < 3:
                continue
            n = max(n, len(shared))
            values["method"].append(matched(a, b))
            orders = [np.argsort(rng.child(d).uniform(shared, 1)[:, 0]) for d in range(config.permutations)]
            values["permuted"].append(float(np.mean([matched(a, b[order]) for order in orders])))
        detail = f"{len(cells)} seeds"
        rows.append([STABILITY.score(float(np.mean(v)), n=n, arm=arm, detail=detail) for arm, v in values.items() if v])
    return rows
