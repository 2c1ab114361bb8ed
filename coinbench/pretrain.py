"""f, G and p: shipped, or trained here; cached by content, shared by all methods and seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import nn

from coinbench import registry, shipped, weights
from coinbench.cache import Busy, Cache
from coinbench.config import Cell, ClassifierConfig, DataConfig, PerceptualConfig
from coinbench.data.source import SPLITS, Source, check, split_pixels
from coinbench.digests import classifier_digest, generator_digest, parts_digest, perceptual_digest
from coinbench.errors import DataError, UsageError
from coinbench.fast import tensor_float
from coinbench.group import Group
from coinbench.judge import judge_by
from coinbench.log import Log
from coinbench.models import Classifier, ImageGenerator, channels_last
from coinbench.networks.perceptual import Perceptual, PerceptualNet
from coinbench.part_judge import TRAINED_P, Parts, fit_parts_network
from coinbench.parts import fit_parts
from coinbench.problem import Problem, Split
from coinbench.published_weights import TRUNKS, folder
from coinbench.rng import Rng
from coinbench.selection import RECORD
from coinbench.truth import GroundTruth

WEIGHTS = weights.FILE


def open_source(config: DataConfig, cache: Cache) -> Source:
    """Open a data set; reads no pixels.

    Raises:
        DataError: it is missing or damaged, or no task (`coinbench.data.source.check`).
    """
    return check(registry.PROBLEMS.load(config.name).open(config, cache.root), config.name)


def load_split(
    name: str, config: DataConfig, source: Source, cache: Cache, device: torch.device, log: Log | None = None
) -> Split:
    """Return a split, its pixels drawn or decoded into the cache once."""
    index, small, large = split_pixels(name, config, source, cache.root, log)
    group = log.group if log else Group()
    return Split(name, small, source.labels[index], index, large, config.flip, device, group)


def build_classifier(config: ClassifierConfig, n_classes: int, channels: int, size: int) -> Classifier:
    """Return f at initialisation.

    Raises:
        UsageError: it cannot read such images.
    """
    rng = Rng(config.seed).child("classifier")
    return registry.CLASSIFIERS.load(config.net).build(config, n_classes, channels, size, rng)


def build_perceptual(config: PerceptualConfig, channels: int, size: int, cache: Cache) -> Perceptual:
    """Return p: LPIPS with its weights, else at initialisation.

    Raises:
        DataError: weights are not there, damaged or of another network.
        UsageError: LPIPS cannot read such images.
    """
    if (found := config.file(folder(cache.root))) is None:
        return PerceptualNet(channels, config.width, Rng(config.seed).child("perceptual"))
    # The package lpips takes seconds to import.
    from coinbench.networks.lpips import LEAST, LPIPS

    if channels != LPIPS.channels or size < LEAST[config.net]:
        wanted = f"RGB images of {LEAST[config.net]} pixels a side or more"
        raise UsageError(f"problem.perceptual.net={config.net}: reads {wanted}, not {channels} x {size} x {size}")
    return LPIPS(config.net, found)


@dataclass(frozen=True, slots=True)
class Networks:
    """f, G and p of a cell at initialisation, and how each gets its weights."""

    classifier: Classifier
    generator: ImageGenerator
    perceptual: Perceptual
    stages: dict[str, Stage]
    """By kind: classifier, generator, and perceptual where p is trained."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A network that is shipped, or trained once and then read from the cache."""

    kind: str
    digest: str
    network: nn.Module
    train: Callable[[Log], None]
    shipped: shipped.Shipped | None

    def load(self, cache: Cache, log: Log, *, wait: bool = True) -> None:
        """Fill the network.

        Raises:
            Busy: another process trains it, and `wait` is False.
            DataError: the weights are damaged.
        """
        if self.shipped is not None:
            weights.load(self.network, self.shipped.check())
            return
        folder = cache.stage(self.kind, self.digest, self._make, log, wait=wait)
        # Read back even right after training, so that a fresh run and a cached one use the same tensors.
        weights.load(self.network, folder / WEIGHTS)

    def _make(self, log: Log) -> None:
        self.train(log)
        log.group.lead(lambda: weights.save(self.network, log.folder / WEIGHTS))


