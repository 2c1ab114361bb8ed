"""The generator of StyleGAN2 (skip architecture), for any power of two from 16 to 1024 pixels.

Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN" (StyleGAN2), and "Training Generative
Adversarial Networks with Limited Data" (ADA). State dicts of the published G_ema load by name. Styles scale the
activations, not the weights of each sample: one dense convolution with weights that do not depend on the batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coinbench.networks import fir
from coinbench.networks.stylegan2_layers import (
    GAIN,
    Filtered,
    FullyConnected,
    Modulated,
    normalise_second_moment,
    rectify,
)

Noise = Literal["const", "none", "random"]


def resolutions(size: int) -> list[int]:
    """Return the resolutions of the blocks.

    Raises:
        ValueError: `size` is no power of two from 16 to 1024.

    >>> resolutions(32)
    [4, 8, 16, 32]
    """
    if size not in (16, 32, 64, 128, 256, 512, 1024):
        raise ValueError(f"StyleGAN2 draws 16, 32, 64, 128, 256, 512 or 1024 pixels, not {size}")
    return [2**i for i in range(2, int(math.log2(size)) + 1)]


def count_styles(size: int) -> int:
    """Return L, the number of latent vectors an image is drawn from.

    >>> [count_styles(size) for size in (32, 64, 128, 256, 512, 1024)]
    [8, 10, 12, 14, 16, 18]
    """
    return 2 * len(resolutions(size))


def channels_at(resolution: int, base: int, most: int) -> int:
    """Return the channels of a block."""
    return min(base // resolution, most)


class Mapping(nn.Module):
    """z (and a label) to w; also D's embedding of the label, which has no z."""

    w_avg: Tensor

    def __init__(self, z_dim: int, c_dim: int, w_dim: int, depth: int, *, average: bool = True) -> None:
        """Make `depth` layers.

        Args:
            z_dim: width of z; 0 for none.
            c_dim: classes; 0 for none.
            w_dim: width V of w.
            depth: fully connected layers.
            average: keep w̄ as the buffer `w_avg`.
        """
        super().__init__()
        self.z_dim, self.c_dim, self.w_dim, self.depth = z_dim, c_dim, w_dim, depth
        if c_dim:
            self.embed = FullyConnected(c_dim, w_dim)
        widths = [z_dim + (w_dim if c_dim else 0), *[w_dim] * depth]
        for i in range(depth):
            setattr(self, f"fc{i}", FullyConnected(widths[i], widths[i + 1], rectified=True, rate=0.01))
        if average:
            self.register_buffer("w_avg", torch.zeros(w_dim))

    def forward(self, z: Float[Tensor, "B Z"] | None, c: Float[Tensor, "B Y"] | None = None) -> Float[Tensor, "B V"]:
        """Return w of each row."""
        parts = []
        if self.z_dim:
            assert z is not None
            parts.append(normalise_second_moment(z))
        if self.c_dim:
            if c is None:
                raise ValueError(f"this network is conditional: it needs a label of {self.c_dim} classes with each z")
            parts.append(normalise_second_moment(self.embed(c)))
        x = torch.cat(parts, 1)
        for i in range(self.depth):
            x = getattr(self, f"fc{i}")(x)
        return x

    @torch.no_grad()
    def track(self, w: Float[Tensor, "B V"], decay: float = 0.995) -> None:
        """Move w̄ towards the mean of a batch."""
        self.w_avg.copy_(w.detach().mean(0).lerp(self.w_avg, decay))

    def truncate(self, w: Float[Tensor, "B L V"], psi: float, cutoff: int | None = None) -> Float[Tensor, "B L V"]:
        """Move the first `cutoff` latents (None: all) towards w̄: ψ = 1 leaves them, to the bit; ψ = 0 is w̄.

        Karras et al. 2019, appendix B.
        """
        if psi == 1:
            return w
        moved = torch.lerp(self.w_avg.expand_as(w), w, psi)
        return moved if cutoff is None else torch.cat([moved[:, :cutoff], w[:, cutoff:]], 1)


