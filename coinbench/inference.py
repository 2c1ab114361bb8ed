"""What differences between methods are worth: paired tests, Holm's correction, intervals over seeds.

Numbers and their resamples in, verdicts out; numpy and scipy alone (docs/statistics.md). Never imports torch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from coinbench.results import Resamples

FEWEST_SEEDS = 5
"""Below, four values or fewer tell too little of the deviation between seeds: no interval, no test over seeds."""
LEVEL = 0.05
_POWER = 0.8
_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A number of one cell, as a test needs it."""

    value: float
    seed: int
    n: int
    resamples: Resamples | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Second minus first, over the seeds that both have."""

    value: float
    low: float
    high: float
    """95 % interval, not corrected for several comparisons; NaN where no resample of either number moved: of two
    accuracies of 60 in 60 the samples tell no error."""
    p: float
    """Two-sided, not corrected for several comparisons."""
    error: float
    """Standard error."""
    degrees: float
    """Degrees of freedom of the error."""
    seeds: tuple[int, ...]
    over: str
    """What the error is over, as "images" or "images and 5 seeds"."""

    def detectable(self, comparisons: int = 1) -> float:
        """Return the least true difference that 80 of 100 such tests would find, as one of so many comparisons.

        NaN where the error is not estimable, since nothing moved in any resample.

        >>> one = Difference(
        ...     value=0.0, low=-1.0, high=1.0, p=1.0, error=0.5, degrees=1e9, seeds=(0,), over="images"
        ... )
        >>> round(one.detectable(), 2), round(one.detectable(6), 2)  # (1.96 + 0.84) · 0.5
        (1.4, 1.74)
        """
        from scipy.special import stdtrit

        quantiles = stdtrit(self.degrees, (1 - LEVEL / 2 / comparisons, _POWER))
        return float(quantiles.sum() * self.error) if self.error > 0 else math.nan


def seed_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Return the 95 % t interval of the mean over seeds; None below five seeds, where it is not estimable.

    >>> low, high = seed_interval([1.0, 2.0, 3.0, 4.0, 5.0])  # 3 ± 2.776 · 1.581 / √5
    >>> round(low, 3), round(high, 3), seed_interval([1.0, 2.0, 3.0])
    (1.037, 4.963, None)
    """
    from scipy.special import stdtrit

    if len(values) < FEWEST_SEEDS:
        return None
    half = stdtrit(len(values) - 1, 0.975) * np.std(values, ddof=1) / len(values) ** 0.5
    return float(np.mean(values) - half), float(np.mean(values) + half)


def difference(a: Sequence[Measured], b: Sequence[Measured]) -> Difference | str:
    """Return b − a with its error, or why the two cannot be compared.

    The error over images is that of the same resamples of both (a paired bootstrap). Concepts of two methods, or of two
    trainings, are no pairs, whatever their numbers: their variances add. From five common seeds on, trainings and
    images are crossed random effects (Owen 2007): V = V_seeds + V_images − V_both, with Satterthwaite's degrees of
    freedom; concepts are nested in trainings, and V_seeds holds them already. Below five the difference is one of these
    trainings alone.

    >>> draws = np.array([[0.1, -0.1, 0.3, -0.3], [0.2, -0.2, 0.6, -0.6]])
    >>> a, b = (
    ...     [Measured(value=v, seed=0, n=9, resamples=Resamples(v + d, "images", 0))]
    ...     for v, d in zip((1.0, 2.0), draws)
    ... )
    >>> found = difference(a, b)
    >>> found.value, round(found.error, 3), found.over
    (1.0, 0.274, 'images')
    >>> difference(a, [])
    'no seed in common'
    """
    pairs = _common(a, b)
    if not pairs:
        return "no seed in common"
    if any(one.resamples is None or two.resamples is None for one, two in pairs):
        return "no resamples stored"
    changes = np.array([two.value - one.value for one, two in pairs])
    n = min(min(one.n, two.n) for one, two in pairs)
    if n < 2:
        return "a single sample"
    found = _over_samples(pairs)
    if isinstance(found, str):
        return found
    samples, both, draws = found
    samples, both = samples * n / (n - 1), both * n / (n - 1)
    over, freedom = pairs[0][0].resamples, float(min(n, draws) - 1)
    assert over is not None
    variance, said = samples, over.over
    if len(pairs) >= FEWEST_SEEDS:
        seeds = float(np.var(changes, ddof=1)) / len(changes)
        variance = max(seeds, samples, seeds + samples - both)
        rest = variance - seeds
        if variance > 0:
            freedom = variance**2 / (seeds**2 / (len(changes) - 1) + rest**2 / freedom)
        said = f"{over.over} and {len(changes)} seeds"
    if not np.isfinite(variance):
        return "resamples without a number"
    # Resamples are stored in float32, and machines differ by rounding: less than this is no difference.
    size = max(max(abs(one.value), abs(two.value)) for one, two in pairs)
    same = abs(float(changes.mean())) <= _ROUNDING * size
    variance = variance if variance > (_ROUNDING * size) ** 2 else 0.0
    return _judged(changes, variance, freedom, n, said, tuple(one.seed for one, _ in pairs), same)


