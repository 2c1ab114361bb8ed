"""Percentile bootstrap intervals over samples, in float64 (docs/metrics.md 10; Efron and Tibshirani 1993, ch. 13)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from coinbench.metric import MetricSpec
from coinbench.results import Score
from coinbench.rng import Rng

if TYPE_CHECKING:
    from coinbench.config import EvaluationConfig

Statistic = Callable[[np.ndarray], np.ndarray]
"""Turns resamples [R, n, ...] into one number each, [R]."""

_BLOCK = 50
"""Resamples drawn at once. Fixed, so that the draws depend on n and the source alone."""


def mean(samples: np.ndarray) -> np.ndarray:
    """Return the mean over everything but the resamples.

    >>> mean(np.array([[1.0, 2.0], [3.0, 5.0]])).tolist()
    [1.5, 4.0]
    """
    return samples.mean(axis=tuple(range(1, samples.ndim)))


def resamples(n: int, count: int, rng: Rng) -> np.ndarray:
    """Draw the rows of `count` resamples of n samples with replacement.

    Returns:
        integer array [count, n]; the same for the same `rng` and n, so that arms are resampled alike.
    """
    dice = rng.numpy()
    blocks = [dice.integers(0, n, (_BLOCK, n)) for _ in range(-(-count // _BLOCK))]
    return np.concatenate(blocks)[:count]


def bootstrap(values: np.ndarray, statistic: Statistic, rng: Rng, count: int) -> np.ndarray:
    """Return `statistic` on `count` resamples of the rows of `values`.

    Args:
        values: [n, ...], one row per sample; whatever belongs to a sample is resampled with it.
        statistic: maps resamples [R, n, ...] to [R].
        rng: source of the draws.
        count: number of resamples.

    Returns:
        float64 array [count].

    >>> bootstrap(np.array([2.0, 2.0]), mean, Rng(0), 3).tolist()
    [2.0, 2.0, 2.0]
    """
    values = np.asarray(values, dtype=np.float64)
    rows = resamples(len(values), count, rng)
    blocks = [rows[start : start + _BLOCK] for start in range(0, count, _BLOCK)]
    return np.concatenate([statistic(values[block]) for block in blocks])


def percentiles(draws: np.ndarray) -> tuple[float, float]:
    """Return the ends of the central 95 % of `draws`.

    >>> percentiles(np.arange(201.0))
    (5.0, 195.0)
    """
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(low), float(high)


def summarise(
    spec: MetricSpec,
    values: np.ndarray,
    config: EvaluationConfig,
    statistic: Statistic = mean,
    *,
    arm: str = "method",
    params: str = "",
    n: int | None = None,
    detail: str = "",
) -> Score:
    """Return the row of `statistic` over the samples of `values`, with its 95 % bootstrap interval.

    Args:
        spec: what the number is.
        values: [n, ...], one row per sample (or concept, or class).
        config: gives the seed and the number of resamples.
        statistic: maps resamples [R, n, ...] to [R].
        arm: "method" or a control.
        params: settings of the number.
        n: number reported as n; default the rows of `values`.
        detail: settings that belong to the protocol.
    """
    values = np.asarray(values, dtype=np.float64)
    draws = bootstrap(values, statistic, Rng(config.seed).child("bootstrap"), config.bootstrap)
    return spec.score(
        float(statistic(values[None])[0]),
        percentiles(draws),
        n=len(values) if n is None else n,
        arm=arm,
        params=params,
        detail=detail,
    )
