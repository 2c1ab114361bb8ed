"""The discriminator of StyleGAN2 (residual architecture).

Karras et al. 2020 (StyleGAN2), section 4; minibatch standard deviation from Karras et al. 2018. State dicts of the
published D load by name.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coinbench.networks.stylegan2 import Mapping, channels_at, resolutions
from coinbench.networks.stylegan2_layers import Convolution, Filtered, FullyConnected

_HALF = math.sqrt(0.5)
"""Gain of both branches of a residual block, so that their sum keeps the variance."""


class DiscriminatorBlock(Filtered):
    """Two convolutions to half the resolution, around a shortcut."""

    def __init__(self, c_in: int, c_mid: int, c_out: int, clamp: float | None, image: int) -> None:
        """Make the block; `image` is the number of image channels for the first one, else 0."""
        super().__init__()
        if image:
            self.fromrgb = Convolution(image, c_mid, 1, clamp=clamp)
        self.conv0 = Convolution(c_in, c_mid, 3, clamp=clamp)
        self.conv1 = Convolution(c_mid, c_out, 3, down=True, clamp=clamp)
        self.skip = Convolution(c_in, c_out, 1, bias=False, rectified=False, down=True)

    def forward(self, x: Float[Tensor, "B _i H W"]) -> Float[Tensor, "B _o _h _w"]:
        """Apply the block; the first one reads images."""
        if hasattr(self, "fromrgb"):
            x = self.fromrgb(x)
        return self.skip(x, _HALF) + self.conv1(self.conv0(x), _HALF)


def minibatch_deviation(x: Float[Tensor, "B C H W"], group: int) -> Float[Tensor, "B 1 H W"]:
    """Return the minibatch standard deviation of each group of images, the same at every pixel.

    Images i, i + n/G, i + 2n/G, ... of a batch of n form a group of G.

    Raises:
        ValueError: the batch does not divide into such groups.

    >>> x = torch.tensor([0.0, 0.0, 2.0, 4.0]).reshape(4, 1, 1, 1)
    >>> minibatch_deviation(x, 2).flatten().round(decimals=3).tolist()
    [1.0, 2.0, 1.0, 2.0]
    """
    n, _, h, w = x.shape
    size = min(group, n)
    if n % size:
        raise ValueError(f"a batch of {n} does not divide into groups of {size} for the minibatch deviation")
    deviation = (x.unflatten(0, (size, -1)).var(0, correction=0) + 1e-8).sqrt().mean((1, 2, 3))
    return deviation.repeat(size)[:, None, None, None].expand(n, 1, h, w)


class Epilogue(nn.Module):
    """The block of 4 pixels: minibatch deviation, one convolution, two fully connected layers."""

    def __init__(self, width: int, n_out: int, group: int, clamp: float | None) -> None:
        """Make the block."""
        super().__init__()
        self.group = group
        self.conv = Convolution(width + 1, width, 3, clamp=clamp)
        self.fc = FullyConnected(width * 4 * 4, width, rectified=True)
        self.out = FullyConnected(width, n_out)

    def forward(self, x: Float[Tensor, "B C 4 4"]) -> Float[Tensor, "B _o"]:
        """Return logits, or what is multiplied with the embedded label."""
        x = self.conv(torch.cat([x, minibatch_deviation(x, self.group)], 1))
        return self.out(self.fc(x.flatten(1)))


class Discriminator(nn.Module):
    """D: images to logits, positive for real ones."""

    def __init__(
        self,
        *,
        size: int,
        channels: int = 3,
        c_dim: int = 0,
        base: int = 32768,
        most: int = 512,
        group: int = 4,
        clamp: float | None = 256.0,
        frozen: int = 0,
    ) -> None:
        """Make D at initialisation.

        Args:
            size: pixels a side, a power of two from 16 to 1024.
            channels: of the image.
            c_dim: classes of a conditional D; 0 for none.
            base: channels at resolution r are min(base / r, most).
            most: largest number of channels.
            group: images behind one minibatch deviation.
            clamp: bound of activations, None for none.
            frozen: so many first layers do not learn (Freeze-D, Mo et al. 2020).
        """
        super().__init__()
        self.size, self.channels, self.c_dim = size, channels, c_dim
        self.sides = resolutions(size)[:0:-1]
        width = {side: channels_at(side, base, most) for side in (4, *self.sides)}
        for side in self.sides:
            first = side == size
            block = DiscriminatorBlock(width[side], width[side], width[side // 2], clamp, channels if first else 0)
            setattr(self, f"b{side}", block)
        self.b4 = Epilogue(width[4], width[4] if c_dim else 1, group, clamp)
        if c_dim:
            self.mapping = Mapping(0, c_dim, width[4], 8, average=False)
        self._freeze(frozen)
        self._low: torch.dtype | None = None

    def lower(self, low: torch.dtype | None) -> None:
        """Let activations of the four largest blocks be of type `low`; None: of that of the images."""
        self._low = low

    def _freeze(self, count: int) -> None:
        layers = [part for part in self.modules() if isinstance(part, Convolution)]
        for layer in layers[:count]:
            layer.requires_grad_(False)

    def forward(self, images: Float[Tensor, "B C H W"], c: Float[Tensor, "B Y"] | None = None) -> Float[Tensor, "B"]:
        """Return a logit for each image (with its label)."""
        x = images
        for side in self.sides:
            low = self._low is not None and side in self.sides[:4] and side >= 8
            x = getattr(self, f"b{side}")(x.to(self._low if low else images.dtype))
        logits = self.b4(x.to(images.dtype))
        if self.c_dim:
            label = self.mapping(None, c)
            return (logits * label).sum(1) / math.sqrt(label.shape[1])
        return logits[:, 0]
