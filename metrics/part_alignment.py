"""Which part each concept follows, and how well concepts and parts fit (docs/metrics.md 19).

Test scenes are drawn anew with parts that are independent of each other and of the class, so that a concept which
follows the class does not seem to follow a part.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from sklearn.ensemble import RandomForestClassifier

from coinbench.concepts import Concepts
from coinbench.config import EvaluationConfig
from coinbench.metric import Evaluation, Metric, MetricSpec, Records
from coinbench.problem import Batch, to_float
from coinbench.results import Score
from coinbench.rng import Rng
from coinbench.statistics import Statistic, mean, summarise
from coinbench.trace import Trace

_BINS = 8
_DEVIATIONS = 6
"""Standard deviations above the mean of what permuted images give, from which on a concept follows a part."""
_TREES = 10
_FORESTS: dict[str, Any] = {"max_features": 1.0, "min_samples_leaf": 5}
"""All concepts may be asked at each branch, and a leaf holds no fewer images."""

_IMAGES = (
    "test scenes in turn, each part drawn anew, evenly from all its values and independently of the others and of the "
    "class; concepts pooled as the method does"
)
_FOREST = (
    f"for each value v of each part p a random forest ({_TREES} trees on all concepts, 5 images a leaf) learns from "
    "one half of the images whether p = v; R_kpv: its impurity importance of concept k"
)
_PERMUTED = "permuted: the same with the concepts of the images permuted"


def _spec(name: str, what: str, formula: str, source: str, null: str) -> MetricSpec:
    return MetricSpec(
        name=name,
        version=1,
        unit="fraction",
        bounds=(0.0, 1.0),
        higher_is_better=True,
        source=f"{source}; docs/metrics.md 19",
        protocol=f"{what}; {_IMAGES}",
        null=null,
        formula=formula,
        oracle="1",
    )


_DCI = "Eastwood and Williams 2018, section 2"
INFORMATION = _spec(
    "part_information",
    f"max over parts of I(b; p) / min(H(b), H(p)), b the concept in at most {_BINS} bins of equal counts, 0 for a "
    "constant concept; mean over concepts; 95 % interval over concepts",
    "mean over k of max over p of I(b_k; p) / min(H(b_k), H(p))",
    "mutual information, plug-in estimate",
    f"{_PERMUTED}, mean over the draws",
)
FOLLOWED = _spec(
    "parts_followed",
    "share of parts that a concept follows: for one of the concepts they have the largest I(b; p), and it is "
    f"{_DEVIATIONS} standard deviations above the mean of the largest under permuted images; no interval",
    "|{p: some k follows p}| / number of parts",
    "as part_information",
    "permuted: the same with permuted images in place of the true ones",
)
DISENTANGLEMENT = _spec(
    "part_disentanglement",
    f"Σ_k ρ_k (1 − H_7(Σ_v R_kpv over p)), H to the base of the number of parts, ρ_k the share of k in all importance; "
    f"{_FOREST}; 95 % interval over concepts",
    "Σ_k ρ_k (1 − H_7(Σ_v R_kpv over p))",
    _DCI,
    _PERMUTED,
)
COMPLETENESS = _spec(
    "part_completeness",
    f"mean over parts and their values of 1 − H_K(R_kpv over k), H to the base K; {_FOREST}; 95 % interval over values",
    "mean over p and v of 1 − H_K(R_kpv over k)",
    _DCI,
    _PERMUTED,
)
INFORMATIVENESS = _spec(
    "part_informativeness",
    f"share of parts whose value is the one with the likeliest forest, on the other half of the images; {_FOREST}; "
    "95 % interval over images",
    "mean over x and p of [argmax over v of forest_pv(φ(x)) = p(x)]",
    _DCI,
    f"{_PERMUTED}: one over the number of values, mean over parts",
)


def binned(values: Float[np.ndarray, "n K"]) -> Int[np.ndarray, "n K"]:
    """Return the bin of each value within its column, of at most 8 bins with equal counts; ties stay together.

    >>> binned(np.array([[0.0], [0.0], [0.0], [2.0]])).T.tolist()
    [[0, 0, 0, 1]]
    """
    shares = np.arange(1, _BINS) / _BINS
    edges = np.quantile(values, shares, axis=0, method="lower").T
    columns = zip(values.T, edges, strict=True)
    return np.stack([np.searchsorted(np.unique(edge), column, side="left") for column, edge in columns], 1)


def entropy(shares: Float[np.ndarray, "*rows n"], base: int) -> Float[np.ndarray, "*rows"]:
    """Return the entropy of each row, which sums to 1, in units of the logarithm of `base`; 1 for a row of zeros.

    >>> entropy(np.array([[0.5, 0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]), 4).tolist()
    [0.5, 0.0, 1.0]
    """
    bits = -(shares * np.log(np.where(shares > 0, shares, 1))).sum(-1) / np.log(max(base, 2))
    # + 0.0: no minus zero.
    return np.where(shares.sum(-1) > 0, bits, 1.0) + 0.0


def information(bins: Int[np.ndarray, "n K"], factors: Int[np.ndarray, "n parts"]) -> Float[np.ndarray, "K parts"]:
    """Return I(b_k; p) / min(H(b_k), H(p)) of each concept and part; 0 where one of them is constant.

    >>> information(np.array([[0], [0], [1], [1]]), np.array([[0, 0], [0, 1], [1, 0], [2, 1]])).round(3).tolist()
    [[1.0, 0.0]]
    """
    concepts, parts = _one_hot(bins), _one_hot(factors)
    joint = np.einsum("nkb,npv->kpbv", concepts, parts, optimize=True) / len(bins)
    ours, theirs = _entropy(concepts.mean(0)), _entropy(parts.mean(0))
    shared = ours[:, None] + theirs - _entropy(joint.reshape(*joint.shape[:2], -1))
    least = np.minimum(ours[:, None], theirs)
    return np.where(least > 1e-9, shared / np.maximum(least, 1e-9), 0.0).clip(0, 1)


def _one_hot(values: np.ndarray) -> np.ndarray:
    return (values[:, :, None] == np.arange(values.max() + 1)).astype(np.float64)


def _entropy(shares: np.ndarray) -> np.ndarray:
    return -(shares * np.log(np.where(shares > 0, shares, 1))).sum(-1)


def permuted(pooled: np.ndarray, factors: np.ndarray, rng: Rng, draws: int) -> Float[np.ndarray, "draws K parts"]:
    """Return `information` with the images of the concepts permuted, for each draw."""
    bins = binned(pooled)
    rows = [rng.child("permuted", draw).numpy().permutation(len(bins)) for draw in range(draws)]
    return np.stack([information(bins[row], factors) for row in rows])


def follows(found: Float[np.ndarray, "K parts"], chance: Float[np.ndarray, "draws K parts"]) -> Int[np.ndarray, "K"]:
    """Return the part of largest information of each concept, -1 where it is no more than chance may give.

    >>> chance = np.array([[[0.1, 0.0], [0.2, 0.1]], [[0.1, 0.1], [0.1, 0.3]]])
    >>> follows(np.array([[0.9, 0.1], [0.3, 0.4]]), chance).tolist()
    [0, -1]
    """
    largest = chance.max(2)
    bound = largest.mean(0) + _DEVIATIONS * largest.std(0)
    return np.where(found.max(1) > bound + 1e-9, found.argmax(1), -1)


@dataclass(frozen=True, slots=True)
class Redrawn:
    """Concepts of scenes with independent parts, and the part that each concept follows."""

    index: Int[np.ndarray, "n"]
    """Scene of each image: its position in the data set."""
    factors: Int[np.ndarray, "n parts"]
    concepts: Concepts
    followed: Int[np.ndarray, "K"]
    """-1: none."""


@torch.no_grad()
def redrawn(evaluation: Evaluation) -> Redrawn:
    """Draw scenes of the test split with independent parts and encode them; keyed by position, the same for all."""
    problem, config = evaluation.problem, evaluation.config
    truth, rng = problem.truth, evaluation.rng.child("parts")
    assert truth is not None
    index = np.resize(np.sort(problem.test.index), config.part_images)
    counts = [len(values) for values in truth.part_values]
    factors = (rng.uniform(np.arange(len(index)), len(counts)) * counts).astype(np.int64)
    found = []
    for start in range(0, len(index), config.batch):
        evaluation.log.check()
        some = slice(start, start + config.batch)
        found.append(encoded(evaluation, index[some], truth.images(index[some], problem.size, factors[some])).concepts)
    concepts = Concepts.cat([part.to("cpu") for part in found])
    pooled = concepts.pooled.double().numpy()
    chance = permuted(pooled, factors, rng, config.permutations)
    return Redrawn(index, factors, concepts, follows(information(binned(pooled), factors), chance))


def encoded(evaluation: Evaluation, index: np.ndarray, pixels: np.ndarray) -> Trace:
    """Return a trace of images that were drawn anew; they have no label."""
    device = evaluation.problem.device
    labels = torch.zeros(len(index), dtype=torch.int64, device=device)
    batch = Batch(to_float(pixels).to(device), labels, torch.from_numpy(index.copy()).to(device))
    return Trace(evaluation.coin, evaluation.problem, batch)


def importances(
    pooled: Float[np.ndarray, "n K"], factors: Int[np.ndarray, "n parts"], seed: int
) -> tuple[list[Float[np.ndarray, "values K"]], Bool[np.ndarray, "m parts"]]:
    """Fit a forest for each value of each part on every second image.

    Returns:
        for each part the importances, each row with sum 1 or 0, and which parts of the other images are told right.
    """
    fit, test = slice(0, None, 2), slice(1, None, 2)
    found, hits = [], []
    for part in factors.T:
        rows, likely = [], []
        for value in range(int(part.max()) + 1):
            forest = RandomForestClassifier(_TREES, random_state=seed, **_FORESTS)
            forest.fit(pooled[fit], part[fit] == value)
            rows.append(forest.feature_importances_)
            # A value that no image of the half has is never told.
            present = np.flatnonzero(forest.classes_)
            likely.append(np.asarray(forest.predict_proba(pooled[test]))[:, present].sum(1))
        found.append(np.stack(rows))
        hits.append(np.argmax(likely, axis=0) == part[test])
    return found, np.stack(hits, 1)


def disentangled(samples: Float[np.ndarray, "R K 2"]) -> np.ndarray:
    """Return the mean of column 0 weighted by column 1, 0 where there is no weight.

    >>> disentangled(np.array([[[1.0, 3.0], [0.0, 1.0]]])).tolist()
    [0.75]
    """
    weight = samples[:, :, 1].sum(1)
    return (samples[:, :, 0] * samples[:, :, 1]).sum(1) / np.where(weight > 0, weight, 1)


class PartAlignment(Metric):
    """Mutual information of concepts and parts, and DCI."""

    takes_turns = True
    specs = (INFORMATION, FOLLOWED, DISENTANGLEMENT, COMPLETENESS, INFORMATIVENESS)
    truth = True
    cost = (
        "one encode of part_images redrawn images, shared with the other metrics on parts; two forests for each value "
        "of each part, which grow with K; none more with the test images"
    )

    def update(self, trace: Trace) -> None:
        """Use nothing of the pass: the scenes are drawn anew."""

    def records(self) -> Records:
        """Return pooled concepts and parts of each redrawn image."""
        truth, found = self.evaluation.problem.truth, self.evaluation.once("redrawn parts", redrawn)
        assert truth is not None
        parts = {f"part:{name}": column for name, column in zip(truth.part_names, found.factors.T, strict=True)}
        return {"index": found.index, "pooled": found.concepts.pooled.double().numpy(), **parts}

    @staticmethod
    def score(records: Records, config: EvaluationConfig) -> list[Score]:
        """Return the numbers, each with that of permuted images; what each concept and each part has."""
        names = [name for name in records if name.startswith("part:")]
        factors, pooled = np.stack([records[name] for name in names], 1), records["pooled"]
        rng = Rng(config.seed).child("evaluation", "parts")
        found = information(binned(pooled), factors)
        chance = permuted(pooled, factors, rng, config.permutations)
        followed = follows(found, chance)
        detail = f"{len(pooled)} images, {len(names)} parts"
        rows = [
            summarise(INFORMATION, found.max(1), config, detail=detail, over="concepts"),
            # [concept, draw]: the draws of a concept are resampled with it.
            summarise(INFORMATION, chance.max(2).T, config, arm="permuted", detail=detail, over="concepts"),
            FOLLOWED.score(_share(followed, len(names)), n=len(names), detail=detail),
            FOLLOWED.score(
                float(np.mean([_share(follows(one, chance), len(names)) for one in chance])),
                n=len(names),
                arm="permuted",
                detail=detail,
            ),
        ]
        for k, (part, value) in enumerate(zip(followed, found.max(1), strict=True)):
            followed_by = names[part] if part >= 0 else "none"
            told = f"follows {followed_by.removeprefix('part:')}"
            rows.append(INFORMATION.score(value, n=len(pooled), subject=f"concept:{k}", params=told, detail=detail))
        order = rng.child("dci").numpy().permutation(len(pooled))
        for arm, concepts in (("method", pooled), ("permuted", pooled[order])):
            rows += _dci(concepts, factors, names, config, arm, detail)
        return rows


def _share(followed: np.ndarray, parts: int) -> float:
    return len(np.unique(followed[followed >= 0])) / parts


def _dci(
    pooled: np.ndarray, factors: np.ndarray, names: list[str], config: EvaluationConfig, arm: str, detail: str
) -> list[Score]:
    found, hits = importances(pooled, factors, Rng(config.seed).child("forest").key % 2**31)
    by_part = np.stack([rows.sum(0) for rows in found], 1)
    weight = by_part.sum(1)
    alone = 1 - entropy(by_part / np.where(weight > 0, weight, 1)[:, None], len(names))
    complete = [1 - entropy(rows, pooled.shape[1]) for rows in found]
    # A value counts by its part's share: parts weigh alike, however many values they have.
    values = np.concatenate([np.stack([c, np.full(len(c), 1 / len(c))], 1) for c in complete])
    numbers: list[tuple[MetricSpec, np.ndarray, Statistic, str]] = [
        (DISENTANGLEMENT, np.stack([alone, weight], 1), disentangled, "concepts"),
        (COMPLETENESS, values, disentangled, "values"),
        (INFORMATIVENESS, hits, mean, "images"),
    ]
    rows = [summarise(spec, v, config, of, over=over, arm=arm, detail=detail) for spec, v, of, over in numbers]
    if arm == "method":
        for number, name in enumerate(names):
            rows.append(COMPLETENESS.score(complete[number].mean(), n=len(complete[number]), subject=name))
            rows.append(INFORMATIVENESS.score(hits[:, number].mean(), n=len(hits), subject=name))
    return rows
