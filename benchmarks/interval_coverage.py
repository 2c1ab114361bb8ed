"""How often the 95 % intervals hold the truth, on planted populations: benchmarks/results/coverage.json.

    python benchmarks/interval_coverage.py

The populations are 20,000 planted images (FF_x, squared error, hits, changes by a swapped Φ′, computed in numpy),
scores of concepts near 1, of which some are dead at 0.5, and numbers of classes. Each repetition draws n of them and
asks whether the interval of a row of results holds the number of the whole population. Fréchet distances have pairs of
Gaussian features; their truth is the mean of the distance over samples of n, since that is what their intervals say.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from planted_images import K, Truth, basis, drawn_split, probability, support_direction

from coinbench.config import EvaluationConfig
from coinbench.metric import MetricSpec
from coinbench.metrics.auc_ff import area
from coinbench.metrics.faithfulness import interquartile_range, median
from coinbench.metrics.frechet import frechet, of_pairs, statistics
from coinbench.metrics.leakage import share
from coinbench.metrics.part_alignment import above_chance
from coinbench.metrics.topn import ladder, top
from coinbench.statistics import Statistic, mean, summarise

SPEC = MetricSpec(
    name="planted",
    version=1,
    unit="",
    bounds=(-np.inf, np.inf),
    higher_is_better=None,
    source="here",
    protocol="planted",
    null="none",
)
IMAGES, REPETITIONS, SAMPLES = 20_000, 500, 2000
"""Size of a population, intervals asked for, and samples whose mean is the truth of a Fréchet distance."""
SIZES = {"images": (60, 200), "concepts": (24, 32, 256), "classes": (10, 50)}


class Population(Protocol):
    """What is sampled, and the number that is measured of it."""

    @property
    def name(self) -> str: ...
    @property
    def over(self) -> str: ...

    def truth(self, n: int) -> float:
        """Return what the interval of a sample of n should hold."""
        ...

    def interval(self, n: int, dice: np.random.Generator, config: EvaluationConfig) -> tuple[float, float]:
        """Draw n and return the interval."""
        ...


@dataclass(frozen=True)
class Planted:
    """Rows, and the number that is measured of them."""

    name: str
    values: np.ndarray
    """[N] or [N, m]; of a share, booleans."""
    statistic: Statistic
    over: str = "images"

    def truth(self, n: int) -> float:
        """Return the number of all rows, whatever n."""
        return float(self.statistic(self._shaped(self.values)[None].astype(np.float64))[0])

    def interval(self, n: int, dice: np.random.Generator, config: EvaluationConfig) -> tuple[float, float]:
        """Return the interval of a row of results of n rows."""
        sample = self._shaped(self.values[dice.integers(0, len(self.values), n)])
        row = summarise(SPEC, sample, config, self.statistic, over=self.over)
        return row.low, row.high

    def _shaped(self, values: np.ndarray) -> np.ndarray:
        return values[:, None] if values.ndim == 1 and values.dtype != bool else values


@dataclass(frozen=True)
class Pairs:
    """Features x ~ N(0, diag(s²)), s from 1 to 0.2, and those of x̃ = a x + noise + shift, both in units of s."""

    name: str
    d: int
    kept: float
    noise: float
    shift: float
    over: str = "images"

    def _drawn(self, n: int, dice: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        scale = np.linspace(1, 0.2, self.d)
        x = dice.normal(size=(n, self.d))
        return x * scale, (self.kept * x + self.noise * dice.normal(size=x.shape) + self.shift) * scale

    def truth(self, n: int) -> float:
        """Return the mean distance of samples of n, by which few samples are far further apart than many."""
        dice = np.random.default_rng(n)
        drawn = (self._drawn(n, dice) for _ in range(SAMPLES))
        return float(np.mean([frechet(statistics(x), statistics(y)) for x, y in drawn]))

    def interval(self, n: int, dice: np.random.Generator, config: EvaluationConfig) -> tuple[float, float]:
        """Return the interval of the distance of a sample of n pairs."""
        x, y = self._drawn(n, dice)
        return of_pairs(frechet(statistics(x), statistics(y)), x, y, config)[0]


def populations(images: int = IMAGES) -> Iterator[Planted]:
    """The numbers of the tables: of FF_x, squared error, accuracies, swaps; scores of concepts; numbers of classes."""
    truth = Truth.of(drawn_split("population", images, 77))
    whole = probability(truth.logits, truth.predicted)
    for tau in (0.1, 0.4):
        drop = whole - probability(truth.without(truth.relevance > tau).logits, truth.predicted)
        yield Planted(f"median FF_x, τ = {tau}", drop, median)
    yield Planted("mean FF_x, τ = 0.4", drop, mean)
    yield Planted("IQR of FF_x, τ = 0.4", drop, interquartile_range)
    yield Planted("MSE", np.square(truth.x - truth.reconstruction).mean(1), mean)
    yield Planted("accuracy", truth.predicted == truth.labels, mean)
    yield Planted("AUC-FF", _areas(truth), mean)
    yield Planted("leakage_share", _swapped(truth), share)
    dice = np.random.default_rng(78)
    for part in (0.0, 0.1, 0.2):
        dead = dice.random(images) < part
        scores = np.where(dead, 0.5, dice.beta(20, 0.8, images))
        yield Planted(f"consistency, {part:.0%} dead", scores, mean, "concepts")
    yield Planted("dead concepts", dead, mean, "concepts")
    # A concept of much importance follows one part rather than several.
    weight = dice.gamma(2.0, size=images)
    alone = dice.beta(1 + 3 * weight, 2.0)
    own, by_chance = (np.stack([shares, weight], 1) for shares in (alone, dice.beta(1.0, 4.0, size=images)))
    yield Planted("disentanglement", np.stack([own, by_chance], 1), above_chance, "concepts")
    yield Planted("part information", dice.beta(0.7, 1.2, images), mean, "concepts")
    yield Planted("sparsity", dice.poisson(dice.gamma(4.0, 1.5, images)).astype(float), mean, "classes")
    yield Planted("part use", dice.beta(8.0, 2.0, images), mean, "classes")


def _areas(truth: Truth) -> np.ndarray:
    """Return each image's area under its hits over N/K, concepts by largest pooled_k."""
    counts = [0, *ladder((2, 4), K)]
    kept = [top(truth.phi.max(2), count) for count in counts]
    return area(np.stack([truth.without(~one).predicted == truth.labels for one in kept], 1), counts)


