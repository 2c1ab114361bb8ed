"""The low-pass filter [1, 3, 3, 1] of StyleGAN2 and the samplings around it, differentiable any number of times.

Karras et al. 2020 (StyleGAN2), appendix B: every change of resolution is filtered with the outer product of
[1, 3, 3, 1] / 8 with itself. The filter is symmetric, so each operation's gradient is another one of them: no autograd
of slices, which would fill zeros for every tap. On the CPU a depthwise convolution is the fastest form; elsewhere the
taps are a few additions, which a compiler fuses with what stands around them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

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
    return _Blur.apply(x, pad, gain)


def halve(x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C _h _w"]:
    """Filter and take every second pixel."""
    return _Halve.apply(x, 1.0)


def double(x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C _h _w"]:
    """Insert zeros between the pixels, filter, and keep the brightness."""
    return _Double.apply(x, 4.0)


class _Blur(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, pad: int, gain: float) -> Tensor:
        ctx.pad, ctx.gain = pad, gain
        if x.device.type == "cpu":
            return nn.functional.conv2d(x, _depthwise(x, gain), padding=pad, groups=x.shape[1])
        return _taps(nn.functional.pad(x, (pad,) * 4), 1) * (gain / 64)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return _Blur.apply(gradients[0], 3 - ctx.pad, ctx.gain), None, None


class _Halve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: float) -> Tensor:
        ctx.gain = gain
        if x.device.type == "cpu":
            return nn.functional.conv2d(x, _depthwise(x, gain), stride=2, padding=1, groups=x.shape[1])
        return _taps(nn.functional.pad(x, (1,) * 4), 2) * (gain / 64)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _Double.apply(gradients[0], ctx.gain), None


class _Double(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: float) -> Tensor:
        ctx.gain = gain
        # Images keep their type: autocast would round G's at every doubling.
        with torch.autocast(x.device.type, enabled=False):
            return nn.functional.conv_transpose2d(x, _depthwise(x, gain), stride=2, padding=1, groups=x.shape[1])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _Halve.apply(gradients[0], ctx.gain), None


def _depthwise(x: Tensor, gain: float) -> Tensor:
    return _scaled(gain, x.dtype, x.device).expand(x.shape[1], 1, 4, 4)


@lru_cache
def _scaled(gain: float, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "4 4"]:
    """Return the filter times `gain`; carried to a device once, since that waits for it."""
    return (gain * kernel()).to(device, dtype)


def _taps(x: Tensor, stride: int) -> Tensor:
    """Return the sum over both axes of x0 + 3 x1 + 3 x2 + x3 at every `stride`-th place."""
    for dim in (2, 3):
        count = (x.shape[dim] - 4) // stride + 1
        first, second, third, last = (
            x.narrow(dim, i, (count - 1) * stride + 1)[(slice(None),) * dim + (slice(None, None, stride),)]
            for i in range(4)
        )
        x = torch.add(first + last, second + third, alpha=3)
    return x
