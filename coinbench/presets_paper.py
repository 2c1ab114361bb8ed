"""Settings of the VisCoIN paper's main experiments at 256 px: its table 3, section 5 and appendix C.

f, G and VisCoIN are the paper's as far as it tells; G of Stanford Cars starts from the nearest published one. The paper
says little of its FLINT; FLAEM has a ResNet101 of its own. Those, and the random baseline, train as many steps as
VisCoIN: ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from coinbench import registry
from coinbench.config import (
    DataConfig,
    EvaluationConfig,
    Experiment,
    MethodConfig,
    PerceptualConfig,
    ProblemConfig,
    TrainConfig,
)

DATASETS = ("cub200", "celebahq", "stanfordcars")
METRICS = ("lpips_vgg", "lpips_alex", "inception")
"""Measured by default on these data sets besides what needs no download; the paper's LPIPS and FID among them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Paper:
    """What differs between the paper's data sets."""

    K: int
    gamma: float
    delta: float
    steps: int
    f: TrainConfig
    select_every: int
    """Steps between two looks of f at the validation split: an epoch. Ours: the paper says nothing of a choice."""
    kimg: int
    """Thousand images that G is trained on."""
    generator: dict[str, Any]
    """Its recipe, where it starts, and other settings of G."""


CUB200 = Paper(
    K=256,
    gamma=0.1,
    delta=0.2,
    steps=100_000,
    # 30 epochs of the training images without val.
    f=TrainConfig(steps=30 * 5395 // 32, batch=32, lr=1e-4),
    select_every=5395 // 32,
    kimg=2000,
    generator={"recipe": "auto", "init": "imagenet256"},
)
CELEBAHQ = Paper(
    K=64,
    gamma=0.2,
    delta=2.0,
    steps=50_000,
    # 10 epochs.
    f=TrainConfig(steps=10 * 24183 // 64, batch=64, lr=1e-3),
    select_every=24183 // 64,
    kimg=0,
    # As published, without training.
    generator={"recipe": "paper256", "init": "celebahq256", "finetune": False},
)
STANFORDCARS = Paper(
    K=256,
    gamma=0.05,
    delta=0.2,
    steps=100_000,
    # 90 epochs, the rate divided by 10 at 30 and 60.
    f=TrainConfig(
        steps=90 * 7330 // 128, batch=128, lr=0.1, optimiser="sgd", schedule="step", milestones=(1 / 3, 2 / 3)
    ),
    select_every=7330 // 128,
    kimg=1800,
    # The published one has 8 layers of mapping (the paper's: 2). More mirroring made G forget from which side cars are
    # seen.
    generator={"recipe": "stylegan2", "init": "lsuncars512", "resolution": 512, "crop": "wide", "flip": 0.1},
)


def experiment(paper: Paper, data: DataConfig, methods: tuple[str, ...]) -> Experiment:
    """Return an experiment of the paper; a method without settings here keeps its own defaults."""
    generator = registry.GENERATORS.load("stylegan2").config(
        train=TrainConfig(steps=max(1, paper.kimg * 1000 // 16), batch=16, lr=2.5e-3, betas=(0.0, 0.99)),
        **paper.generator,
    )
    return Experiment(
        data=data,
        problem=ProblemConfig(
            classifier=registry.CLASSIFIERS.load("resnet50").config(train=paper.f, select_every=paper.select_every),
            generator=generator,
            perceptual=PerceptualConfig(net="lpips_vgg"),
        ),
        methods={name: _method(name, paper) for name in methods},
        # VGG16's maps of 16 images and their reconstructions take 1 GB.
        evaluation=EvaluationConfig(batch=16),
    )


def _method(name: str, paper: Paper) -> MethodConfig:
    config = registry.METHODS.load(name).config
    training = TrainConfig(steps=paper.steps, batch=8, lr=1e-4)
    own: dict[str, dict[str, Any]] = {
        "viscoin": {"K": paper.K, "gamma": paper.gamma, "delta": paper.delta},
        "random": {"K": paper.K, "gamma": paper.gamma},
        "flint": {"K": paper.K},
        "flaem": {"K": paper.K, "base": "resnet101"},
    }
    if name in own:
        return config(train=training, **own[name])
    required = config.model_fields["train"].is_required()
    return config(name=name, **({"train": training} if required else {}))
