"""The low-pass filter [1, 3, 3, 1] of StyleGAN2 as a few fused additions, and the samplings around it.

Karras et al. 2020 (StyleGAN2), appendix B: every change of resolution is filtered with the outer product of
[1, 3, 3, 1] / 8 with itself. Its taps are so simple that three additions an axis do; a depthwise convolution of the
same values is slower on CPU and GPU, and no custom kernel is needed.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

TAPS = (1.0, 3.0, 3.0, 1.0)


def kernel() -> Float[Tensor, "4 4"]:
    """Return the 2-D filter; its entries sum to 1.

    >>> float(kernel().sum()), float(kernel()[0, 1])
    (1.0, 0.046875)
    """
    taps = torch.tensor(TAPS) / sum(TAPS)
    return taps[:, None] * taps


def blur(x: Float[Tensor, "B C H W"], pad: int, gain: float = 1.0) -> Float[Tensor, "B C _h _w"]:
    """Filter images padded with `pad` zeros on each side, times `gain`; a side of n becomes n + 2 pad - 3."""
    y = _axis(_axis(nn.functional.pad(x, (pad,) * 4), 2, 1), 3, 1)
    return y * (gain / 64)


def halve(x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C _h _w"]:
    """Filter and take every second pixel."""
    return _axis(_axis(nn.functional.pad(x, (1,) * 4), 2, 2), 3, 2) / 64


def double(x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C _h _w"]:
    """Insert zeros between the pixels, filter, and keep the brightness."""
    channels = x.shape[1]
    weight = (4 * kernel()).to(x).expand(channels, 1, 4, 4)
    return nn.functional.conv_transpose2d(x, weight, stride=2, padding=1, groups=channels)


def _axis(x: Tensor, dim: int, stride: int) -> Tensor:
    """Return x0 + 3 x1 + 3 x2 + x3 at every `stride`-th place along `dim`."""
    count = (x.shape[dim] - 4) // stride + 1
    first, second, third, last = (
        x.narrow(dim, i, (count - 1) * stride + 1)[(slice(None),) * dim + (slice(None, None, stride),)]
        for i in range(4)
    )
    return torch.add(first + last, second + third, alpha=3)
