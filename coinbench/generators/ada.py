"""Adaptive discriminator augmentation: the pipeline bgc (pixel blitting, geometry, colour) and the controller of p.

Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data", appendix B (transformations, their
order and distributions) and section 3 (controller). Each transformation is drawn with probability p for each image;
they are matrices, multiplied and then executed once: geometry between an up- and a downsampling with the wavelet filter
sym6, colour as one affine map of the channels. Differentiable twice, as R1 needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

SYM6 = (
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
)
"""Daubechies' symlet with six vanishing moments: orthonormal to its even shifts."""
_REACH = len(SYM6) // 4
"""Pixels that the filter reaches beyond an edge, at the image's own resolution."""
_DELAY = sum(k * tap for k, tap in enumerate(SYM6)) / sum(SYM6) - (len(SYM6) - 1) / 2
"""Fine pixels by which the filter, which is not symmetric, moves a picture (published code: -0.5, about that)."""
_LUMA = torch.tensor([1.0, 1.0, 1.0]) / math.sqrt(3)
"""The axis of grey."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Strengths:
    """How often each group is drawn, as a multiple of p."""

    flip: float = 1.0
    """Mirroring (Cars of the VisCoIN paper: 0.1)."""
    blit: float = 1.0
    """Turns by 90 degrees, shifts by whole pixels."""
    geometry: float = 1.0
    """Scaling, rotation, stretching, shifts by fractions."""
    colour: float = 1.0
    """Brightness, contrast, luma flip, hue, saturation."""


class _Dice:
    """Draws for a batch, on the generator's device; what is not drawn keeps its neutral value."""

    def __init__(self, n: int, generator: torch.Generator) -> None:
        self.n, self.generator, self.device = n, generator, generator.device

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(self.n, *shape, generator=self.generator, device=self.device)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(self.n, *shape, generator=self.generator, device=self.device)

    def sometimes(self, probability: Tensor | float, value: Tensor, neutral: float) -> Tensor:
        drawn = self.uniform() < probability
        return torch.where(drawn.reshape(-1, *[1] * (value.ndim - 1)), value, torch.full_like(value, neutral))


def augment(
    images: Float[Tensor, "B C H W"], p: float, dice: torch.Generator, strengths: Strengths | None = None
) -> Float[Tensor, "B C H W"]:
    """Transform each image at random; differentiable twice in the images.

    Args:
        images: in [-1, 1]; 1 or 3 channels; square for turns by 90 degrees to keep their shape.
        p: probability of each transformation, before `strengths`.
        dice: of all draws; on the CPU for images elsewhere too: matrices of a few numbers are made faster there, and
            how far they reach is known without waiting for the device.
        strengths: default: all 1.
    """
    if p <= 0:
        return images
    given = strengths or Strengths()
    draws = _Dice(len(images), dice)
    inverse = geometry(draws, p, images.shape[2], images.shape[3], given).to(images.dtype)
    colours = colour(draws, p * given.colour).to(images.dtype)
    if images.device.type != "cpu":
        return recolour(warp(images, inverse), _carried(colours, images))
    # While p is small most images stay where they are; elsewhere to ask which would wait for the device.
    moved = (inverse != torch.eye(3)).any(2).any(1).nonzero()[:, 0]
    if len(moved):
        images = images.index_copy(0, moved, warp(images[moved], inverse[moved]))
    return recolour(images, colours)


