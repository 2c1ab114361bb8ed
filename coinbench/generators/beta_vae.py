"""β-VAE as generator G (Higgins et al. 2017); the paper's G for FashionMNIST: β = 2, latent size 48 (table 5)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from coinbench.config import GeneratorConfig
from coinbench.log import Log
from coinbench.models import ImageGenerator, send
from coinbench.problem import Split
from coinbench.rng import Rng, seeded
from coinbench.specs import GeneratorSpec
from coinbench.training import train


class BetaVAEConfig(GeneratorConfig):
    """Settings of the β-VAE."""

    latent: int = Field(default=48, ge=2, le=512)
    """V, the width of a latent vector (paper, FashionMNIST: 48)."""
    beta: float = Field(default=2.0, gt=0)
    """Weight of the KL term (paper: 2)."""
    width: int = Field(default=32, ge=4, le=512)
    """Channels at the highest resolution but one."""


class BetaVAE(ImageGenerator):
    """Convolutional VAE with one latent vector; `forward` is its decoder."""

    n_styles = 1
    mean: Tensor

    def __init__(self, size: int, channels: int, latent: int, width: int) -> None:
        """Make encoder and decoder for `size` pixels."""
        super().__init__()
        depth = int(math.log2(size // 4))
        # Sizes between two powers of two are drawn larger and cut.
        seed = math.ceil(size / 2**depth)
        self.size = size
        self.w_dim = latent
        self.channels = channels
        self.register_buffer("mean", torch.zeros(latent))
        widths = [min(width * 2**i, 4 * width) for i in range(depth)]
        encoder: list[nn.Module] = []
        for c_in, c_out in zip([channels, *widths], widths, strict=False):
            encoder += [nn.Conv2d(c_in, c_out, 4, 2, 1), nn.ReLU()]
        self.encoder = nn.Sequential(*encoder, nn.Flatten())
        top = widths[-1]
        self.moments = nn.Linear(top * (size // 2**depth) ** 2, 2 * latent)
        decoder: list[nn.Module] = [
            nn.Linear(latent, top * seed * seed),
            nn.ReLU(),
            nn.Unflatten(1, (top, seed, seed)),
        ]
        reverse = widths[::-1]
        for c_in, c_out in zip(reverse, [*reverse[1:], width], strict=True):
            decoder += [nn.ConvTranspose2d(c_in, c_out, 4, 2, 1), nn.ReLU()]
        self.decoder = nn.Sequential(*decoder, nn.Conv2d(width, channels, 3, padding=1), nn.Tanh())

    def encode(self, images: Float[Tensor, "B C H W"]) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of q(w | x), each [B, V]."""
        mean, log_variance = self.moments(self.encoder(images)).chunk(2, dim=1)
        return mean, log_variance.clamp(-12, 8)

    def forward(self, w: Float[Tensor, "B L V"]) -> Float[Tensor, "B C H W"]:
        """Decode latents."""
        return self.decoder(w[:, 0])[..., : self.size, : self.size]

    def sample(self, n: int, rng: Rng) -> Float[Tensor, "n L V"]:
        """Draw from the prior N(0, 1)."""
        return send(torch.randn(n, 1, self.w_dim, generator=rng.torch()), self.mean.device)

    def mean_latent(self) -> Float[Tensor, "V"]:
        """Return the mean of the aggregate posterior over the training images (near the prior's 0)."""
        return self.mean


def negative_elbo(
    vae: BetaVAE, images: Float[Tensor, "B C H W"], beta: float, noise: Float[Tensor, "B V"]
) -> dict[str, Tensor]:
    """Return reconstruction and β · KL per pixel, batch means (Higgins et al. 2017, eq. 4; variance 1/2)."""
    mean, log_variance = vae.encode(images)
    w = mean + noise * (0.5 * log_variance).exp()
    squared = (vae(w[:, None]) - images).square().flatten(1).sum(1).mean()
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()
    # Divided by the number of pixels so that one learning rate serves all image sizes.
    pixels = images[0].numel()
    return {"reconstruction": squared / pixels, "kl": beta * kl / pixels}


def build(config: BetaVAEConfig, size: int, channels: int, rng: Rng) -> BetaVAE:
    """Return the network at initialisation."""
    with seeded(rng.child("init")):
        return BetaVAE(size, channels, config.latent, config.width)


def fit(config: BetaVAEConfig, network: ImageGenerator, split: Split, rng: Rng, log: Log) -> None:
    """Train on the training split, then record the mean latent."""
    assert isinstance(network, BetaVAE)

    def loss(step: int) -> dict[str, Tensor]:
        batch = split.draw(step, config.train.batch, rng.child("data"))
        noise = torch.randn(config.train.batch, network.w_dim, generator=rng.child("noise", step).torch())
        return negative_elbo(network, batch.images, config.beta, send(split.group.share(noise), split.device))

    train(network, loss, config.train, log)
    with torch.no_grad():
        sums = [network.encode(batch.images)[0].double().sum(0) for batch in split.batches(256)]
        network.mean.copy_(torch.stack(sums).sum(0) / len(split))


GENERATOR = GeneratorSpec(
    config=BetaVAEConfig, build=build, fit=fit, source="Higgins et al. 2017; VisCoIN paper, table 5"
)
