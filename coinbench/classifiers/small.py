"""Small classifiers, trained from scratch in a minute: a residual network, and LeNet for grey images."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from coinbench.classifiers.labels import fit
from coinbench.config import ClassifierConfig
from coinbench.models import Classifier
from coinbench.networks.lenet import LeNet
from coinbench.networks.resnet import ResNet
from coinbench.rng import Rng, seeded
from coinbench.specs import ClassifierSpec


class SmallConfig(ClassifierConfig):
    """A small f."""

    width: int = Field(default=16, ge=4, le=256)
    """Channels of the first block; each later one doubles them."""
    resolution: int = Field(default=32, ge=4, le=1024)
    """Block 1 of the ResNet works at so many to twice as many pixels a side."""


class ResNetConfig(SmallConfig):
    """A residual network of four blocks."""

    net: Literal["resnet"] = "resnet"  # pyright: ignore[reportIncompatibleVariableOverride]


class LeNetConfig(SmallConfig):
    """LeNet."""

    net: Literal["lenet"] = "lenet"  # pyright: ignore[reportIncompatibleVariableOverride]


def _resnet(config: ResNetConfig, n_classes: int, channels: int, size: int, rng: Rng) -> Classifier:
    with seeded(rng.child("init")):
        return ResNet(n_classes, channels, size, config.width, config.resolution)


def _lenet(config: LeNetConfig, n_classes: int, channels: int, size: int, rng: Rng) -> Classifier:
    with seeded(rng.child("init")):
        return LeNet(n_classes, channels, config.width)


RESNET = ClassifierSpec(
    config=ResNetConfig,
    build=_resnet,
    fit=fit,
    source="small residual network (He et al. 2016) with the paper's three taps, for 16 to 128 pixels",
)
LENET = ClassifierSpec(
    config=LeNetConfig,
    build=_lenet,
    fit=fit,
    source="LeCun et al. 1998; f of the VisCoIN paper's FashionMNIST experiment (table 5)",
)
