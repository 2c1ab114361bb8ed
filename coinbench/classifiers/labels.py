"""Training of f on labels, the same for every family."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from coinbench.config import ClassifierConfig
from coinbench.log import Log
from coinbench.models import Classifier
from coinbench.problem import Split
from coinbench.rng import Rng
from coinbench.training import train


def fit(
    config: ClassifierConfig, network: Classifier, split: Split, rng: Rng, log: Log, start: Path | None = None
) -> None:
    """Train f by cross-entropy on the augmented training split, in place and from where it is.

    Raises:
        CoinbenchError: the loss is not finite.
        Interrupted: asked to stop; a checkpoint was written first.
    """

    def loss(step: int) -> dict[str, Tensor]:
        batch = split.draw(step, config.train.batch, rng.child("data"))
        logits = network(batch.images).logits
        return {"cross_entropy": nn.functional.cross_entropy(logits, batch.labels)}

    train(network, loss, config.train, log)
