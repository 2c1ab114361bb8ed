"""A CoIN that knows the truth of a data set: its concepts are the values of parts, exact, and it draws what they say.

It reads pixels alone. It knows the scenes of the data set, finds the one of an image by the pixels that no part
touches, and the parts by drawing them until the picture is the one it was given.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Float32, Int, UInt8
from torch import Tensor

from coinbench.coin import CoIN
from coinbench.concepts import Concepts
from coinbench.metrics.part_use import part_effects
from coinbench.problem import Problem, to_float, to_uint8
from coinbench.truth import GroundTruth, changed

_SWEEPS = 4
"""Rounds over the parts of a picture that is not yet explained."""
_NEAR = 4
"""Scenes whose distance is computed exactly."""
_BATCH = 256
"""Images in a pass of f."""


class Oracle(CoIN):
    """Concept k says whether part p has value v: φ_k is 1 or 0. Φ′ names the scene.

    `decode` draws for each part the value with the largest φ_k: more than 1 changes nothing more (it saturates), and a
    part whose concepts are all 0 is drawn neutral. g is f on what `decode` draws. A drawing has no derivative: in its
    place stands the exact change of f's log-odds when a part is redrawn, over the mean of all its values.
    """

    def __init__(self, problem: Problem) -> None:
        """Learn the scenes of all splits of a data set with a ground truth."""
        super().__init__()
        assert problem.truth is not None
        self.classifier, self.truth, self.size = problem.classifier, problem.truth, problem.size
        self.counts = [len(values) for values in self.truth.part_values]
        self.n_concepts = sum(self.counts)
        self._problem = problem
        self._effects: dict[tuple[int, bytes], np.ndarray] = {}
        self._read: dict[tuple[int, bytes], np.ndarray] = {}
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
        """Return f's logits of the drawing, with the exact effects of the parts as their derivative."""
        index, factors = self._named(concepts)
        with torch.no_grad():
            logits = self.classifier(self._drawn(index, factors).to(concepts.phi.device)).logits
        if not concepts.pooled.requires_grad:
            return logits
        effects = torch.from_numpy(self._effects_of(index, factors)).to(logits)
        return logits + torch.einsum("bk,bky->by", concepts.pooled - concepts.pooled.detach(), effects)

    def decode(self, concepts: Concepts) -> Float[Tensor, "B C H W"]:
        """Draw what the concepts say into the scene."""
        return self._drawn(*self._named(concepts)).to(concepts.phi.device)

    def _named(self, concepts: Concepts) -> tuple[np.ndarray, np.ndarray]:
        """Return the scenes that Φ′ names and the parts that Φ names."""
        assert concepts.support is not None
        index = self._index[self._rows(concepts.support[:, 0].round().long().cpu().numpy())]
        blocks = concepts.phi.detach().amax(2).split(self.counts, 1)
        chosen = [torch.where(block.amax(1) > 0, block.argmax(1), -1) for block in blocks]
        return index, torch.stack(chosen, 1).cpu().numpy()

    def _drawn(self, index: np.ndarray, factors: np.ndarray) -> Float[Tensor, "B C H W"]:
        return to_float(self.truth.images(index, self.size, factors))

    def _effects_of(self, index: np.ndarray, factors: np.ndarray) -> Float32[np.ndarray, "B K Y"]:
        """Return what each concept does to f's log-odds, measured once for each picture."""
        keys = [(int(i), row.tobytes()) for i, row in zip(index, factors, strict=True)]
        new = [row for row, key in enumerate(keys) if key not in self._effects]
        if new:
            found = np.concatenate(part_effects(self._problem, index[new], factors[new], _BATCH), 1)
            self._effects |= {keys[row]: table for row, table in zip(new, found.astype(np.float32), strict=True)}
        return np.stack([self._effects[key] for key in keys])

    def scene(self, pixels: UInt8[np.ndarray, "B H W C"]) -> Int[np.ndarray, "B"]:
        """Return the scene whose untouched pixels are nearest."""
        # Near ones by a matrix product, whose rounding would hide small differences; of these the nearest, exactly.
        seen = pixels[:, self.untouched].reshape(len(pixels), -1)
        a, b = seen.astype(np.float32) - 128, self._ring.astype(np.float32) - 128
        distance = (b * b).sum(1)[None] - 2 * a @ b.T
        near = np.argpartition(distance, min(_NEAR, len(b)) - 1, axis=1)[:, :_NEAR]
        gap = np.abs(self._ring[near].astype(np.int32) - seen[:, None].astype(np.int32)).sum(2)
        return self._index[near[np.arange(len(near)), gap.argmin(1)]]

    def usual(self) -> Int[np.ndarray, "Y parts"]:
        """Return the most frequent value of each part in each class, over the training images."""
        train = self._problem.train
        own = [self.truth.factors[train.index[train.labels == y]] for y in range(self._problem.n_classes)]
        return np.array([[np.bincount(part).argmax() for part in factors.T] for factors in own])

    def ring(self, index: Int[np.ndarray, "B"]) -> Int[np.ndarray, "B d"]:
        """Return the pixels of scenes that no part touches."""
        return self._ring[self._rows(index)].astype(np.int64)

    def _rows(self, index: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._index, index).clip(0, len(self._index) - 1)

    def parts(self, pixels: UInt8[np.ndarray, "B H W C"], index: Int[np.ndarray, "B"]) -> Int[np.ndarray, "B parts"]:
        """Return the parts, -1 for a neutral one, whose drawing in these scenes is the picture, or nearest to it."""
        # Metrics show the same picture many times: what was read is kept, by the bytes of the picture.
        keys = [(int(i), picture.tobytes()) for i, picture in zip(index, pixels, strict=True)]
        new = np.array([row for row, key in enumerate(keys) if key not in self._read], dtype=np.int64)
        if len(new):
            found = self._solved(pixels[new], index[new])
            self._read |= {keys[row]: factors for row, factors in zip(new, found, strict=True)}
        return np.stack([self._read[key] for key in keys])

    def _solved(self, pixels: np.ndarray, index: np.ndarray) -> np.ndarray:
        # From neutral parts: what the data set says of the scene is not looked at.
        factors = np.full((len(index), len(self.counts)), -1)
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