def _common(a: Sequence[Measured], b: Sequence[Measured]) -> list[tuple[Measured, Measured]]:
    second = {one.seed: one for one in b}
    return [(one, second[one.seed]) for one in sorted(a, key=lambda one: one.seed) if one.seed in second]


def _over_samples(pairs: Sequence[tuple[Measured, Measured]]) -> tuple[float, float, int] | str:
    """Return variance of the mean difference over samples, the share of it that differs by seed, and resamples."""
    apart, together = [], []
    for one, two in pairs:
        a, b = one.resamples, two.resamples
        assert a is not None
        assert b is not None
        # Concept k of one training is not concept k of another, though both may have K.
        alike = a.over != "concepts" and one.n == two.n and a.source == b.source and len(a.draws) == len(b.draws)
        if not alike and a.over == "images":
            return "other images were drawn"
        together.append(alike)
        apart.append((a.draws, b.draws))
    draws = min(len(draw) for both in apart for draw in both)
    count = len(pairs)
    if not all(together) or len({len(a) for a, _ in apart}) > 1:
        # Nothing is paired, neither between methods nor between seeds.
        sums = [float(np.var(a, ddof=1) + np.var(b, ddof=1)) for a, b in apart]
        return float(np.mean(sums)) / count, float(np.mean(sums)) / count, draws
    changes = np.array([b - a for a, b in apart])
    whole = float(np.var(changes.mean(0), ddof=1))
    single = float(np.var(changes, axis=1, ddof=1).mean())
    return whole, max(single - whole, 0.0) / (count - 1) if count > 1 else 0.0, draws


def _judged(
    changes: np.ndarray, variance: float, freedom: float, n: int, over: str, seeds: tuple[int, ...], same: bool
) -> Difference:
    from scipy.special import stdtr, stdtrit

    value, error = float(changes.mean()), float(variance**0.5)
    half = float(stdtrit(freedom, 1 - LEVEL / 2)) * error if error > 0 else math.nan
    # No test of n pairs can tell more than n equal signs do: the least p of the sign-flip test.
    least = 2.0 ** (1 - n)
    p = 1.0 if same else least if error == 0 else max(2 * float(stdtr(freedom, -abs(value) / error)), least)
    return Difference(
        value=value,
        low=value - half,
        high=value + half,
        p=p,
        error=error,
        degrees=freedom,
        seeds=seeds,
        over=over,
    )


def holm(p: Sequence[float]) -> list[float]:
    """Return p-values corrected for so many comparisons (Holm 1979).

    >>> [round(one, 3) for one in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p, kind="stable")
    steps = np.array(p, dtype=np.float64)[order] * np.arange(len(p), 0, -1)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected.tolist()
