"""Settings per data set and method: the small ones that fit two CPU cores, and the paper's.

A preset is a function that returns a typed `Experiment`. Steps are fixed so that the methods of one data set train for
equal time, to about a tenth, on one thread of the machine of benchmarks/results/calibrate.json; they are never measured
at run time (docs/metrics.md 5).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from coinbench import presets_paper, registry
from coinbench.config import (
    DataConfig,
    EvaluationConfig,
    Experiment,
    GeneratorConfig,
    MethodConfig,
    PerceptualConfig,
    ProblemConfig,
    TrainConfig,
)
from coinbench.errors import UsageError

FEWER: dict[str, Any] = {
    "auc_ff_images": 200,
    "leakage_images": 200,
    "part_consistency_images": 50,
    "activation_steps": 100,
}
"""What keeps the evaluation of a small experiment short; each is part of the protocol of its number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How large a small experiment is."""

    net: str = "resnet"
    resolution: int = 32
    """Of block 1 of f, and of FLAEM's own classifier."""
    classifier_steps: int
    generator: GeneratorConfig
    K: int = 24
    channels: int = 48
    gamma: float = 0.5
    viscoin_steps: int
    flint_steps: int
    """As many as take the time of `viscoin_steps` on one thread of a 2-core machine (benchmarks/calibrate.py)."""
    flaem_steps: int
    """Likewise."""
    random_steps: int
    """Likewise."""
    consistency_images: int = 50
    parts: bool = False
    """p is trained on the parts of the images."""


def small(scale: Scale, data: DataConfig, methods: tuple[str, ...]) -> Experiment:
    """Return an experiment of the given scale; a method without small settings here keeps its own defaults."""
    own = {"viscoin": _viscoin, "flint": _flint, "flaem": _flaem, "random": _random}
    return Experiment(
        data=data,
        problem=ProblemConfig(
            classifier=registry.CLASSIFIERS.load(scale.net).config(
                resolution=scale.resolution,
                train=TrainConfig(
                    steps=scale.classifier_steps,
                    batch=64,
                    lr=2e-3,
                    schedule="cosine",
                    warmup=20,
                    weight_decay=1e-5,
                ),
            ),
            generator=scale.generator,
            perceptual=PerceptualConfig(net="parts" if scale.parts else "random"),
        ),
        methods={name: own[name](scale) if name in own else default(name) for name in methods},
        evaluation=EvaluationConfig(consistency_images=scale.consistency_images, **FEWER),
    )


def beta_vae(steps: int, *, width: int = 32, batch: int = 64, lr: float = 2e-3, **changes: Any) -> GeneratorConfig:
    """Return the small β-VAE, trained for so many steps; `changes` are of other settings."""
    train = TrainConfig(steps=steps, batch=batch, lr=lr, schedule="linear", decay_from=0.6, warmup=20, clip=1.0)
    return registry.GENERATORS.load("beta_vae").config(width=width, train=train, **changes)


