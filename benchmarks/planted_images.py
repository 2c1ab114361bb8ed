"""Images that are planted concepts, and what a model of them shows: the tests' and the simulations' ground truth.

An 8x8 image is 16 blocks of 4 pixels. A cell of a concept owns a block: a column of the orthonormal A is ±1/2 on its
four pixels, so φ = relu(Aᵀ x), and x̃ = A φ + u·Φ′ is exact where an image has no other part. Everything is computed in
float64 on the quantised pixels, in numpy alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from coinbench.problem import Split, to_float

SIZE, K, WIDTH, Y = 8, 8, 2, 4
"""Image side, concepts, cells per concept, classes."""
READ = (0, 1, 2, 3, 4)
"""Concepts that f reads from the image; it is blind to the others."""
UNUSED = 6
"""Shown by the decoder, used by neither f nor g."""
DEAD = 7
"""Never active, in no image."""


def basis() -> np.ndarray:
    """Return A [64, K, b]: orthonormal columns, ±1/2 on disjoint blocks of 2x2 pixels."""
    a = np.zeros((SIZE, SIZE, K, WIDTH))
    for cell in range(K * WIDTH):
        top, left = 2 * (cell // 4), 2 * (cell % 4)
        sign = 1.0 if cell % 3 else -1.0
        a[top : top + 2, left : left + 2, cell // WIDTH, cell % WIDTH] = sign / 2
    return a.reshape(SIZE * SIZE, K, WIDTH)


def support_direction() -> np.ndarray:
    """Return u [64], of length 1 and orthogonal to A: the part of an image that Φ′ carries."""
    return np.tile([1.0, -1.0], SIZE * SIZE // 2) / SIZE


def head() -> np.ndarray:
    """Return Θ_W [K, Y]: class c wants concept c, and a little of concept 4 + c % 2; 6 and 7 are used by none."""
    weights = np.full((K, Y), -1.5)
    weights[np.arange(Y), np.arange(Y)] = 6.0
    weights[4], weights[5] = [3.0, 0.0, 1.8, 0.0], [0.0, 3.6, 0.0, 1.5]
    weights[[UNUSED, DEAD]] = 0.0
    return weights


def _drawn(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    labels = rng.integers(0, Y, n)
    phi = rng.uniform(0.0, 0.25, (n, K, WIDTH)) * (rng.random((n, K, 1)) < 0.6)
    phi[np.arange(n), labels] += rng.uniform(0.0, 0.4, (n, 1))
    phi[:, DEAD] = 0
    flat = phi.reshape(n, -1) @ basis().reshape(SIZE * SIZE, -1).T
    flat += rng.uniform(-0.8, 0.8, (n, 1)) * support_direction()
    # What neither Φ nor Φ′ can show: the error of the reconstruction.
    flat += np.repeat(rng.normal(0, 0.02, (n, SIZE * SIZE // 4)), 4, axis=1)
    pixels = np.rint((flat.clip(-1, 1) + 1) * 127.5).astype(np.uint8)
    return pixels.reshape(n, SIZE, SIZE, 1), labels


def drawn_split(name: str, n: int, first: int) -> Split:
    """Return n images, drawn from the seed `first`, which is also the first position."""
    pixels, labels = _drawn(n, np.random.default_rng(first))
    return Split(name, pixels, labels.astype(np.int64), np.arange(first, first + n), pixels)


@dataclass(frozen=True)
class Truth:
    """What the planted model does with a split, in numpy float64 on the quantised pixels."""

    x: np.ndarray
    """[n, 64]."""
    phi: np.ndarray
    """[n, K, b]."""
    support: np.ndarray
    """[n, 1]."""
    labels: np.ndarray

    @staticmethod
    def of(split: Split) -> Truth:
        # The pixel values are those of float32 images: the difference to exact ones is 6e-8.
        x = to_float(split.pixels).numpy().astype(np.float64).reshape(len(split), -1)
        phi = np.maximum(x @ basis().reshape(SIZE * SIZE, -1), 0).reshape(-1, K, WIDTH)
        phi[:, DEAD] = 0
        return Truth(x, phi, x @ support_direction()[:, None], split.labels)

    @property
    def logits(self) -> np.ndarray:
        """g(x)."""
        return self.phi.max(2) @ head()

    @property
    def predicted(self) -> np.ndarray:
        """ĉ."""
        return self.logits.argmax(1)

    @property
    def relevance(self) -> np.ndarray:
        """r_k(x)."""
        alpha = self.phi.max(2) * head()[:, self.predicted].T
        return alpha / np.abs(alpha).max(1, keepdims=True)

    @property
    def reconstruction(self) -> np.ndarray:
        """x̃ [n, 64]."""
        shown = self.phi.reshape(len(self.x), -1) @ basis().reshape(SIZE * SIZE, -1).T
        return shown + self.support * support_direction()

    def without(self, mask: np.ndarray) -> Truth:
        """Return the truth of the decoded images without the concepts in `mask` [n, K]."""
        phi = np.where(mask[:, :, None], 0.0, self.phi)
        return replace(self, phi=phi, x=replace(self, phi=phi).reconstruction)

    def embedding(self, images: np.ndarray) -> np.ndarray:
        """Return f's embedding of images [n, 64]."""
        return images @ basis()[:, READ, :].sum(2) + 1


def probability(logits: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return softmax(logits) at `target`."""
    e = np.exp(logits - logits.max(1, keepdims=True))
    return (e / e.sum(1, keepdims=True))[np.arange(len(e)), target]
