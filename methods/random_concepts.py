"""Random concepts: VisCoIN with Ψ drawn at random and frozen, the baseline of concepts that nothing was learnt for.

Θ and Ω are trained as in VisCoIN, so what this method reaches is owed to f's features, the head and the generator.
As drawn, a random Ψ gives almost the same small values for every image, and whatever is built on it is constant: no
baseline but a straw man. Each map is therefore shifted and scaled once, from training images, before Ψ is frozen.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from coinbench.log import Log
from coinbench.methods import viscoin
from coinbench.problem import Problem
from coinbench.rng import Rng, seeded
from coinbench.specs import MethodSpec


class RandomConceptsConfig(viscoin.VisCoINConfig):
    """Settings of VisCoIN without the terms that only act on Ψ."""

    name: str = "random"
    delta: float = Field(default=0.0, ge=0, le=0)
    """δ: off, since Φ is not trained."""
    orthogonality: float = Field(default=0.0, ge=0, le=0)
    """Off, since Ψ is not trained."""
    standardised: Literal[True] = True  # pyright: ignore[reportIncompatibleVariableOverride]
    """Always: else there is nothing to build on."""


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


def fit(config: RandomConceptsConfig, problem: Problem, rng: Rng, log: Log) -> RandomConcepts:
    """Train Θ and Ω; Ψ is standardised once and stays frozen, as f and G."""
    coin = build(config, problem, rng)
    viscoin.standardise(coin, problem, rng)
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
