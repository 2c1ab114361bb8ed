"""Training of the perceptual net p on the parts of images, where a data set tells them (birds; docs/metrics.md 4)."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from coinbench.config import PerceptualConfig
from coinbench.log import Log
from coinbench.networks.perceptual import PerceptualNet
from coinbench.problem import Split
from coinbench.rng import Rng, seeded
from coinbench.training import train


class _PartReader(nn.Module):
    """p with a linear layer for each part on the spatial mean of its last map."""

    def __init__(self, net: PerceptualNet, counts: list[int]) -> None:
        super().__init__()
        self.net = net
        last = net.stages[-1]
        assert isinstance(last, nn.Conv2d)
        self.heads = nn.ModuleList(nn.Linear(last.out_channels, n) for n in counts)

    def forward(self, images: Float[Tensor, "B C H W"]) -> list[Tensor]:
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
        reader = _PartReader(net, [int(n) + 1 for n in factors.amax(0)]).to(split.device)
    reader.requires_grad_(True)
    factors = factors.to(split.device)

    def loss(step: int) -> dict[str, Tensor]:
        batch = split.draw(step, config.train.batch, rng.child("data"))
        parts = factors[batch.index].unbind(1)
        found = reader(batch.images)
        return {
            "parts": torch.stack(
                [nn.functional.cross_entropy(logits, part) for logits, part in zip(found, parts, strict=True)]
            ).mean()
        }

    train(reader, loss, config.train, log)
    net.requires_grad_(False)
