"""Consistency: does a concept add the same to new images (paper section 4, tables 1b and 8; docs/metrics.md 3).

Per concept a linear SVM learns on training images to tell decoded images with a strong concept from those without it,
and is scored on test images. At small scale an untrained decoder passes, so that control stands beside every score.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import sklearn
import torch
from jaxtyping import Float, Int

from coinbench.bank import ConceptBank, build_bank
from coinbench.coin import CoIN
from coinbench.config import EvaluationConfig
from coinbench.log import Log
from coinbench.metric import Metric, MetricSpec, Records
from coinbench.metrics.pair_svm import choose_cost, folds, permuted_labels, probe, relative_shift, true_labels
from coinbench.problem import Batch, Problem, Split
from coinbench.results import Score
from coinbench.rng import Rng
from coinbench.statistics import summarise
from coinbench.trace import Trace

_FEWEST = 10
"""Fewer images than this make a concept dead (docs/metrics.md 3)."""

_IMAGES = (
    "per concept k, training and test split apart: classes by falling r_{k,c} > 0 until N images are predicted as "
    "one of them, of these the N with the largest pooled_k; x⁺: all cells of φ_k set to λ times that largest value, "
    "x⁻: φ_k = 0, the rest and Φ′ untouched; embedding: spatial mean of the "
    "first tap (block 2 of a ResNet, convolution 2 of a LeNet) of the classifier f shared by all methods"
)
_MEAN = "mean over concepts; 95 % interval over concepts"

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
    formula="mean over k of CC_k, the accuracy of the SVM of concept k on the 2N embeddings of its test pairs",
    oracle=(
        "1 where f's taps see what every concept adds in every image; well below where f does not use a part: 0.66 for "
        "the audit's oracle, whose concepts are single parts, some of a few pixels, and no more than untrained; "
        "it tells that a decoder is regular, not that concepts have a meaning"
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
    formula="mean over k of ‖mean x⁺ − mean x⁻‖ / ‖mean of both‖ of the embeddings",
    oracle="well above the untrained one's; it has no best value",
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
    null=(
        "untrained: the same method at initialisation; concepts without meaning are alive, and have 0: a low share "
        "says that concepts are used, not that they mean anything"
    ),
    formula="|{k: dead}| / K",
    oracle="about 0; above it where a part is relevant to no class that has 10 test images, as in the audit, on few",
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
    every = [(number, lam, k) for number, lam in enumerate(config.lambdas, start=1) for k in range(coin.n_concepts)]

    def rows(task: tuple[int, float, int]) -> list[dict[str, Any]]:
        number, lam, k = task
        named: dict[str, Any] = {"lambda": lam, "concept": k, "dead": k not in embedded[0]}
        pairs = None
        if not named["dead"]:
            pairs = tuple(np.concatenate([e[k][number], e[k][0]]).astype(np.float64) for e in embedded)
        return [named | row for row in concept_rows(pairs, config, rng.child(k), arms)]

    # libsvm works without Python's lock: as many concepts at once as torch has threads. Their order stays.
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        yield from pool.map(rows, problem.group.turns(every))


def concept_rows(
    pairs: tuple[np.ndarray, ...] | None, config: EvaluationConfig, rng: Rng, arms: tuple[str, str | None]
) -> list[dict[str, Any]]:
    """Return score and shift of one concept, and those of its permuted control.

    Args:
        pairs: embeddings of the training and of the test pairs, x⁺ first; None for a dead concept.
        config: C, folds, permutations.
        rng: the concept's own.
        arms: as in `measure`.
    """
    row: dict[str, Any] = {"images": 0, "score": 0.5, "shift": 0.0, "c": np.nan, "arm": arms[0]}
    control = row | {"arm": arms[1]}
    if pairs is not None:
        train, test = pairs
        half, n = len(test) // 2, len(train) // 2
        # Set for each thread on its own.
        with sklearn.config_context(assume_finite=True, skip_parameter_validation=True):
            gram, cross = train @ train.T, test @ train.T
            cost = choose_cost(gram, true_labels(n), folds(n, config.folds, rng.child("folds")), config.svm_c)
            row |= {"c": cost, "images": len(test), "shift": relative_shift(test[:half], test[half:])}
            row["score"] = probe(gram, cross, true_labels(n), cost)
            if arms[1]:
                labels = [permuted_labels(n, rng.child(draw)) for draw in range(config.permutations)]
                draws = [probe(gram, cross, permuted, cost) for permuted in labels]
                control |= {"c": cost, "images": len(test), "score": float(np.mean(draws))}
    return [row, control] if arms[1] else [row]


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
    cost = (
        "K · 2N · (1 + λs) decodes with f's first blocks, for the method and for the untrained one; K · λs · (42 + "
        "permutations) fits of an SVM on 2N embeddings, on as many threads as torch has"
    )

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
            build_bank(untrained, problem, _batches(split, index.numpy(), config.batch), turns=True)
            for split, index in splits
        ]
        banks = (self.evaluation.bank, test), (controls[0], controls[1])
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
                    rows.append(
                        summarise(spec, of[column], config, arm=arm, params=params, detail=said, over="concepts")
                    )
                    rows += [
                        spec.score(value, n=int(n), arm=arm, params=params, subject=f"concept:{k}", detail=said)
                        for k, value, n in zip(of["concept"], of[column], of["images"], strict=True)
                    ]
        for arm in ("method", "untrained"):
            here = (records["arm"] == arm) & (records["lambda"] == config.lambdas[0])
            rows.append(summarise(DEAD, records["dead"][here], config, arm=arm, detail=detail, over="concepts"))
        return rows
