"""f and G: trained when no weights are given, cached by content, shared by all methods and seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from coinbench import registry, weights
from coinbench.cache import Busy, Cache
from coinbench.config import Cell, ClassifierConfig, DataConfig, digest
from coinbench.data.source import SPLITS, Source, check, pixels
from coinbench.digests import classifier_digest, generator_digest
from coinbench.log import Log
from coinbench.models import Classifier, channels_last
from coinbench.networks.lenet import LeNet
from coinbench.networks.perceptual import PerceptualNet
from coinbench.networks.resnet import ResNet
from coinbench.problem import Problem, Split
from coinbench.rng import Rng, seeded
from coinbench.training import train

WEIGHTS = "weights.safetensors"


def open_source(config: DataConfig, cache: Cache) -> Source:
    """Open a data set; reads no pixels.

    Raises:
        DataError: it is missing or damaged, or no task (`coinbench.data.source.check`).
    """
    return check(registry.PROBLEMS.load(config.name).open(config, cache.root), config.name)


def load_split(name: str, config: DataConfig, source: Source, cache: Cache, device: torch.device) -> Split:
    """Return a split, its pixels drawn or decoded into the cache once."""
    index = source.split(name, config.val_fraction)
    folder = cache.root / "data" / digest(source.fingerprint, config.val_fraction)
    small = pixels(source, index, config.size, folder / f"{name}-{config.size}.npy")
    large = small
    if name == "train" and config.resized != config.size:
        large = pixels(source, index, config.resized, folder / f"{name}-{config.resized}.npy")
    return Split(name, small, source.labels[index], index, large, config.flip, device)


def build_classifier(config: ClassifierConfig, n_classes: int, channels: int, size: int) -> Classifier:
    """Return f at initialisation."""
    with seeded(Rng(config.seed).child("classifier", "init")):
        if config.net == "lenet":
            return LeNet(n_classes, channels, config.width)
        return ResNet(n_classes, channels, size, config.width, config.resolution)


def fit_classifier(network: Classifier, config: ClassifierConfig, split: Split, log: Log) -> None:
    """Train f on labels by cross-entropy, in place."""
    rng = Rng(config.seed).child("classifier")

    def loss(step: int) -> dict[str, Tensor]:
        batch = split.draw(step, config.train.batch, rng.child("data"))
        logits = network(batch.images).logits
        return {"cross_entropy": nn.functional.cross_entropy(logits, batch.labels)}

    train(network, loss, config.train, log)


def load_problem(cell: Cell, cache: Cache, device: torch.device, log: Log) -> Problem:
    """Open the data, load or train f and G, and freeze everything."""
    source = open_source(cell.data, cache)
    log.at("data", cache.root).say(f"{cell.dataset}: {len(source.labels)} images at {cell.data.size} px")
    train_split, val, test = (load_split(name, cell.data, source, cache, device) for name in SPLITS)
    size, channels, n_classes = cell.data.size, source.channels, len(source.card.class_names)

    classifier = build_classifier(cell.problem.classifier, n_classes, channels, size).to(device)
    spec, rng = (
        registry.GENERATORS.load(cell.problem.generator.net),
        Rng(cell.problem.generator.seed).child("generator"),
    )
    generator = spec.build(cell.problem.generator, size, channels, rng).to(device)
    stages = [
        _Stage(
            "classifier",
            classifier_digest(cell),
            classifier,
            lambda log: fit_classifier(classifier, cell.problem.classifier, train_split, log),
        ),
        _Stage(
            "generator",
            generator_digest(cell),
            generator,
            lambda log: spec.fit(cell.problem.generator, generator, train_split, rng, log),
        ),
    ]
    _load(stages, cache, log)
    perceptual = PerceptualNet(
        channels, cell.problem.perceptual.width, Rng(cell.problem.perceptual.seed).child("perceptual")
    ).to(device)
    networks = {"classifier": classifier, "generator": generator, "perceptual": perceptual}
    for network in networks.values():
        channels_last(network.requires_grad_(False).eval())
    return Problem(
        name=cell.dataset,
        class_names=source.card.class_names,
        train=train_split,
        val=val,
        test=test,
        classifier=classifier,
        generator=generator,
        perceptual=perceptual,
        fingerprints={"data": source.fingerprint}
        | {name: weights.digest(network) for name, network in networks.items()},
    )


def _load(stages: list[_Stage], cache: Cache, log: Log) -> None:
    """Load or train all stages: two workers that start together train f and G side by side, not one after the other."""
    busy = []
    for stage in stages:
        try:
            stage.load(cache, log, wait=False)
        except Busy:
            busy.append(stage)
    for stage in busy:
        stage.load(cache, log, wait=True)


@dataclass(frozen=True, slots=True)
class _Stage:
    """A network that is trained once and then read from the cache."""

    kind: str
    digest: str
    network: nn.Module
    train: Callable[[Log], None]

    def load(self, cache: Cache, log: Log, *, wait: bool) -> None:
        folder = cache.stage(self.kind, self.digest, self._make, log, wait=wait)
        # Read back even right after training, so that a fresh run and a cached one use the same tensors.
        weights.load(self.network, folder / WEIGHTS)

    def _make(self, log: Log) -> None:
        self.train(log)
        weights.save(self.network, log.folder / WEIGHTS)
