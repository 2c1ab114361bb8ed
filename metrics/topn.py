"""Top-N accuracy: how many concepts g needs (paper section 4, table 10; docs/metrics.md 14)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Float

from coinbench.config import EvaluationConfig
from coinbench.metric import Metric, MetricSpec, Records, collect
from coinbench.results import Score
from coinbench.statistics import summarise
from coinbench.trace import Trace

TOPN_ACCURACY = MetricSpec(
    name="topn_accuracy",
    version=1,
    unit="fraction",
    bounds=(0.0, 1.0),
    higher_is_better=True,
    source="paper section 4, table 10",
    protocol=(
        "share of images with argmax Θ(Φ_N) = label, Φ_N: the N concepts of largest pooled_k as they are, all others 0 "
        "(of equal ones the first); the paper's N below K, and K; test split, unaugmented; mean over images; 95 % "
        "interval over images"
    ),
    null="random: N concepts chosen at random (index-keyed, the same draws for all methods), mean over the draws",
    formula="mean over x of [argmax Θ(Φ_N(x)) = label]",
    oracle="the accuracy of g from the N on that a class is made of; at N = K always the accuracy of g",
)


def ladder(steps: tuple[int, ...], K: int) -> list[int]:
    """Return the numbers of concepts below K, and K.

    >>> ladder((4, 8, 16), 10)
    [4, 8, 10]
    """
    return [*(n for n in sorted(steps) if n < K), K]


def top(activation: Float[np.ndarray, "B K"], count: int) -> Bool[np.ndarray, "B K"]:
    """Mark the `count` largest entries of each row; of equal ones the first.

    >>> top(np.array([[0.2, 0.9, 0.2], [0.0, 0.0, 0.0]]), 2).tolist()
    [[True, True, False], [True, True, False]]
    """
    rank = np.argsort(np.argsort(-activation, axis=1, kind="stable"), axis=1, kind="stable")
    return rank < count


class TopNAccuracy(Metric):
    """Predictions of Θ from a few concepts; nothing is decoded."""

    takes_turns = True
    specs = (TOPN_ACCURACY,)
    cost = "(1 + random_draws) passes of Θ for each N and image; no pass of f, encode or decode"

    @torch.no_grad()
    def update(self, trace: Trace) -> None:
        """Let Θ see the most active concepts of each image of a batch, and random ones."""
        config, rng = self.evaluation.config, self.evaluation.rng.child("topn")
        index, labels = trace.index.cpu().numpy(), trace.batch.labels.cpu().numpy()
        pooled = trace.concepts.pooled.cpu().double().numpy()
        orders = [("method", 0, pooled)]
        orders += [("random", d, rng.child(d).uniform(index, pooled.shape[1])) for d in range(config.random_draws)]
        for count in ladder(config.top_counts, pooled.shape[1]):
            for arm, draw, order in orders:
                kept = torch.from_numpy(top(order, count)).to(trace.concepts.phi)
                found = trace.coin.predict(trace.concepts.scale(kept)).argmax(1).cpu().numpy()
                n = len(index)
                self.parts.append(
                    {
                        "n": np.full(n, count),
                        "arm": np.full(n, arm),
                        "draw": np.full(n, draw),
                        "index": index,
                        "hit": found == labels,
                    }
                )

    def records(self) -> Records:
        """Return whether each image was named right, by N, arm, draw and index."""
        return collect(self.parts, by=("n", "arm", "draw", "index"))

    @staticmethod
    def score(records: Records, config: EvaluationConfig) -> list[Score]:
        """Return the accuracy at each N of each arm."""
        rows = []
        for count in np.unique(records["n"]):
            for arm in ("method", "random"):
                here = (records["n"] == count) & (records["arm"] == arm)
                draws = len(np.unique(records["draw"][here]))
                # [image, draw]: the draws of an image are resampled with it.
                hits = records["hit"][here].reshape(draws, -1).T
                detail = f"{draws} random draws" if arm == "random" else ""
                rows.append(
                    summarise(TOPN_ACCURACY, hits, config, arm=arm, params=f"N={count}", detail=detail, over="images")
                )
        return rows