def geometry(draws: _Dice, p: float, height: int, width: int, given: Strengths) -> Float[Tensor, "B 3 3"]:
    """Return the map from each output position to the input position it shows, in pixels from the image's centre."""
    sometimes, uniform, normal = draws.sometimes, draws.uniform, draws.normal
    flip = sometimes(p * given.flip, (uniform() * 2).floor(), 0.0)
    inverse = scaling(1 - 2 * flip, torch.ones_like(flip))
    quarters = sometimes(p * given.blit, (uniform() * 4).floor(), 0.0)
    inverse = inverse @ rotation(quarters * (math.pi / 2))
    whole = sometimes(p * given.blit, (uniform(2) * 2 - 1) * 0.125, 0.0)
    inverse = inverse @ translation(-(whole[:, 0] * width).round(), -(whole[:, 1] * height).round())
    size = sometimes(p * given.geometry, torch.exp2(normal() * 0.2), 1.0)
    inverse = inverse @ scaling(1 / size, 1 / size)
    # One rotation before and one after the stretching, together with probability p.
    half = 1 - math.sqrt(max(0.0, 1 - min(1.0, p * given.geometry)))
    inverse = inverse @ rotation(sometimes(half, (uniform() * 2 - 1) * math.pi, 0.0))
    stretch = sometimes(p * given.geometry, torch.exp2(normal() * 0.2), 1.0)
    inverse = inverse @ scaling(1 / stretch, stretch)
    inverse = inverse @ rotation(sometimes(half, (uniform() * 2 - 1) * math.pi, 0.0))
    part = sometimes(p * given.geometry, normal(2) * 0.125, 0.0)
    return inverse @ translation(-part[:, 0] * width, -part[:, 1] * height)


def colour(draws: _Dice, p: float) -> Float[Tensor, "B 4 4"]:
    """Return the affine map of red, green, blue and 1."""
    sometimes, uniform, normal = draws.sometimes, draws.uniform, draws.normal
    luma = _LUMA.to(draws.device)
    eye = torch.eye(4, device=draws.device)
    grey = torch.zeros(4, 4, device=draws.device)
    grey[:3, :3] = torch.outer(luma, luma)
    brighter = sometimes(p, normal() * 0.2, 0.0)
    shift = eye.repeat(draws.n, 1, 1)
    shift[:, :3, 3] = brighter[:, None]
    contrast = sometimes(p, torch.exp2(normal() * 0.5), 1.0)
    matrix = _channels(contrast) @ shift
    flipped = sometimes(p, (uniform() * 2).floor(), 0.0)
    matrix = (eye - 2 * grey * flipped[:, None, None]) @ matrix
    matrix = hue(sometimes(p, (uniform() * 2 - 1) * math.pi, 0.0)) @ matrix
    saturation = sometimes(p, torch.exp2(normal()), 1.0)
    return (grey + (eye - grey) * _with_one(saturation)) @ matrix


def hue(angle: Float[Tensor, "B"]) -> Float[Tensor, "B 4 4"]:
    """Return the rotation of colours about the axis of grey (Rodrigues)."""
    x, y, z = _LUMA.tolist()
    cross = torch.tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]], device=angle.device)
    sin, cos = angle.sin()[:, None, None], angle.cos()[:, None, None]
    turned = torch.eye(4, device=angle.device).repeat(len(angle), 1, 1)
    turned[:, :3, :3] += sin * cross + (1 - cos) * (cross @ cross)
    return turned


def _channels(factor: Tensor) -> Tensor:
    return torch.diag_embed(torch.stack([factor, factor, factor, torch.ones_like(factor)], 1))


def _with_one(factor: Tensor) -> Tensor:
    """Scale three rows, not the fourth."""
    return torch.stack([factor, factor, factor, torch.ones_like(factor)], 1)[:, :, None]


def scaling(x: Float[Tensor, "B"], y: Float[Tensor, "B"]) -> Float[Tensor, "B 3 3"]:
    """Return diag(x, y, 1) of each row."""
    return torch.diag_embed(torch.stack([x, y, torch.ones_like(x)], 1))


def translation(x: Float[Tensor, "B"], y: Float[Tensor, "B"]) -> Float[Tensor, "B 3 3"]:
    """Return the shift by (x, y) of each row."""
    matrix = torch.eye(3, dtype=x.dtype, device=x.device).repeat(len(x), 1, 1)
    matrix[:, 0, 2], matrix[:, 1, 2] = x, y
    return matrix


