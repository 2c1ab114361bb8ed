"""One batch seen by one CoIN: everything metrics ask for, computed lazily and at most once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from coinbench import contract
from coinbench.coin import CoIN, normalise, relevance
from coinbench.concepts import Concepts
from coinbench.models import Features, knowing
from coinbench.problem import Batch, Problem


class Trace:
    """Lazy results of f, p and the CoIN on a batch x and on its reconstruction x̃. Used under `no_grad`."""

    def __init__(self, coin: CoIN, problem: Problem, batch: Batch) -> None:
        """Hold the batch; nothing is computed yet."""
        self.coin = coin
        self.problem = problem
        self.batch = batch

    @property
    def index(self) -> Int[Tensor, "B"]:
        """Position of each image in its data set, the key of every random draw for it."""
        return self.batch.index

    def rows_of(self, chosen: np.ndarray) -> np.ndarray:
        """Return the rows of the batch whose images are among those chosen by index."""
        return np.flatnonzero(np.isin(self.index.cpu().numpy(), chosen))

    @property
    def images(self) -> Float[Tensor, "B C H W"]:
        """The original images x."""
        return self.batch.images

    @cached_property
    def features(self) -> Features:
        """Pass of the shared classifier f over x."""
        return self.problem.classifier(self.images)

    @cached_property
    def concepts(self) -> Concepts:
        """Φ(x) and Φ′(x)."""
        return self._encode(self.images, lambda: self.features)

    @cached_property
    def logits(self) -> Float[Tensor, "B Y"]:
        """g(x), before the softmax."""
        return contract.predict(self.coin, self.concepts, self.problem.n_classes)

    @cached_property
    def predicted(self) -> Int[Tensor, "B"]:
        """ĉ = argmax g(x), on the original image."""
        return self.logits.argmax(1)

    @cached_property
    def relevance(self) -> Float[Tensor, "B K"]:
        """r_k(x) in [-1, 1] for class ĉ."""
        with contract.raising("predict, of which the gradient was asked,", type(self.coin)):
            alpha = relevance(self.coin, self.concepts, self.predicted)
        return normalise(alpha)

    @cached_property
    def reconstruction(self) -> Float[Tensor, "B C H W"]:
        """x̃."""
        return contract.decode(self.coin, self.concepts, self.images)

    @cached_property
    def features_of_reconstruction(self) -> Features:
        """Pass of the shared classifier f over x̃."""
        return self.problem.classifier(self.reconstruction)

    @cached_property
    def logits_of_reconstruction(self) -> Float[Tensor, "B Y"]:
        """g(x̃), before the softmax."""
        concepts = self._encode(self.reconstruction, lambda: self.features_of_reconstruction)
        return contract.predict(self.coin, concepts, self.problem.n_classes)

    @cached_property
    def perceptual(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Feature maps of the perceptual net p for x and for x̃."""
        net = self.problem.perceptual
        return net(self.images), net(self.reconstruction)

    def _encode(self, images: Tensor, features: Callable[[], Features]) -> Concepts:
        f = self.problem.classifier
        if self.coin.classifier is not f:
            return contract.encode(self.coin, images)
        # f takes most of the time of `encode`, and metrics want f alone on the same images.
        with knowing(f, images, features()):
            return contract.encode(self.coin, images)

    def probability(self, logits: Float[Tensor, "B Y"]) -> Float[Tensor, "B"]:
        """Return softmax(logits)_ĉ, the probability of the class predicted on the original image."""
        return torch.softmax(logits, 1).gather(1, self.predicted[:, None])[:, 0]
