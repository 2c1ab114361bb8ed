"""A planted CoIN whose every number is known, and a tiny problem around it (style.md part 5).

An 8x8 image is 16 blocks of 4 pixels. A cell of a concept owns a block: a column of the orthonormal A is ±1/2 on its
four pixels, so φ = relu(Aᵀ x), and x̃ = A φ + u·Φ′ is exact where an image has no other part. Everything is computed in
float64 and every expected number follows from `Truth`, which works on the quantised pixels in numpy alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
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
from coinbench.problem import Batch, Problem, Split, to_float
from coinbench.results import Score
from coinbench.rng import Rng
from coinbench.trace import Trace

SIZE, K, WIDTH, Y = 8, 8, 2, 4
"""Image side, concepts, cells per concept, classes."""
READ = (0, 1, 2, 3, 4)
"""Concepts that f reads from the image; it is blind to the others."""
UNUSED = 6
"""Shown by the decoder, used by neither f nor g."""
DEAD = 7
"""Never active, in no image."""


def basis() -> np.ndarray:
    """Return A [64, K, b]: orthonormal columns, ±1/2 on disjoint blocks of 2x2 pixels."""
    a = np.zeros((SIZE, SIZE, K, WIDTH))
    for cell in range(K * WIDTH):
        top, left = 2 * (cell // 4), 2 * (cell % 4)
        sign = 1.0 if cell % 3 else -1.0
        a[top : top + 2, left : left + 2, cell // WIDTH, cell % WIDTH] = sign / 2
    return a.reshape(SIZE * SIZE, K, WIDTH)


def support_direction() -> np.ndarray:
    """Return u [64], of length 1 and orthogonal to A: the part of an image that Φ′ carries."""
    return np.tile([1.0, -1.0], SIZE * SIZE // 2) / SIZE


def head() -> np.ndarray:
    """Return Θ_W [K, Y]: class c wants concept c, and a little of concept 4 + c % 2; 6 and 7 are used by none."""
    weights = np.full((K, Y), -1.5)
    weights[np.arange(Y), np.arange(Y)] = 6.0
    weights[4], weights[5] = [3.0, 0.0, 1.8, 0.0], [0.0, 3.6, 0.0, 1.5]
    weights[[UNUSED, DEAD]] = 0.0
    return weights


def _draw(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    labels = rng.integers(0, Y, n)
    phi = rng.uniform(0.0, 0.25, (n, K, WIDTH)) * (rng.random((n, K, 1)) < 0.6)
    phi[np.arange(n), labels] += rng.uniform(0.0, 0.4, (n, 1))
    phi[:, DEAD] = 0
    flat = phi.reshape(n, -1) @ basis().reshape(SIZE * SIZE, -1).T
    flat += rng.uniform(-0.8, 0.8, (n, 1)) * support_direction()
    # What neither Φ nor Φ′ can show: the error of the reconstruction.
    flat += np.repeat(rng.normal(0, 0.02, (n, SIZE * SIZE // 4)), 4, axis=1)
    pixels = np.rint((flat.clip(-1, 1) + 1) * 127.5).astype(np.uint8)
    return pixels.reshape(n, SIZE, SIZE, 1), labels


def _split(name: str, n: int, first: int) -> Split:
    pixels, labels = _draw(n, np.random.default_rng(first))
    return Split(name, pixels, labels.astype(np.int64), np.arange(first, first + n), pixels)


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
    splits = _split("train", train, 1000), _split("val", 10, 3000), _split("test", test, 5000)
    names = tuple(f"class {c}" for c in range(Y))
    p, parts = PerceptualNet(1, 8, Rng(0)), PlantedParts.of(splits)
    return Problem("planted", names, *splits, classifier, PlantedGenerator(), p, {}, parts)  # pyright: ignore[reportArgumentType]


def config(**changes: object) -> EvaluationConfig:
    """Return an evaluation small enough for the planted problem."""
    return EvaluationConfig(consistency_images=12, bootstrap=100).model_copy(update=changes)


@dataclass(frozen=True)
class Truth:
    """What the planted model does with a split, in numpy float64 on the quantised pixels."""

    x: np.ndarray
    """[n, 64]."""
    phi: np.ndarray
    """[n, K, b]."""
    support: np.ndarray
    """[n, 1]."""
    labels: np.ndarray

    @staticmethod
    def of(split: Split) -> Truth:
        # The pixel values are those of float32 images: the difference to exact ones is 6e-8.
        x = to_float(split.pixels).numpy().astype(np.float64).reshape(len(split), -1)
        phi = np.maximum(x @ basis().reshape(SIZE * SIZE, -1), 0).reshape(-1, K, WIDTH)
        phi[:, DEAD] = 0
        return Truth(x, phi, x @ support_direction()[:, None], split.labels)

    @property
    def logits(self) -> np.ndarray:
        """g(x)."""
        return self.phi.max(2) @ head()

    @property
    def predicted(self) -> np.ndarray:
        """ĉ."""
        return self.logits.argmax(1)

    @property
    def relevance(self) -> np.ndarray:
        """r_k(x)."""
        alpha = self.phi.max(2) * head()[:, self.predicted].T
        return alpha / np.abs(alpha).max(1, keepdims=True)

    @property
    def reconstruction(self) -> np.ndarray:
        """x̃ [n, 64]."""
        shown = self.phi.reshape(len(self.x), -1) @ basis().reshape(SIZE * SIZE, -1).T
        return shown + self.support * support_direction()

    def without(self, mask: np.ndarray) -> Truth:
        """Return the truth of the decoded images without the concepts in `mask` [n, K]."""
        phi = np.where(mask[:, :, None], 0.0, self.phi)
        return replace(self, phi=phi, x=replace(self, phi=phi).reconstruction)

    def embedding(self, images: np.ndarray) -> np.ndarray:
        """Return f's embedding of images [n, 64]."""
        return images @ basis()[:, READ, :].sum(2) + 1


def probability(logits: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return softmax(logits) at `target`."""
    e = np.exp(logits - logits.max(1, keepdims=True))
    return (e / e.sum(1, keepdims=True))[np.arange(len(e)), target]


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