class SynthesisLayer(Modulated, Filtered):
    """A modulated 3x3 convolution, noise, bias, rectifier; optionally at twice the resolution."""

    noise_const: Tensor

    def __init__(self, c_in: int, c_out: int, w_dim: int, resolution: int, *, up: bool, clamp: float | None) -> None:
        """Make the layer; `resolution` is that of its output."""
        super().__init__(c_in, c_out, 3, w_dim)
        self.up, self.clamp = up, clamp
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.register_buffer("noise_const", torch.randn(resolution, resolution))

    def forward(
        self,
        x: Float[Tensor, "B _i H W"],
        w: Float[Tensor, "B V"],
        noise: Noise | Tensor = "const",
        dice: torch.Generator | None = None,
    ) -> Float[Tensor, "B _o _h _w"]:
        """Apply the layer; `noise` may be that of each image [B, H, W]."""
        style = self.affine(w)
        d = self.demodulation(style)
        weight = self.weight
        if x.dtype == torch.float16:
            # Keeps sums within half precision; both scales cancel in d but for its 1e-8.
            largest = weight.abs().amax((1, 2, 3)) * math.sqrt(weight[0].numel())
            weight = weight / largest[:, None, None, None]
            top = style.abs().amax(1, keepdim=True)
            style, d = style / top, d * largest * top
        x = x * style.to(x.dtype)[:, :, None, None]
        weight = weight.to(x.dtype)
        if self.up:
            x = fir.blur(nn.functional.conv_transpose2d(x, weight.transpose(0, 1), stride=2), 1, gain=4.0)
        else:
            x = nn.functional.conv2d(x, weight, padding=1)
        # The gain after the rectifier goes before it, where it costs nothing. Channels stand last in the sum too: else
        # its layout would be that of the result, and every convolution would turn its input round.
        offset = (self.bias * GAIN + self._noise(noise, x, dice)).to(x.dtype).movedim(-1, 1)
        y = torch.addcmul(offset, x, (d * GAIN).to(x.dtype)[:, :, None, None])
        return rectify(y, self.clamp)

    def _noise(self, noise: Noise | Tensor, like: Tensor, dice: torch.Generator | None) -> Float[Tensor, "#B #H #W 1"]:
        if isinstance(noise, Tensor):
            return noise[..., None] * (self.noise_strength * GAIN)
        if noise == "none":
            return self.noise_const.new_zeros(1, 1, 1, 1)
        drawn = self.noise_const[None]
        if noise == "random":
            shape = (len(like), *like.shape[2:])
            drawn = torch.randn(shape, generator=dice, device=dice.device if dice else like.device).to(like.device)
        return drawn[..., None] * (self.noise_strength * GAIN)


class ToRGB(Modulated):
    """A modulated 1x1 convolution to the image's channels, without demodulation."""

    def __init__(self, c_in: int, channels: int, w_dim: int, clamp: float | None) -> None:
        """Make the layer."""
        super().__init__(c_in, channels, 1, w_dim)
        self.scale, self.clamp = 1 / math.sqrt(c_in), clamp

    def forward(self, x: Float[Tensor, "B _i H W"], w: Float[Tensor, "B V"]) -> Float[Tensor, "B C H W"]:
        """Return the layer's part of the image."""
        style = self.affine(w) * self.scale
        # So few channels come out that scaling the weights of each sample is cheaper than scaling x.
        weight = self.weight.flatten(1) * style[:, None]
        # Channels stand last in memory: a plain matrix product, without a copy.
        rows = x.permute(0, 2, 3, 1).flatten(1, 2) @ weight.to(x.dtype).mT + self.bias.to(x.dtype)
        rgb = rows.unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)
        return rgb if self.clamp is None else rgb.clamp(-self.clamp, self.clamp)


class SynthesisBlock(Filtered):
    """The layers of one resolution, and its part of the image."""

    def __init__(self, c_in: int, c_out: int, w_dim: int, resolution: int, channels: int, clamp: float | None) -> None:
        """Make the block; the one of 4 pixels begins with a learnt constant."""
        super().__init__()
        self.first = resolution == 4
        if self.first:
            self.const = nn.Parameter(torch.randn(c_out, 4, 4))
        else:
            self.conv0 = SynthesisLayer(c_in, c_out, w_dim, resolution, up=True, clamp=clamp)
        self.conv1 = SynthesisLayer(c_out, c_out, w_dim, resolution, up=False, clamp=clamp)
        self.torgb = ToRGB(c_out, channels, w_dim, clamp)

    def forward(
        self,
        x: Tensor | None,
        image: Tensor | None,
        w: list[Tensor],
        noise: Sequence[Noise | Tensor],
        dice: torch.Generator | None,
    ) -> tuple[Tensor, Tensor]:
        """Return activations and image at this resolution.

        Args:
            x: activations at half of it; None at 4 pixels.
            image: that so far, likewise.
            w: latents of conv0 (not at 4 pixels), conv1 and torgb.
            noise: of conv0 (not at 4 pixels) and conv1.
            dice: draws the random noise.
        """
        if x is None:
            y = self.const.expand(len(w[0]), -1, -1, -1).contiguous(memory_format=torch.channels_last)
        else:
            y = self.conv0(x, w[-3], noise[0], dice)
        y = self.conv1(y, w[-2], noise[-1], dice)
        rgb = self.torgb(y, w[-1]).to(w[-1].dtype)
        return y, rgb if image is None else fir.double(image) + rgb


