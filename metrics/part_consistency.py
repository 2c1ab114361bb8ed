"""Part consistency: does a concept add the same part to every image (paper section 4, table 12; docs/metrics.md 18)."""

from __future__ import annotations

import time

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.stats import rankdata

from coinbench.bank import ConceptBank
from coinbench.config import EvaluationConfig
from coinbench.errors import MetricError, Unavailable
from coinbench.metric import Evaluation, Metric, MetricSpec, Records, collect
from coinbench.results import Score
from coinbench.rng import Rng
from coinbench.statistics import summarise
from coinbench.trace import Trace

RELEVANT = 0.5
"""r_{k,c} above which a class belongs to a concept (paper section 4)."""
_FEWEST = 10
"""Fewer images than this say nothing of a concept, as in consistency."""

_PROTOCOL = (
    "f_part gives the probability of each attribute (CUB: 312; birds: each value of each part); X_k: test images under "
    "g of the classes with r_{k,c} > 0.5, unaugmented, chosen at random by index (1000 by default, 50 in small "
    "presets); x⁺: all cells of φ_k set to λ times its largest value in X_k, x⁻: φ_k = 0, the rest and Φ′ untouched; "
    "concepts with fewer than 10 such images, or none active, are left out and counted in part_consistency_covered"
)
_NULL = (
    "swapped: x⁺ and x⁻ exchanged in a random half of the images (index-keyed): at most about one half, whatever the "
    "change; 0 for a decoder that ignores its concepts"
)


def _spec(name: str, what: str, formula: str, oracle: str, better: bool | None = True) -> MetricSpec:
    return MetricSpec(
        name=name,
        version=1,
        unit="fraction",
        bounds=(0.0, 1.0),
        higher_is_better=better,
        source="paper section 4, table 12 and figure 8",
        protocol=f"{what}; {_PROTOCOL}; 95 % interval over concepts",
        null=_NULL,
        formula=formula,
        oracle=oracle,
    )


_CC = "CC_k(τ) = max over j of mean over x in X_k of [f_part(x⁺)_j − f_part(x⁻)_j > τ]"
PART_CONSISTENCY = _spec(
    "part_consistency",
    "largest share of images in which one and the same attribute rises by more than τ, mean over concepts",
    f"mean over k of {_CC}",
    "1 where f_part sees what every concept adds; 0.7 for the audit's oracle, few concepts of which are covered",
)
HALF = _spec(
    "part_consistency_half",
    "share of concepts of which one attribute rises by more than τ in more than half of the images",
    f"share of k with CC_k(τ) > ½, {_CC}",
    "1",
)
COVERED = _spec(
    "part_consistency_covered",
    "share of concepts that the others are means over",
    "|{k: |X_k| ≥ 10 and φ_k active in X_k}| / K",
    "1; a method may well have concepts that are relevant to no class above 0.5",
    None,
)
JUDGE = _spec(
    "part_consistency_judge",
    "how well f_part tells the attributes of the test images: area under the ROC curve, mean over the attributes that "
    "some of them have and some have not",
    "mean over j of AUC_j of f_part(x)_j",
    "1; a property of f_part, the same for all methods",
)


def shares(rises: Float[np.ndarray, "n J"], threshold: float) -> Float[np.ndarray, "J"]:
    """Return the share of images in which each attribute rises by more than the threshold.

    >>> shares(np.array([[0.3, -0.9], [0.1, 0.0]]), 0.1).tolist()
    [0.5, 0.0]
    """
    return (rises > threshold).mean(0)


def swapped(rises: Float[np.ndarray, "n J"], index: Int[np.ndarray, "n"], rng: Rng) -> Float[np.ndarray, "n J"]:
    """Return the rises with x⁺ and x⁻ exchanged in a random half of the images."""
    sign = np.where(rng.uniform(index, 1) < 0.5, -1.0, 1.0)
    return rises * sign


def roc_area(score: Float[np.ndarray, "n"], truth: Bool[np.ndarray, "n"]) -> float:
    """Return how often an image with an attribute is given more of it than one without (ties count half).

    >>> roc_area(np.array([0.9, 0.4, 0.4, 0.1]), np.array([True, True, False, False]))
    0.875
    """
    n, m = int(truth.sum()), int((~truth).sum())
    return float((rankdata(score)[truth].sum() - n * (n + 1) / 2) / (n * m))


