"""What a training step of VisCoIN's public code draws at random besides images: Θ's dropout, and the noise of G."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from coinbench.models import send
from coinbench.problem import Problem
from coinbench.rng import Rng


@dataclass(frozen=True, slots=True)
class Chance:
    """What the step of a batch drew, real images before those sampled from G; nothing by default."""

    kept: Float[Tensor, "B K b"] | None = None
    """What Θ's dropout multiplies Φ with."""
    noise: tuple[Tensor, ...] = ()
    """Of G for the reconstructions, a tensor [B, H, W] for each of its layers."""


@dataclass(frozen=True, slots=True)
class Chances:
    """Draws for all steps of a training; the rows that a process gets are those of its images."""

    problem: Problem
    n_real: int
    """Training images in a step, of all processes."""
    n_sampled: int
    """Images sampled from G, likewise."""
    cells: tuple[int, int]
    """K, b."""
    dropout: float
    """Share of the cells that Θ does not see."""
    noisy: bool
    """G draws with other noise each time."""

    def draw(self, rng: Rng) -> list[Tensor]:
        """Return what `split` takes apart, on the device of the problem."""
        found, share, n = [], self.problem.group.share, self.n_real + self.n_sampled

        def mine(values: Tensor) -> Tensor:
            return torch.cat([share(values[: self.n_real]), share(values[self.n_real :])])

        if self.dropout:
            seen = torch.rand(n, *self.cells, generator=rng.child("dropout").torch()) >= self.dropout
            found.append(send(mine(seen.float() / (1 - self.dropout)), self.problem.device))
        if self.noisy:
            found += map(mine, self.problem.generator.draw_noise(n, rng.child("reconstructed")))
            found += map(share, self.problem.generator.draw_noise(self.n_sampled, rng.child("sampled")))
        return found

    def split(self, drawn: tuple[Tensor, ...]) -> tuple[Chance, tuple[Tensor, ...]]:
        """Return what the losses take, and the noise of the images sampled from G."""
        kept, noise = (drawn[0], drawn[1:]) if self.dropout else (None, drawn)
        half = len(noise) // 2
        return Chance(kept, noise[:half]), noise[half:]


def images_of(problem: Problem, w: Float[Tensor, "B L V"], noise: tuple[Tensor, ...]) -> Float[Tensor, "B C H W"]:
    """Return images of G cut to [-1, 1], with the noise given where there is some."""
    generator = problem.generator
    return (generator.with_noise(w, noise) if noise else generator(w)).clamp(-1, 1)
