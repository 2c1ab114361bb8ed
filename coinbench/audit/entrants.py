"""Entrants that know nothing, are damaged by degrees, or game the numbers; all are made of the oracle."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from coinbench.audit.oracle import Oracle
from coinbench.coin import CoIN
from coinbench.concepts import Concepts
from coinbench.problem import to_float, to_uint8
from coinbench.rng import Rng


class _Around(CoIN):
    """Does as the oracle does, but for what a subclass changes."""

    def __init__(self, oracle: Oracle) -> None:
        super().__init__()
        self.classifier, self.n_concepts = oracle.classifier, oracle.n_concepts
        # Not a child: its networks are the problem's.
        self._oracle = [oracle]

    @property
    def oracle(self) -> Oracle:
        """The oracle."""
        return self._oracle[0]

    def encode(self, images: Float[Tensor, "B C H W"]) -> Concepts:
        """Return the oracle's concepts."""
        return self.oracle.encode(images)

    def predict(self, concepts: Concepts) -> Float[Tensor, "B Y"]:
        """Return the oracle's logits."""
        return self.oracle.predict(concepts)

    def decode(self, concepts: Concepts) -> Float[Tensor, "B C H W"]:
        """Return the oracle's drawing."""
        return self.oracle.decode(concepts)


def _keys(tensor: Tensor) -> np.ndarray:
    """Return a number for each row that depends on its content alone: the key of random draws for it."""
    rows = np.ascontiguousarray(tensor.detach().cpu().flatten(1).numpy())
    return np.array([zlib.crc32(row.tobytes()) for row in rows], dtype=np.int64)


class Shuffled(_Around):
    """In a share of images, told by their pixels, each part is replaced by a random one: concepts without meaning."""

    def __init__(self, oracle: Oracle, share: float = 1.0) -> None:
        """Hold the share, from 0 to 1."""
        super().__init__(oracle)
        self.share = share

    def encode(self, images: Float[Tensor, "B C H W"]) -> Concepts:
        """Return the oracle's concepts, or in a share of images those of another bird."""
        found, counts = self.oracle.encode(images), self.oracle.counts
        dice = Rng(0).child("shuffled").uniform(_keys(torch.from_numpy(to_uint8(images))), 1 + len(counts))
        drawn = (dice[:, 1:] * counts).astype(np.int64)
        others = torch.from_numpy(self.oracle.indicators(drawn))[:, :, None].to(images.device)
        hit = torch.from_numpy(dice[:, 0] < self.share).to(images.device)[:, None].expand(-1, self.n_concepts)
        return found.swap(hit, Concepts(others, others[:, :, 0]))


class Constant(_Around):
    """Every concept is 1 in every image."""

    def encode(self, images: Float[Tensor, "B C H W"]) -> Concepts:
        """Return the scene, and ones."""
        found = self.oracle.encode(images)
        return replace(found, phi=torch.ones_like(found.phi), pooled=torch.ones_like(found.pooled))


class NoisyOmega(_Around):
    """Draws from concepts with noise, keyed by what it is given."""

    def __init__(self, oracle: Oracle, level: float) -> None:
        """Hold the standard deviation of the noise on each φ_k."""
        super().__init__(oracle)
        self.level = level

    def decode(self, concepts: Concepts) -> Float[Tensor, "B C H W"]:
        """Draw what φ with noise says."""
        flat = concepts.phi.flatten(1)
        # Box and Muller, of two uniforms for each cell.
        dice = Rng(0).child("omega").uniform(_keys(flat), 2 * flat.shape[1])
        a, b = np.split(dice, 2, axis=1)
        noise = np.sqrt(-2 * np.log1p(-a)) * np.cos(2 * np.pi * b)
        moved = (flat + self.level * torch.from_numpy(noise).to(flat)).relu().view_as(concepts.phi)
        return self.oracle.decode(replace(concepts, phi=moved, pooled=moved.amax(2)))


class Blurred(_Around):
    """Draws as the oracle, out of focus."""

    def __init__(self, oracle: Oracle, sigma: float) -> None:
        """Hold the standard deviation in pixels."""
        super().__init__(oracle)
        self.sigma = sigma

    def decode(self, concepts: Concepts) -> Float[Tensor, "B C H W"]:
        """Blur the oracle's drawing."""
        width = 2 * int(np.ceil(2 * self.sigma)) + 1
        return gaussian_blur(self.oracle.decode(concepts), [width, width], [self.sigma, self.sigma])


class Copies(_Around):
    """Φ′ is the image, which `decode` returns whatever Φ says."""

    def encode(self, images: Float[Tensor, "B C H W"]) -> Concepts:
        """Return the oracle's concepts, and the image as Φ′."""
        return replace(self.oracle.encode(images), support=images.flatten(1))

    def decode(self, concepts: Concepts) -> Float[Tensor, "B C H W"]:
        """Return Φ′."""
        assert concepts.support is not None
        return concepts.support.unflatten(1, (-1, self.oracle.size, self.oracle.size))


