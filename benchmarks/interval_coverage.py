"""How often the 95 % intervals hold the truth, on planted populations: benchmarks/results/coverage.json.

    python benchmarks/interval_coverage.py

The populations are 20,000 images of the planted model of the tests (FF_x, squared error, hits, computed in numpy), and
scores of concepts near 1, of which some are dead at 0.5. Each repetition draws n of them and asks whether the interval
of a row of results holds the number of the whole population. Of 24 concepts 8 in 100 draws show none of the dead where
a tenth is: what no interval can know of.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from planted import Truth, _split, probability

from coinbench.config import EvaluationConfig
from coinbench.metric import MetricSpec
from coinbench.metrics.faithfulness import median
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
IMAGES, REPETITIONS = 20_000, 500


@dataclass(frozen=True)
class Planted:
    """A population and the number that is measured of it."""

    name: str
    values: np.ndarray
    statistic: Statistic
    over: str = "images"

    @property
    def truth(self) -> float:
        return float(self.statistic(self.values[None, :, None].astype(np.float64))[0])


def populations(images: int = IMAGES) -> Iterator[Planted]:
    """The numbers of the tables: medians and means of FF_x, squared error, accuracies; scores of concepts."""
    truth = Truth.of(_split("population", images, 77))
    whole = probability(truth.logits, truth.predicted)
    for tau in (0.1, 0.4):
        drop = whole - probability(truth.without(truth.relevance > tau).logits, truth.predicted)
        yield Planted(f"median FF_x, τ = {tau}", drop, median)
    yield Planted("mean FF_x, τ = 0.4", drop, mean)
    yield Planted("MSE", np.square(truth.x - truth.reconstruction).mean(1), mean)
    yield Planted("accuracy", truth.predicted == truth.labels, mean)
    dice = np.random.default_rng(78)
    for share in (0.0, 0.1, 0.2):
        dead = dice.random(images) < share
        scores = np.where(dead, 0.5, dice.beta(20, 0.8, images))
        yield Planted(f"consistency, {share:.0%} dead", scores, mean, "concepts")
    yield Planted("dead concepts", dead, mean, "concepts")


def coverage(planted: Planted, n: int, repetitions: int = REPETITIONS, resamples: int = 1000) -> float:
    """Return the share of samples of n whose interval holds the number of the population."""
    config = EvaluationConfig(bootstrap=resamples)
    dice, truth, held = np.random.default_rng(n), planted.truth, 0
    for _ in range(repetitions):
        sample = dice.choice(planted.values, n)
        row = summarise(
            SPEC, sample if sample.dtype == bool else sample[:, None], config, planted.statistic, over=planted.over
        )
        held += row.low <= truth <= row.high
    return held / repetitions


def table(report: Callable[[str], object] = print) -> list[dict[str, object]]:
    """All populations at the sizes that runs have."""
    rows = []
    for planted in populations():
        for n in (60, 200) if planted.over == "images" else (24, 32, 256):
            found = coverage(planted, n)
            rows.append({"number": planted.name, "over": planted.over, "n": n, "coverage": found})
            report(f"{planted.name:24} n = {n:4} {planted.over:8} {found:.3f}")
    return rows


if __name__ == "__main__":
    found = {"command": "python benchmarks/interval_coverage.py", "repetitions": REPETITIONS, "rows": table()}
    path = Path(__file__).with_name("results") / "coverage.json"
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
