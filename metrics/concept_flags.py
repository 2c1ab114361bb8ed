"""Concepts that are none: dead, duplicate, leaky; and how stable concepts are across seeds (docs/metrics.md 16).

A class logit under the name of a concept, the same concept twice and one that is never there all pass for concepts in
the other numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata

from coinbench.config import EvaluationConfig
from coinbench.metric import Metric, MetricSpec, Records, collect
from coinbench.metrics.stability import STABILITY, stability
from coinbench.results import Score
from coinbench.rng import Rng
from coinbench.statistics import summarise
from coinbench.trace import Trace

FLAGS = ("dead", "duplicate", "leaky", "any")
_FEWEST = 5
"""Images of a class below which nothing is said of how a concept tells it."""
_RULES = (
    "on pooled_k over the images of the test split, unaugmented; dead: 0 in all of them (below 1e-6 of the largest of "
    "all concepts); duplicate: correlation with an earlier concept, itself no duplicate, of at least the bound; leaky: "
    f"area under the ROC curve against one class under g with {_FEWEST} images or more, and as many others, of at "
    "least the bound; any: one of the three"
)
_NULL = (
    "permuted: the activations of each concept dealt anew to the images (index-keyed), mean over draws: neither "
    "duplicate nor leaky; a dead concept stays dead"
)


def _spec(name: str, what: str, unit: str, high: float, formula: str) -> MetricSpec:
    return MetricSpec(
        name=name,
        version=1,
        unit=unit,
        bounds=(0.0, high),
        higher_is_better=False,
        source="docs/metrics.md 16",
        protocol=f"{what}; {_RULES}; 95 % interval over concepts",
        null=_NULL,
        formula=formula,
        oracle="0",
    )


SHARE = _spec("concept_flags", "share of concepts with the flag", "fraction", 1.0, "|{k: flag of k}| / K")
COUNT = _spec("concept_flags_count", "number of concepts with the flag", "concepts", np.inf, "|{k: flag of k}|")


def dead(pooled: Float[np.ndarray, "n K"]) -> Bool[np.ndarray, "K"]:
    """Tell which concepts no image shows.

    >>> dead(np.array([[0.0, 1.0], [0.0, 0.0]])).tolist()
    [True, False]
    """
    peak = pooled.max(0)
    return peak <= 1e-6 * peak.max(initial=0.0)


def duplicates(pooled: Float[np.ndarray, "n K"], bound: float) -> Bool[np.ndarray, "K"]:
    """Tell which concepts repeat an earlier one that is kept; one that never changes repeats none.

    >>> duplicates(np.array([[1.0, 2.0, 0.0], [2.0, 4.0, 0.0], [3.0, 6.0, 1.0]]), 0.95).tolist()
    [False, True, False]
    """
    centred = pooled - pooled.mean(0)
    length = np.linalg.norm(centred, axis=0)
    unit = np.divide(centred, length, out=np.zeros_like(centred), where=length > 1e-12)
    # The rounding of a sum of products must not decide where two are the same.
    alike = unit.T @ unit >= bound - 1e-9
    found = np.zeros(pooled.shape[1], dtype=bool)
    for k in range(1, len(found)):
        found[k] = bool((alike[:k, k] & ~found[:k]).any())
    return found


def separability(pooled: Float[np.ndarray, "n K"], classes: Int[np.ndarray, "n"]) -> Float[np.ndarray, "K"]:
    """Return the largest area under the ROC curve of each concept against one class; 0.5 where none has the images.

    The area is the Mann-Whitney statistic: of an image of the class and one of another, how often the first is higher.

    >>> activation = np.repeat([[3.0], [2.0], [1.0]], 5, axis=0)
    >>> separability(activation, np.repeat([0, 1, 2], 5)).tolist()
    [1.0]
    """
    ranks = rankdata(pooled, axis=0)
    best = np.full(pooled.shape[1], 0.5)
    for c in np.unique(classes):
        here = classes == c
        n, m = int(here.sum()), int((~here).sum())
        if min(n, m) >= _FEWEST:
            area = (ranks[here].sum(0) - n * (n + 1) / 2) / (n * m)
            best = np.maximum(best, area)
    return best


def flags(
    pooled: Float[np.ndarray, "n K"], classes: Int[np.ndarray, "n"], config: EvaluationConfig
) -> Bool[np.ndarray, "K flags"]:
    """Return for each concept whether it has each of `FLAGS`."""
    gone = dead(pooled)
    # Dead concepts repeat each other and tell no class: they have their own flag.
    twice = duplicates(pooled, config.duplicate) & ~gone
    leaky = (separability(pooled, classes) >= config.leaky) & ~gone
    return np.stack([gone, twice, leaky, gone | twice | leaky], 1)


def dealt(pooled: Float[np.ndarray, "n K"], index: Int[np.ndarray, "n"], rng: Rng) -> Float[np.ndarray, "n K"]:
    """Return the activations of each concept dealt anew to the images, each concept by its own draw."""
    order = np.argsort(rng.uniform(index, pooled.shape[1]), axis=0, kind="stable")
    return np.take_along_axis(pooled, order, axis=0)


class ConceptFlags(Metric):
    """The activations of every concept in every image, which several seeds are also compared by."""

    takes_turns = True
    specs = (SHARE, COUNT, STABILITY)
    cost = "no pass; K² · images for correlations, K · classes · images for ranks, times permutations for the null"

    @torch.no_grad()
    def update(self, trace: Trace) -> None:
        """Keep the activations of a batch."""
        self.parts.append(
            {
                "index": trace.index.cpu().numpy(),
                "class": trace.predicted.cpu().numpy(),
                "pooled": trace.concepts.pooled.float().cpu().numpy(),
            }
        )

    def records(self) -> Records:
        """Return class under g and activations of each image, by index."""
        return collect(self.parts)

    @staticmethod
    def score(records: Records, config: EvaluationConfig) -> list[Score]:
        """Return share and count of each flag and arm, and the flags of each concept."""
        pooled, classes, index = records["pooled"].astype(np.float64), records["class"], records["index"]
        rng = Rng(config.seed).child("evaluation", "concept_flags")
        # [concept, draw, flag]: the draws of a concept are resampled with it.
        arms = {"method": flags(pooled, classes, config)[:, None]}
        draws = [flags(dealt(pooled, index, rng.child(d)), classes, config) for d in range(config.permutations)]
        arms["permuted"] = np.stack(draws, 1)
        detail = f"duplicate from {config.duplicate:g}, leaky from {config.leaky:g} on"
        rows = []
        for arm, found in arms.items():
            for i, flag in enumerate(FLAGS):
                values, params = found[:, :, i], f"flag={flag}"
                share = summarise(SHARE, values, config, arm=arm, params=params, detail=detail, over="concepts")
                K = len(values)
                ends = (share.low * K, share.high * K)
                rows += [share, COUNT.score(share.value * K, ends, n=K, arm=arm, params=params, detail=detail)]
                if arm == "method":
                    rows += [
                        SHARE.score(float(value), n=len(index), params=params, subject=f"concept:{k}", detail=detail)
                        for k, value in enumerate(values[:, 0])
                    ]
        return rows

    @staticmethod
    def across(cells: Sequence[Records], config: EvaluationConfig) -> list[list[Score]]:
        """Return how well the concepts of each seed are found again in the others."""
        return stability(cells, config)
