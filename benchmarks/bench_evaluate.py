"""The SVM of consistency beside scikit-learn's grid search, and one pass for all metrics beside a pass for each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sklearn
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.svm import SVC

from coinbench import registry
from coinbench.bank import build_bank
from coinbench.config import EvaluationConfig, Experiment
from coinbench.evaluate import measure
from coinbench.log import Log
from coinbench.metric import Evaluation, Metric
from coinbench.metrics.consistency import choose_cost, folds, probe, true_labels
from coinbench.problem import Problem
from coinbench.rng import Rng

CONCEPTS, PAIRS, WIDTH = 8, 100, 128
COSTS = EvaluationConfig().svm_c
METRICS = ("accuracy", "mse", "perceptual", "frechet", "sparsity")


def embeddings(concept: int) -> tuple[np.ndarray, np.ndarray]:
    """Return training and test embeddings, x⁺ first, of a concept that is hard enough to need the search."""
    dice = np.random.default_rng(concept)
    direction = 0.15 * dice.normal(size=WIDTH)
    labels = true_labels(PAIRS)[:, None]
    return tuple(dice.normal(size=(2 * PAIRS, WIDTH)) + labels * direction for _ in range(2))  # pyright: ignore


def by_gram() -> list[float]:
    """Score each concept as coinbench does: one Gram matrix, cut for folds and costs."""
    labels, scores = true_labels(PAIRS), []
    for concept in range(CONCEPTS):
        train, test = embeddings(concept)
        gram = train @ train.T
        with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
            cost = choose_cost(gram, labels, folds(PAIRS, "pairs", Rng(concept)), COSTS)
            scores.append(probe(gram, test @ train.T, labels, cost))
    return scores


def by_grid_search() -> list[float]:
    """Score each concept with scikit-learn's search over the same folds."""
    labels, scores = true_labels(PAIRS), []
    for concept in range(CONCEPTS):
        train, test = embeddings(concept)
        split = PredefinedSplit(folds(PAIRS, "pairs", Rng(concept)))
        search = GridSearchCV(SVC(kernel="linear"), {"C": list(COSTS)}, cv=split).fit(train, labels)
        scores.append(search.score(test, labels))
    return scores


@pytest.mark.parametrize("way", ["one Gram matrix", "GridSearchCV"])
def bench_svm(benchmark: BenchmarkFixture, way: str) -> None:
    benchmark.group = f"SVM of consistency: {CONCEPTS} concepts, {PAIRS} pairs"
    scores = benchmark.pedantic(by_gram if way == "one Gram matrix" else by_grid_search, rounds=3, warmup_rounds=1)
    assert np.allclose(scores, by_gram(), atol=0.02)


@pytest.mark.parametrize("way", ["one pass", "a pass for each metric"])
def bench_pass(benchmark: BenchmarkFixture, experiment: Experiment, problem: Problem, tmp_path: Path, way: str) -> None:
    benchmark.group = f"{len(METRICS)} metrics of viscoin on {len(problem.test)} test images"
    spec, config = registry.METHODS.load("viscoin"), experiment.methods["viscoin"]
    coin = spec.build(config, problem, Rng(0)).eval()
    evaluation = Evaluation(
        coin=coin,
        problem=problem,
        config=EvaluationConfig(bootstrap=100),
        rng=Rng(0),
        bank=build_bank(coin, problem, problem.train.batches(64)),
        untrained=lambda: spec.build(config, problem, Rng(0)).eval(),
        log=Log(tmp_path),
    )
    groups = [METRICS] if way == "one pass" else [(name,) for name in METRICS]

    @torch.no_grad()
    def run() -> int:
        rows = 0
        for names in groups:
            failures: dict[str, str] = {}
            metrics: dict[str, Metric] = {name: registry.METRICS.load(name)(evaluation) for name in names}
            rows += len(measure(metrics, evaluation, failures))
            assert failures == {}
        return rows

    assert benchmark.pedantic(run, rounds=3, warmup_rounds=1) > 10
