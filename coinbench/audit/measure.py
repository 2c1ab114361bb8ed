"""All metrics of one entrant, as numbers by name; settings of a short evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from coinbench import registry
from coinbench.bank import build_bank
from coinbench.cache import Cache
from coinbench.coin import CoIN
from coinbench.config import EvaluationConfig
from coinbench.errors import Unavailable
from coinbench.evaluate import measure
from coinbench.log import Log
from coinbench.metric import Evaluation, Metric, MetricSpec
from coinbench.problem import Problem, Split
from coinbench.results import Score
from coinbench.rng import Rng

SETTINGS = {
    "taus": (0.2,),
    "lambdas": (2.0,),
    "sparsity_thresholds": (0.2,),
    "faithfulness_images": 40,
    "auc_ff_images": 30,
    "leakage_images": 40,
    "consistency_images": 10,
    "svm_c": (1.0,),
    "random_draws": 2,
    "permutations": 10,
    "bootstrap": 100,
    "part_images": 200,
    "locality_images": 8,
    "use_images": 80,
    "part_thresholds": (0.1,),
    "part_consistency_images": 10,
    "visualisation_pairs": 20,
}
"""Of an evaluation of seconds: the audit makes two dozen."""


@dataclass(frozen=True, slots=True)
class Bench:
    """What all entrants are measured on and with."""

    problem: Problem
    metrics: tuple[str, ...]
    config: EvaluationConfig
    untrained: Callable[[], CoIN]
    """The control of metrics that compare with a method at initialisation."""
    cache: Cache

    def scores(
        self,
        coin: CoIN,
        seed: int | None = None,
        batch: int | None = None,
        arrange: Callable[[Split], Split] | None = None,
    ) -> Measured:
        """Measure one entrant.

        Args:
            coin: the entrant.
            seed: of the evaluation; default: that of the settings.
            batch: images in a pass; default: that of the settings.
            arrange: gives the test split in another order.
        """
        changes = {name: value for name, value in (("seed", seed), ("batch", batch)) if value is not None}
        problem = self.problem if arrange is None else replace(self.problem, test=arrange(self.problem.test))
        return self._scores(coin, problem, self.config.model_copy(update=changes))

    @torch.no_grad()
    def _scores(self, coin: CoIN, problem: Problem, config: EvaluationConfig) -> Measured:
        with TemporaryDirectory(prefix="coinbench-audit-") as folder:
            evaluation = Evaluation(
                coin=coin,
                problem=problem,
                config=config,
                rng=Rng(config.seed).child("evaluation"),
                bank=build_bank(coin, problem, problem.train.batches(config.batch)),
                untrained=self.untrained,
                log=Log(Path(folder)),
                cache=self.cache,
            )
            failures: dict[str, str] = {}
            metrics: dict[str, Metric] = {}
            for name in self.metrics:
                try:
                    metrics[name] = registry.METRICS.load(name)(evaluation)
                except Unavailable as reason:
                    failures[name] = str(reason)
            found = measure(metrics, evaluation, failures)
        specs = {spec.name: spec for metric in metrics.values() for spec in metric.specs}
        return Measured(found, failures, specs)


@dataclass(frozen=True, slots=True)
class Reading:
    """A number, and how sure it is."""

    value: float
    error: float = 0.0
    """Half of its 95 % interval; 0 where it has none."""

    def apart(self, other: Reading) -> float:
        """Return how far two must be apart so that chance alone hardly explains it: both errors together.

        >>> Reading(0.5, 3.0).apart(Reading(0.1, 4.0))
        5.0
        """
        return math.hypot(self.error, other.error)


class Measured:
    """Numbers of one entrant, by name: "faithfulness tau=0.2" where a metric has settings."""

    def __init__(self, scores: Sequence[Score], failures: dict[str, str], specs: Mapping[str, MetricSpec]) -> None:
        """Keep the rows about the whole."""
        self.failures = failures
        self._rows = [score for score in scores if score.subject == "all"]
        self.specs = {_name(row): specs[row.metric] for row in self._rows}

    def values(self) -> dict[str, float]:
        """Return the numbers of the entrant itself."""
        return {name: reading.value for name, reading in self.readings().items()}

    def readings(self) -> dict[str, Reading]:
        """Return the numbers of the entrant itself, with their errors."""
        return {_name(row): Reading(row.value, _error(row)) for row in self._rows if row.arm == "method"}

    def nulls(self) -> dict[str, dict[str, float]]:
        """Return what the metric's own controls say, by arm."""
        found: dict[str, dict[str, float]] = {}
        for row in self._rows:
            if row.arm != "method":
                found.setdefault(_name(row), {})[row.arm] = row.value
        return found


def _name(row: Score) -> str:
    return f"{row.metric} {row.params}".strip()


def _error(row: Score) -> float:
    half = (row.high - row.low) / 2
    return half if math.isfinite(half) else 0.0


def reordered(split: Split) -> Split:
    """Return a split whose images come in another order."""
    return split.subset(Rng(1).child("order").numpy().permutation(len(split)))


def some(split: Split, n: int, rng: Rng) -> Split:
    """Return at most n images of a split, chosen by index."""
    return split.subset(rng.child("audit", split.name).choose(split.index, n))
