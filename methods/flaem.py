"""FLAEM: a classifier trained together with its concepts, a decoder and an interpretable head.

Sarkar, Vijaykeerthy, Sarkar, Balasubramanian, "A Framework for Learning Ante-hoc Explainable Models via Concepts",
CVPR 2022, as a baseline of the VisCoIN paper (appendix C.3). It explains a classifier of its own, not the shared f.
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor, nn

from coinbench.coin import CoIN
from coinbench.concepts import Concepts
from coinbench.config import MethodConfig
from coinbench.log import Log
from coinbench.methods.losses import soft_cross_entropy
from coinbench.methods.start import standardise
from coinbench.models import Classifier, Features, send
from coinbench.networks.resnet import ResNet
from coinbench.networks.torchvision_nets import BUILDERS
from coinbench.problem import Batch, Problem
from coinbench.rng import Rng, seeded
from coinbench.specs import MethodSpec
from coinbench.training import train

_TURNS = 4
"""Rotations by 0, 90, 180 and 270 degrees."""


class FLAEMConfig(MethodConfig):
    """Settings of FLAEM; a weight of 0 switches its term off.

    The public code never trains its decoder and compares logits with log-probabilities; the paper's weights are not
    known. The terms here are the paper's, the weights are ours: reconstruction is weighted as in our FLINT.
    """

    name: str = "flaem"
    K: int = Field(default=256, ge=2, le=4096)
    """Number of concepts."""
    start: Literal["scratch", "f"] = "scratch"
    """Where its own classifier begins: scratch (as published), or a copy of the shared f."""
    base: Literal["resnet", "resnet50", "resnet101"] = "resnet"
    """Its own classifier, where that begins from scratch: a small one, or one of torchvision's (paper: ResNet101)."""
    width: int = Field(default=16, ge=4, le=256)
    """Channels of the first block of the small one."""
    resolution: int = Field(default=32, ge=4, le=1024)
    """Block 1 of the small one works at so many to twice as many pixels a side."""
    decoder: int = Field(default=16, ge=2, le=1024)
    """Channels of the decoder's first layer; the second has half of them (public code: 16 and 8)."""
    classification: float = Field(default=1.0, gt=0)
    """Weight of L_C, the cross-entropy of the black-box head with the labels (paper: 1)."""
    alpha: float = Field(default=10.0, ge=0)
    """α: reconstruction ‖x̂ − x‖²₂, L_R."""
    beta: float = Field(default=0.5, ge=0)
    """β: fidelity of the interpretable to the black-box head, L_F."""
    gamma: float = Field(default=0.0, ge=0)
    """γ: self-supervision, the cross-entropy of telling from the concepts how far an image was rotated, L_SS."""
    standardised: bool = False
    """Φ begins with mean 0 and variance 1 over training images, before the ReLU (ours)."""
    xi: float = Field(default=1e-4, ge=0)
    """ξ: mean of the concepts (public code: 1e-4)."""


