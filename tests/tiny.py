"""A tiny problem in memory with real, untrained networks, and what tests of the core share."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from coinbench import registry
from coinbench.config import Cell, ClassifierConfig, EvaluationConfig, GeneratorConfig, MethodConfig, ProblemConfig
from coinbench.config import TrainConfig as TrainConfig
from coinbench.generators.beta_vae import BetaVAE
from coinbench.models import Classifier, ImageGenerator
from coinbench.networks.perceptual import PerceptualNet
from coinbench.networks.resnet import ResNet
from coinbench.problem import Problem, Split
from coinbench.rng import Rng, seeded

SIZE, CHANNELS, Y = 16, 3, 3
SMALL = {"K": 5, "channels": 4, "decoder": 8, "synthetic": 2}
"""Settings that make a method tiny; each method takes those it has."""


def split(name: str, n: int, first: int, size: int = SIZE, channels: int = CHANNELS) -> Split:
    """Noise images whose first channel says the class, with training crops two pixels larger."""
    dice = np.random.default_rng(first)
    labels = np.arange(n, dtype=np.int64) % Y
    large = dice.integers(0, 256, (n, size + 2, size + 2, channels), dtype=np.uint8)
    large[..., 0] = large[..., 0] // 4 + 80 * labels[:, None, None].astype(np.uint8)
    small = large[:, 1:-1, 1:-1]
    return Split(name, small, labels, np.arange(first, first + n), large if name == "train" else small)


def make_problem(
    size: int = SIZE,
    channels: int = CHANNELS,
    classifier: Classifier | None = None,
    generator: ImageGenerator | None = None,
) -> Problem:
    """A problem with frozen f and G at initialisation (or those given), 12 training and 9 test images."""
    with seeded(Rng(5).child("tiny")):
        f = classifier or ResNet(Y, channels, size, 4)
        g = generator or BetaVAE(size, channels, 4, 4)
        if isinstance(g, BetaVAE):
            g.mean.copy_(torch.linspace(-1, 1, 4))
    for network in (f, g):
        network.requires_grad_(False).eval()
    train, val, test = (
        split(name, n, first, size, channels)
        for name, n, first in (("train", 12, 0), ("val", 3, 100), ("test", 9, 200))
    )
    names = tuple(f"class {y}" for y in range(Y))
    prints = {"data": "tiny", "classifier": "f", "generator": "G", "perceptual": "p"}
    return Problem("tiny", names, train, val, test, f, g, PerceptualNet(channels, 8, Rng(0)), prints)


def with_generator(problem: Problem, generator: ImageGenerator) -> Problem:
    """The same problem with another G."""
    return replace(problem, generator=generator.requires_grad_(False).eval())


class StyleGenerator(ImageGenerator):
    """G with many style vectors, each with its own pixels: no VAE, no encoder, no `mean` buffer."""

    basis: Tensor

    def __init__(self, styles: int = 14, width: int = 6, size: int = SIZE, channels: int = CHANNELS) -> None:
        super().__init__()
        self.n_styles, self.w_dim, self.size, self.channels = styles, width, size, channels
        drawn = Rng(9).numpy().normal(size=(styles * width, channels * size * size))
        self.register_buffer("basis", torch.from_numpy(drawn / 4).float())

    def forward(self, w: Float[Tensor, "B L V"]) -> Float[Tensor, "B C H W"]:
        return (w.flatten(1) @ self.basis).unflatten(1, (self.channels, self.size, self.size)).tanh()

    def sample(self, n: int, rng: Rng) -> Float[Tensor, "n L V"]:
        return torch.randn(n, 1, self.w_dim, generator=rng.torch()).expand(-1, self.n_styles, -1)

    def mean_latent(self) -> Float[Tensor, "V"]:
        return torch.linspace(0.5, 1.0, self.w_dim)


def method_config(name: str, **changes: Any) -> MethodConfig:
    """Settings of a tiny network of the method, trained for three steps of four images."""
    config = registry.METHODS.load(name).config
    small = {key: value for key, value in SMALL.items() if key in config.model_fields}
    train = TrainConfig(steps=3, batch=4, lr=1e-2, log_every=1)
    return config.model_validate({"train": train, **small, **changes})


def make_cell(method: str = "viscoin", **changes: Any) -> Cell:
    """A cell of the tiny problem; its data configuration is that of birds, which nothing here opens."""
    train = TrainConfig(steps=2)
    return Cell(
        **{
            "dataset": "tiny",
            "data_fingerprint": "tiny",
            "data": {"name": "birds", "size": SIZE},
            "problem": ProblemConfig(classifier=ClassifierConfig(train=train), generator=GeneratorConfig(train=train)),
            "method": method_config(method),
            "evaluation": EvaluationConfig(batch=4, bootstrap=100, consistency_images=10),
            "metrics": ("accuracy", "mse"),
            "seed": 0,
            **changes,
        }
    )


def rows(path: Path) -> list[list[str]]:
    """The rows of a train.csv without its seconds."""
    with path.open(newline="", encoding="utf-8") as file:
        return [[value for column, value in enumerate(row) if column != 1] for row in csv.reader(file)]


def same_state(a: nn.Module, b: nn.Module) -> bool:
    """Tell whether two networks hold the same bits."""
    x, y = a.state_dict(), b.state_dict()
    return x.keys() == y.keys() and all(torch.equal(x[key], y[key]) for key in x)
