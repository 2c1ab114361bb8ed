"""Intervals over samples, in float64: BCa bootstrap for means, percentile for the rest, Wilson for shares.

Which interval reaches its 95 % was tried by simulation: docs/statistics.md 1, benchmarks/interval_coverage.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from coinbench.metric import MetricSpec
from coinbench.results import Resamples, Score
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


def reach(n: int) -> float:
    """Return how many standard deviations the interval of n samples reaches to each side.

    Resamples vary by (n - 1) / n of the variance, and the deviation itself is estimated: t_{0.975, n-1} √(n / (n - 1))
    instead of 1.96 (Hesterberg 2015, section 4.2).

    >>> round(reach(24), 2), round(reach(100_000), 2)
    (2.11, 1.96)
    """
    from scipy.special import stdtrit

    return float(stdtrit(n - 1, 0.975) * (n / (n - 1)) ** 0.5) if n > 1 else 0.0


def interval(draws: np.ndarray, values: np.ndarray, statistic: Statistic) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of a statistic, its levels widened for small n (`reach`).

    Of a mean it is the BCa interval (Efron 1987), which follows the skew of scores near a bound. A quantile has no
    acceleration that the jackknife could find (Efron and Tibshirani 1993, section 11.6): it has the percentile one.

    Args:
        draws: the statistic on resamples, [R].
        values: [n, ...], what was resampled.
        statistic: maps resamples [R, n, ...] to [R].

    >>> draws = bootstrap(np.arange(100.0), mean, Rng(0), 2000)
    >>> low, high = interval(draws, np.arange(100.0), mean)
    >>> bool(abs(low - 43.8) < 0.5), bool(abs(high - 55.2) < 0.5)  # 49.5 ± 1.96 · 2.9
    (True, True)
    """
    from scipy.special import ndtr, ndtri

    z = np.array([-1.0, 1.0]) * reach(len(values))
    if statistic is mean and len(values) > 1:
        per_sample = values.reshape(len(values), -1).mean(1)
        away = per_sample - per_sample.mean()
        size = np.square(away).sum() ** 1.5
        acceleration = (away**3).sum() / (6 * size) if size > 0 else 0.0
        # Of few samples many resamples have the very mean, which the order of the sum may move by a last bit.
        off = (draws - per_sample.mean()) / max(np.abs(away).max(), np.finfo(float).tiny)
        below = (off < -1e-9).mean() + 0.5 * (np.abs(off) <= 1e-9).mean()
        shift = ndtri(np.clip(below, 1 / len(draws), 1 - 1 / len(draws)))
        z = shift + (shift + z) / (1 - acceleration * (shift + z))
    low, high = np.quantile(draws, ndtr(z))
    return float(low), float(high)


def share(hits: np.ndarray) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share (Wilson 1927): never without width, unlike a bootstrap of equal hits.

    >>> [round(end, 3) for end in share(np.array([True] * 60))]
    [0.94, 1.0]
    """
    from scipy.stats import binomtest

    found = binomtest(int(hits.sum()), len(hits)).proportion_ci(method="wilson")
    return float(found.low), float(found.high)


def summarise(
    spec: MetricSpec,
    values: np.ndarray,
    config: EvaluationConfig,
    statistic: Statistic = mean,
    *,
    over: str,
    arm: str = "method",
    params: str = "",
    n: int | None = None,
    detail: str = "",
) -> Score:
    """Return the row of `statistic` over the samples of `values`, with its 95 % interval.

    Args:
        spec: what the number is.
        values: [n, ...], one row per sample (or concept, or class), in order of index; of a share, booleans, so that
            60 of 60 right has an interval.
        config: gives the seed and the number of resamples.
        statistic: maps resamples [R, n, ...] to [R].
        over: what the rows are: images, concepts, classes, values; of two methods all but concepts are pairs.
        arm: "method" or a control.
        params: settings of the number.
        n: number reported as n; default the rows of `values`.
        detail: settings that belong to the protocol.
    """
    hits = np.asarray(values)
    values = hits.astype(np.float64)
    draws = bootstrap(values, statistic, Rng(config.seed).child("bootstrap"), config.bootstrap)
    shares = hits.dtype == bool and hits.size > 0 and statistic is mean
    # Several hits of a sample are no share of samples, but for when all agree: then no bootstrap would have a width.
    whole = shares and (hits.size == len(hits) or hits.all() or not hits.any())
    return spec.score(
        float(statistic(values[None])[0]),
        share(hits.reshape(len(hits), -1)[:, 0]) if whole else interval(draws, values, statistic),
        n=len(values) if n is None else n,
        arm=arm,
        params=params,
        detail=detail,
        # Two methods are compared on the same resamples; a control is nobody's competitor.
        resamples=Resamples(draws, over, config.seed) if arm == "method" else None,
    )
