"""Loss terms of the methods, each with its equation; reductions are means (docs/metrics.md 11)."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coinbench.group import Group


def soft_cross_entropy(logits: Float[Tensor, "B Y"], target_logits: Float[Tensor, "B Y"]) -> Float[Tensor, ""]:
    """Return −Σ_c f_c log g_c, batch mean: CE(g(x), f(x)) of VisCoIN eq. 2, with f = softmax(target_logits).

    Logarithms of the softmax are taken stably, and the target carries no gradient.

    >>> even = torch.zeros(1, 2)
    >>> round(soft_cross_entropy(even, even).item(), 4)
    0.6931
    """
    target = torch.softmax(target_logits.detach(), 1)
    return -(target * torch.log_softmax(logits, 1)).sum(1).mean()


def orthogonality(kernels: Float[Tensor, "K _c"]) -> Float[Tensor, ""]:
    """Return the mean squared cosine between different kernels: L_orth of VisCoIN eq. 4.

    The paper asks for mutual orthogonality of the l2-normalised kernels and gives no closed form; this one is ours.

    >>> orthogonality(torch.eye(3)).item()
    0.0
    """
    unit = nn.functional.normalize(kernels, dim=1)
    gram = unit @ unit.T
    k = len(kernels)
    return (gram.square().sum() - gram.diagonal().square().sum()) / max(1, k * (k - 1))


def overlap(kernels: Float[Tensor, "K _c"]) -> Float[Tensor, ""]:
    """Return (Σ_ij |Ŵ|_i·|Ŵ|_j − K) / K², Ŵ of unit rows: L_orth of VisCoIN's public code.

    Moduli stand before the product, so it asks for kernels with no input in common, which is more than orthogonality.

    >>> overlap(torch.eye(3)).item(), round(overlap(torch.tensor([[1.0, 1.0], [1.0, -1.0]])).item(), 4)
    (0.0, 0.5)
    """
    moduli = nn.functional.normalize(kernels, dim=1).abs()
    k = len(kernels)
    return ((moduli @ moduli.T).sum() - k) / k**2


def entropy(weights: Float[Tensor, "*N K"]) -> Float[Tensor, "*N"]:
    """Return the entropy of softmax(weights) along the last axis, in nats (FLINT's H)."""
    log_p = torch.log_softmax(weights, -1)
    return -(log_p.exp() * log_p).sum(-1)


def conciseness_diversity(phi: Float[Tensor, "B K"], group: Group | None = None) -> Float[Tensor, ""]:
    """Return E_x[H(Φ(x))] − H(E_x[Φ(x)]): FLINT's few concepts an image, all in a batch (Parekh et al. 2021).

    Args:
        phi: Φ of a batch, or of one process's share of it.
        group: the processes whose shares make the batch.
    """
    return entropy(phi).mean() - entropy((group or Group()).mean(phi.mean(0)))
