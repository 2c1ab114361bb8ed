"""Training of the perceptual net p on the parts of images, where a data set tells them (birds; docs/metrics.md 4)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from coinbench.config import PerceptualConfig
from coinbench.log import Log
from coinbench.networks.perceptual import Perceptual, PerceptualNet
from coinbench.problem import Split
from coinbench.rng import Rng, seeded
from coinbench.training import train


class PartReader(nn.Module):
    """p with a linear layer for each part on the spatial mean of its last map."""

    def __init__(self, net: PerceptualNet, counts: list[int]) -> None:
        """Make the layers; `counts` is the number of values of each part."""
        super().__init__()
        self.net = net
        last = net.stages[-1]
        assert isinstance(last, nn.Conv2d)
        self.heads = nn.ModuleList(nn.Linear(last.out_channels, n) for n in counts)

    def forward(self, images: Float[Tensor, "B C H W"]) -> list[Tensor]:
        """Return logits [B, values] of each part."""
        pooled = self.net(images)[-1].mean((2, 3))
        return [head(pooled) for head in self.heads]


def fit_parts(
    net: PerceptualNet, config: PerceptualConfig, split: Split, factors: Int[Tensor, "N parts"], log: Log
) -> None:
    """Train p, in place, to tell the value of every part; it never sees a class.

    Args:
        net: p at initialisation.
        config: of p.
        split: training images.
        factors: value of each part of every image of the data set.
        log: of the training.
    """
    rng = Rng(config.seed).child("perceptual")
    with seeded(rng.child("heads")):
        reader = PartReader(net, [int(n) + 1 for n in factors.amax(0)]).to(split.device)
    reader.requires_grad_(True)
    factors = factors.to(split.device)

    def loss(step: int) -> dict[str, Tensor]:
        batch = split.draw(step, config.train.batch, rng.child("data"))
        found, parts = reader(batch.images), factors[batch.index].unbind(1)
        terms = [nn.functional.cross_entropy(a, b) for a, b in zip(found, parts, strict=True)]
        return {"parts": torch.stack(terms).mean()}

    train(reader, loss, config.train, log)
    net.requires_grad_(False)


@torch.no_grad()
def part_accuracy(net: Perceptual, factors: Int[Tensor, "N parts"], split: Split, test: Split) -> dict[str, float]:
    """Return how often linear readers of p's features name the parts of test images right, in percent.

    The layers that p was trained with are not kept: least squares on the training features takes their place.
    """

    def features(of: Split) -> tuple[Tensor, Tensor]:
        pooled = torch.cat([net(batch.images)[-1].mean((2, 3)) for batch in of.batches(256)]).double().cpu()
        return torch.cat([pooled, torch.ones(len(pooled), 1, dtype=pooled.dtype)], 1), factors[
            torch.from_numpy(of.index)
        ]

    (x, y), (x_test, y_test) = features(split), features(test)
    # Cholesky of the normal equations; a little of the identity where features are dead.
    root = torch.linalg.cholesky(x.t() @ x + 1e-3 * torch.eye(x.shape[1], dtype=x.dtype))
    rates = []
    for part in range(y.shape[1]):
        told = nn.functional.one_hot(y[:, part]).double()
        found = x_test @ torch.cholesky_solve(x.t() @ told, root)
        rates.append(float((found.argmax(1) == y_test[:, part]).double().mean()))
    return {"parts named right from p's features (%)": 100 * sum(rates) / len(rates)}