class Decoder(nn.Module):
    """Φ [B, K] to an image: each concept spread over a d x d map, then three transposed convolutions.

    With d = H/4 − 3 the layers (5x5 stride 2, 5x5, 2x2 stride 2) end at 4d + 12 = H pixels; a size that 4 does not
    divide is cut from the next larger one. Images below 16 pixels are cut from 16.
    """

    def __init__(self, K: int, channels: int, size: int, width: int) -> None:
        """Make the layers for `size` pixels."""
        super().__init__()
        self.size = size
        self.side = max(1, -(-size // 4) - 3)
        self.spread = nn.Linear(1, self.side**2)
        self.body = nn.Sequential(
            nn.ConvTranspose2d(K, width, 5, 2),
            nn.ReLU(),
            nn.ConvTranspose2d(width, width // 2, 5),
            nn.ReLU(),
            nn.ConvTranspose2d(width // 2, channels, 2, 2, 1),
        )

    def forward(self, phi: Float[Tensor, "B K"]) -> Float[Tensor, "B C H W"]:
        """Return images in [-1, 1]."""
        maps = self.spread(phi.unsqueeze(2)).unflatten(2, (self.side, self.side))
        return self.body(maps)[..., : self.size, : self.size].tanh()


class FLAEM(CoIN):
    """Its own classifier gives an embedding; K scalars of it predict linearly and are decoded."""

    def __init__(self, config: FLAEMConfig, problem: Problem) -> None:
        """Make classifier, concept layer, interpretable head and decoder."""
        super().__init__()
        self.config = config
        self.classifier = _own_classifier(config, problem)
        self.n_concepts = config.K
        self.to_concepts = nn.Linear(_embedding_width(self.classifier, problem), config.K)
        self.theta = nn.Linear(config.K, problem.n_classes)
        self.decoder = Decoder(config.K, problem.channels, problem.size, config.decoder)
        self.to_turn = nn.Linear(config.K, _TURNS) if config.gamma else None

    def concepts_of(self, features: Features) -> Concepts:
        """Return Φ from a pass of its own classifier."""
        phi = self.to_concepts(features.embedding).relu()
        return Concepts(phi.unsqueeze(2), phi)

    def encode(self, images: Float[Tensor, "B C H W"]) -> Concepts:
        """Return Φ(x), one scalar per concept."""
        return self.concepts_of(self.classifier(images))

    def predict(self, concepts: Concepts) -> Float[Tensor, "B Y"]:
        """Return the interpretable head's logits, which are what is reported as g."""
        return self.theta(concepts.pooled)

    def decode(self, concepts: Concepts) -> Float[Tensor, "B C H W"]:
        """Return x̂."""
        return self.decoder(concepts.phi.squeeze(2))


def _own_classifier(config: FLAEMConfig, problem: Problem) -> Classifier:
    if config.start == "f":
        return copy.deepcopy(problem.classifier).requires_grad_(True)
    task = problem.n_classes, problem.channels, problem.size
    if config.base == "resnet":
        return ResNet(*task, config.width, config.resolution)
    return BUILDERS[config.base](*task)


@torch.no_grad()
def _embedding_width(classifier: nn.Module, problem: Problem) -> int:
    device = next(classifier.parameters()).device
    before = classifier.training
    image = torch.zeros(1, problem.channels, problem.size, problem.size, device=device)
    width = classifier.eval()(image).embedding.shape[1]
    classifier.train(before)
    return width


def losses(coin: FLAEM, batch: Batch, turns: Int[Tensor, "B"]) -> dict[str, Float[Tensor, ""]]:
    """Return the weighted terms of FLAEM's loss; `turns`, on the CPU, are the quarter turns of the self-supervision."""
    config = coin.config
    features = coin.classifier(batch.images)
    concepts = coin.concepts_of(features)
    terms = {"classification": config.classification * nn.functional.cross_entropy(features.logits, batch.labels)}
    if config.alpha:
        terms["mse"] = config.alpha * (coin.decode(concepts) - batch.images).square().mean()
    if config.beta:
        terms["fidelity"] = config.beta * soft_cross_entropy(coin.predict(concepts), features.logits)
    if config.xi:
        terms["sparsity"] = config.xi * concepts.pooled.mean()
    if coin.to_turn is not None:
        logits = coin.to_turn(coin.encode(turned(batch.images, turns)).pooled)
        terms["rotation"] = config.gamma * nn.functional.cross_entropy(logits, send(turns, logits.device))
    return terms


def turned(images: Float[Tensor, "B C H W"], turns: Int[Tensor, "B"]) -> Float[Tensor, "B C H W"]:
    """Return each square image rotated by its number of quarter turns.

    >>> turned(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), torch.tensor([1])).flatten().tolist()
    [2.0, 4.0, 1.0, 3.0]
    """
    return torch.stack([torch.rot90(image, turn, (1, 2)) for image, turn in zip(images, turns.tolist(), strict=True)])


def build(config: FLAEMConfig, problem: Problem, rng: Rng) -> FLAEM:
    """Return the network at initialisation."""
    with seeded(rng.child("init")):
        return FLAEM(config, problem).to(problem.device)


def fit(config: FLAEMConfig, problem: Problem, rng: Rng, log: Log) -> FLAEM:
    """Train classifier, concepts, both heads and decoder together on the labels."""
    coin = build(config, problem, rng)
    if config.standardised:
        coin.train()
        standardise((coin.to_concepts,), lambda x: (coin.classifier(x).embedding,), problem, rng)

    def loss(step: int) -> dict[str, Tensor]:
        batch = problem.train.draw(step, config.train.batch, rng.child("data"))
        turns = rng.child("turns", step).numpy().integers(0, _TURNS, config.train.batch)
        return losses(coin, batch, torch.from_numpy(problem.group.share(turns)))

    train(coin, loss, config.train, log, problem.networks)
    return coin


METHOD = MethodSpec(
    config=FLAEMConfig,
    build=build,
    fit=fit,
    title="FLAEM",
    source="Sarkar et al., CVPR 2022",
    notes=(
        "It trains a classifier of its own; the shared f appears in its numbers only where a metric says so. "
        "paper: joint training, L_C, L_R, L_F and the optional rotation task L_SS, black-box and interpretable head; "
        "public code: scalar concepts by one layer on the pooled embedding, three transposed convolutions after a "
        "spread that all concepts share, tanh, ξ; "
        "ours: interpretable head reported, reconstruction loss on (the public code leaves it out), L_F as soft "
        "cross-entropy of two softmax distributions, its weights, adaptive pooling for any image size, at small "
        "scale a small ResNet in place of the ResNet101-like base, a standardised start of Φ, and the presets"
    ),
)
