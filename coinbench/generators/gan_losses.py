"""The losses of StyleGAN2: non-saturating logistic loss, R1, path length, style mixing.

Goodfellow et al. 2014 (non-saturating loss); Mescheder et al. 2018, eq. 9 (R1); Karras et al. 2019, section 3.1 (style
mixing); Karras et al. 2020 (StyleGAN2), eq. 4 (path length).
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


def generator_loss(fake: Float[Tensor, "B"]) -> Float[Tensor, ""]:
    """Return E[softplus(-D(G(z)))].

    >>> round(float(generator_loss(torch.zeros(2))), 4)
    0.6931
    """
    return nn.functional.softplus(-fake).mean()


def discriminator_loss(real: Float[Tensor, "B"], fake: Float[Tensor, "B"]) -> Float[Tensor, ""]:
    """Return E[softplus(D(G(z)))] + E[softplus(-D(x))]."""
    return nn.functional.softplus(fake).mean() + nn.functional.softplus(-real).mean()


def r1(logits: Float[Tensor, "B"], images: Float[Tensor, "B C H W"]) -> Float[Tensor, ""]:
    """Return E[‖∇ₓ D(x)‖²] / 2, to be multiplied by γ; `images` must require a gradient.

    >>> x = torch.tensor([[[[3.0]]], [[[1.0]]]], requires_grad=True)
    >>> float(r1(x.square().flatten(), x).detach())  # (6² + 2²) / 2 / 2
    10.0
    """
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean() / 2


def path_lengths(
    images: Float[Tensor, "B C H W"], w: Float[Tensor, "B L V"], noise: Float[Tensor, "B C H W"]
) -> Float[Tensor, "B"]:
    """Return ‖J_wᵀ y‖₂ of each image, its square averaged over the L latent vectors.

    Args:
        images: drawn from `w`.
        w: requires a gradient.
        noise: y, standard normal; scaled here by 1 / √(H W) so that lengths do not grow with the resolution.
    """
    scaled = noise / (images.shape[2] * images.shape[3]) ** 0.5
    (gradient,) = torch.autograd.grad((images * scaled).sum(), w, create_graph=True)
    return gradient.square().sum(2).mean(1).sqrt()


def path_penalty(
    lengths: Float[Tensor, "B"], mean: Float[Tensor, ""], decay: float = 0.01
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return E[(‖Jᵀy‖ - a)²] and a, the moving average of the lengths, moved towards this batch first.

    The penalty's gradient also flows through a.
    """
    moved = mean.lerp(lengths.mean(), decay)
    return (lengths - moved).square().mean(), moved.detach()


def mix(
    first: Float[Tensor, "B V"], second: Float[Tensor, "B V"], cut: Int[Tensor, "B"], n_styles: int
) -> Float[Tensor, "B L V"]:
    """Return latents that are `first` up to style `cut`, and `second` from there on.

    >>> mix(torch.zeros(2, 1), torch.ones(2, 1), torch.tensor([1, 3]), 3).squeeze(2).tolist()
    [[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]]
    """
    early = torch.arange(n_styles, device=cut.device) < cut[:, None]
    return torch.where(early[:, :, None], first[:, None], second[:, None])


def draw_cuts(n: int, n_styles: int, probability: float, dice: torch.Generator) -> Int[Tensor, "n"]:
    """Draw where each image changes from one latent to another: at L, so nowhere, unless it is mixed."""
    cut = torch.randint(1, n_styles, (n,), generator=dice, device=dice.device)
    mixed = torch.rand(n, generator=dice, device=dice.device) < probability
    return torch.where(mixed, cut, torch.full_like(cut, n_styles))
