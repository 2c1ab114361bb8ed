"""Faithfulness: how far g's probability falls when the relevant concepts are removed from the image (paper section 4,
table 2b; docs/metrics.md 2).
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from coinbench.config import EvaluationConfig
from coinbench.metric import Evaluation, Metric, MetricSpec, Records, collect
from coinbench.results import Score
from coinbench.statistics import Statistic, mean, summarise
from coinbench.trace import Trace

_PROTOCOL = (
    "FF_x = softmax g(x̃)_ĉ − softmax g(x_rem)_ĉ, g the full pass encode -> predict on decoded images, "
    "ĉ = argmax g(x); x_rem: φ_k = 0 where r_k(x) > τ, the rest and Φ′ untouched; 0 where nothing is removed; "
    "test images chosen at random by index, unaugmented (1000 by default; n is the number used)"
)
_INTERVAL = "95 % interval over images"
_NULL = (
    "random: in every image as many concepts removed as by the method, chosen at random (index-keyed, the same "
    "draws for all methods); the mean over the draws of the statistic of a draw; 0 for a decoder that g cannot read"
)


def _spec(
    name: str, what: str, unit: str, bounds: tuple[float, float], better: bool | None, formula: str, oracle: str
) -> MetricSpec:
    return MetricSpec(
        name=name,
        version=1,
        unit=unit,
        bounds=bounds,
        higher_is_better=better,
        source="paper section 4, table 2b; docs/metrics.md 2",
        protocol=f"{what}; {_PROTOCOL}; {_INTERVAL}",
        null=_NULL,
        formula=formula,
        oracle=oracle,
    )


_BOUND = "near 1: g sure of ĉ on x̃ and blind without its concepts; never more than g(x̃)_ĉ"
_FF = "FF_x = softmax g(x̃)_ĉ − softmax g(x_rem)_ĉ"
FAITHFULNESS = _spec(
    "faithfulness",
    "median of FF_x over images",
    "probability",
    (-1.0, 1.0),
    True,
    f"median over x of {_FF}",
    _BOUND,
)
FAITHFULNESS_MEAN = _spec(
    "faithfulness_mean",
    "mean of FF_x over images",
    "probability",
    (-1.0, 1.0),
    True,
    f"mean over x of {_FF}",
    _BOUND,
)
FAITHFULNESS_IQR = _spec(
    "faithfulness_iqr",
    "interquartile range of FF_x over images (of 60 images its interval is wide: it holds in 98 of 100)",
    "probability",
    (0.0, 2.0),
    None,
    f"q_0.75 − q_0.25 over x of {_FF}",
    "0 where every image loses the same",
)
REMOVED = _spec(
    "removed",
    "mean number of concepts removed per image",
    "concepts",
    (0.0, np.inf),
    None,
    "mean over x of |{k: r_k(x) > τ}|",
    "as many concepts as an image's class is made of",
)


def lowest(uniform: Float[np.ndarray, "B K"], count: Int[np.ndarray, "B"]) -> Bool[np.ndarray, "B K"]:
    """Mark the `count` lowest entries of each row: a random choice of concepts, as many as asked for.

    >>> lowest(np.array([[0.3, 0.1, 0.2], [0.3, 0.1, 0.2]]), np.array([1, 2])).tolist()
    [[False, True, False], [False, True, True]]
    """
    return uniform.argsort(1).argsort(1) < count[:, None]


def median(samples: np.ndarray) -> np.ndarray:
    """Return the median over images [R, n, draws], averaged over draws.

    >>> median(np.array([[[0.0], [0.5], [0.7]]])).tolist()
    [0.5]
    """
    return np.median(samples, axis=1).mean(-1)


def interquartile_range(samples: np.ndarray) -> np.ndarray:
    """Return the interquartile range over images [R, n, draws], averaged over draws.

    >>> interquartile_range(np.array([[[0.0], [1.0], [2.0], [3.0], [4.0]]])).tolist()
    [2.0]
    """
    low, high = np.quantile(samples, (0.25, 0.75), axis=1)
    return (high - low).mean(-1)


class Faithfulness(Metric):
    """Drop of g's probability of ĉ per image, threshold and arm."""

    takes_turns = True
    specs = (FAITHFULNESS, FAITHFULNESS_MEAN, FAITHFULNESS_IQR, REMOVED)
    limit = "faithfulness_images"
    cost = "decode and g for each different edit of an image: up to (1 + random_draws) for each τ"

    def __init__(self, evaluation: Evaluation) -> None:
        """Start a pass over images chosen by index."""
        super().__init__(evaluation)
        self._chosen = evaluation.chosen("faithfulness", evaluation.config.faithfulness_images)

    @torch.no_grad()
    def update(self, trace: Trace) -> None:
        """Remove concepts from the images of a batch and look at them again."""
        chosen = trace.rows_of(self._chosen)
        if not len(chosen):
            return
        config, rng = self.evaluation.config, self.evaluation.rng.child("faithfulness")
        index = trace.index.cpu().numpy()[chosen]
        relevance = trace.relevance.cpu().numpy()[chosen]
        dice = [rng.child(d).uniform(index, relevance.shape[1]) for d in range(config.random_draws)]
        variants: list[tuple[float, str, int, np.ndarray]] = []
        for tau in config.taus:
            mask = relevance > tau
            variants.append((tau, "method", 0, mask))
            for draw, uniform in enumerate(dice):
                variants.append((tau, "random", draw, lowest(uniform, mask.sum(1))))
        masks = np.concatenate([mask for *_, mask in variants])
        # Removing a concept that is 0 changes nothing: such edits need no decoding, or share one with others.
        active = (trace.concepts.phi != 0).any(2).cpu().numpy() | (trace.concepts.pooled != 0).cpu().numpy()
        row = np.tile(chosen, len(variants))
        drop = self._drop(trace, row, masks & active[row])
        each = len(chosen)
        self.parts.append(
            {
                "index": np.tile(index, len(variants)),
                "tau": np.repeat([tau for tau, *_ in variants], each),
                "arm": np.repeat([arm for _, arm, *_ in variants], each),
                "draw": np.repeat([draw for _, _, draw, _ in variants], each),
                "drop": drop,
                "removed": masks.sum(1),
            }
        )

    def _drop(self, trace: Trace, row: Int[np.ndarray, "V"], mask: Bool[np.ndarray, "V K"]) -> Float[np.ndarray, "V"]:
        """Return FF_x for each image `row` of the batch without the concepts in `mask`."""
        drop = np.zeros(len(row))
        edited = np.flatnonzero(mask.any(1))
        if not len(edited):
            return drop
        # Draws often coincide where one concept is removed: each different edit is decoded once.
        key = np.concatenate([row[edited, None], mask[edited]], axis=1)
        _, first, back = np.unique(key, axis=0, return_index=True, return_inverse=True)
        first = edited[first]
        full = trace.probability(trace.logits_of_reconstruction.double())
        coin, parts = trace.coin, []
        step = self.evaluation.config.batch * 2
        for start in range(0, len(first), step):
            some = first[start : start + step]
            at = torch.from_numpy(row[some]).to(full.device)
            kept = torch.from_numpy(~mask[some]).to(full.device)
            concepts = trace.concepts.rows(at)
            logits = coin(coin.decode(concepts.scale(kept.to(concepts.phi.dtype)))).double()
            after = torch.softmax(logits, 1).gather(1, trace.predicted[at, None])[:, 0]
            parts.append((full[at] - after).cpu().numpy())
        drop[edited] = np.concatenate(parts)[back.reshape(-1)]
        return drop

    def records(self) -> Records:
        """Return one row per threshold, arm, draw and image."""
        return collect(self.parts, by=("tau", "arm", "draw", "index"))

    @staticmethod
    def score(records: Records, config: EvaluationConfig) -> list[Score]:
        """Return median, mean and interquartile range of the drop, and how many concepts were removed."""
        numbers: tuple[tuple[MetricSpec, str, Statistic], ...] = (
            (FAITHFULNESS, "drop", median),
            (FAITHFULNESS_MEAN, "drop", mean),
            (FAITHFULNESS_IQR, "drop", interquartile_range),
            (REMOVED, "removed", mean),
        )
        rows = []
        for tau in config.taus:
            for arm in ("method", "random"):
                here = (records["tau"] == tau) & (records["arm"] == arm)
                draws = len(np.unique(records["draw"][here]))
                for spec, column, statistic in numbers:
                    # [image, draw]: the draws of an image are resampled with it.
                    values = records[column][here].reshape(draws, -1).T
                    params = f"tau={tau:g}"
                    detail = f"{config.random_draws} random draws"
                    rows.append(
                        summarise(spec, values, config, statistic, arm=arm, params=params, detail=detail, over="images")
                    )
        return rows
