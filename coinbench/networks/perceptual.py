"""p: a perceptual net and the distance between two images under it; the one here never sees a class.

A small convolutional stack at initialisation is a usable, class-free feature space (docs/metrics.md 4); where the parts
of the images are known it can be trained on them instead (coinbench/parts.py). The distance follows LPIPS's form
(Zhang et al. 2018, eq. 1) with all channels weighted alike. It is not LPIPS, and no number computed with it carries
that name.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coinbench.models import Answering, check_images
from coinbench.rng import Rng


class Perceptual(Answering, ABC):
    """What a perceptual net offers: feature maps of images in [-1, 1], and a distance between those of two images."""

    channels: int
    """Image channels C."""
    origin: str
    """What kind of p it is; part of the protocol of each distance in its features."""

    @abstractmethod
    def forward(self, images: Float[Tensor, "B C H W"]) -> tuple[Tensor, ...]:
        """Return feature maps [B, c, h, w], from shallow to deep."""

    @abstractmethod
    def distance(self, a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> Float[Tensor, "B"]:
        """Return the distance of each pair; of one image against many, its maps serve for all."""


class PerceptualNet(Perceptual):
    """Four convolutions, all but the first with stride 2; features after each; frozen."""

    def __init__(self, channels: int, width: int, rng: Rng) -> None:
        """Draw the weights from `rng` (He initialisation)."""
        super().__init__()
        self.channels = channels
        self.origin = "p with random weights"
        widths = [channels, width, 2 * width, 4 * width, 4 * width]
        self.stages = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=1 if i == 0 else 2, padding=1) for i, (a, b) in enumerate(pairwise(widths))
        )
        generator = rng.torch()
        for stage in self.stages:
            assert isinstance(stage, nn.Conv2d)
            assert stage.bias is not None
            fan_in = stage.weight[0].numel()
            stage.weight.data.normal_(std=(2 / fan_in) ** 0.5, generator=generator)
            # Without offsets a ReLU stack is nearly scale-equivariant and blind to brightness.
            stage.bias.data.normal_(std=0.1, generator=generator)
        self.requires_grad_(False)

    def forward(self, images: Float[Tensor, "B C H W"]) -> tuple[Tensor, ...]:
        """Return the four feature maps [B, c, h, w]."""
        check_images(images, self.channels, "the perceptual net p")
        maps = []
        x = images
        for stage in self.stages:
            x = torch.relu(stage(x))
            maps.append(x)
        return tuple(maps)

    def distance(self, a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> Float[Tensor, "B"]:
        """Return `perceptual_distance`."""
        return perceptual_distance(a, b)


def perceptual_distance(a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> Float[Tensor, "B"]:
    """Return the distance of each pair: squared difference of channel-normalised features, mean over space.

    >>> maps = (torch.tensor([[[[1.0]], [[0.0]]]]),)
    >>> other = (torch.tensor([[[[0.0]], [[2.0]]]]),)
    >>> perceptual_distance(maps, other)
    tensor([2.])
    """
    total = torch.zeros(())
    for x, y in zip(a, b, strict=True):
        difference = nn.functional.normalize(x, dim=1) - nn.functional.normalize(y, dim=1)
        total = total + difference.square().sum(1).mean((1, 2))
    return total
