"""Leakage: what Φ′, which no concept accounts for, carries into the picture and into g's reading (docs/metrics.md 15).

A decoder that returns x from Φ′ and ignores Φ reconstructs perfectly and shows no concept: here it is caught.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from coinbench.concepts import Concepts
from coinbench.config import EvaluationConfig
from coinbench.metric import Evaluation, Metric, MetricSpec, Records, collect
from coinbench.metrics.mse import squared_error
from coinbench.results import Score
from coinbench.statistics import Statistic, mean, summarise
from coinbench.trace import Trace

_PROTOCOL = (
    "x: test images chosen at random by index, unaugmented (1000 by default, 200 in small presets; n is the number "
    "used); x′: for each a training image of another class under g, drawn by index; g the full pass encode -> predict "
    "on decoded images; 95 % interval over images"
)
_NULL = "0 where a method has no Φ′ (nothing is swapped), or the decoder ignores it; concepts: Φ swapped, Φ′ kept"


def _spec(
    name: str,
    what: str,
    unit: str,
    high: float,
    null: str,
    formula: str,
    oracle: str,
    better: bool | None = False,
    version: int = 1,
) -> MetricSpec:
    return MetricSpec(
        name=name,
        version=version,
        unit=unit,
        bounds=(0.0, high),
        higher_is_better=better,
        source="docs/metrics.md 15",
        protocol=f"{what}; {_PROTOCOL}",
        null=null,
        formula=formula,
        oracle=oracle,
    )


_SWAPPED = "x_s = decode(Φ(x), Φ′(x′))"
LEAKAGE = _spec(
    "leakage",
    "how far g's probabilities move when Φ′ alone is that of x′",
    "probability",
    1.0,
    _NULL,
    f"mean over x of ½ Σ_c |softmax g(x̃)_c − softmax g(x_s)_c|, {_SWAPPED}",
    "0: the class is in the concepts alone",
)
LEAKAGE_CLASS = _spec(
    "leakage_class",
    "share of images read as the class of x′, of which they have Φ′ alone; no number where a method has no Φ′",
    "fraction",
    1.0,
    "unswapped: x̃ itself read as the class of x′, the errors of the decoder, which is what a decoder that ignores Φ′ "
    "has; concepts: Φ swapped, Φ′ kept",
    f"mean over x of [argmax g(x_s) = ĉ(x′)], {_SWAPPED}",
    "that of the unswapped arm",
    version=2,
)
LEAKAGE_IMAGE = _spec(
    "leakage_image",
    "squared change of the picture in [-1, 1] when Φ′ alone is that of x′, mean over pixels and channels",
    "squared error",
    4.0,
    _NULL,
    f"mean over x of ‖x̃ − x_s‖² / (C·H·W), {_SWAPPED}",
    "no best value in itself: Φ′ may draw what no concept is about",
    None,
)
LEAKAGE_SHARE = _spec(
    "leakage_share",
    "share of Φ′ in the squared change of the picture when Φ′ alone, and when Φ alone, is that of x′",
    "fraction",
    1.0,
    "0 where a method has no Φ′; 1 for a decoder that ignores its concepts",
    "s / (s + k), s = mean ‖x̃ − x_s‖², k = mean ‖x̃ − decode(Φ(x′), Φ′(x))‖²; 0 where both are 0",
    "no best value in itself: Φ′ may well draw what no concept is about, as the audit's oracle does the scene",
    None,
    2,
)


def total_variation(a: Float[Tensor, "B Y"], b: Float[Tensor, "B Y"]) -> Float[Tensor, "B"]:
    """Return ½ Σ_c |softmax(a)_c − softmax(b)_c| of each pair of logits, in float64.

    >>> far = torch.tensor([[100.0, 0.0], [0.0, 0.0]])
    >>> total_variation(far, torch.tensor([[0.0, 100.0], [0.0, 0.0]])).tolist()
    [1.0, 0.0]
    """
    return (a.double().softmax(1) - b.double().softmax(1)).abs().sum(1) / 2


def share(changes: Float[np.ndarray, "R n 2"]) -> Float[np.ndarray, "R"]:
    """Return s / (s + k) of mean changes by Φ′ (s, first) and by Φ (k, second); 0 where nothing changes.

    >>> share(np.array([[[1.0, 3.0], [1.0, 3.0]], [[0.0, 0.0], [0.0, 0.0]]])).tolist()
    [0.25, 0.0]
    """
    s, k = changes.mean(1).T
    return np.divide(s, s + k, out=np.zeros_like(s), where=s + k > 0)


def partners(
    uniform: Float[np.ndarray, "B"], classes: Int[np.ndarray, "B"], others: Int[np.ndarray, "N"]
) -> Int[np.ndarray, "B"]:
    """Return for each image a row among `others` of another class; any row where all are of its class.

    >>> partners(np.array([0.0, 0.99, 0.5]), np.array([0, 0, 1]), np.array([0, 1, 1])).tolist()
    [1, 2, 0]
    """
    chosen = np.empty(len(classes), dtype=np.int64)
    for c in np.unique(classes):
        rows = np.flatnonzero(others != c)
        rows = rows if len(rows) else np.arange(len(others))
        here = classes == c
        chosen[here] = rows[(uniform[here] * len(rows)).astype(np.int64)]
    return chosen


class Leakage(Metric):
    """Pictures of the concepts of one image and the Φ′ of another, and the other way about."""

    takes_turns = True
    specs = (LEAKAGE, LEAKAGE_CLASS, LEAKAGE_IMAGE, LEAKAGE_SHARE)
    limit = "leakage_images"
    cost = "two decodes and readings by g of each of leakage_images images; one where there is no Φ′"

    def __init__(self, evaluation: Evaluation) -> None:
        """Start a pass over images chosen by index."""
        super().__init__(evaluation)
        self._chosen = evaluation.chosen("leakage", evaluation.config.leakage_images)

    @torch.no_grad()
    def update(self, trace: Trace) -> None:
        """Swap Φ′, and Φ, of the chosen images of a batch."""
        rows = trace.rows_of(self._chosen)
        if not len(rows):
            return
        bank, coin = self.evaluation.bank, trace.coin
        at = torch.from_numpy(rows).to(trace.index.device)
        index, classes = trace.index[at].cpu().numpy(), trace.predicted[at].cpu().numpy()
        dice = self.evaluation.rng.child("leakage", "partners").uniform(index, 1)[:, 0]
        donor = torch.from_numpy(partners(dice, classes, bank.predicted.numpy()))
        mine, other = trace.concepts.rows(at), bank.concepts.rows(donor).to(trace.index.device)
        image, logits = trace.reconstruction[at], trace.logits_of_reconstruction[at]
        swapped = {"concepts": Concepts(other.phi, other.pooled, mine.support)}
        if mine.support is not None:
            swapped["method"] = replace(mine, support=other.support)
        target = bank.predicted[donor].to(logits.device)
        same = {"index": index, "support": np.full(len(index), mine.support is not None)}
        zero = np.zeros(len(index))
        read = (logits.argmax(1) == target).cpu().numpy()
        self._keep("unswapped", same, zero, zero, read)
        if "method" not in swapped:
            self._keep("method", same, zero, zero, np.zeros(len(index), dtype=bool))
        for arm, concepts in swapped.items():
            decoded = coin.decode(concepts)
            found = coin(decoded)
            moved = total_variation(logits, found).cpu().numpy()
            changed = squared_error(image, decoded).cpu().numpy()
            self._keep(arm, same, moved, changed, (found.argmax(1) == target).cpu().numpy())

    def _keep(self, arm: str, same: Records, moved: np.ndarray, changed: np.ndarray, read: np.ndarray) -> None:
        labels = np.full(len(moved), arm)
        self.parts.append({**same, "arm": labels, "moved": moved, "changed": changed, "as_other": read})

    def records(self) -> Records:
        """Return what each swap changes in each image, by arm and index."""
        return collect(self.parts, by=("arm", "index"))

    @staticmethod
    def score(records: Records, config: EvaluationConfig) -> list[Score]:
        """Return how far g and the picture move, by what is swapped, and the share of Φ′."""
        detail = "" if bool(records["support"][0]) else "the method has no Φ′: nothing is swapped"
        of = {
            arm: {name: column[records["arm"] == arm] for name, column in records.items()}
            for arm in ("method", "concepts", "unswapped")
        }
        both = np.stack([of[arm]["changed"] for arm in ("method", "concepts")], 1)
        numbers: list[tuple[MetricSpec, np.ndarray, str, Statistic]] = []
        for arm in ("method", "concepts"):
            numbers += [(LEAKAGE, of[arm]["moved"], arm, mean), (LEAKAGE_IMAGE, of[arm]["changed"], arm, mean)]
        # Without Φ′ nothing of x′ is in the picture: how often g errs towards its class is no leakage.
        read = [arm for arm in ("method", "concepts", "unswapped") if arm != "method" or not detail]
        numbers += [(LEAKAGE_CLASS, of[arm]["as_other"], arm, mean) for arm in read]
        numbers.append((LEAKAGE_SHARE, both, "method", share))
        return [
            summarise(spec, values, config, statistic, arm=arm, detail=detail if arm == "method" else "", over="images")
            for spec, values, arm, statistic in numbers
        ]