def build_networks(cell: Cell, source: Source, split: Split, cache: Cache) -> Networks:
    """Return f, G and p at initialisation, on the device of the training `split`.

    Raises:
        UsageError: p is to be trained on parts, which the data set does not tell, or cannot read such images.
        DataError: weights of p are not there or damaged.
    """
    size, channels, device = cell.data.size, source.channels, split.device
    problem = cell.problem
    f = build_classifier(problem.classifier, len(source.card.class_names), channels, size).to(device)
    spec, rng = registry.GENERATORS.load(problem.generator.net), Rng(problem.generator.seed).child("generator")
    generator = problem.generator
    # Without the file G is at initialisation: `plan` measures that, and a training that needs the file says so.
    with suppress(DataError):
        generator = generator.begin(folder(cache.root))
    g = spec.build(generator, size, channels, rng).to(device)
    p = build_perceptual(problem.perceptual, channels, size, cache).to(device)

    def stage(kind: str, key: str, network: nn.Module, train: Callable[[Log], None]) -> Stage:
        config = getattr(problem, kind)

        def as_set(log: Log) -> None:
            with tensor_float(config.train.tf32):
                train(log)

        return Stage(kind, key, network, as_set, shipped.find(kind, config, cell))

    def fit_classifier(log: Log) -> None:
        of, rng_of_f = registry.CLASSIFIERS.load(problem.classifier.net), Rng(problem.classifier.seed)
        start = of.start(problem.classifier, folder(cache.root))
        select = problem.classifier.select_every > 0
        val = load_split("val", cell.data, source, cache, device, log.at("data", cache.root)) if select else None
        of.fit(problem.classifier, f, split, rng_of_f.child("classifier"), log, start, val)
        if select and not (log.folder / RECORD).is_file():
            raise UsageError(
                f"problem.classifier.select_every={problem.classifier.select_every}: classifier "
                f"{problem.classifier.net!r} chooses no state; set problem.classifier.select_every=0"
            )

    stages = {"classifier": stage("classifier", classifier_digest(cell), f, fit_classifier)}

    def fit_generator(log: Log) -> None:
        judge = stages["classifier"]
        if judge.shipped or log.group.lead(lambda: cache.has(judge.kind, judge.digest)):
            # f only watches: without it, as when another worker trains it now, G comes out the same.
            judge.load(cache, log)
            log.judge = judge_by(f, split)
        spec.fit(problem.generator.begin(folder(cache.root)), g, split, rng, log)

    stages["generator"] = stage("generator", generator_digest(cell), g, fit_generator)
    if problem.perceptual.net == "parts":
        if source.factors is None:
            raise UsageError(f"problem.perceptual.net=parts: {cell.dataset} does not tell the parts; use random")
        factors = torch.from_numpy(source.factors)
        assert isinstance(p, PerceptualNet)
        p.origin = TRAINED_P
        stages["perceptual"] = stage(
            "perceptual", perceptual_digest(cell), p, lambda log: fit_parts(p, problem.perceptual, split, factors, log)
        )
    return Networks(f, g, p, stages)


def load_problem(cell: Cell, cache: Cache, device: torch.device, log: Log) -> Problem:
    """Open the data, load or train f, G and p, and freeze everything."""
    source = open_source(cell.data, cache)
    log.at("data", cache.root).say(f"{cell.dataset}: {len(source.labels)} images at {cell.data.size} px")
    train_split, val, test = (
        load_split(name, cell.data, source, cache, device, log.at("data", cache.root)) for name in SPLITS
    )
    found = build_networks(cell, source, train_split, cache)
    _load(found.stages.values(), cache, log)
    return assemble(cell, source, found, (train_split, val, test))