class ClassLogits(_Around):
    """Concept c is g's probability of class c; `decode` draws the usual bird of the largest."""

    def __init__(self, oracle: Oracle) -> None:
        """Find the usual bird of each class."""
        super().__init__(oracle)
        self.n_concepts = oracle.classifier.n_classes
        self._usual = torch.from_numpy(oracle.indicators(oracle.usual()))

    def encode(self, images: Float[Tensor, "B C H W"]) -> Concepts:
        """Return softmax g(x), and the scene."""
        found = self.oracle.encode(images)
        pooled = self.oracle.predict(found).softmax(1)
        return Concepts(pooled[:, :, None], pooled, found.support)

    def predict(self, concepts: Concepts) -> Float[Tensor, "B Y"]:
        """Return logits that are the concepts but for their scale."""
        return 10 * concepts.pooled

    def decode(self, concepts: Concepts) -> Float[Tensor, "B C H W"]:
        """Draw the usual bird of the largest concept."""
        shown = self._usual.to(concepts.phi)[concepts.phi.amax(2).argmax(1)] * (concepts.phi.amax((1, 2)) > 0)[:, None]
        return self.oracle.decode(Concepts(shown[:, :, None], shown, concepts.support))


class _Aside(_Around):
    """Scene and parts are in Φ′, which the picture comes from."""

    def aside(self, images: Float[Tensor, "B C H W"]) -> Concepts:
        """Return the oracle's concepts, and scene and parts as Φ′."""
        found = self.oracle.encode(images)
        assert found.support is not None
        return replace(found, support=torch.cat([found.support, found.pooled], 1))

    def shown(self, concepts: Concepts) -> Concepts:
        """Return what Φ′ says as concepts of the oracle."""
        assert concepts.support is not None
        parts = concepts.support[:, 1:]
        return Concepts(parts[:, :, None], parts, concepts.support[:, :1])

    def decode(self, concepts: Concepts) -> Float[Tensor, "B C H W"]:
        """Draw what Φ′ says."""
        return self.oracle.decode(self.shown(concepts))


class AllEqual(_Aside):
    """All concepts have one value, which names the class; the picture comes from Φ′."""

    def encode(self, images: Float[Tensor, "B C H W"]) -> Concepts:
        """Return 1 + ĉ for all concepts, and scene and parts as Φ′."""
        found = self.aside(images)
        value = 1.0 + self.oracle.predict(self.shown(found)).argmax(1, keepdim=True).to(images.dtype)
        pooled = value.expand_as(found.pooled)
        return replace(found, phi=pooled[:, :, None], pooled=pooled)

    def predict(self, concepts: Concepts) -> Float[Tensor, "B Y"]:
        """Return logits that are largest for the class that the mean names."""
        named = torch.arange(1.0, self.classifier.n_classes + 1, device=concepts.pooled.device)
        return -5 * (concepts.pooled.mean(1, keepdim=True) - named).square()


class MostlyDead(_Aside):
    """The concepts of the last part are the oracle's, all others dead; class and picture come from Φ′ and these."""

    def encode(self, images: Float[Tensor, "B C H W"]) -> Concepts:
        """Return the concepts of the last part, and scene and parts as Φ′."""
        return self.aside(images).scale(self._alive(images))

    def predict(self, concepts: Concepts) -> Float[Tensor, "B Y"]:
        """Return the oracle's logits of the parts."""
        return self.oracle.predict(self.shown(concepts))

    def shown(self, concepts: Concepts) -> Concepts:
        """Return what the concepts of the last part say, and for the others what Φ′ says."""
        alive, found = self._alive(concepts.phi), super().shown(concepts)
        phi = torch.where(alive[:, :, None] > 0, concepts.phi, found.phi)
        return replace(found, phi=phi, pooled=torch.where(alive > 0, concepts.pooled, found.pooled))

    def _alive(self, like: Tensor) -> Float[Tensor, "1 K"]:
        return (torch.arange(self.n_concepts, device=like.device) >= sum(self.oracle.counts[:-1])).float()[None]


