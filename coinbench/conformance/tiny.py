"""A tiny problem in memory with real, untrained networks, and a tiny CoIN: what the laws and the tests are tried on."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from coinbench.coin import CoIN
from coinbench.concepts import Concepts
from coinbench.data.birds import Birds, BirdsConfig
from coinbench.generators.beta_vae import BetaVAE
from coinbench.models import Classifier, ImageGenerator
from coinbench.networks.perceptual import PerceptualNet
from coinbench.networks.resnet import ResNet
from coinbench.problem import Problem, Split
from coinbench.rng import Rng, seeded

SIZE, CHANNELS, Y = 16, 3, 3


def split(name: str, n: int, first: int, size: int = SIZE, channels: int = CHANNELS, classes: int = Y) -> Split:
    """Return noise images whose first channel says the class, with training crops two pixels larger."""
    dice = np.random.default_rng(first)
    labels = np.arange(n, dtype=np.int64) % classes
    large = dice.integers(0, 256, (n, size + 2, size + 2, channels), dtype=np.uint8)
    step = 160 // (classes - 1)
    large[..., 0] = large[..., 0] // 4 + step * labels[:, None, None].astype(np.uint8)
    small = large[:, 1:-1, 1:-1]
    return Split(name, small, labels, np.arange(first, first + n), large if name == "train" else small)


def make_problem(
    size: int = SIZE,
    channels: int = CHANNELS,
    classifier: Classifier | None = None,
    generator: ImageGenerator | None = None,
    classes: int = Y,
    train: int = 12,
    test: int = 9,
) -> Problem:
    """Return a problem with frozen f and G at initialisation (or those given)."""
    with seeded(Rng(5).child("tiny")):
        f = classifier or ResNet(classes, channels, size, 4)
        g = generator or BetaVAE(size, channels, 4, 4)
        if isinstance(g, BetaVAE):
            g.mean.copy_(torch.linspace(-1, 1, 4))
    for network in (f, g):
        network.requires_grad_(False).eval()
    train_split, val_split, test_split = (
        split(name, n, first, size, channels, classes)
        for name, n, first in (("train", train, 0), ("val", 3, 100), ("test", test, 200))
    )
    names = tuple(f"class {y}" for y in range(classes))
    prints = {"data": "tiny", "classifier": "f", "generator": "G", "perceptual": "p"}
    return Problem("tiny", names, train_split, val_split, test_split, f, g, PerceptualNet(channels, 8, Rng(0)), prints)


def make_truth_problem(train: int = 60, test: int = 40, size: int = SIZE, f: Classifier | None = None) -> Problem:
    """Return a problem of drawn birds, whose parts are known, with f and G at initialisation (or the f given)."""
    source = Birds(BirdsConfig(n_train=train, n_test=test))
    problem = make_problem(size, classifier=f, classes=len(source.card.class_names))

    def drawn(name: str) -> Split:
        index = source.split(name, 0.0)
        pixels = source.images(index, size)
        return Split(name, pixels, source.labels[index], index, pixels)

    splits = {name: drawn(name) for name in ("train", "val", "test")}
    return replace(problem, class_names=source.card.class_names, truth=source, **splits)


def moved(problem: Problem, device: torch.device) -> Problem:
    """Return a copy of a problem on another device."""
    networks = {
        "classifier": copy.deepcopy(problem.classifier).to(device),
        "generator": copy.deepcopy(problem.generator).to(device),
        "perceptual": copy.deepcopy(problem.perceptual).to(device),
    }
    parts = {name: replace(getattr(problem, name), device=device) for name in ("train", "val", "test")}
    return replace(problem, **networks, **parts)


class TinyCoIN(CoIN):
    """φ = relu(A x) with b = 2 cells a concept, pooled by max; Θ and the decoder are linear, all drawn once."""

    n_concepts = 6
    a: Tensor
    theta: Tensor
    out: Tensor

    def __init__(self, problem: Problem, support: bool, seed: int = 0) -> None:
        """Draw the weights; with `support`, Φ′ is the mean of each channel."""
        super().__init__()
        self.classifier, self.support = problem.classifier, support
        self.image = (problem.channels, problem.size, problem.size)
        pixels, cells, dice = int(np.prod(self.image)), 2 * self.n_concepts, Rng(seed).child("tiny CoIN").numpy()
        shapes = {"a": (pixels, cells), "theta": (self.n_concepts, problem.n_classes), "out": (cells, pixels)}
        for name, shape in shapes.items():
            drawn = dice.normal(size=shape) / np.sqrt(shape[0])
            self.register_buffer(name, torch.from_numpy(drawn).float().to(problem.device))

    def encode(self, images: Float[Tensor, "B C H W"]) -> Concepts:
        """Return Φ(x), and the channel means as Φ′(x)."""
        phi = (images.flatten(1) @ self.a).relu().unflatten(1, (self.n_concepts, 2))
        return Concepts(phi, phi.amax(2), images.mean((2, 3)) if self.support else None)

    def predict(self, concepts: Concepts) -> Float[Tensor, "B Y"]:
        """Return linear logits."""
        return 4 * concepts.pooled @ self.theta

    def decode(self, concepts: Concepts) -> Float[Tensor, "B C H W"]:
        """Return a linear image through tanh."""
        image = (concepts.phi.flatten(1) @ self.out).unflatten(1, self.image)
        if concepts.support is not None:
            image = image + concepts.support[:, :, None, None]
        return image.tanh()
