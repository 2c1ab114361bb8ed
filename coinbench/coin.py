"""The protocol of a concept-based interpretable network, and the relevance of its concepts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from coinbench.concepts import Concepts
from coinbench.models import Classifier


class CoIN(nn.Module, ABC):
    """A network that explains classifier f through K concepts and can show them.

    Nothing but these three methods is asked of a method; metrics use nothing else.
    Fitting is a function in the method's file, not a member.
    """

    classifier: Classifier
    """The f that this network explains (the shared one, or its own copy)."""
    n_concepts: int
    """K."""
    shown_by: ClassVar[Literal["decoding", "activation"]] = "decoding"
    """How its authors show a concept: amplified and decoded, or by the image that activates it most."""

    @abstractmethod
    def encode(self, images: Float[Tensor, "B C H W"]) -> Concepts:
        """Return Φ(x) (and Φ′(x)) of images in [-1, 1]."""

    @abstractmethod
    def predict(self, concepts: Concepts) -> Float[Tensor, "B Y"]:
        """Return the logits of g = Θ∘Φ."""

    @abstractmethod
    def decode(self, concepts: Concepts) -> Float[Tensor, "B C H W"]:
        """Return the reconstruction x̃ in [-1, 1]; deterministic."""

    def forward(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B Y"]:
        """Return g(x): the full pass encode -> predict."""
        return self.predict(self.encode(images))


def relevance(coin: CoIN, concepts: Concepts, target: Int[Tensor, "B"]) -> Float[Tensor, "B K"]:
    """Return α_k(x) = d logit_target / d λ_k at λ = 1, where λ_k scales concept k.

    For a linear head on pooled concepts this is pooled_k · Θ_W[k, target], the paper's α_k(x) (section 3.3).
    """
    with torch.enable_grad():
        scale = torch.ones_like(concepts.pooled).requires_grad_()
        logits = coin.predict(concepts.scale(scale))
        chosen = logits.gather(1, target[:, None]).sum()
        (gradient,) = torch.autograd.grad(chosen, scale)
    return gradient.detach()


def normalise(alpha: Float[Tensor, "B K"]) -> Float[Tensor, "B K"]:
    """Return r_k(x) = α_k(x) / max_l |α_l(x)| in [-1, 1]; 0 where every α is 0.

    >>> normalise(torch.tensor([[1.0, -4.0], [0.0, 0.0]]))
    tensor([[ 0.2500, -1.0000],
            [ 0.0000,  0.0000]])
    """
    largest = alpha.abs().amax(dim=1, keepdim=True)
    return torch.where(largest > 0, alpha / largest.clamp_min(torch.finfo(alpha.dtype).tiny), 0.0)
