"""Consistency from end to end for several K and N, and its SVM beside scikit-learn's grid search."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sklearn
from measured import prepare, run
from pytest_benchmark.fixture import BenchmarkFixture
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.svm import SVC

from coinbench import records
from coinbench.config import EvaluationConfig, Experiment
from coinbench.metrics.pair_svm import choose_cost, folds, probe, true_labels
from coinbench.problem import Problem
from coinbench.rng import Rng

CONCEPTS, PAIRS, WIDTH = 8, 40, 32
"""N and the width of block 2 as in the birds preset."""
COSTS = EvaluationConfig().svm_c
Embeddings = tuple[np.ndarray, np.ndarray]
"""Of training and of test images, x⁺ first."""


def overlapping(concept: int) -> Embeddings:
    """Return two clouds that overlap: libsvm's iterations take nearly all the time."""
    dice = np.random.default_rng(concept)
    direction = 0.15 * dice.normal(size=WIDTH)
    return tuple(dice.normal(size=(2 * PAIRS, WIDTH)) + true_labels(PAIRS)[:, None] * direction for _ in range(2))  # pyright: ignore


def paired(concept: int) -> Embeddings:
    """Return pairs as decoders make them: positive features of an image, and the same with a concept's own shift."""
    dice = np.random.default_rng(concept)
    direction = 0.05 * dice.normal(size=WIDTH)

    def split() -> np.ndarray:
        minus = 0.3 + 0.5 * np.abs(dice.normal(size=(PAIRS, WIDTH)))
        return np.concatenate([minus + direction * (1 + 0.3 * dice.normal(size=(PAIRS, 1))), minus])

    return split(), split()


def by_gram(data: list[Embeddings]) -> list[float]:
    """Score each concept as coinbench does: one Gram matrix, cut for folds and costs."""
    labels, scores = true_labels(PAIRS), []
    with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
        for concept, (train, test) in enumerate(data):
            gram = train @ train.T
            cost = choose_cost(gram, labels, folds(PAIRS, "pairs", Rng(concept)), COSTS)
            scores.append(probe(gram, test @ train.T, labels, cost))
    return scores


def by_grid_search(data: list[Embeddings]) -> list[float]:
    """Score each concept with scikit-learn's search over the same folds."""
    labels, scores = true_labels(PAIRS), []
    for concept, (train, test) in enumerate(data):
        split = PredefinedSplit(folds(PAIRS, "pairs", Rng(concept)))
        search = GridSearchCV(SVC(kernel="linear"), {"C": list(COSTS)}, cv=split).fit(train, labels)
        scores.append(search.score(test, labels))
    return scores


@pytest.mark.parametrize("way", [by_gram, by_grid_search], ids=["one Gram matrix", "GridSearchCV"])
@pytest.mark.parametrize("kind", [paired, overlapping], ids=lambda kind: kind.__name__)
def bench_svm(benchmark: BenchmarkFixture, kind, way) -> None:
    benchmark.group = f"SVM of consistency: {CONCEPTS} concepts, {PAIRS} {kind.__name__} images"
    data = [kind(concept) for concept in range(CONCEPTS)]
    scores = benchmark.pedantic(way, (data,), rounds=5, warmup_rounds=1)
    benchmark.extra_info["mean score"] = round(float(np.mean(scores)), 3)
    assert scores == by_gram(data)


@pytest.mark.parametrize(("K", "N"), [(4, 25), (8, 25), (16, 25), (8, 12), (8, 50)])
def bench_consistency(
    benchmark: BenchmarkFixture, experiment: Experiment, problem: Problem, tmp_path: Path, K: int, N: int
) -> None:
    benchmark.group = "consistency of viscoin from end to end, its untrained control included"
    settings = EvaluationConfig(consistency_images=N)
    evaluation = prepare("viscoin", experiment, problem, tmp_path, settings, (128, 128), K=K)
    assert benchmark.pedantic(run, (evaluation, [("consistency",)]), rounds=2) > K
    found = records.read(tmp_path / "samples" / "consistency.parquet")
    benchmark.extra_info |= {"K": K, "N": N, "dead": float(found["dead"].mean())}
