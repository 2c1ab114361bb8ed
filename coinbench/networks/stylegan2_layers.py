"""What G and D of StyleGAN2 are made of, with the names and scales of the published checkpoints.

Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN"; equalised learning rate from Karras et al.
2018. Weights are stored with unit variance and scaled when used; the names of parameters and buffers are those of the
official checkpoints, so that a state dict loads by name.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coinbench.networks import fir

SLOPE = 0.2
"""Of the leaky rectifier."""
GAIN = math.sqrt(2)
"""After the rectifier, so that it keeps the variance."""


def normalise_second_moment(x: Float[Tensor, "B V"]) -> Float[Tensor, "B V"]:
    """Divide each row by the root of its mean square."""
    return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)


def rectify(x: Tensor, clamp: float | None = None) -> Tensor:
    """Apply the leaky rectifier, in place, to what its gain was multiplied with before, then cut to ± `clamp`.

    Large maps cost more to allocate than to compute: `x` is the caller's own and not needed again.
    """
    y = nn.functional.leaky_relu(x, SLOPE, inplace=True)
    if clamp is None:
        return y
    return y.clamp(-clamp, clamp) if y.requires_grad else y.clamp_(-clamp, clamp)


class FullyConnected(nn.Module):
    """A linear layer with equalised learning rate, optionally rectified."""

    def __init__(self, n_in: int, n_out: int, *, rectified: bool = False, rate: float = 1.0, bias: float = 0.0) -> None:
        """Make the layer; `rate` multiplies its learning rate, `bias` is the first value of all biases."""
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_out, n_in) / rate)
        self.bias = nn.Parameter(torch.full((n_out,), float(bias)))
        self.rectified = rectified
        self.scale = rate / math.sqrt(n_in)
        self.rate = rate

    def forward(self, x: Float[Tensor, "B _i"]) -> Float[Tensor, "B _o"]:
        """Apply the layer."""
        gain = GAIN if self.rectified else 1.0
        y = torch.addmm(self.bias * (self.rate * gain), x, self.weight.t(), alpha=self.scale * gain)
        return rectify(y) if self.rectified else y


class Filtered(nn.Module):
    """A module that carries the filter as the buffer `resample_filter`, where the checkpoints have it."""

    resample_filter: Tensor

    def __init__(self) -> None:
        """Register the filter."""
        super().__init__()
        self.register_buffer("resample_filter", fir.kernel())


class Convolution(Filtered):
    """A convolution of D with equalised learning rate: k x k, optionally halving the resolution."""

    def __init__(
        self,
        c_in: int,
        c_out: int,
        size: int,
        *,
        bias: bool = True,
        rectified: bool = True,
        down: bool = False,
        clamp: float | None = None,
    ) -> None:
        """Make the layer."""
        super().__init__()
        self.weight = nn.Parameter(torch.randn(c_out, c_in, size, size))
        self.bias = nn.Parameter(torch.zeros(c_out)) if bias else None
        self.scale = 1 / math.sqrt(c_in * size**2)
        self.rectified, self.down, self.clamp = rectified, down, clamp

    def forward(self, x: Float[Tensor, "B _i H W"], gain: float = 1.0) -> Float[Tensor, "B _o _h _w"]:
        """Apply the layer; `gain` scales what comes out, and its bounds."""
        # What multiplies the output, but for the clamp, is cheaper on the weights: rectifier and scale commute.
        total = gain * GAIN if self.rectified else gain
        weight = (self.weight * (self.scale * total)).to(x.dtype)
        bias = None if self.bias is None else (self.bias * total).to(x.dtype)
        size = weight.shape[2]
        if not self.down:
            y = nn.functional.conv2d(x, weight, bias, padding=size // 2)
        elif size == 1:
            y = nn.functional.conv2d(fir.halve(x), weight, bias)
        else:
            y = nn.functional.conv2d(fir.blur(x, 2), weight, bias, stride=2)
        return rectify(y, None if self.clamp is None else self.clamp * gain) if self.rectified else y


class Modulated(nn.Module):
    """What the convolutions of G share: a style per input channel, and weights whose squares demodulate."""

    squared: Tensor | None

    def __init__(self, c_in: int, c_out: int, size: int, w_dim: int) -> None:
        """Make style layer and weights."""
        super().__init__()
        self.affine = FullyConnected(w_dim, c_in, bias=1.0)
        self.weight = nn.Parameter(torch.randn(c_out, c_in, size, size))
        self.bias = nn.Parameter(torch.zeros(c_out))
        # Of frozen weights, computed once; no entry of the state dict.
        self.register_buffer("squared", None, persistent=False)
        self.register_load_state_dict_post_hook(lambda module, _: module.thaw())

    def freeze(self) -> None:
        """Keep the squares of the weights, which no longer change."""
        self.squared = self._squares().detach()

    def thaw(self) -> None:
        """Forget them."""
        self.squared = None

    def demodulation(self, style: Float[Tensor, "B _i"]) -> Float[Tensor, "B _o"]:
        """Return d = (Σ_ikk (s_i W_oikk)² + 1e-8)^-½ (StyleGAN2, eq. 3), without making W per sample."""
        squared = self._squares() if self.squared is None else self.squared
        return torch.rsqrt(style.square() @ squared.t() + 1e-8)

    def _squares(self) -> Tensor:
        return self.weight.square().sum((2, 3))