def rotation(angle: Float[Tensor, "B"]) -> Float[Tensor, "B 3 3"]:
    """Return the rotation of each row, from x towards y."""
    sin, cos = angle.sin(), angle.cos()
    matrix = torch.eye(3, dtype=angle.dtype, device=angle.device).repeat(len(angle), 1, 1)
    matrix[:, 0, 0], matrix[:, 0, 1], matrix[:, 1, 0], matrix[:, 1, 1] = cos, -sin, sin, cos
    return matrix


def recolour(images: Float[Tensor, "B C H W"], matrix: Float[Tensor, "B 4 4"]) -> Float[Tensor, "B C H W"]:
    """Apply colour maps; a grey image gets their mean over red, green and blue.

    Raises:
        ValueError: the images have neither 1 nor 3 channels.
    """
    linear, shift = matrix[:, :3, :3], matrix[:, :3, 3, None, None]
    if images.shape[1] == 3:
        return torch.einsum("bij,bjhw->bihw", linear, images) + shift
    if images.shape[1] == 1:
        return images * linear.sum(2).mean(1)[:, None, None, None] + shift.mean(1, keepdim=True)
    raise ValueError(f"augmentation of colours needs 1 or 3 channels, got {images.shape[1]}")


def warp(images: Float[Tensor, "B C H W"], inverse: Float[Tensor, "B 3 3"]) -> Float[Tensor, "B C H W"]:
    """Show at each output position what lies at `inverse` of it in the input, mirrored beyond its edges.

    Args:
        images: any number of channels.
        inverse: output to input position, in pixels from the centre, x before y; also on the CPU.
    """
    height, width = images.shape[2:]
    centre = torch.tensor([(width - 1) / 2, (height - 1) / 2], dtype=inverse.dtype, device=inverse.device)
    signs = centre.new_tensor([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    corners = torch.cat([signs * centre, torch.ones_like(signs[:, :1])], 1)
    seen = (inverse @ corners.t())[:, :2]
    # As much border as the corners of the whole batch see, and the filter reaches.
    beyond = torch.stack([(-seen).amax((0, 2)), seen.amax((0, 2))]) - centre + 2 * _REACH
    most = centre.new_tensor([width - 1, height - 1])
    (x0, y0), (x1, y1) = beyond.clamp(min=0).minimum(most).ceil().int().tolist()
    x = _finer(images, height, y0, y1) @ images @ _finer(images, width, x0, x1).t()
    n = len(images)

    def constant(make: Callable[[Tensor, Tensor], Tensor], a: float, b: float) -> Tensor:
        return make(inverse.new_full((n,), a), inverse.new_full((n,), b))

    moved = constant(translation, (x0 - x1) / 2, (y0 - y1) / 2) @ inverse
    # The finer grid, where the picture lies beside its place until downsampling moves it back.
    fine = constant(translation, _DELAY, _DELAY) @ constant(scaling, 2.0, 2.0) @ moved
    fine = fine @ constant(scaling, 0.5, 0.5) @ constant(translation, -_DELAY, -_DELAY)
    tall, wide = (height + 2 * _REACH) * 2, (width + 2 * _REACH) * 2
    unit = constant(scaling, 2 / x.shape[3], 2 / x.shape[2]) @ fine @ constant(scaling, wide / 2, tall / 2)
    grid = nn.functional.affine_grid(
        _carried(unit[:, :2], images), [n, images.shape[1], tall, wide], align_corners=False
    )
    sampled = _GridSample.apply(x, grid)
    return _coarser(images, height) @ sampled @ _coarser(images, width).t()


def _carried(matrices: Tensor, like: Tensor) -> Tensor:
    """Return matrices on the device of `like`; from the CPU without waiting for what that device does now."""
    if matrices.device == like.device:
        return matrices
    return matrices.contiguous().pin_memory().to(like.device, non_blocking=True)


def _finer(like: Tensor, n: int, before: int, after: int) -> Float[Tensor, "_fine n"]:
    """Return what mirrors an axis of n pixels beyond its ends, inserts zeros and filters: twice the resolution.

    A matrix an axis: one product on every device, and torch knows both of its derivatives.
    """
    eye = torch.eye(n, dtype=like.dtype, device=like.device)[:, None]
    padded = nn.functional.pad(eye, (before, after), mode="reflect")
    return nn.functional.conv_transpose1d(padded, 2 * _filter(like.dtype, like.device), stride=2, padding=5)[:, 0].t()


def _coarser(like: Tensor, n: int) -> Float[Tensor, "n _fine"]:
    """Return what filters with the mirrored filter, takes every second pixel and cuts what only served the filter."""
    eye = torch.eye(2 * (n + 2 * _REACH), dtype=like.dtype, device=like.device)[:, None]
    return nn.functional.conv1d(eye[..., 1:-1], _filter(like.dtype, like.device), stride=2)[:, 0].t()


@lru_cache
def _filter(dtype: torch.dtype, device: torch.device) -> Float[Tensor, "1 1 taps"]:
    """Return the filter; carried to a device once, since that waits for it."""
    return (torch.tensor(SYM6, dtype=dtype, device=device) / math.sqrt(2))[None, None]


class _GridSample(torch.autograd.Function):
    """grid_sample (bilinear, zeros, corners not aligned) that is differentiable twice in the image.

    torch 2.11 has no derivative of its backward pass. That pass is linear in the gradient, and its transpose is
    grid_sample itself.
    """

    @staticmethod
    def forward(ctx: Any, image: Tensor, grid: Tensor) -> Tensor:
        """Sample."""
        ctx.save_for_backward(grid)
        ctx.shape = image.shape
        return nn.functional.grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the image; the grid has none."""
        (grid,) = ctx.saved_tensors
        return _GridSampleBackward.apply(gradients[0], grid, ctx.shape), None


class _GridSampleBackward(torch.autograd.Function):
    """The transpose of grid_sample."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, grid: Tensor, shape: torch.Size) -> Tensor:
        """Return the gradient of the image."""
        ctx.save_for_backward(grid)
        image = gradient.new_zeros(1).expand(shape)
        found, _ = torch.ops.aten.grid_sampler_2d_backward(gradient, image, grid, 0, 0, False, [True, False])
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """Sample what comes back."""
        (grid,) = ctx.saved_tensors
        return _GridSample.apply(gradients[0], grid), None, None


@dataclass(slots=True)
class Controller:
    """Moves p so that D tells `target` more of the real images as real than as fake (section 3.2, r_t)."""

    target: float = 0.6
    kimg: float = 500.0
    """Thousand images in which p goes from 0 to 1 at most."""
    p: float = 0.0
    signs: Tensor | float = 0.0
    """Sum of sign D(real) since the last update; where D is, so that nothing waits for it."""
    count: int = 0

    def see(self, logits: Float[Tensor, "B"]) -> None:
        """Note D's logits of real images."""
        self.signs = self.signs + logits.detach().sign().sum()
        self.count += logits.numel()

    def update(self, images: int) -> float:
        """Move p after `images` real images since the last update; return r_t.

        >>> controller = Controller(kimg=1.0, p=0.5)
        >>> controller.see(torch.tensor([1.0, 2.0, -1.0, 0.5]))
        >>> controller.update(100), round(controller.p, 3)
        (0.5, 0.4)
        """
        if not self.count:
            return self.target
        r = float(self.signs) / self.count
        step = images / (self.kimg * 1000)
        direction = (r > self.target) - (r < self.target)
        self.p = min(1.0, max(0.0, self.p + direction * step))
        self.signs, self.count = 0.0, 0
        return r
