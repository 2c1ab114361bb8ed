"""A planted CoIN whose every number is known, and a tiny problem around it (style.md part 5).

Its images, and `Truth`, from which every expected number follows in numpy alone, are those of the simulations in
benchmarks/planted_images.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from planted_images import (
    DEAD,
    READ,
    SIZE,
    UNUSED,
    WIDTH,
    K,
    Truth,
    Y,
    basis,
    drawn_split,
    head,
    probability,
    support_direction,
)
from torch import Tensor

from coinbench.bank import build_bank
from coinbench.cache import Cache
from coinbench.coin import CoIN
from coinbench.concepts import Concepts
from coinbench.config import EvaluationConfig
from coinbench.data.source import Attributes
from coinbench.metric import Evaluation, Metric, Records
from coinbench.models import Classifier, Features, ImageGenerator
from coinbench.networks.perceptual import PerceptualNet
from coinbench.part_judge import PartJudge
from coinbench.problem import Batch, Problem, Split
from coinbench.results import Score
from coinbench.rng import Rng
from coinbench.trace import Trace

__all__ = ["DEAD", "SIZE", "UNUSED", "WIDTH", "Truth", "probability"]


class PlantedClassifier(Classifier):
    """f: reads the mean of the cells of the concepts in READ, linearly."""

    n_classes = Y
    channels = 1
    tap_names = ("block 2",)
    readout: Tensor
    weights: Tensor

    def __init__(self) -> None:
        super().__init__()
        a = basis()[:, READ, :].sum(2)
        self.register_buffer("readout", torch.from_numpy(a.T.reshape(len(READ), SIZE, SIZE)))
        self.register_buffer("weights", torch.from_numpy(head()[list(READ)]))

    def forward(self, images: Float[Tensor, "B C H W"]) -> Features:
        # The spatial mean of the tap is the embedding; + 1, so that a shift has a size to be relative to.
        maps = images.double() * self.readout * SIZE**2 + 1
        embedding = maps.mean((2, 3))
        return Features(self.head(embedding), embedding, (maps,))

    def head(self, embedding: Float[Tensor, "B D"]) -> Float[Tensor, "B Y"]:
        return (embedding - 1) @ self.weights


class PlantedGenerator(ImageGenerator):
    """G: nothing here uses it."""

    n_styles = 1
    w_dim = 2

    def forward(self, w: Float[Tensor, "B L W"]) -> Float[Tensor, "B C H W"]:
        return w.mean((1, 2))[:, None, None, None].expand(-1, 1, SIZE, SIZE)

    def sample(self, n: int, rng: Rng) -> Float[Tensor, "n L W"]:
        return torch.zeros(n, 1, 2)

    def mean_latent(self) -> Float[Tensor, "W"]:
        return torch.zeros(2)


class Planted(CoIN):
    """φ = relu(Aᵀ x), pooled by max; g linear on pooled; x̃ = A φ + u·Φ′.

    Args:
        classifier: f.
        contrast: factor on what the decoder shows of the concepts; 0 is a constant decoder but for Φ′.
    """

    n_concepts = K
    a: Tensor
    u: Tensor
    weights: Tensor

    def __init__(self, classifier: Classifier, contrast: float = 1.0) -> None:
        super().__init__()
        self.classifier = classifier
        self.contrast = contrast
        self.register_buffer("a", torch.from_numpy(basis()))
        self.register_buffer("u", torch.from_numpy(support_direction()))
        self.register_buffer("weights", torch.from_numpy(head()))

    def encode(self, images: Float[Tensor, "B C H W"]) -> Concepts:
        flat = images.double().flatten(1)
        phi = torch.einsum("np,pkb->nkb", flat, self.a).relu()
        phi = torch.cat([phi[:, :DEAD], torch.zeros_like(phi[:, DEAD:])], 1)
        return Concepts(phi, phi.amax(2), (flat @ self.u)[:, None])

    def predict(self, concepts: Concepts) -> Float[Tensor, "B Y"]:
        return concepts.pooled @ self.weights

    def decode(self, concepts: Concepts) -> Float[Tensor, "B C H W"]:
        assert concepts.support is not None
        flat = self.contrast * torch.einsum("nkb,pkb->np", concepts.phi, self.a)
        flat = flat + concepts.support * self.u
        return flat.float().view(-1, 1, SIZE, SIZE)


class Constant(Planted):
    """Decodes everything to the same grey image."""

    def decode(self, concepts: Concepts) -> Float[Tensor, "B C H W"]:
        return torch.zeros(len(concepts), 1, SIZE, SIZE)


@dataclass(frozen=True)
class PlantedParts:
    """f_part reads the pooled concepts in READ: attribute j is concept READ[j] above `LEVEL`, by a steep logistic."""

    LEVEL = 0.1
    shown: np.ndarray
    """[index, attribute], by position in the data set."""

    @property
    def source(self) -> PlantedParts:
        return self

    def attributes(self) -> Attributes:
        return Attributes(tuple(f"part {k}" for k in READ), self.shown)

    def judge(self, given: Problem, cache: Cache) -> PartJudge:
        directions = torch.from_numpy(basis()[:, READ])

        def logits(images: Tensor) -> Tensor:
            pooled = torch.einsum("np,pkb->nkb", images.double().flatten(1), directions).amax(2)
            return 40 * (pooled - self.LEVEL)

        return PartJudge(logits, self.attributes().names, "planted")

    @staticmethod
    def of(splits: tuple[Split, ...]) -> PlantedParts:
        shown = np.zeros((1 + max(int(split.index.max()) for split in splits), len(READ)), dtype=np.int8)
        for split in splits:
            shown[split.index] = Truth.of(split).phi.max(2)[:, READ] > PlantedParts.LEVEL
        return PlantedParts(shown)


def problem(train: int = 120, test: int = 90) -> Problem:
    """Return the problem of the planted model, in memory."""
    classifier = PlantedClassifier()
    splits = drawn_split("train", train, 1000), drawn_split("val", 10, 3000), drawn_split("test", test, 5000)
    names = tuple(f"class {c}" for c in range(Y))
    p, parts = PerceptualNet(1, 8, Rng(0)), PlantedParts.of(splits)
    return Problem("planted", names, *splits, classifier, PlantedGenerator(), p, {}, parts)  # pyright: ignore[reportArgumentType]


def config(**changes: object) -> EvaluationConfig:
    """Return an evaluation small enough for the planted problem."""
    return EvaluationConfig(consistency_images=12, bootstrap=100).model_copy(update=changes)


def measure(
    metric: type[Metric],
    coin: CoIN,
    given: Problem,
    settings: EvaluationConfig,
    arrange: Callable[[list[Batch]], list[Batch]] = list,
    untrained: Callable[[], CoIN] | None = None,
) -> tuple[Records, list[Score]]:
    """Run one metric over the test split, batches in the order that `arrange` gives them."""
    with torch.no_grad():
        loader = given.train.batches(settings.batch, settings.workers)
        evaluation = Evaluation(
            coin,
            given,
            settings,
            Rng(settings.seed).child("evaluation"),
            build_bank(coin, given, arrange(list(loader))),
            untrained or (lambda: Planted(given.classifier, contrast=1e-3)),
        )
        running = metric(evaluation)
        for batch in arrange(list(given.test.batches(settings.batch, settings.workers))):
            running.update(Trace(coin, given, batch))
        records = running.records()
    return records, metric.score(records, settings)


def value(scores: list[Score], metric: str, arm: str = "method", **labels: str) -> float:
    """Return the one value with these labels."""
    labels = {"subject": "all", **labels}
    found = [
        s.value
        for s in scores
        if s.metric == metric and s.arm == arm and all(getattr(s, name) == wanted for name, wanted in labels.items())
    ]
    assert len(found) == 1, f"{len(found)} rows of {metric}, arm {arm}, {labels}"
    return found[0]
