"""The laws of a classifier f: build, fit, features, taps, storage."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from coinbench import contract, weights
from coinbench.config import ClassifierConfig, TrainConfig
from coinbench.conformance.report import Law, Report, Steps, alike, demand, examine
from coinbench.conformance.tiny import make_problem
from coinbench.digests import source_file
from coinbench.log import Log
from coinbench.models import Classifier, Features
from coinbench.rng import Rng
from coinbench.specs import ClassifierSpec

_RNG = Rng(3).child("classifier")


def small_classifier(spec: ClassifierSpec) -> ClassifierConfig:
    """Return settings of a tiny network of a classifier, trained for three steps of four images from scratch."""
    fields = spec.config.model_fields
    usual = TrainConfig(steps=3, lr=1e-3) if fields["train"].is_required() else fields["train"].get_default()
    train = usual.model_copy(update={"steps": 3, "batch": 4, "log_every": 1})
    given = {name: value for name, value in {"width": 4, "init": "scratch"}.items() if name in fields}
    return spec.config.model_validate({**given, "train": train})


class ClassifierBench:
    """A classifier on small images; what several laws need is made once."""

    def __init__(self, spec: ClassifierSpec, folder: Path) -> None:
        """Hold the classifier; nothing is built yet."""
        self.spec, self.folder, self.steps = spec, folder, Steps()
        # The smallest images that all of torchvision's networks read.
        self.problem = make_problem(64)
        self.size, self.classes = self.problem.size, len(self.problem.class_names)
        self.config = small_classifier(spec)
        self.images = self.problem.test.take(np.arange(5)).images

    def build(self, rng: Rng = _RNG) -> Classifier:
        """Return the network as its training starts."""
        with contract.raising("build", self.spec.build):
            network = self.spec.build(self.config, self.classes, self.problem.channels, self.size, rng)
        demand(isinstance(network, Classifier), f"build returned a {type(network).__name__}, no Classifier")
        return network

    def fit(self, name: str) -> Classifier:
        """Return the network after a short training."""
        network = self.build()
        with torch.enable_grad(), contract.raising("fit", self.spec.fit):
            start = self.spec.start(self.config, self.folder)
            self.spec.fit(self.config, network, self.problem.train, _RNG, Log(self.folder / name), start, None)
        return network.eval()

    @property
    def fitted(self) -> Classifier:
        """The trained network."""
        return self.steps.once("fit", lambda: self.fit("first"))

    @property
    def features(self) -> Features:
        """What it says of some images."""
        network = self.fitted
        return self.steps.once("forward", lambda: network(self.images))


def check_classifier(spec: ClassifierSpec, name: str | None = None) -> Report:
    """Try every law on a classifier; seconds on a CPU.

    Args:
        spec: the classifier.
        name: what it is registered as, where it is.
    """
    with TemporaryDirectory(prefix="coinbench-check-") as folder, torch.random.fork_rng(devices=[]), torch.no_grad():
        files = [file for file in {source_file(spec.build), source_file(spec.fit)} if file]
        return examine(f"classifier {name or spec.source}", LAWS, ClassifierBench(spec, Path(folder)), files)


def _build(bench: ClassifierBench) -> None:
    network = bench.steps.once("build", bench.build)
    torch.manual_seed(99)
    demand(
        weights.digest(network) == weights.digest(bench.build()),
        "build gives other weights for the same rng; use `seeded`",
    )
    demand(network.n_classes == bench.classes, f"n_classes is {network.n_classes!r}, expected {bench.classes}")
    demand(network.channels == bench.problem.channels, f"channels is {network.channels!r}")


def _fit(bench: ClassifierBench) -> None:
    before, first = weights.digest(bench.build()), weights.digest(bench.fitted)
    demand(first != before, "fit changes no weight")
    wrong = [k for k, v in bench.fitted.state_dict().items() if v.is_floating_point() and not v.isfinite().all()]
    demand(not wrong, f"after fit {wrong[0] if wrong else ''!r} holds NaN or infinite values")
    torch.manual_seed(99)
    demand(weights.digest(bench.fit("again")) == first, "fit gives other weights for the same seed")


def _features(bench: ClassifierBench) -> None:
    seen, network = bench.features, bench.fitted
    contract.check_tensor(seen.logits, (5, bench.classes), "forward", "logits [B, Y]")
    contract.check_tensor(seen.embedding, (5, seen.embedding.shape[-1]), "forward", "embedding [B, D]")
    demand(len(seen.maps) == len(network.tap_names), f"{len(seen.maps)} maps for {len(network.tap_names)} tap_names")
    for name, tapped in zip(network.tap_names, seen.maps, strict=True):
        demand(
            tapped.ndim == 4 and len(tapped) == 5, f"tap {name!r} has shape {list(tapped.shape)}, expected [B, c, h, w]"
        )
    alike(network.head(seen.embedding), seen.logits, "head(embedding) differs from the logits")


def _taps(bench: ClassifierBench) -> None:
    for alone, tapped in zip(bench.fitted.taps(bench.images), bench.features.maps, strict=True):
        alike(alone, tapped, "taps gives other maps than forward")
    alike(
        bench.fitted.embed(bench.images), bench.features.maps[0].mean((2, 3)), "embed differs from the first tap's mean"
    )


def _alone(bench: ClassifierBench) -> None:
    torch.manual_seed(99)
    alike(bench.fitted(bench.images[2:3]).logits, bench.features.logits[2:3], "an image's logits depend on its batch")


def _gradient(bench: ClassifierBench) -> None:
    images = bench.images.clone().requires_grad_(True)
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(bench.fitted(images).logits.square().sum(), images)
    demand(bool(gradient.abs().sum() > 0), "the logits have no gradient to the images, which methods train through")


def _stored(bench: ClassifierBench) -> None:
    path, logits = bench.folder / "weights.safetensors", bench.features.logits
    weights.save(bench.fitted, path)
    again = bench.build(Rng(77)).eval()
    weights.load(again, path)
    alike(again(bench.images).logits, logits, "logits differ after saving and loading")


LAWS = (
    Law("build makes a Classifier from the rng it is given", _build),
    Law("fit trains in place in a few steps, and gives the same for the same seed", _fit),
    Law("forward gives logits [B, Y], an embedding that `head` reads, and a map for each tap", _features),
    Law("taps and embed give what forward gives", _taps),
    Law("an image's logits depend on it alone", _alone),
    Law("logits have a gradient to the images", _gradient),
    Law("weights saved and loaded give the same network", _stored),
)