class PartConsistency(Metric):
    """What f_part sees rise where a concept is raised."""

    specs = (PART_CONSISTENCY, HALF, COVERED, JUDGE)
    on_request = True
    cost = "two decodes with f_part for each concept and image of X_k; f_part once over the test images"

    def __init__(self, evaluation: Evaluation) -> None:
        """Start a pass; makes or reads f_part.

        Raises:
            Unavailable: the data set tells no parts, or no network does.
        """
        super().__init__(evaluation)
        problem = evaluation.problem
        if problem.parts is None:
            raise Unavailable(f"{problem.name} does not tell the parts of its images; birds and cub200 do")
        self._judge = problem.parts.judge(problem, evaluation.cache)
        told = problem.parts.source.attributes()
        assert told is not None
        self._told = told.values
        self._banks: list[ConceptBank] = []
        self._parts: list[Records] = []

    @torch.no_grad()
    def update(self, trace: Trace) -> None:
        """Keep the concepts of a batch, and what f_part says of its images."""
        self._banks.append(ConceptBank.of([trace]))
        index = trace.index.cpu().numpy()
        self._keep(-1, index, self._judge(trace.images).cpu().numpy(), self._told[index])

    def _keep(self, concept: int, index: np.ndarray, values: np.ndarray, told: np.ndarray | None = None) -> None:
        n = len(index)
        self._parts.append(
            {
                "concept": np.full(n, concept),
                "index": index,
                "value": values.astype(np.float32),
                "told": np.full(values.shape, -1, dtype=np.int8) if told is None else told,
                "judge": np.full(n, self._judge.origin),
                "K": np.full(n, self.evaluation.coin.n_concepts),
            }
        )

    @torch.no_grad()
    def records(self) -> Records:
        """Return f_part(x⁺) − f_part(x⁻) of each covered concept and image, and f_part(x) as concept -1.

        Raises:
            MetricError: no concept is covered.
        """
        config, problem, rng = self.evaluation.config, self.evaluation.problem, self.evaluation.rng.child("parts")
        bank = ConceptBank.join(self._banks)
        relevance = self.evaluation.bank.global_relevance(problem.n_classes).numpy()
        pooled, predicted, index = bank.concepts.pooled.numpy(), bank.predicted.numpy(), bank.index.numpy()
        K, began, some = pooled.shape[1], time.monotonic(), False
        for k in range(K):
            self.evaluation.log.check()
            rows = np.flatnonzero(np.isin(predicted, np.flatnonzero(relevance[:, k] > RELEVANT)))
            rows = rows[rng.choose(index[rows], config.part_consistency_images)]
            peak = float(pooled[rows, k].max(initial=0.0))
            if len(rows) >= _FEWEST and peak > 0:
                self._keep(k, index[rows], self._rises(bank, rows, k, peak))
                some = True
            self.evaluation.log.progress(
                k + 1, K, (time.monotonic() - began) / (k + 1) * (K - k - 1), "part consistency, concepts"
            )
        if not some:
            raise MetricError(
                f"no concept has r_{{k,c}} > {RELEVANT} (largest {relevance.max():.2f}) for classes with {_FEWEST} "
                "test images under g"
            )
        return collect(self._parts, by=("concept", "index"))

    def _rises(self, bank: ConceptBank, rows: Int[np.ndarray, "n"], k: int, peak: float) -> Float[np.ndarray, "n J"]:
        """Return f_part(x⁺) − f_part(x⁻) of images."""
        coin, device, config = self.evaluation.coin, self.evaluation.problem.device, self.evaluation.config
        parts = []
        for start in range(0, len(rows), 2 * config.batch):
            at = torch.from_numpy(rows[start : start + 2 * config.batch])
            concepts = bank.concepts.rows(at).to(device)
            mask = torch.zeros(1, coin.n_concepts, dtype=torch.bool, device=device)
            mask[:, k] = True
            level = torch.full((1, 1), config.part_lambda * peak, dtype=concepts.phi.dtype, device=device)
            plus = coin.decode(concepts.swap(mask, concepts.constant(level)))
            minus = coin.decode(concepts.scale((~mask).to(concepts.phi.dtype)))
            parts.append((self._judge(plus) - self._judge(minus)).cpu().numpy())
        return np.concatenate(parts)

    @staticmethod
    def score(records: Records, config: EvaluationConfig) -> list[Score]:
        """Return means over concepts, each concept's share, and how good f_part is."""
        origin = str(records["judge"][0])
        concepts = np.unique(records["concept"])
        concepts, K = concepts[concepts >= 0], int(records["K"][0])
        rng = Rng(config.seed).child("evaluation", "parts", "swapped")
        rises: dict[str, list[np.ndarray]] = {"method": [], "swapped": []}
        for k in concepts:
            here = records["concept"] == k
            found = records["value"][here].astype(np.float64)
            rises["method"].append(found)
            rises["swapped"].append(swapped(found, records["index"][here], rng.child(int(k))))
        rows = []
        for tau in config.part_thresholds:
            params = f"tau={tau:g}"
            detail = f"λ = {config.part_lambda:g}; f_part: {origin}"
            for arm, each in rises.items():
                every = [shares(found, tau) for found in each]
                best = np.array([share.max() for share in every])
                rows.append(
                    summarise(PART_CONSISTENCY, best, config, arm=arm, params=params, detail=detail, over="concepts")
                )
                rows.append(summarise(HALF, best > 0.5, config, arm=arm, params=params, detail=detail, over="concepts"))
                rows += [
                    PART_CONSISTENCY.score(
                        float(value),
                        n=len(found),
                        arm=arm,
                        params=params,
                        subject=f"concept:{k}",
                        detail=f"{detail}; attribute {share.argmax()}",
                    )
                    for k, value, found, share in zip(concepts, best, each, every, strict=True)
                ]
        covered = np.isin(np.arange(K), concepts)
        rows.append(summarise(COVERED, covered, config, over="concepts"))
        own = records["concept"] < 0
        value, told = records["value"][own], records["told"][own]
        areas = [
            roc_area(value[known, j].astype(np.float64), told[known, j] == 1)
            for j in range(value.shape[1])
            if 0 < (told[known := told[:, j] >= 0, j] == 1).sum() < known.sum()
        ]
        if areas:
            rows.append(JUDGE.score(float(np.mean(areas)), n=int(own.sum()), detail=f"f_part: {origin}"))
        return rows
