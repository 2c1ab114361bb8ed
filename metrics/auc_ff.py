"""AUC-FF: how soon images decoded from the most active concepts tell g their class (paper section 4, table 11).

The paper leaves open the axis, its scale and what becomes of Φ′; ours are in docs/metrics.md 14.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from coinbench.config import EvaluationConfig
from coinbench.metric import Evaluation, Metric, MetricSpec, Records, collect
from coinbench.metrics.topn import ladder, top
from coinbench.results import Score
from coinbench.statistics import share, summarise
from coinbench.trace import Trace

_PROTOCOL = (
    "share of images with argmax g(x_N) = label, g the full pass encode -> predict on decoded images; x_N: the N "
    "concepts of largest pooled_k as they are, all others 0, Φ′ untouched; N = 0, the paper's N below K, and K, where "
    "x_N = x̃; test images chosen at random by index, unaugmented (1000 by default, 200 in small presets; n is the "
    "number used); mean over images; 95 % interval over images"
)
_NULL = (
    "random: the concepts added in random order (index-keyed, the same for all methods); the method's lead over it is "
    "what the order of activation is worth; 1/Y where g cannot read the decoder"
)
AUC_FF = MetricSpec(
    name="auc_ff",
    version=1,
    unit="fraction",
    bounds=(0.0, 1.0),
    higher_is_better=True,
    source="paper section 4, table 11; axis and scale: docs/metrics.md 14",
    protocol=f"area under the accuracy over N/K from 0 to 1, trapezoid; {_PROTOCOL} (of 60 it holds in 97 of 100)",
    null=_NULL,
    formula="∫_0^1 a(s) ds, a(N/K) = mean over x of [argmax g(x_N) = label]",
    oracle="near 1: the first concepts already show the class; never 1, since a(0) is chance without Φ′",
)
AUC_FF_CURVE = MetricSpec(
    name="auc_ff_curve",
    version=1,
    unit="fraction",
    bounds=(0.0, 1.0),
    higher_is_better=True,
    source="paper section 4, table 11 (accuracy on full reconstructions: N = K)",
    protocol=_PROTOCOL,
    null=_NULL,
    formula="a(N/K) = mean over x of [argmax g(x_N) = label]",
    oracle="the accuracy of g from the N on that a class is made of; at N = 0 chance, more is carried by Φ′",
)


def weights(counts: list[int]) -> Float[np.ndarray, "N"]:
    """Return what each point of a curve weighs in the area under it over N/K, K the last of `counts`.

    >>> weights([0, 1, 4]).tolist()
    [0.125, 0.5, 0.375]
    """
    gaps = np.diff(np.array(counts, dtype=np.float64) / counts[-1])
    return (np.append(gaps, 0.0) + np.append(0.0, gaps)) / 2


def area(hits: Float[np.ndarray, "n N"] | Bool[np.ndarray, "n N"], counts: list[int]) -> Float[np.ndarray, "n"]:
    """Return each image's own area, whose mean is the area under the mean curve.

    Args:
        hits: whether the image is named right with so many concepts.
        counts: numbers of concepts, rising from 0 to K.

    >>> area(np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 1.0]]), [0, 2, 4]).tolist()
    [0.25, 0.75]
    """
    return hits @ weights(counts)


class AreaUnderFaithfulness(Metric):
    """What g reads in images of a growing number of concepts."""

    takes_turns = True
    specs = (AUC_FF, AUC_FF_CURVE)
    limit = "auc_ff_images"
    cost = "decode and g for each N of the method and of the random order, of auc_ff_images images"

    def __init__(self, evaluation: Evaluation) -> None:
        """Start a pass over images chosen by index, those of faithfulness among them or the other way about."""
        super().__init__(evaluation)
        self._chosen = evaluation.chosen("faithfulness", evaluation.config.auc_ff_images)

    @torch.no_grad()
    def update(self, trace: Trace) -> None:
        """Decode the chosen images of a batch from more and more concepts."""
        rows = trace.rows_of(self._chosen)
        if not len(rows):
            return
        config, rng = self.evaluation.config, self.evaluation.rng.child("auc_ff")
        index, labels = trace.index.cpu().numpy()[rows], trace.batch.labels.cpu().numpy()[rows]
        pooled = trace.concepts.pooled.cpu().double().numpy()[rows]
        active = pooled > 0
        K, n = pooled.shape[1], len(rows)
        counts = [0, *ladder(config.add_counts, K)]
        full = trace.logits_of_reconstruction.argmax(1).cpu().numpy()[rows] == labels
        bare = self._read(trace, rows, np.zeros_like(active)) == labels
        for arm, order in (("method", pooled), ("random", rng.uniform(index, K))):
            for count in counts:
                kept = top(order, count) & active
                # Both orders begin with nothing, and an image of all its active concepts is x̃.
                hit = np.where(kept.any(1), full, bare)
                between = np.flatnonzero(kept.any(1) & (kept != active).any(1))
                if len(between):
                    hit[between] = self._read(trace, rows[between], kept[between]) == labels[between]
                self.parts.append({"arm": np.full(n, arm), "n": np.full(n, count), "index": index, "hit": hit})

    def _read(self, trace: Trace, rows: Int[np.ndarray, "n"], kept: Bool[np.ndarray, "n K"]) -> Int[np.ndarray, "n"]:
        """Return argmax g of images of the batch decoded from some of their concepts."""
        concepts = trace.concepts.rows(torch.from_numpy(rows).to(trace.index.device))
        factor = torch.from_numpy(kept).to(concepts.phi)
        return trace.coin(trace.coin.decode(concepts.scale(factor))).argmax(1).cpu().numpy()

    def records(self) -> Records:
        """Return whether each image was named right, by arm, N and index."""
        return collect(self.parts, by=("arm", "n", "index"))

    @staticmethod
    def score(records: Records, config: EvaluationConfig) -> list[Score]:
        """Return area and curve of each arm."""
        rows, counts = [], [int(n) for n in np.unique(records["n"])]
        for arm in ("method", "random"):
            # [image, N]
            hits = records["hit"][records["arm"] == arm].reshape(len(counts), -1).T
            whole = summarise(AUC_FF, area(hits, counts), config, arm=arm, over="images")
            if hits.all() or not hits.any():
                # Areas without spread have a bootstrap without width: each is then a hit or a miss.
                low, high = share(hits[:, 0])
                whole = replace(whole, low=low, high=high)
            rows.append(whole)
            rows += [
                summarise(AUC_FF_CURVE, hits[:, i], config, arm=arm, params=f"N={n}", over="images")
                for i, n in enumerate(counts)
            ]
        return rows