def _swapped(truth: Truth) -> np.ndarray:
    """Return how much the picture changes with the Φ′ of the next image, and with its Φ, [n, 2]."""
    support = (truth.support - np.roll(truth.support, 1, 0)) * support_direction()
    cells = truth.phi.reshape(len(truth.x), -1)
    concepts = (cells - np.roll(cells, 1, 0)) @ basis().reshape(truth.x.shape[1], -1).T
    return np.stack([np.square(change).mean(1) for change in (support, concepts)], 1)


def frechet_populations() -> Iterator[Pairs]:
    """Pairs well below and well above the distance of two samples of one distribution, of few and of more features."""
    for d in (8, 32):
        yield Pairs(f"FD, near, {d} features", d, 0.95, 0.1, 0.05)
        yield Pairs(f"FD, far, {d} features", d, 0.3, 0.2, 1.0)


def coverage(population: Population, n: int, repetitions: int = REPETITIONS, resamples: int = 1000) -> float:
    """Return the share of samples of n whose interval holds the truth."""
    config = EvaluationConfig(bootstrap=resamples)
    dice, truth = np.random.default_rng(n), population.truth(n)
    ends = (population.interval(n, dice, config) for _ in range(repetitions))
    return sum(low <= truth <= high for low, high in ends) / repetitions


def table(report: Callable[[str], object] = print) -> list[dict[str, object]]:
    """All populations at the sizes that runs have."""
    rows = []
    for population in (*populations(), *frechet_populations()):
        for n in SIZES[population.over]:
            found = coverage(population, n)
            rows.append({"number": population.name, "over": population.over, "n": n, "coverage": found})
            report(f"{population.name:24} n = {n:4} {population.over:8} {found:.3f}")
    return rows


if __name__ == "__main__":
    found = {"command": "python benchmarks/interval_coverage.py", "repetitions": REPETITIONS, "rows": table()}
    path = Path(__file__).with_name("results") / "coverage.json"
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
