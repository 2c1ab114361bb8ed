"""G and D of StyleGAN2 recomputed plainly in float64: every layer from its definition, image by image.

"Within 1e-5" is relative to the largest absolute value of an image (G) or of a logit, where that is above 1 (D).
"""

from __future__ import annotations

import math

import pytest
import torch
from test_stylegan2 import filtered
from torch import Tensor, nn

from coinbench.networks import fir
from coinbench.networks.stylegan2 import StyleGAN2
from coinbench.networks.stylegan2_discriminator import Discriminator
from coinbench.rng import Rng, seeded

State = dict[str, Tensor]
ROOT = math.sqrt(2)


def rectified(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.2 * x) * ROOT


def affine(state: State, name: str, w: Tensor) -> Tensor:
    """A fully connected layer with equalised rate, without rectifier."""
    weight = state[f"{name}.weight"]
    return weight @ w / math.sqrt(len(w)) + state[f"{name}.bias"]


def convolved(state: State, name: str, x: Tensor, w: Tensor, up: bool) -> Tensor:
    """A layer of G for one image: weights modulated and demodulated, noise, bias, rectifier."""
    weight = state[f"{name}.weight"] * affine(state, f"{name}.affine", w)[:, None, None]
    weight = weight / (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).sqrt()
    if up:
        # The filter is applied to the output of a transposed convolution of stride 2.
        y = filtered(nn.functional.conv_transpose2d(x, weight.transpose(0, 1), stride=2), (1, 1), gain=4)
    else:
        y = nn.functional.conv2d(x, weight, padding=1)
    y = y + state[f"{name}.noise_const"] * state[f"{name}.noise_strength"]
    return rectified(y + state[f"{name}.bias"][:, None, None])


def drawn(state: State, size: int, depth: int, z: Tensor) -> Tensor:
    """The image of one z."""
    w = z / (z.square().mean() + 1e-8).sqrt()
    for i in range(depth):
        scale = 0.01 / math.sqrt(len(w))
        w = rectified(state[f"mapping.fc{i}.weight"] @ w * scale + 0.01 * state[f"mapping.fc{i}.bias"])
    image, x, side = torch.zeros(1, 3, 4, 4, dtype=z.dtype), state["synthesis.b4.const"][None], 4
    while side <= size:
        block = f"synthesis.b{side}"
        if side > 4:
            x = convolved(state, f"{block}.conv0", x, w, up=True)
            image = filtered(image, (2, 1), up=2, gain=4)
        x = convolved(state, f"{block}.conv1", x, w, up=False)
        style = affine(state, f"{block}.torgb.affine", w) / math.sqrt(x.shape[1])
        weight = state[f"{block}.torgb.weight"] * style[:, None, None]
        image = image + nn.functional.conv2d(x, weight) + state[f"{block}.torgb.bias"][:, None, None]
        side *= 2
    return image


def judged(state: State, size: int, images: Tensor) -> Tensor:
    """The logits of a batch that forms one group of the minibatch deviation."""

    def layer(name: str, x: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
        weight = state[f"{name}.weight"]
        y = nn.functional.conv2d(x, weight / math.sqrt(weight[0].numel()), stride=stride, padding=padding)
        return y + state[f"{name}.bias"][:, None, None] if f"{name}.bias" in state else y

    x, side = rectified(layer(f"b{size}.fromrgb", images)), size
    while side > 4:
        skip = layer(f"b{side}.skip", filtered(x, (1, 1), down=2))
        y = rectified(layer(f"b{side}.conv0", x, padding=1))
        y = rectified(layer(f"b{side}.conv1", filtered(y, (2, 2)), stride=2))
        x, side = (skip + y) * math.sqrt(0.5), side // 2
    deviation = (x.var(0, correction=0) + 1e-8).sqrt().mean()
    x = torch.cat([x, deviation.expand(len(x), 1, 4, 4)], 1)
    x = rectified(layer("b4.conv", x, padding=1)).flatten(1)
    x = rectified(x @ state["b4.fc.weight"].t() / math.sqrt(x.shape[1]) + state["b4.fc.bias"])
    return (x @ state["b4.out.weight"].t() / math.sqrt(x.shape[1]) + state["b4.out.bias"])[:, 0]


@pytest.mark.parametrize("size", [16, 32, 64])
def test_g_in_single_precision_is_within_1e5th_of_its_range_of_a_recomputation_in_double(size: int) -> None:
    with seeded(Rng(size)):
        network = StyleGAN2(size=size, z_dim=12, w_dim=10, depth=3, base=16 * size, most=24, clamp=None)
        for name, parameter in network.named_parameters():
            if name.endswith(("bias", "noise_strength")) and "affine" not in name:
                parameter.data.normal_(std=0.3)
        z = torch.randn(3, 12)
    state = {name: value.double() for name, value in network.state_dict().items()}
    with torch.no_grad():
        found = network(z)
        network.freeze()
        frozen = network(z)
    expected = torch.cat([drawn(state, size, 3, one) for one in z.double()])
    # Rounding grows with the range of an image.
    scale = expected.abs().max()
    assert (found - expected).abs().max() < 1e-5 * scale
    assert (frozen - expected).abs().max() < 1e-5 * scale


@pytest.mark.parametrize("size", [16, 32, 64])
def test_d_in_single_precision_is_a_plain_recomputation_in_double(size: int) -> None:
    with seeded(Rng(size)):
        network = Discriminator(size=size, base=16 * size, most=24, group=4, clamp=None)
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                parameter.data.normal_(std=0.3)
        images = torch.rand(4, 3, size, size) * 2 - 1
    state = {name: value.double() for name, value in network.state_dict().items()}
    with torch.no_grad():
        found = network(images)
    expected = judged(state, size, images.double())
    assert (found - expected).abs().max() < 1e-5 * max(1.0, float(expected.abs().max()))


@pytest.mark.parametrize("stride", [1, 2])
def test_the_taps_that_a_gpu_adds_up_are_the_filter(stride: int) -> None:
    x = torch.randn(2, 3, 9, 11, dtype=torch.float64)
    expected = filtered(x, (1, 1), down=stride)
    torch.testing.assert_close(fir._taps(nn.functional.pad(x, (1,) * 4), stride) / 64, expected)
