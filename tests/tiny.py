"""What tests of the core share: the tiny problem of the conformance suite, a G with styles, a cell."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coinbench import registry
from coinbench.classifiers.small import ResNetConfig
from coinbench.config import Cell, EvaluationConfig, MethodConfig, ProblemConfig
from coinbench.config import TrainConfig as TrainConfig
from coinbench.conformance.methods import small_config
from coinbench.conformance.tiny import CHANNELS as CHANNELS
from coinbench.conformance.tiny import SIZE as SIZE
from coinbench.conformance.tiny import Y as Y
from coinbench.conformance.tiny import make_problem as make_problem
from coinbench.conformance.tiny import split as split
from coinbench.generators.beta_vae import BetaVAEConfig
from coinbench.models import ImageGenerator
from coinbench.problem import Problem
from coinbench.rng import Rng


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
    return small_config(registry.METHODS.load(name), **changes)


def make_cell(method: str = "viscoin", **changes: Any) -> Cell:
    """A cell of the tiny problem; its data configuration is that of birds, which nothing here opens."""
    train = TrainConfig(steps=2)
    return Cell(
        **{
            "dataset": "tiny",
            "data_fingerprint": "tiny",
            "data": {"name": "birds", "size": SIZE},
            "problem": ProblemConfig(classifier=ResNetConfig(train=train), generator=BetaVAEConfig(train=train)),
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
