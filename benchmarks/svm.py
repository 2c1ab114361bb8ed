"""SVM time of consistency for K concepts from cached features, beside scikit-learn's grid search on the same folds.

    python benchmarks/svm.py --concepts 256 --json benchmarks/results/svm.json

Features are drawn: pairs as decoders make them, and clouds that overlap, of which libsvm needs more iterations; N =
100 and 512 features as in the paper. What coinbench does for a concept at one λ: one Gram matrix for all folds and
costs, its score, and the permuted control of 20 more fits; concepts on as many threads as torch has. The grid search
chooses C, fits and scores, without a control. The scores must be equal.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.svm import SVC

from coinbench.config import EvaluationConfig
from coinbench.files import write_json
from coinbench.metrics.consistency import concept_rows
from coinbench.metrics.pair_svm import folds, true_labels
from coinbench.rng import Rng

PAIRS, WIDTH = 100, 512
Embeddings = tuple[np.ndarray, np.ndarray]


def paired(concept: int) -> Embeddings:
    """Return pairs as decoders make them: positive features of an image, and the same with a concept's own shift."""
    dice = np.random.default_rng(concept)
    direction = 0.02 * dice.normal(size=WIDTH)

    def split() -> np.ndarray:
        minus = 0.3 + 0.5 * np.abs(dice.normal(size=(PAIRS, WIDTH)))
        return np.concatenate([minus + direction * (1 + 0.3 * dice.normal(size=(PAIRS, 1))), minus])

    return split(), split()


def overlapping(concept: int) -> Embeddings:
    """Return two clouds that overlap."""
    dice = np.random.default_rng(concept)
    direction = 0.08 * dice.normal(size=WIDTH)
    return tuple(dice.normal(size=(2 * PAIRS, WIDTH)) + true_labels(PAIRS)[:, None] * direction for _ in range(2))  # pyright: ignore


def coinbench(data: list[Embeddings], threads: int) -> list[float]:
    """Return the score of each concept as the metric makes it, its permuted control included."""
    config = EvaluationConfig()

    def score(task: tuple[int, Embeddings]) -> float:
        return concept_rows(task[1], config, Rng(task[0]), ("method", "permuted"))[0]["score"]

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(score, enumerate(data)))


def grid_search(data: list[Embeddings]) -> list[float]:
    """Return the score of each concept by scikit-learn's grid search."""
    labels, scores = true_labels(PAIRS), []
    for concept, (train, test) in enumerate(data):
        split = PredefinedSplit(folds(PAIRS, "pairs", Rng(concept).child("folds")))
        search = GridSearchCV(SVC(kernel="linear"), {"C": list(EvaluationConfig().svm_c)}, cv=split)
        scores.append(search.fit(train, labels).score(test, labels))
    return scores


def main() -> None:
    """Time both ways on both kinds of features."""
    parser = argparse.ArgumentParser(description="SVM time of consistency.")
    parser.add_argument("--concepts", type=int, default=256)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows = []
    for kind in (paired, overlapping):
        data = [kind(concept) for concept in range(given.concepts)]
        ways: dict[str, Callable[[], list[float]]] = {
            "coinbench, control included": lambda data=data: coinbench(data, given.threads),
            "GridSearchCV": lambda data=data: grid_search(data),
        }
        found = {}
        for way, run in ways.items():
            load, began, used = os.getloadavg()[0], time.perf_counter(), time.process_time()
            found[way] = run()
            wall, used = time.perf_counter() - began, time.process_time() - used
            row = {"features": kind.__name__, "way": way, "wall": round(wall, 1), "cpu": round(used, 1)}
            rows.append(row | {"load before": round(load, 1), "mean score": round(float(np.mean(found[way])), 4)})
            print("  ".join(f"{key}: {value}" for key, value in rows[-1].items()), flush=True)
        assert len({tuple(scores) for scores in found.values()}) == 1, "the two ways score differently"
    print("equal scores of all concepts")
    if given.json:
        commit = subprocess.run(("git", "rev-parse", "--short", "HEAD"), capture_output=True, text=True).stdout.strip()
        settings = {"K": given.concepts, "N": PAIRS, "features": WIDTH, "threads": given.threads, "commit": commit}
        write_json(given.json, settings | {"rows": rows})


if __name__ == "__main__":
    main()
