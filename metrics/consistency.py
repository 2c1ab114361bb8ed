"""Consistency: does a concept add the same to new images (paper section 4, tables 1b and 8; docs/metrics.md 3).

Per concept a linear SVM learns on training images to tell decoded images with a strong concept from those without it,
and is scored on test images. At small scale an untrained decoder passes, so that control stands beside every score.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import sklearn
import torch
from jaxtyping import Float, Int
from sklearn.model_selection import StratifiedKFold
from sklearn.svm import SVC

from coinbench.bank import ConceptBank, build_bank
from coinbench.coin import CoIN
from coinbench.config import EvaluationConfig
from coinbench.log import Log
from coinbench.metric import Metric, MetricSpec, Records
from coinbench.problem import Batch, Problem, Split
from coinbench.results import Score
from coinbench.rng import Rng
from coinbench.statistics import summarise
from coinbench.trace import Trace

_FEWEST = 10
"""Fewer images than this make a concept dead (docs/metrics.md 3)."""
_FOLDS = 5

_IMAGES = (
    "per concept k, training and test split apart: classes by falling r_{k,c} > 0 until N images are predicted as "
    "one of them, of these the N with the largest pooled_k; x⁺: all cells of φ_k set to λ times that largest value, "
    "x⁻: φ_k = 0, the rest and Φ′ untouched; embedding: spatial mean of the "
    "first tap (block 2 of a ResNet, convolution 2 of a LeNet) of the classifier f shared by all methods"
)
_MEAN = "mean over concepts; 95 % percentile bootstrap over concepts"

CONSISTENCY = MetricSpec(
    name="consistency",
    version=1,
    unit="fraction",
    bounds=(0.0, 1.0),
    higher_is_better=True,
    source="paper section 4, tables 1b and 8; docs/metrics.md 3",
    protocol=(
        f"{_IMAGES}; linear SVM without scaling, C by 5-fold cross-validation on the training pairs (first best), "
        "folds = pairs: a pair in one fold, paper: plain stratified; accuracy on the test pairs; dead concepts (fewer "
        f"than 10 images or nothing active in a split) score 0.5; {_MEAN}"
    ),
    null=(
        "permuted: training labels permuted, C as for the true labels, mean over draws: 0.5; "
        "untrained: the same method at initialisation, often far above 0.5 on small images, "
        "to be read with consistency_shift"
    ),
)
SHIFT = MetricSpec(
    name="consistency_shift",
    version=1,
    unit="ratio",
    bounds=(0.0, np.inf),
    higher_is_better=None,
    source="docs/metrics.md 3",
    protocol=(
        f"{_IMAGES}; ‖mean x⁺ − mean x⁻‖ / ‖mean of both‖ of the embeddings of the test pairs, "
        f"0 for a dead concept; {_MEAN}"
    ),
    null="untrained: the same method at initialisation; 0 for a decoder that ignores its concepts",
)
DEAD = MetricSpec(
    name="dead_concepts",
    version=1,
    unit="fraction",
    bounds=(0.0, 1.0),
    higher_is_better=False,
    source="docs/metrics.md 3",
    protocol=(
        "share of concepts for which the training or the test split has fewer than 10 images predicted as a class "
        f"with r_{{k,c}} > 0, or φ_k = 0 in all of them; {_MEAN}"
    ),
    null="untrained: the same method at initialisation",
)


def select(
    relevance: Float[np.ndarray, "Y"],
    predicted: Int[np.ndarray, "n"],
    pooled: Float[np.ndarray, "n"],
    count: int,
) -> Int[np.ndarray, "m"]:
    """Return the rows of the images that show a concept, most active first; at most `count`.

    Args:
        relevance: r_{k,c} of the concept for each class.
        predicted: class of each image, rows in order of index.
        pooled: activation of the concept in each image.
        count: N.

    >>> relevance = np.array([0.9, 0.2, 0.1, -1.0])
    >>> select(relevance, np.array([0, 1, 1, 2, 3]), np.array([0.1, 5.0, 7.0, 9.0, 9.0]), 2).tolist()
    [2, 1]
    """
    order = np.argsort(-relevance, kind="stable")
    order = order[relevance[order] > 0]
    reached = np.cumsum(np.bincount(predicted, minlength=len(relevance))[order])
    classes = order[: int(np.searchsorted(reached, count)) + 1]
    rows = np.flatnonzero(np.isin(predicted, classes))
    return rows[np.argsort(-pooled[rows], kind="stable")[:count]]


def folds(pairs: int, kind: str, rng: Rng) -> Int[np.ndarray, "m"]:
    """Return the fold of each training image, x⁺ of all pairs first, then x⁻.

    Args:
        pairs: number of pairs.
        kind: "pairs" keeps a pair in one fold; "paper" draws plain stratified folds.
        rng: source of the permutation.

    >>> fold = folds(10, "pairs", Rng(0))
    >>> bool((fold[:10] == fold[10:]).all()), np.bincount(fold).tolist()
    (True, [4, 4, 4, 4, 4])
    """
    if kind == "pairs":
        return np.tile(rng.numpy().permutation(pairs) % _FOLDS, 2)
    fold = np.empty(2 * pairs, dtype=np.int64)
    # Shuffled: in order, plain folds would keep the pairs together by accident of the layout.
    splitter = StratifiedKFold(_FOLDS, shuffle=True, random_state=rng.key % 2**32)
    for number, (_, held) in enumerate(splitter.split(fold, true_labels(pairs))):
        fold[held] = number
    return fold


def true_labels(pairs: int) -> Int[np.ndarray, "m"]:
    """Return 1 for x⁺ of all pairs, then 0 for x⁻."""
    return np.repeat([1, 0], pairs)


def permuted_labels(pairs: int, rng: Rng) -> Int[np.ndarray, "m"]:
    """Return the training labels in random order.

    Two tight clusters turn a small accidental correlation with the truth into a score near 0 or 1, so one draw says
    little: the control is the mean over many.

    >>> int(permuted_labels(4, Rng(0)).sum())
    4
    """
    return rng.numpy().permutation(true_labels(pairs))


def choose_cost(
    gram: Float[np.ndarray, "m m"],
    labels: Int[np.ndarray, "m"],
    fold: Int[np.ndarray, "m"],
    costs: Sequence[float],
) -> float:
    """Return the first C with the best mean accuracy over the folds.

    >>> x = np.array([[3.0], [4.0], [1.0], [0.0]])
    >>> choose_cost(x @ x.T, true_labels(2), np.array([0, 1, 0, 1]), (1.0, 5.0))
    1.0
    """
    best, chosen = -1.0, costs[0]
    for cost in costs:
        scores = []
        for number in np.unique(fold):
            held, rest = fold == number, fold != number
            svm = SVC(kernel="precomputed", C=cost).fit(gram[np.ix_(rest, rest)], labels[rest])
            scores.append((svm.predict(gram[np.ix_(held, rest)]) == labels[held]).mean())
        if np.mean(scores) > best:
            best, chosen = float(np.mean(scores)), cost
        if best == 1.0:
            break
    return chosen


def probe(
    train: Float[np.ndarray, "m m"],
    test: Float[np.ndarray, "q m"],
    labels: Int[np.ndarray, "m"],
    cost: float,
) -> float:
    """Return the accuracy on the test pairs of a linear SVM with C = `cost`.

    Args:
        train: Gram matrix of the training embeddings.
        test: inner products of test embeddings, x⁺ first, then x⁻, with the training embeddings.
        labels: of the training images.
        cost: C.

    >>> x, y = np.array([[3.0], [4.0], [1.0], [0.0]]), np.array([[5.0], [2.1], [2.2], [0.0]])
    >>> probe(x @ x.T, y @ x.T, true_labels(2), 1.0)  # the threshold is 2, between 1 and 3
    0.75
    """
    svm = SVC(kernel="precomputed", C=cost).fit(train, labels)
    return float((svm.predict(test) == true_labels(len(test) // 2)).mean())


def relative_shift(plus: Float[np.ndarray, "n d"], minus: Float[np.ndarray, "n d"]) -> float:
    """Return ‖mean x⁺ − mean x⁻‖ / ‖mean of both‖.

    >>> relative_shift(np.array([[3.0, 0.0], [5.0, 0.0]]), np.array([[2.0, 0.0], [2.0, 0.0]]))
    0.6666666666666666
    """
    difference = np.linalg.norm(plus.mean(0) - minus.mean(0))
    size = np.linalg.norm((plus.mean(0) + minus.mean(0)) / 2)
    return float(difference / size) if size > 0 else 0.0


@dataclass(frozen=True, slots=True)
class _Chosen:
    """The images of a split that show one concept."""

    concept: int
    rows: np.ndarray
    peak: float
    """φ_k^max."""

    @property
    def dead(self) -> bool:
        return len(self.rows) < _FEWEST or self.peak <= 0


def _choose(bank: ConceptBank, relevance: np.ndarray, count: int) -> list[_Chosen]:
    pooled, predicted = bank.concepts.pooled.numpy(), bank.predicted.numpy()
    chosen = []
    for k in range(pooled.shape[1]):
        rows = select(relevance[:, k], predicted, pooled[:, k], count)
        chosen.append(_Chosen(k, rows, float(pooled[rows, k].max(initial=0.0))))
    return chosen


@torch.no_grad()
def _embed(
    coin: CoIN, problem: Problem, bank: ConceptBank, chosen: list[_Chosen], config: EvaluationConfig
) -> list[np.ndarray]:
    """Return per concept the embeddings [1 + number of λ, n, d] of x⁻ and of x⁺ at each λ."""
    factors = np.array((0.0, *config.lambdas))
    shapes = [(len(factors), len(c.rows)) for c in chosen]
    # One list of edits over all concepts, so that passes are full whatever N is.
    row = np.concatenate([np.tile(c.rows, len(factors)) for c in chosen])
    concept = np.concatenate([np.full(a * b, c.concept) for c, (a, b) in zip(chosen, shapes, strict=True)])
    value = np.concatenate([np.repeat(factors * c.peak, len(c.rows)) for c in chosen])
    step = 4 * config.batch

    def embedded(start: int) -> np.ndarray:
        some = slice(start, start + step)
        concepts = bank.concepts.rows(torch.from_numpy(row[some])).to(problem.device)
        mask = torch.from_numpy(concept[some, None] == np.arange(coin.n_concepts)).to(problem.device)
        # Swapping in 0 is scaling by 0: x⁻ needs no pass of its own.
        level = torch.from_numpy(value[some, None]).to(concepts.phi.dtype).to(problem.device)
        images = coin.decode(concepts.swap(mask, concepts.constant(level)))
        return problem.classifier.embed(images).cpu().numpy()

    group = problem.group
    parts = group.join(embedded(start) for start in group.turns(range(0, len(row), step)))
    flat, ends = np.concatenate(parts), np.cumsum([a * b for a, b in shapes])
    return [part.reshape(*shape, flat.shape[1]) for part, shape in zip(np.split(flat, ends[:-1]), shapes, strict=True)]


def measure(
    coin: CoIN,
    problem: Problem,
    banks: tuple[ConceptBank, ConceptBank],
    config: EvaluationConfig,
    rng: Rng,
    arms: tuple[str, str | None],
) -> Iterator[list[dict[str, Any]]]:
    """Yield the records, one or with its control two, of each λ and concept of a network that are this process's turns.

    Args:
        coin: the network.
        problem: gives the classifier that embeds.
        banks: concepts on the training and on the test split.
        config: N, λ, C, folds, permutations.
        rng: source of folds and permutations.
        arms: name of the network's arm, and of its permuted control, if it gets one.
    """
    relevance = banks[0].global_relevance(problem.n_classes).numpy()
    pairs = [_choose(bank, relevance, config.consistency_images) for bank in banks]
    alive = [k for k, both in enumerate(zip(*pairs, strict=True)) if not any(c.dead for c in both)]
    embedded: list[dict[int, np.ndarray]] = [{}, {}]
    if alive:
        for place, bank, chosen in zip(embedded, banks, pairs, strict=True):
            found = _embed(coin, problem, bank, [chosen[k] for k in alive], config)
            place.update(zip(alive, found, strict=True))
    tasks = [(n, lam, k) for n, lam in enumerate(config.lambdas, start=1) for k in range(coin.n_concepts)]
    for number, lam, k in problem.group.turns(tasks):
        row: dict[str, Any] = {"lambda": lam, "concept": k, "images": 0, "score": 0.5, "shift": 0.0, "c": np.nan}
        row |= {"dead": k not in embedded[0], "arm": arms[0]}
        control = row | {"arm": arms[1]}
        if not row["dead"]:
            train, test = (np.concatenate([e[k][number], e[k][0]]).astype(np.float64) for e in embedded)
            half, n = len(test) // 2, len(train) // 2
            gram, cross = train @ train.T, test @ train.T
            source = rng.child(k)
            fold = folds(n, config.folds, source.child("folds"))
            cost = choose_cost(gram, true_labels(n), fold, config.svm_c)
            row |= {"c": cost, "images": len(test), "shift": relative_shift(test[:half], test[half:])}
            row["score"] = probe(gram, cross, true_labels(n), cost)
            if arms[1]:
                draws = [
                    probe(gram, cross, permuted_labels(n, source.child(draw)), cost)
                    for draw in range(config.permutations)
                ]
                control |= {"c": cost, "images": len(test), "score": float(np.mean(draws))}
        yield [row, control] if arms[1] else [row]


def _batches(split: Split, index: np.ndarray, size: int) -> Iterator[Batch]:
    """Go through the images of a split that have the given indices: the batches of this process's turns."""
    rows = np.flatnonzero(np.isin(split.index, index))
    for start in split.group.turns(range(0, len(rows), size)):
        yield split.take(rows[start : start + size])


