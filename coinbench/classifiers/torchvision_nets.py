"""torchvision's ResNet50, ResNet101, SqueezeNet 1.1 and ViT-B/16 as f, from ImageNet weights or a file; the paper's f.

VisCoIN paper, section 5 and appendix C: an ImageNet start, trained on the data set at 256 px; table 7: ViT-B/16 of
which only the head learns.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import field_validator

from coinbench.classifiers.labels import fit
from coinbench.config import ClassifierConfig, TrainConfig, absolute
from coinbench.log import Log
from coinbench.models import Classifier
from coinbench.networks.torchvision_nets import BUILDERS, TorchvisionNet, take
from coinbench.problem import Split
from coinbench.published_weights import key_of, known, require
from coinbench.rng import Rng, seeded
from coinbench.specs import ClassifierSpec

_SETTING = "problem.classifier.init"


class TorchvisionNetConfig(ClassifierConfig):
    """A network of torchvision."""

    init: Literal["imagenet", "scratch"] | Path = "imagenet"
    """Where training starts: ImageNet weights that `weights fetch` brought, a file of that layout, or anew."""
    train_all: bool = True
    """Off: only the head learns."""
    train: TrainConfig = TrainConfig(steps=5000, batch=32, lr=1e-4)

    @field_validator("init")
    @classmethod
    def _anywhere(cls, value: Path | str) -> Path | str:
        return absolute(value) if isinstance(value, Path) else value

    def key(self) -> dict:
        """Return what determines f: of a file its content, not where it lies.

        Raises:
            DataError: the file is not there.
        """
        key = super().key()
        if isinstance(self.init, Path):
            key["init"] = key_of(self.init, _SETTING)
        elif self.init == "imagenet":
            key["init"] = known(self.net).remote.name
        return key


class ResNet50Config(TorchvisionNetConfig):
    """ResNet50."""

    net: Literal["resnet50"] = "resnet50"  # pyright: ignore[reportIncompatibleVariableOverride]


class ResNet101Config(TorchvisionNetConfig):
    """ResNet101."""

    net: Literal["resnet101"] = "resnet101"  # pyright: ignore[reportIncompatibleVariableOverride]


class SqueezeNetConfig(TorchvisionNetConfig):
    """SqueezeNet 1.1."""

    net: Literal["squeezenet1_1"] = "squeezenet1_1"  # pyright: ignore[reportIncompatibleVariableOverride]


class ViTConfig(TorchvisionNetConfig):
    """ViT-B/16; the paper trains its head alone."""

    net: Literal["vit_b_16"] = "vit_b_16"  # pyright: ignore[reportIncompatibleVariableOverride]
    train_all: bool = False


def _build(config: TorchvisionNetConfig, n_classes: int, channels: int, size: int, rng: Rng) -> Classifier:
    """Return the network at initialisation.

    Raises:
        UsageError: the images are not RGB, or of a size that it does not read.
    """
    with seeded(rng.child("init")):
        network = BUILDERS[config.net](n_classes, channels, size)
    network.learning(config.train_all)
    return network


def _start(config: TorchvisionNetConfig, weights: Path) -> Path | None:
    """Return the weights that training starts from; None: at initialisation.

    Raises:
        DataError: they are not here, or not the published ones.
    """
    if config.init == "scratch":
        return None
    given = config.init if isinstance(config.init, Path) else None
    return require(config.net, given, weights, _SETTING, f", or train anew with --set {_SETTING}=scratch")


def _fit(
    config: TorchvisionNetConfig,
    network: Classifier,
    split: Split,
    rng: Rng,
    log: Log,
    start: Path | None,
    val: Split | None,
) -> None:
    """Fill the network with the weights to start from, and train it on labels.

    Raises:
        DataError: they do not fit.
    """
    assert isinstance(network, TorchvisionNet)
    if start is not None:
        take(network, start)
    fit(config, network, split, rng, log, val=val)


def _spec(config: type[TorchvisionNetConfig], source: str) -> ClassifierSpec:
    return ClassifierSpec(config=config, build=_build, fit=_fit, source=source, start=_start)


RESNET50 = _spec(ResNet50Config, "He et al. 2016; f of the VisCoIN paper; torchvision, ImageNet-1k")
RESNET101 = _spec(ResNet101Config, "He et al. 2016; VisCoIN paper, table 6; torchvision, ImageNet-1k")
SQUEEZENET = _spec(SqueezeNetConfig, "Iandola et al. 2016; torchvision, ImageNet-1k; small enough for a CPU")
VIT = _spec(ViTConfig, "Dosovitskiy et al. 2021; VisCoIN paper, table 7; torchvision, ImageNet-1k (paper: 21k)")