class Synthesis(nn.Module):
    """w of every layer to an image."""

    def __init__(self, w_dim: int, size: int, channels: int, base: int, most: int, clamp: float | None = 256.0) -> None:
        """Make the blocks; channels at resolution r: min(base / r, most)."""
        super().__init__()
        self.sides, self.channels = resolutions(size), channels
        before = 0
        for side in self.sides:
            width = channels_at(side, base, most)
            setattr(self, f"b{side}", SynthesisBlock(before, width, w_dim, side, channels, clamp))
            before = width
        self._low: torch.dtype | None = None

    def lower(self, low: torch.dtype | None) -> None:
        """Let activations of the four largest blocks be of type `low`; None: of that of the weights."""
        self._low = low

    def forward(
        self,
        w: Float[Tensor, "B L V"],
        noise: Noise | tuple[Tensor, ...] = "const",
        dice: torch.Generator | None = None,
    ) -> Float[Tensor, "B C H W"]:
        """Draw images; unbounded, about [-1, 1].

        Args:
            w: a latent for each of the L style indices; torgb of a block reads that of the next block's conv0.
            noise: const: the stored noise; random: anew for each image; none; or that of `draw_noise`.
            dice: draws the random noise.
        """
        x = image = None
        rows = list(w.unbind(1))
        noises = noise if isinstance(noise, tuple) else (noise,) * self.n_noises
        for i, side in enumerate(self.sides):
            # 4 pixels: 0, 1; then conv0, conv1, torgb: 1, 2, 3; 3, 4, 5; ...
            here = rows[max(2 * i - 1, 0) : 2 * i + 2]
            if x is not None and self._low is not None and side in self.sides[-4:] and side >= 8:
                x = x.to(self._low)
            x, image = getattr(self, f"b{side}")(x, image, here, noises[max(2 * i - 1, 0) : 2 * i + 1], dice)
        assert image is not None
        return image

    @property
    def n_noises(self) -> int:
        """Layers with noise: one at 4 pixels, two at each larger resolution."""
        return 2 * len(self.sides) - 1

    def draw_noise(self, n: int, dice: torch.Generator) -> tuple[Float[Tensor, "n _h _w"], ...]:
        """Draw the noise of n images for each layer, on the device of `dice`."""
        sides = sorted([*self.sides, *self.sides[1:]])
        return tuple(torch.randn(n, side, side, generator=dice, device=dice.device) for side in sides)


class StyleGAN2(nn.Module):
    """Mapping and synthesis."""

    def __init__(
        self,
        *,
        size: int,
        channels: int = 3,
        z_dim: int = 512,
        w_dim: int = 512,
        c_dim: int = 0,
        depth: int = 8,
        base: int = 32768,
        most: int = 512,
        clamp: float | None = 256.0,
    ) -> None:
        """Make G at initialisation.

        Args:
            size: pixels a side, a power of two from 16 to 1024.
            channels: of the image.
            z_dim: width of the input z.
            w_dim: V, width of a latent vector.
            c_dim: classes of a conditional G; 0 for none.
            depth: layers of the mapping (auto: 2, paper256 and stylegan2: 8).
            base: channels at 1 pixel, so to say: min(base / r, most) at r (auto and paper256 at 256 px: 16384).
            most: largest number of channels.
            clamp: bound of activations, None for none.
        """
        super().__init__()
        self._join(Mapping(z_dim, c_dim, w_dim, depth), Synthesis(w_dim, size, channels, base, most, clamp))

    @classmethod
    def of(cls, mapping: Mapping, synthesis: Synthesis) -> StyleGAN2:
        """Return a network of parts that exist, which it shares."""
        network = cls.__new__(cls)
        nn.Module.__init__(network)
        network._join(mapping, synthesis)
        return network

    def _join(self, mapping: Mapping, synthesis: Synthesis) -> None:
        self.mapping, self.synthesis = mapping, synthesis
        self.size, self.channels = synthesis.sides[-1], synthesis.channels
        self.z_dim, self.w_dim, self.c_dim = mapping.z_dim, mapping.w_dim, mapping.c_dim
        self.n_styles = count_styles(self.size)

    def forward(
        self, z: Float[Tensor, "B Z"], c: Float[Tensor, "B Y"] | None = None, noise: Noise = "const"
    ) -> Float[Tensor, "B C H W"]:
        """Draw an image of each z."""
        w = self.mapping(z, c)
        return self.synthesis(w[:, None].expand(-1, self.n_styles, -1), noise)

    def freeze(self) -> None:
        """Let no parameter learn any more, and compute once what then stays the same."""
        self.requires_grad_(False).eval()
        for part in self.modules():
            if isinstance(part, Modulated):
                part.freeze()