def assemble(cell: Cell, source: Source, found: Networks, splits: tuple[Split, Split, Split]) -> Problem:
    """Return the problem of a cell around its networks, which are frozen as they are now."""
    networks = {"classifier": found.classifier, "generator": found.generator, "perceptual": found.perceptual}
    for network in networks.values():
        channels_last(network.requires_grad_(False).eval())
    found.classifier.tap = cell.problem.tap
    found.generator.freeze()
    return Problem(
        name=cell.dataset,
        class_names=source.card.class_names,
        train=splits[0],
        val=splits[1],
        test=splits[2],
        classifier=found.classifier,
        generator=found.generator,
        perceptual=found.perceptual,
        fingerprints={"data": source.fingerprint}
        | {name: weights.digest(network) for name, network in networks.items()},
        parts=_parts(cell, source),
        truth=truth_of(cell.data.name, source),
    )


def truth_of(dataset: str, source: Source) -> GroundTruth | None:
    """Return the source where its data set can be drawn anew.

    Others are not looked at: they would be asked for each attribute by name, and those of CUB read a file.
    """
    return source if registry.PROBLEMS.load(dataset).truth and isinstance(source, GroundTruth) else None


def _parts(cell: Cell, source: Source) -> Parts:
    config, size, channels = cell.problem.classifier, cell.data.size, source.channels
    return Parts(source, parts_digest(cell), lambda n: build_classifier(config, n, channels, size))


def _parts_stage(cell: Cell, source: Source, split: Split, cache: Cache) -> Stage:
    """Return f_part, to be trained.

    Raises:
        UsageError: the data set tells no parts.
        DataError: weights to start from are not here.
    """
    told, config = source.attributes(), cell.problem.classifier
    if told is None:
        raise UsageError(f"pretrain parts: {cell.dataset} does not tell the parts of its images; birds and cub200 do")
    parts = _parts(cell, source)
    network = parts.build(len(told.names)).to(split.device)

    def fit(log: Log) -> None:
        start = registry.CLASSIFIERS.load(config.net).start(config, folder(cache.root))
        fit_parts_network(config, network, split, told, log, start)

    return Stage("parts", parts.digest, network, fit, None)


def make(kind: str, cell: Cell, cache: Cache, device: torch.device, log: Log) -> Stage:
    """Train one of f, G and p as `load_problem` would, or f_part, where it is not there yet.

    Raises:
        UsageError: the kind is none that this cell trains.
        DataError: the data or a checkpoint are damaged.
        Interrupted: asked to stop; the same call resumes.
    """
    source = open_source(cell.data, cache)
    split = load_split("train", cell.data, source, cache, device, log.at("data", cache.root))
    # Nothing of LPIPS is trained, and its weights may not be here yet.
    p = PerceptualConfig() if cell.problem.perceptual.net in TRUNKS else cell.problem.perceptual
    trained = cell.model_copy(update={"problem": cell.problem.model_copy(update={"perceptual": p})})
    stages = build_networks(trained, source, split, cache).stages
    if kind == "parts":
        stages["parts"] = _parts_stage(cell, source, split, cache)
    if kind not in stages:
        raise UsageError(f"pretrain {kind}: nothing to train with problem.perceptual.net={cell.problem.perceptual.net}")
    if kind == "generator":
        # f judges the samples of a long training.
        stages["classifier"].load(cache, log)
    stages[kind].load(cache, log)
    return stages[kind]


def _load(stages: Iterable[Stage], cache: Cache, log: Log) -> None:
    """Load or train all stages: two workers that start together train f and G side by side, not one after the other."""
    busy = []
    for stage in stages:
        try:
            stage.load(cache, log, wait=False)
        except Busy:
            busy.append(stage)
    for stage in busy:
        stage.load(cache, log, wait=True)
