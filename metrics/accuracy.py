"""Accuracy of g and of f, their agreement, and what g makes of the reconstruction (paper section 4, table 1a)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Bool, Int

from coinbench.config import EvaluationConfig
from coinbench.metric import Metric, MetricSpec, Records, collect
from coinbench.results import Score
from coinbench.statistics import summarise
from coinbench.trace import Trace

_SAMPLES = "test split, unaugmented; mean over images; 95 % interval over images"

ACCURACY = MetricSpec(
    name="accuracy",
    version=1,
    unit="fraction",
    bounds=(0.0, 1.0),
    higher_is_better=True,
    source="paper section 4, table 1a",
    protocol=f"share of images with argmax g(x) = label; {_SAMPLES}",
    null="chance: the share of the most frequent label in the test split",
    formula="mean over x of [argmax g(x) = label]",
    oracle="1",
)
ACCURACY_F = MetricSpec(
    name="accuracy_f",
    version=1,
    unit="fraction",
    bounds=(0.0, 1.0),
    higher_is_better=True,
    source="paper section 4, table 1a, column Original-f",
    protocol=f"share of images with argmax f(x) = label, f the classifier shared by all methods; {_SAMPLES}",
    null="as for accuracy",
    formula="mean over x of [argmax f(x) = label]",
    oracle="1",
)
AGREEMENT = MetricSpec(
    name="agreement",
    version=1,
    unit="fraction",
    bounds=(0.0, 1.0),
    higher_is_better=True,
    source="FLINT (Parekh et al. 2021), fidelity: share of images on which g and f agree",
    protocol=f"share of images with argmax g(x) = argmax f(x), f the classifier shared by all methods; {_SAMPLES}",
    null="chance: expected agreement of independent predictions with the class shares of g and f",
    formula="mean over x of [argmax g(x) = argmax f(x)]",
    oracle="1: g = f",
)
ACCURACY_OWN_F = MetricSpec(
    name="accuracy_own_f",
    version=1,
    unit="fraction",
    bounds=(0.0, 1.0),
    higher_is_better=True,
    source="FLAEM (Sarkar et al. 2022), its black-box head",
    protocol=f"share of images with argmax f(x) = label, f the classifier that the method trained itself; {_SAMPLES}",
    null="as for accuracy",
    formula="mean over x of [argmax f(x) = label], f the method's own",
    oracle="1",
)
AGREEMENT_OWN_F = MetricSpec(
    name="agreement_own_f",
    version=1,
    unit="fraction",
    bounds=(0.0, 1.0),
    higher_is_better=True,
    source="as agreement",
    protocol=(
        f"share of images with argmax g(x) = argmax f(x), f the classifier that the method trained itself; {_SAMPLES}"
    ),
    null="as for agreement",
    formula="mean over x of [argmax g(x) = argmax f(x)], f the method's own",
    oracle="1: g = f",
)
ACCURACY_RECONSTRUCTION = MetricSpec(
    name="accuracy_reconstruction",
    version=1,
    unit="fraction",
    bounds=(0.0, 1.0),
    higher_is_better=True,
    source="paper section 4 and table 11 (accuracy on reconstructions)",
    protocol=f"share of images with argmax g(x̃) = label, g the full pass encode -> predict; {_SAMPLES}",
    null="as for accuracy: a decoder that shows nothing scores at most the chance of accuracy",
    formula="mean over x of [argmax g(x̃) = label]",
    oracle="1; with x̃ = x the accuracy of g",
)
PROBABILITY_RECONSTRUCTION = MetricSpec(
    name="probability_reconstruction",
    version=1,
    unit="probability",
    bounds=(0.0, 1.0),
    higher_is_better=True,
    source="docs/metrics.md 2: the bound of faithfulness",
    protocol=f"softmax g(x̃) at ĉ = argmax g(x), g the full pass encode -> predict; {_SAMPLES}",
    null="1/Y where g(x̃) is uniform over Y classes",
    formula="mean over x of softmax g(x̃) at ĉ",
    oracle="1; with x̃ = x the confidence of g",
)


def hits(predicted: Int[np.ndarray, "n"], target: Int[np.ndarray, "n"]) -> Bool[np.ndarray, "n"]:
    """Return where a prediction is right; their mean is the accuracy.

    >>> hits(np.array([0, 1, 2, 2]), np.array([0, 1, 1, 2])).mean()
    np.float64(0.75)
    """
    return predicted == target


def majority(labels: Int[np.ndarray, "n"]) -> int:
    """Return the most frequent label, the smallest one where several are.

    >>> majority(np.array([3, 1, 1, 3, 0]))
    1
    """
    return int(np.bincount(labels).argmax())


def chance_agreement(a: Int[np.ndarray, "n"], b: Int[np.ndarray, "n"]) -> float:
    """Return Σ_c p_a(c) p_b(c), the agreement of independent predictions with these class shares.

    >>> chance_agreement(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]))
    0.5
    """
    classes = int(max(a.max(), b.max())) + 1
    shares = [np.bincount(x, minlength=classes) / len(x) for x in (a, b)]
    return float(shares[0] @ shares[1])


class Accuracy(Metric):
    """Predictions of g on x and x̃ and of f on x, against the label and each other."""

    takes_turns = True
    specs = (
        ACCURACY,
        ACCURACY_F,
        AGREEMENT,
        ACCURACY_OWN_F,
        AGREEMENT_OWN_F,
        ACCURACY_RECONSTRUCTION,
        PROBABILITY_RECONSTRUCTION,
    )
    cost = "one pass of f over x and of g over x̃ for each image, which other metrics share"

    @torch.no_grad()
    def update(self, trace: Trace) -> None:
        """Keep the predictions of a batch."""
        columns = {
            "index": trace.index,
            "label": trace.batch.labels,
            "g": trace.predicted,
            "f": trace.features.logits.argmax(1),
            "g_reconstruction": trace.logits_of_reconstruction.argmax(1),
            "probability": trace.probability(trace.logits_of_reconstruction.double()),
            "uniform": torch.full_like(trace.logits[:, 0], 1 / trace.logits.shape[1], dtype=torch.float64),
        }
        if trace.coin.classifier is not trace.problem.classifier:
            columns["own_f"] = trace.coin.classifier(trace.images).logits.argmax(1)
        self.parts.append({name: value.cpu().numpy() for name, value in columns.items()})

    def records(self) -> Records:
        """Return label, predictions and probability of each image, by index."""
        return collect(self.parts)

    @staticmethod
    def score(records: Records, config: EvaluationConfig) -> list[Score]:
        """Return the numbers, each with its chance level; those of its own f for a method that has one."""
        label, f, g = records["label"], records["f"], records["g"]
        chance = hits(np.full_like(label, majority(label)), label)
        rows = [
            summarise(ACCURACY, hits(g, label), config, over="images"),
            summarise(ACCURACY, chance, config, arm="chance", over="images"),
            summarise(ACCURACY_F, hits(f, label), config, over="images"),
            summarise(ACCURACY_F, chance, config, arm="chance", over="images"),
            summarise(AGREEMENT, hits(g, f), config, over="images"),
            AGREEMENT.score(chance_agreement(g, f), n=len(g), arm="chance"),
            summarise(ACCURACY_RECONSTRUCTION, hits(records["g_reconstruction"], label), config, over="images"),
            summarise(ACCURACY_RECONSTRUCTION, chance, config, arm="chance", over="images"),
            summarise(PROBABILITY_RECONSTRUCTION, records["probability"], config, over="images"),
            summarise(PROBABILITY_RECONSTRUCTION, records["uniform"], config, arm="chance", over="images"),
        ]
        if (own := records.get("own_f")) is not None:
            rows += [
                summarise(ACCURACY_OWN_F, hits(own, label), config, over="images"),
                summarise(ACCURACY_OWN_F, chance, config, arm="chance", over="images"),
                summarise(AGREEMENT_OWN_F, hits(g, own), config, over="images"),
                AGREEMENT_OWN_F.score(chance_agreement(g, own), n=len(g), arm="chance"),
            ]
        return rows