def _watched(rows: Iterable[list[dict[str, Any]]], total: int, log: Log, what: str) -> Iterator[list[dict[str, Any]]]:
    """Report progress, and stop between two concepts when asked to."""
    began = time.monotonic()
    for number, row in enumerate(rows, start=1):
        log.check()
        log.progress(number, total, (time.monotonic() - began) / number * (total - number), what)
        yield row


class Consistency(Metric):
    """One SVM score per concept, λ and arm."""

    takes_turns = True
    specs = (CONSISTENCY, SHIFT, DEAD)
    limit = "consistency_images"

    @torch.no_grad()
    def update(self, trace: Trace) -> None:
        """Keep the concepts of a batch."""
        self.parts.append(ConceptBank.of([trace]))

    @torch.no_grad()
    def records(self) -> Records:
        """Return one row per arm, λ and concept."""
        coin, problem, config = self.evaluation.coin, self.evaluation.problem, self.evaluation.config
        rng = self.evaluation.rng.child("consistency")
        test = ConceptBank.join(self.parts)
        untrained = self.evaluation.untrained().eval()
        splits = (problem.train, self.evaluation.bank.index), (problem.test, test.index)
        controls = [
            build_bank(untrained, problem, _batches(split, index.numpy(), config.batch)) for split, index in splits
        ]
        banks = (self.evaluation.bank, test), (controls[0], controls[1])
        with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
            own = (
                measure(coin, problem, banks[0], config, rng, ("method", "permuted")),
                measure(untrained, problem, banks[1], config, rng, ("untrained", None)),
            )
            total = -(-len(config.lambdas) * coin.n_concepts // problem.group.size)
            rows = []
            for found, what in zip(own, ("concept scores", "concept scores, untrained"), strict=True):
                joined = problem.group.join(_watched(found, total, self.evaluation.log, what))
                rows += [row for both in joined for row in both]
        columns = ("arm", "lambda", "concept", "images", "dead", "score", "shift", "c")
        return {name: np.array([row[name] for row in rows]) for name in columns}

    @staticmethod
    def score(records: Records, config: EvaluationConfig) -> list[Score]:
        """Return means over concepts, each concept's score and shift, and the share of dead concepts."""
        costs = ", ".join(f"{cost:g}" for cost in config.svm_c)
        detail = f"N = {config.consistency_images}, folds = {config.folds}, C in {{{costs}}}"
        rows = []
        for lam in config.lambdas:
            params = f"lambda={lam:g}"
            for arm in ("method", "permuted", "untrained"):
                here = (records["arm"] == arm) & (records["lambda"] == lam)
                of = {name: column[here] for name, column in records.items()}
                said = f"{detail}, {config.permutations} permutations" if arm == "permuted" else detail
                # The permuted labels belong to the same images: their shift is the method's.
                for spec, column in ((CONSISTENCY, "score"), (SHIFT, "shift"))[: 1 if arm == "permuted" else 2]:
                    rows.append(summarise(spec, of[column], config, arm=arm, params=params, detail=said))
                    rows += [
                        spec.score(value, n=int(n), arm=arm, params=params, subject=f"concept:{k}", detail=said)
                        for k, value, n in zip(of["concept"], of[column], of["images"], strict=True)
                    ]
        for arm in ("method", "untrained"):
            here = (records["arm"] == arm) & (records["lambda"] == config.lambdas[0])
            rows.append(summarise(DEAD, records["dead"][here], config, arm=arm, detail=detail))
        return rows
