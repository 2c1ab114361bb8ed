"""A generator plug-in: the β-VAE with its latent cut into eight style vectors, so that VisCoIN gets a support Φ′.

    coinbench run --plugin benchmarks/styled_vae.py --set problem.generator.net=styled_vae \\
        --methods viscoin --dataset digits --seeds 0:3 --out runs/digits-styled

The paper's β-VAE has one latent vector and no Φ′. With eight, VisCoIN predicts the shares of the paper's StyleGAN2 from
Φ′ (vectors 0, 1 and 7 of 8), and one can measure what then leaks past the concepts (benchmarks/leakage.py).
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from coinbench.errors import UsageError
from coinbench.generators import beta_vae
from coinbench.generators.beta_vae import BetaVAE, BetaVAEConfig
from coinbench.log import Log
from coinbench.models import ImageGenerator
from coinbench.problem import Split
from coinbench.rng import Rng, seeded
from coinbench.specs import GeneratorSpec

STYLES = 8


class StyledVAE(ImageGenerator):
    """G(w) of a β-VAE for w cut into `STYLES` vectors, measured from the mean of the latents."""

    n_styles = STYLES

    def __init__(self, vae: BetaVAE) -> None:
        """Wrap a VAE whose latent width is a multiple of the number of styles."""
        super().__init__()
        self.vae = vae
        self.w_dim = vae.w_dim // STYLES

    def forward(self, w: Float[Tensor, "B L V"]) -> Float[Tensor, "B C H W"]:
        """Draw images."""
        return self.vae((self.vae.mean + w.flatten(1))[:, None])

    def sample(self, n: int, rng: Rng) -> Float[Tensor, "n L V"]:
        """Draw from the VAE's prior."""
        return (self.vae.sample(n, rng)[:, 0] - self.vae.mean).unflatten(1, (STYLES, self.w_dim))

    def mean_latent(self) -> Float[Tensor, "V"]:
        """Return 0: styles are measured from the mean."""
        return self.vae.mean.new_zeros(self.w_dim)


def build(config: BetaVAEConfig, size: int, channels: int, rng: Rng) -> StyledVAE:
    """Return the network at initialisation."""
    if config.latent % STYLES:
        raise UsageError(f"problem.generator.latent={config.latent}: must be a multiple of {STYLES} for styled_vae")
    with seeded(rng.child("init")):
        return StyledVAE(BetaVAE(size, channels, config.latent, config.width))


def fit(config: BetaVAEConfig, network: ImageGenerator, split: Split, rng: Rng, log: Log) -> None:
    """Train the VAE inside."""
    assert isinstance(network, StyledVAE)
    beta_vae.fit(config, network.vae, split, rng, log)


GENERATOR = GeneratorSpec(
    config=BetaVAEConfig, build=build, fit=fit, source="this project: Higgins et al. 2017, latent cut into styles"
)
COINBENCH = {"generators": {"styled_vae": GENERATOR}}
