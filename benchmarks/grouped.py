"""StyleGAN2's synthesis the straightforward way: weights of every sample, one grouped convolution for the batch.

What StyleGAN2's paper describes (section 2.2) and most re-implementations do; the same numbers as coinbench's network,
which it takes the parameters from.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coinbench.networks import fir
from coinbench.networks.stylegan2 import Synthesis, SynthesisLayer, ToRGB


def synthesise(network: Synthesis, w: Float[Tensor, "B L V"]) -> Float[Tensor, "B C H W"]:
    """Draw images with constant noise."""
    rows, x, image = list(w.unbind(1)), None, None
    for i, side in enumerate(network.sides):
        block = getattr(network, f"b{side}")
        here = rows[max(2 * i - 1, 0) : 2 * i + 2]
        x = block.const.expand(len(w), -1, -1, -1) if x is None else _layer(block.conv0, x, here[-3])
        x = _layer(block.conv1, x, here[-2])
        rgb = _to_rgb(block.torgb, x, here[-1])
        image = rgb if image is None else fir.double(image) + rgb
    assert image is not None
    return image


def _layer(layer: SynthesisLayer, x: Tensor, w: Tensor) -> Tensor:
    n, c_out = len(x), len(layer.weight)
    weight = layer.weight[None] * layer.affine(w)[:, None, :, None, None]
    weight = weight * torch.rsqrt(weight.square().sum((2, 3, 4), keepdim=True) + 1e-8)
    x = x.reshape(1, -1, *x.shape[2:])
    if layer.up:
        turned = weight.transpose(1, 2).reshape(-1, c_out, 3, 3)
        x = nn.functional.conv_transpose2d(x, turned, stride=2, groups=n)
        taps = (4 * fir.kernel()).to(x).expand(x.shape[1], 1, 4, 4)
        x = nn.functional.conv2d(nn.functional.pad(x, (1,) * 4), taps, groups=x.shape[1])
    else:
        x = nn.functional.conv2d(x, weight.flatten(0, 1), padding=1, groups=n)
    x = x.reshape(n, c_out, *x.shape[2:])
    x = x + layer.noise_const * layer.noise_strength + layer.bias[:, None, None]
    x = nn.functional.leaky_relu(x, 0.2) * math.sqrt(2)
    return x if layer.clamp is None else x.clamp(-layer.clamp, layer.clamp)


def _to_rgb(layer: ToRGB, x: Tensor, w: Tensor) -> Tensor:
    n, channels = len(x), len(layer.weight)
    weight = layer.weight[None] * (layer.affine(w) * layer.scale)[:, None, :, None, None]
    y = nn.functional.conv2d(x.reshape(1, -1, *x.shape[2:]), weight.flatten(0, 1), groups=n)
    return y.reshape(n, channels, *y.shape[2:]) + layer.bias[:, None, None]
