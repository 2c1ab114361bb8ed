"""Training of f on labels, the same for every family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from coinbench.config import ClassifierConfig
from coinbench.log import Log
from coinbench.models import Classifier
from coinbench.problem import Split
from coinbench.rng import Rng
from coinbench.selection import Selection
from coinbench.training import train


def fit(
    config: ClassifierConfig,
    network: Classifier,
    split: Split,
    rng: Rng,
    log: Log,
    start: Path | None = None,
    val: Split | None = None,
) -> None:
    """Train f by cross-entropy on the augmented training split, in place and from where it is.

    With `config.select_every` the best state by accuracy on `val` is what stays; the last one and a record of all that
    were seen are written into the log's folder (coinbench.selection).

    Raises:
        ValueError: states are to be chosen among, without images to choose by.
        CoinbenchError: the loss is not finite.
        Interrupted: asked to stop; a checkpoint was written first.
    """

    def loss(step: int) -> dict[str, Tensor]:
        batch = split.draw(step, config.train.batch, rng.child("data"))
        logits = network(batch.images).logits
        return {"cross_entropy": nn.functional.cross_entropy(logits, batch.labels)}

    selection = None
    if config.select_every:
        if val is None or not len(val):
            raise ValueError("select_every needs a validation split with images")
        selection = Selection(config.select_every, accuracy_on(network, val, config.train.batch), "val accuracy")
    train(network, loss, config.train, log, selection=selection)


def accuracy_on(network: Classifier, val: Split, batch: int) -> Callable[[], float]:
    """Return what gives the share of images of a split that the network names right.

    Whole images are counted, so that neither the size of the batches nor a last, smaller one moves the number.
    """

    @torch.no_grad()
    def accuracy() -> float:
        own = val.batches(batch, turns=True)
        right = val.group.join(int((network(b.images).logits.argmax(1) == b.labels).sum()) for b in own)
        return sum(right) / len(val)

    return accuracy