def stylegan2(size: int, kimg: int, **changes: Any) -> GeneratorConfig:
    """Return a small StyleGAN2: 16 channels at `size` pixels, at most 64, w of 64; batch 32.

    R1 weighs far more than published for photographs: with the recipe's γ drawings lost whole classes (a sweep of γ
    from 0.05 to 16 is in docs/generators.md). Path lengths are left out, a quarter of the time of a step.

    Args:
        size: pixels a side of the images.
        kimg: thousand images of training.
        changes: of other settings.
    """
    schedule = {"schedule": "linear", "decay_from": 0.5, "checkpoint_seconds": 60}
    train = TrainConfig(steps=kimg * 1000 // 32, batch=32, lr=2.5e-3, betas=(0.0, 0.99), **schedule)
    resolution = max(16, 1 << (size - 1).bit_length())
    small = {"z_dim": 64, "w_dim": 64, "base": 16 * resolution, "most": 64, "clamp": None}
    duel = {"r1": 4.0 * (resolution / 32) ** 2, "group": 16, "path": 0.0, "mixing": 0.5}
    return registry.GENERATORS.load("stylegan2").config(**{**small, **duel, "train": train, **changes})


def other_classifier(experiment: Experiment, net: str) -> Experiment:
    """Return the experiment with another f at its own defaults; the training is the preset's within a family.

    Args:
        experiment: with the f that its preset has.
        net: name of the other classifier.

    Raises:
        UsageError: no classifier has that name.
    """
    config, now = registry.CLASSIFIERS.load(registry.CLASSIFIERS.check(net)).config, experiment.problem.classifier
    # Of one family both learn alike; another one starts from other weights, and knows its training better.
    alike = config.__base__ is type(now).__base__ or config.model_fields["train"].is_required()
    given = {"train": now.train, "select_every": now.select_every} if alike else {}
    problem = experiment.problem.model_copy(update={"classifier": config(net=net, **given)})
    return experiment.model_copy(update={"problem": problem})


def other_generator(experiment: Experiment, net: str, size: int) -> Experiment:
    """Return the experiment with another G: its small settings where there are some here, else its own defaults.

    Args:
        experiment: with the G that its preset has.
        net: name of the other generator.
        size: pixels a side of the images.

    Raises:
        UsageError: no generator has that name.
    """
    config = registry.GENERATORS.load(registry.GENERATORS.check(net)).config
    if net == "stylegan2":
        chosen = stylegan2(size, kimg=200)
    elif net == "beta_vae":
        chosen = beta_vae(1000)
    else:
        train = {"train": beta_vae(1000).train} if config.model_fields["train"].is_required() else {}
        chosen = config(net=net, **train)
    problem = experiment.problem.model_copy(update={"generator": chosen})
    return experiment.model_copy(update={"problem": problem})


def _viscoin(scale: Scale) -> MethodConfig:
    return registry.METHODS.load("viscoin").config(
        K=scale.K,
        channels=scale.channels,
        gamma=scale.gamma,
        standardised=True,
        train=_training(scale.viscoin_steps, 8),
    )


def _random(scale: Scale) -> MethodConfig:
    return registry.METHODS.load("random").config(
        K=scale.K, channels=scale.channels, gamma=scale.gamma, train=_training(scale.random_steps, 8)
    )


def _flint(scale: Scale) -> MethodConfig:
    return registry.METHODS.load("flint").config(
        K=scale.K,
        channels=scale.channels,
        decoder=64,
        standardised=True,
        train=_training(scale.flint_steps, 16),
    )


def _flaem(scale: Scale) -> MethodConfig:
    return registry.METHODS.load("flaem").config(
        K=scale.K,
        decoder=64,
        resolution=scale.resolution,
        standardised=True,
        train=_training(scale.flaem_steps, 16),
    )


def _training(steps: int, batch: int) -> TrainConfig:
    return TrainConfig(steps=steps, batch=batch, lr=1e-3, schedule="linear", decay_from=0.6, warmup=50, clip=5.0)


def default(name: str) -> MethodConfig:
    """Return a method's own defaults with a short training, for plug-ins that no preset knows."""
    config = registry.METHODS.load(name).config
    given: dict[str, Any] = {}
    if config.model_fields["train"].is_required():
        given["train"] = TrainConfig(steps=1000, lr=1e-3)
    return config(name=name, **given)


def birds(methods: tuple[str, ...]) -> Experiment:
    """Return the embedded default: `coinbench run --methods viscoin,flint --dataset birds`.

    f (96 %), p and G, a StyleGAN2, come with the package. Four methods from an empty cache took three minutes and 8
    seconds on two CPU cores.
    """
    data = _data("birds")
    scale = Scale(
        resolution=16,
        classifier_steps=2000,
        generator=stylegan2(32, kimg=640, flip=0.0),
        viscoin_steps=330,
        flint_steps=530,
        flaem_steps=675,
        random_steps=390,
        consistency_images=40,
        parts=True,
    )
    return small(scale, data, methods)


def digits(methods: tuple[str, ...]) -> Experiment:
    """Return scikit-learn's handwritten digits at 32x32, small networks; f is above 98 %."""
    data = _data("digits")
    scale = Scale(
        classifier_steps=300,
        generator=beta_vae(800),
        viscoin_steps=700,
        flint_steps=1060,
        flaem_steps=990,
        random_steps=800,
        consistency_images=40,
    )
    return small(scale, data, methods)


def fashionmnist(methods: tuple[str, ...]) -> Experiment:
    """Return the networks of the paper's table 5 (K = 25, β-VAE with β = 2 and latent 48, LeNet, no perceptual term).

    The paper does not give widths, rates or steps for it: those are ours.
    """
    data = _data("fashionmnist")
    scale = Scale(
        net="lenet",
        classifier_steps=8000,
        generator=beta_vae(20000),
        K=25,
        viscoin_steps=20000,
        flint_steps=13600,
        flaem_steps=7300,
        random_steps=23000,
        consistency_images=100,
    )
    experiment = small(scale, data, methods)
    without_p = {
        name: config.model_copy(update={"perceptual": "none"}) if name in ("viscoin", "random") else config
        for name, config in experiment.methods.items()
    }
    return experiment.model_copy(update={"methods": without_p})


def cifar10(methods: tuple[str, ...]) -> Experiment:
    """Return CIFAR-10 at 32x32, small networks."""
    scale = Scale(
        classifier_steps=8000,
        generator=beta_vae(8000),
        viscoin_steps=8000,
        flint_steps=11400,
        flaem_steps=10800,
        random_steps=8500,
    )
    return small(scale, _data("cifar10"), methods)


def imagefolder(methods: tuple[str, ...]) -> Experiment:
    """Return a folder of images at 64x64, small networks."""
    scale = Scale(
        classifier_steps=600,
        generator=beta_vae(1000, width=24),
        viscoin_steps=700,
        flint_steps=670,
        flaem_steps=1010,
        random_steps=710,
    )
    return small(scale, _data("imagefolder", size=64), methods)


def cub200(methods: tuple[str, ...]) -> Experiment:
    """Return the paper's settings for CUB-200-2011 at 256x256."""
    return presets_paper.experiment(presets_paper.CUB200, _data("cub200", size=256), methods)


def celebahq(methods: tuple[str, ...]) -> Experiment:
    """Return the paper's settings for CelebA-HQ at 256x256."""
    return presets_paper.experiment(presets_paper.CELEBAHQ, _data("celebahq", size=256), methods)


def stanfordcars(methods: tuple[str, ...]) -> Experiment:
    """Return the paper's settings for Stanford Cars at 256x256."""
    return presets_paper.experiment(presets_paper.STANFORDCARS, _data("stanfordcars", size=256), methods)


def _data(name: str, **settings: Any) -> DataConfig:
    # Unvalidated: a data set may ask for a field that only the user knows (imagefolder's root); the overrides are
    # applied before the whole experiment is validated.
    config = registry.PROBLEMS.load(name).config
    return config.model_construct(name=name, **settings)


VARIANTS = {
    "paper": ("methods.viscoin.variant=paper", "problem.tap=penultimate", "methods.viscoin.train.schedule=constant"),
    "released": (
        *("methods.viscoin.variant=released", "problem.tap=last", "methods.viscoin.train.schedule=staircase"),
        *("methods.viscoin.train.decay_from=0.5", "methods.viscoin.held=100", "methods.viscoin.pooled_sparsity=true"),
        *("methods.viscoin.cosines=absolute", "methods.viscoin.rectified_support=true"),
        *("methods.viscoin.theta_dropout=0.01", "methods.viscoin.random_noise=true"),
    ),
}
"""What `--variant NAME` stands for: VisCoIN as the paper describes it, and with what its public code does otherwise
(docs/methods.md, which also says what stays ours)."""
PRESETS: dict[str, Callable[[tuple[str, ...]], Experiment]] = {
    "birds": birds,
    "digits": digits,
    "fashionmnist": fashionmnist,
    "cifar10": cifar10,
    "imagefolder": imagefolder,
    "cub200": cub200,
    "celebahq": celebahq,
    "stanfordcars": stanfordcars,
}


def default_metrics(datasets: tuple[str, ...]) -> tuple[str, ...]:
    """Return the metrics of a run that names none: those that are neither dear nor need a download, and those that the
    paper's settings have.

    Those that do not apply to any of the data sets are left out.

    Raises:
        UsageError: a plug-in's metric cannot be imported.
    """
    named = presets_paper.METRICS if any(dataset in presets_paper.DATASETS for dataset in datasets) else ()
    loaded = {name: registry.METRICS.load(name) for name in registry.METRICS.names()}
    chosen = [name for name, metric in loaded.items() if name in named or not (metric.needs or metric.on_request)]
    return tuple(name for name in chosen if any(applies(name, dataset) for dataset in datasets))


def applies(metric: str, dataset: str) -> bool:
    """Tell whether a metric can be measured on a data set, whatever its settings.

    Raises:
        UsageError: a name is unknown, or its plug-in cannot be imported.
    """
    return registry.PROBLEMS.load(dataset).truth or not registry.METRICS.load(metric).truth


def preset(dataset: str, methods: tuple[str, ...]) -> Experiment:
    """Return the settings of a data set; a plug-in data set gets those of `imagefolder`.

    Raises:
        UsageError: an unknown data set or method; lists the near ones.
    """
    registry.PROBLEMS.check(dataset)
    if not methods:
        raise UsageError(f"no method given; known: {', '.join(registry.METHODS.names())}")
    for method in methods:
        registry.METHODS.check(method)
    if dataset in PRESETS:
        return PRESETS[dataset](methods)
    scale = Scale(
        classifier_steps=600,
        generator=beta_vae(1000),
        viscoin_steps=700,
        flint_steps=1030,
        flaem_steps=970,
        random_steps=760,
    )
    return small(scale, _data(dataset), methods)