class NoiseAndDead(_Aside):
    """A fourth of the concepts is noise, keyed by the picture, the others are dead; class and picture come from Φ′."""

    def encode(self, images: Float[Tensor, "B C H W"]) -> Concepts:
        """Return noise and zeros, and scene and parts as Φ′."""
        dice = Rng(0).child("noise").uniform(_keys(torch.from_numpy(to_uint8(images))), self.n_concepts)
        dice[:, self.n_concepts // 4 :] = 0
        pooled = torch.from_numpy(dice).to(images)
        return replace(self.aside(images), phi=pooled[:, :, None], pooled=pooled)

    def predict(self, concepts: Concepts) -> Float[Tensor, "B Y"]:
        """Return the oracle's logits of the parts, to which the noise adds as much for every class."""
        return self.oracle.predict(self.shown(concepts)) + concepts.pooled.sum(1, keepdim=True)


class Watermark(_Around):
    """Shows the picture whatever Φ says, and writes Φ into it invisibly, where its own `encode` reads it.

    A bit of noise of one to three grey levels in a pixel that no part touches moves g as a changed part would.
    """

    def encode(self, images: Float[Tensor, "B C H W"]) -> Concepts:
        """Read the mark; the oracle reads a picture without one."""
        oracle, pixels = self.oracle, to_uint8(images)
        index = oracle.scene(pixels)
        signed = pixels[:, oracle.untouched].reshape(len(pixels), -1).astype(np.int64) - oracle.ring(index)
        marks = np.abs(signed[:, : self.n_concepts])
        marked = np.isin(marks, (1, 3)).all(1)
        found = oracle.encode(images)
        assert found.support is not None
        read = torch.from_numpy((marks == 3).astype(np.float32)).to(images.device)
        rows = torch.from_numpy(marked).to(images.device)[:, None].expand_as(read)
        found = found.swap(rows, Concepts(read[:, :, None], read))
        # The parts that are shown, for `decode`.
        plain = pixels.copy()
        plain[:, oracle.untouched] = oracle.ring(index).reshape(len(pixels), -1, pixels.shape[3])
        shown = torch.from_numpy(oracle.indicators(oracle.parts(plain, index))).to(images.device)
        scene = torch.from_numpy(index.astype(np.float32))[:, None].to(images.device)
        return replace(found, support=torch.cat([scene, shown], 1))

    def decode(self, concepts: Concepts) -> Float[Tensor, "B C H W"]:
        """Draw what Φ′ says, with Φ written into it."""
        assert concepts.support is not None
        parts, oracle = concepts.support[:, 1:], self.oracle
        pixels = to_uint8(oracle.decode(Concepts(parts[:, :, None], parts, concepts.support[:, :1]))).astype(np.int64)
        ring = pixels[:, oracle.untouched]
        flat = ring.reshape(len(ring), -1)
        bits = (concepts.phi.amax(2) > 0).cpu().numpy()
        amount = np.where(bits, 3, 1)
        flat[:, : self.n_concepts] += np.where(flat[:, : self.n_concepts] > 127, -amount, amount)
        pixels[:, oracle.untouched] = flat.reshape(ring.shape)
        return to_float(pixels.astype(np.uint8)).to(concepts.phi.device)


class Duplicated(_Around):
    """Every concept of the oracle twice."""

    def __init__(self, oracle: Oracle) -> None:
        """Double K."""
        super().__init__(oracle)
        self.n_concepts = 2 * oracle.n_concepts

    def encode(self, images: Float[Tensor, "B C H W"]) -> Concepts:
        """Return each concept twice."""
        found = self.oracle.encode(images)
        return Concepts(found.phi.repeat(1, 2, 1), found.pooled.repeat(1, 2), found.support)

    def predict(self, concepts: Concepts) -> Float[Tensor, "B Y"]:
        """Return the logits of the means of both."""
        return self.oracle.predict(self._joined(concepts, torch.mean))

    def decode(self, concepts: Concepts) -> Float[Tensor, "B C H W"]:
        """Draw what the larger of both says."""
        return self.oracle.decode(self._joined(concepts, torch.amax))

    def _joined(self, concepts: Concepts, join: Callable[[Tensor, int], Tensor]) -> Concepts:
        phi = join(concepts.phi.unflatten(1, (2, -1)), 1)
        return Concepts(phi, join(concepts.pooled.unflatten(1, (2, -1)), 1), concepts.support)


@dataclass(frozen=True, slots=True)
class Entrant:
    """Who is measured, and as what."""

    name: str
    coin: CoIN
    about: str


def nulls(oracle: Oracle) -> list[Entrant]:
    """Return the entrants that know nothing."""
    return [
        Entrant("shuffled", Shuffled(oracle), "concepts of a random bird"),
        Entrant("constant", Constant(oracle), "all concepts 1 in all images"),
    ]


def damaged(oracle: Oracle) -> dict[str, list[Entrant]]:
    """Return the oracle with growing damage, by kind."""
    return {
        "noise in Ω": [Entrant(f"σ = {s:g}", NoisyOmega(oracle, s), "noise on Φ in decode") for s in (0.3, 0.6, 1.2)],
        "permuted concepts": [
            Entrant(f"{p:.0%}", Shuffled(oracle, p), "concepts of a random bird in some images")
            for p in (0.25, 0.5, 0.75)
        ],
        "blurred decoder": [Entrant(f"σ = {s:g} px", Blurred(oracle, s), "x̃ out of focus") for s in (0.5, 1.0, 2.0)],
    }


def gaming(oracle: Oracle) -> list[Entrant]:
    """Return the entrants that game the numbers."""
    return [
        Entrant("copies x", Copies(oracle), "Φ′ is x, decode returns it and ignores Φ"),
        Entrant("class logits", ClassLogits(oracle), "concepts are g's classes"),
        Entrant("all equal", AllEqual(oracle), "all concepts have one value, which names the class"),
        Entrant("most concepts dead", MostlyDead(oracle), "concepts of one part, the others dead; the rest is in Φ′"),
        Entrant(
            "noise and dead", NoiseAndDead(oracle), "a fourth of the concepts is noise, the others dead; all is in Φ′"
        ),
        Entrant("adversarial noise", Watermark(oracle), "Φ moves g through noise of three grey levels, shows nothing"),
        Entrant("duplicated", Duplicated(oracle), "every concept of the oracle twice"),
    ]
