"""Concept activations of a batch: the one value that metrics read and edit."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Concepts:
    """Φ(x), its pooled form, and what else `decode` needs (paper section 3.1).

    Edits return new values and keep `pooled` right without knowing how a method pools: scaling commutes with
    every positively homogeneous pooling (max, mean, norm), swapping with every pooling of one concept.

    >>> c = Concepts(phi=torch.ones(1, 2, 1), pooled=torch.ones(1, 2))
    >>> c.scale(torch.tensor([[0.0, 2.0]])).pooled
    tensor([[0., 2.]])
    """

    phi: Float[Tensor, "B K b"]
    """Activations φ_k(x) >= 0; zero-padded in b where widths differ."""
    pooled: Float[Tensor, "B K"]
    """The method's own pooling of φ."""
    support: Float[Tensor, "B s"] | None = None
    """Φ′(x), what decoding needs beyond the concepts; None where a method has none."""

    def __len__(self) -> int:
        """Return the batch size B."""
        return self.phi.shape[0]

    def scale(self, factor: Float[Tensor, "#B #K"] | float) -> Concepts:
        """Multiply each concept by `factor` >= 0: 0 ablates, 2 doubles; Φ′ is left alone."""
        factor = torch.as_tensor(factor, dtype=self.phi.dtype, device=self.phi.device)
        if factor.ndim == 0:
            factor = factor.expand(1, 1)
        return replace(self, phi=self.phi * factor.unsqueeze(-1), pooled=self.pooled * factor)

    def swap(self, mask: Bool[Tensor, "#B K"], donor: Concepts) -> Concepts:
        """Take the concepts where `mask` holds from `donor`, the rest and Φ′ from here."""
        phi = torch.where(mask.unsqueeze(-1), donor.phi, self.phi)
        return replace(self, phi=phi, pooled=torch.where(mask, donor.pooled, self.pooled))

    def constant(self, value: Float[Tensor, "#B #K"] | float) -> Concepts:
        """Return a donor whose φ_k is `value` in all b cells, with pooled = `value`."""
        value = torch.as_tensor(value, dtype=self.phi.dtype, device=self.phi.device)
        value = value.expand(self.pooled.shape)
        return replace(self, phi=value.unsqueeze(-1).expand(self.phi.shape), pooled=value)

    def rows(self, index: Tensor | slice) -> Concepts:
        """Select samples of the batch."""
        support = None if self.support is None else self.support[index]
        return Concepts(self.phi[index], self.pooled[index], support)

    def to(self, device: torch.device | str) -> Concepts:
        """Move to `device`."""
        support = None if self.support is None else self.support.to(device)
        return Concepts(self.phi.to(device), self.pooled.to(device), support)

    @staticmethod
    def cat(parts: list[Concepts]) -> Concepts:
        """Join batches in order."""
        supports = [p.support for p in parts if p.support is not None]
        return Concepts(
            torch.cat([p.phi for p in parts]),
            torch.cat([p.pooled for p in parts]),
            torch.cat(supports) if supports else None,
        )
