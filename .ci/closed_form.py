"""A method for CI's gate that is solved, not trained: its numbers are far from chance and move with rounding alone.

Trained methods will not do: a rounding error of the first step has moved their numbers by several per cent a few steps
later, and a tolerance that lets this pass lets a broken metric pass too (docs/gate.md).
"""

import torch
from torch.nn.functional import avg_pool2d

from coinbench import CoIN, Concepts, MethodConfig, MethodSpec, TrainConfig, seeded

COARSE = 4
"""Pixels a side of what Φ′ tells apart."""


class ClosedFormConfig(MethodConfig):
    """Sizes."""

    name: str = "closed_form"
    train: TrainConfig = TrainConfig(steps=1)
    K: int = 16
    support: int = 4
    """Size of Φ′."""


class ClosedForm(CoIN):
    """Φ: ends of the principal axes of f's embedding; Φ′: axes of what Φ leaves of the picture; the rest is linear."""

    axes: torch.Tensor
    mean: torch.Tensor
    around: torch.Tensor

    def __init__(self, config, problem):
        super().__init__()
        self.classifier, self.n_concepts = problem.classifier, config.K
        self.shape = (problem.channels, problem.size, problem.size)
        pixels = problem.channels * problem.size**2
        width = problem.classifier(next(problem.train.batches(1)).images).embedding.shape[1]
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("axes", torch.randn(width, config.K) / width**0.5)
        coarse = problem.channels * (problem.size // COARSE) ** 2
        self.register_buffer("around", torch.randn(coarse, config.support) / coarse**0.5)
        self.head = torch.nn.Linear(config.K, problem.n_classes)
        self.pixels = torch.nn.Linear(config.K, pixels)

    def encode(self, images):
        phi = ((self.classifier(images).embedding - self.mean) @ self.axes).relu()
        left = images - self.pixels(phi).unflatten(1, self.shape)
        return Concepts(phi.unsqueeze(2), phi, avg_pool2d(left, COARSE).flatten(1) @ self.around)

    def predict(self, concepts):
        return self.head(concepts.pooled)

    def decode(self, concepts):
        channels, size, _ = self.shape
        left = (concepts.support @ self.around.T).unflatten(1, (channels, size // COARSE, size // COARSE))
        left = left.repeat_interleave(COARSE, 2).repeat_interleave(COARSE, 3)
        return (self.pixels(concepts.pooled).unflatten(1, self.shape) + left).clamp(-1, 1)


def build(config, problem, rng):
    with seeded(rng.child("init")):
        return ClosedForm(config, problem).to(problem.device)


@torch.no_grad()
def fit(config, problem, rng, log):
    coin = build(config, problem, rng)
    batches = list(problem.train.batches(256))
    features = [problem.classifier(batch.images) for batch in batches]
    images = torch.cat([batch.images for batch in batches]).flatten(1).double()
    embedding = torch.cat([f.embedding for f in features]).double()
    coin.mean.copy_(embedding.mean(0))
    axes = principal(embedding - embedding.mean(0), config.K // 2)
    coin.axes.copy_(torch.stack([axes, -axes], 2).flatten(1))
    phi = ((embedding - embedding.mean(0)) @ coin.axes.double()).relu()
    design = torch.cat([phi, torch.ones_like(phi[:, :1])], 1)
    gram = design.T @ design + 1e-3 * torch.eye(config.K + 1, dtype=torch.float64)
    for layer, target in ((coin.head, torch.cat([f.logits for f in features]).double()), (coin.pixels, images)):
        solution = torch.cholesky_solve(design.T @ target, torch.linalg.cholesky(gram))
        layer.weight.copy_(solution[:-1].T)
        layer.bias.copy_(solution[-1])
    left = (images - design @ solution).unflatten(1, coin.shape)
    coin.around.copy_(principal(avg_pool2d(left, COARSE).flatten(1), config.support))
    return coin


def principal(rows, count):
    """Return the first principal axes, [d, count], the largest entry of each positive: solvers differ in the sign."""
    axes = torch.linalg.eigh(rows.T @ rows).eigenvectors.flip(1)[:, :count]
    return axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()


METHOD = MethodSpec(
    config=ClosedFormConfig, build=build, fit=fit, title="Closed form", source="none", notes="ours: CI's gate"
)
COINBENCH = {"methods": {"closed_form": METHOD}}
