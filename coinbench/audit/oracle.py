"""A CoIN that knows the truth of a data set: its concepts are the values of parts, exact, and it draws what they say.

It reads pixels alone. It knows the scenes of the data set, finds the one of an image by the pixels that no part
touches, and the parts by drawing them until the picture is the one it was given.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from coinbench.coin import CoIN
from coinbench.concepts import Concepts
from coinbench.metrics.part_use import part_values
from coinbench.problem import Problem, to_float, to_uint8
from coinbench.truth import GroundTruth, changed

_SWEEPS = 4
"""Rounds over the parts of a picture that is not yet explained."""
_NEAR = 4
"""Scenes whose distance is computed exactly."""


class Oracle(CoIN):
    """Concept k says whether part p has value v: φ_k is 1 or 0. Φ′ names the scene.

    `decode` draws for each part the value with the largest φ_k: more than 1 changes nothing more (it saturates), and a
    part whose concepts are all 0 is drawn neutral. g is linear.

    Args:
        problem: of a data set with a ground truth.
        theta: Θ_W [K, Y].
        bias: [Y].
    """

    theta: Tensor
    bias: Tensor

    def __init__(self, problem: Problem, theta: Float[Tensor, "K Y"], bias: Float[Tensor, "Y"]) -> None:
        """Learn the scenes of all splits."""
        super().__init__()
        assert problem.truth is not None
        self.classifier, self.truth, self.size = problem.classifier, problem.truth, problem.size
        self.counts = [len(values) for values in self.truth.part_values]
        self.n_concepts = sum(self.counts)
        self.register_buffer("theta", theta)
        self.register_buffer("bias", bias)
        splits = (problem.train, problem.val, problem.test)
        index = np.concatenate([split.index for split in splits])
        self.untouched = ~_touched(self.truth, problem.test.index[:64], self.size)
        ring = np.concatenate([split.pixels[:, self.untouched] for split in splits]).reshape(len(index), -1)
        order = np.argsort(index)
        self._index, self._ring = index[order], ring[order]

    def encode(self, images: Float[Tensor, "B C H W"]) -> Concepts:
        """Return the parts of the bird as concepts, and its scene as Φ′."""
        pixels = to_uint8(images)
        index = self.scene(pixels)
        phi = torch.from_numpy(self.indicators(self.parts(pixels, index))).to(images.device)
        support = torch.from_numpy(index.astype(np.float32))[:, None].to(images.device)
        return Concepts(phi[:, :, None], phi, support)

    def predict(self, concepts: Concepts) -> Float[Tensor, "B Y"]:
        """Return Θ_Wᵀ φ + b."""
        return concepts.pooled @ self.theta + self.bias

    def decode(self, concepts: Concepts) -> Float[Tensor, "B C H W"]:
        """Draw what the concepts say into the scene."""
        assert concepts.support is not None
        index = self._index[self._rows(concepts.support[:, 0].round().long().cpu().numpy())]
        blocks = concepts.phi.amax(2).split(self.counts, 1)
        chosen = [torch.where(block.amax(1) > 0, block.argmax(1), -1) for block in blocks]
        factors = torch.stack(chosen, 1).cpu().numpy()
        return to_float(self.truth.images(index, self.size, factors)).to(concepts.phi.device)

    def scene(self, pixels: UInt8[np.ndarray, "B H W C"]) -> Int[np.ndarray, "B"]:
        """Return the scene whose untouched pixels are nearest."""
        # Near ones by a matrix product, whose rounding would hide small differences; of these the nearest, exactly.
        seen = pixels[:, self.untouched].reshape(len(pixels), -1)
        a, b = seen.astype(np.float32) - 128, self._ring.astype(np.float32) - 128
        distance = (b * b).sum(1)[None] - 2 * a @ b.T
        near = np.argpartition(distance, min(_NEAR, len(b)) - 1, axis=1)[:, :_NEAR]
        gap = np.abs(self._ring[near].astype(np.int32) - seen[:, None].astype(np.int32)).sum(2)
        return self._index[near[np.arange(len(near)), gap.argmin(1)]]

    def ring(self, index: Int[np.ndarray, "B"]) -> Int[np.ndarray, "B d"]:
        """Return the pixels of scenes that no part touches."""
        return self._ring[self._rows(index)].astype(np.int64)

    def _rows(self, index: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._index, index).clip(0, len(self._index) - 1)

    def parts(self, pixels: UInt8[np.ndarray, "B H W C"], index: Int[np.ndarray, "B"]) -> Int[np.ndarray, "B parts"]:
        """Return the parts, -1 for a neutral one, whose drawing in these scenes is the picture, or nearest to it."""
        factors = self.truth.factors[index]
        error = self._error(pixels, index, factors)
        for _ in range(_SWEEPS):
            before = error.copy()
            for part, count in enumerate(self.counts):
                for value in range(-1, count):
                    open_ = np.flatnonzero((error > 0) & (factors[:, part] != value))
                    if len(open_):
                        tried = changed(factors[open_], part, value)
                        found = self._error(pixels[open_], index[open_], tried)
                        better = found < error[open_]
                        factors[open_[better]], error[open_[better]] = tried[better], found[better]
            if (error == before).all():
                break
        return factors

    def _error(self, pixels: np.ndarray, index: np.ndarray, factors: np.ndarray) -> np.ndarray:
        drawn = self.truth.images(index, self.size, factors)
        return np.square(drawn.astype(np.int32) - pixels).sum((1, 2, 3))

    def indicators(self, factors: Int[np.ndarray, "B parts"]) -> Float[np.ndarray, "B K"]:
        """Return 1 where a part has a value, as concepts; 0 in all those of a neutral part."""
        columns = [part[:, None] == np.arange(count) for part, count in zip(factors.T, self.counts, strict=True)]
        return np.concatenate(columns, 1).astype(np.float32)


def _touched(truth: GroundTruth, index: np.ndarray, size: int) -> np.ndarray:
    """Return bool [size, size]: where some part shows in some of the scenes, whatever the values."""
    most = max(len(values) for values in truth.part_values)
    found = np.zeros((size, size), dtype=bool)
    for value in range(most):
        factors = np.tile([min(value, len(v) - 1) for v in truth.part_values], (len(index), 1))
        found |= (truth.coverage(index, size, factors) > 0).any((0, 1))
    return found


@torch.no_grad()
def fit_oracle(problem: Problem, per_class: int = 20, batch: int = 256) -> Oracle:
    """Return the oracle whose g is what f makes of the parts, measured by redrawing training images.

    Θ_W of (p, v) and class c: how much f's log-odds of c rise when p is redrawn as v, over the mean of the values of p,
    in training images that f calls c.

    Args:
        problem: of a data set with a ground truth.
        per_class: training images of each class.
        batch: images in a pass of f.
    """
    assert problem.truth is not None
    predicted = torch.cat([problem.classifier(b.images).logits.argmax(1).cpu() for b in problem.train.batches(batch)])
    columns, bias = [], []
    for c in range(problem.n_classes):
        rows = np.flatnonzero(predicted.numpy() == c)[:per_class]
        if not len(rows):
            columns.append(np.zeros(sum(len(values) for values in problem.truth.part_values)))
            bias.append(-20.0)
            continue
        index = problem.train.index[rows]
        tables = part_values(problem, index, np.full(len(rows), c), batch)
        effects = [table.mean(0) - table.mean() for table in tables]
        own = problem.truth.factors[index]
        level = np.mean([table[np.arange(len(rows)), own[:, p]] for p, table in enumerate(tables)])
        shown = sum(effect[own[:, p]].mean() for p, effect in enumerate(effects))
        columns.append(np.concatenate(effects))
        bias.append(level - float(shown))
    theta = torch.from_numpy(np.stack(columns, 1)).float()
    return Oracle(problem, theta, torch.tensor(bias).float()).to(problem.device).eval()
