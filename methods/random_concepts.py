"""Random concepts: VisCoIN with Ψ drawn at random and frozen, the baseline of concepts that nothing was learnt for.

Θ and Ω are trained as in VisCoIN, so what this method reaches is owed to f's features, the head and the generator.
As drawn, a random Ψ gives almost the same small values for every image, and whatever is built on it is constant: no
baseline but a straw man. Each map is therefore shifted and scaled once, from training images, before Ψ is frozen.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from coinbench.log import Log
from coinbench.methods import viscoin
from coinbench.problem import Problem
from coinbench.rng import Rng, seeded
from coinbench.specs import MethodSpec

_IMAGES = 512
"""Training images from which Ψ is standardised."""


class RandomConceptsConfig(viscoin.VisCoINConfig):
    """Settings of VisCoIN without the terms that only act on Ψ."""

    name: str = "random"
    delta: float = Field(default=0.0, ge=0, le=0)
    """δ: off, since Φ is not trained."""
    orthogonality: float = Field(default=0.0, ge=0, le=0)
    """Off, since Ψ is not trained."""


class RandomConcepts(viscoin.VisCoIN):
    """VisCoIN whose Ψ, the branch of Φ′ included, never changes."""

    def __init__(self, config: RandomConceptsConfig, problem: Problem) -> None:
        """Make the networks and freeze Ψ."""
        super().__init__(config, problem)
        for part in (self.trunk, self.to_concepts, self.to_support):
            if part is not None:
                part.requires_grad_(False)


def build(config: RandomConceptsConfig, problem: Problem, rng: Rng) -> RandomConcepts:
    """Return the network at initialisation."""
    with seeded(rng.child("init")):
        return RandomConcepts(config, problem).to(problem.device)


@torch.no_grad()
def standardise(coin: RandomConcepts, problem: Problem, rng: Rng) -> None:
    """Give each concept map mean 0 and variance 1 over training images before its ReLU, in place.

    The same for each output of the branch of Φ′.
    """
    rows = rng.child("standardise").choose(problem.train.index, _IMAGES)
    fused = coin.trunk(problem.classifier(problem.train.take(rows).images).maps)
    _rescale(coin.to_concepts, coin.to_concepts(fused).transpose(0, 1).flatten(1))
    if coin.to_support is not None:
        last = coin.to_support[-1]
        assert isinstance(last, nn.Linear)
        _rescale(last, coin.to_support(coin.pool(fused).flatten(1)).T)


def _rescale(layer: nn.Conv2d | nn.Linear, outputs: Float[Tensor, "units n"]) -> None:
    """Fold mean and standard deviation of a layer's outputs into its weights."""
    mean, deviation = outputs.mean(1), outputs.std(1).clamp_min(torch.finfo(outputs.dtype).eps)
    assert layer.bias is not None
    layer.weight.div_(deviation.view(-1, *[1] * (layer.weight.ndim - 1)))
    layer.bias.sub_(mean).div_(deviation)


def fit(config: RandomConceptsConfig, problem: Problem, rng: Rng, log: Log) -> RandomConcepts:
    """Train Θ and Ω; Ψ is standardised once and stays frozen, as f and G."""
    coin = build(config, problem, rng)
    standardise(coin, problem, rng)
    viscoin.optimise(coin, problem, rng, log)
    return coin


METHOD = MethodSpec(
    config=RandomConceptsConfig,
    build=build,
    fit=fit,
    title="Random concepts",
    source="baseline, this project",
    notes=(
        "ours: VisCoIN with Ψ (Φ and Φ′) drawn at random, each map brought to mean 0 and variance 1 over the training "
        "images before its ReLU, then frozen; Θ and Ω trained with VisCoIN's losses and settings. "
        "Not the Random column of the paper's faithfulness table: that removes concepts of a trained method at random, "
        "which is the random arm of the faithfulness metric"
    ),
)
