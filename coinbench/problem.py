"""A problem: the splits of a data set with the frozen f, G and p that all methods share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from coinbench.group import Group
from coinbench.models import Classifier, ImageGenerator, send
from coinbench.networks.perceptual import Perceptual
from coinbench.rng import Rng
from coinbench.truth import GroundTruth

if TYPE_CHECKING:
    from coinbench.part_judge import Parts


@dataclass(frozen=True, slots=True)
class Batch:
    """Images of a split."""

    images: Float[Tensor, "B C H W"]
    """float32 in [-1, 1]."""
    labels: Int[Tensor, "B"]
    index: Int[Tensor, "B"]
    """Position in the data set, over all splits: the key of every random draw for an image."""


def to_float(pixels: np.ndarray) -> Float[Tensor, "B C H W"]:
    """Turn uint8 [B, H, W, C] into float32 [-1, 1] NCHW.

    >>> to_float(np.array([[[[0], [255]]]], dtype=np.uint8)).flatten().tolist()
    [-1.0, 1.0]
    """
    # Channels stay last in memory, where convolutions on the CPU are a quarter faster.
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 127.5 - 1


def on_device(pixels: np.ndarray, device: torch.device) -> Float[Tensor, "B C H W"]:
    """Return `to_float` on a device, bit for bit: as bytes they travel to CUDA, and nobody waits for them."""
    if device.type != "cuda":
        return to_float(pixels).to(device)
    return _floats(send(torch.from_numpy(np.ascontiguousarray(pixels)), device))


def _floats(sent: UInt8[Tensor, "B H W C"]) -> Float[Tensor, "B C H W"]:
    images = sent.permute(0, 3, 1, 2).float()
    # Divided by a tensor: by a number CUDA would multiply with its reciprocal, which rounds otherwise.
    return images / images.new_full((), 127.5) - 1


@dataclass(frozen=True, slots=True)
class Crops:
    """Squares that are cut out of large images, some of them mirrored."""

    size: int
    """H = W."""
    top: Int[np.ndarray, "B"]
    left: Int[np.ndarray, "B"]
    mirror: Bool[np.ndarray, "B"]

    def cut(self, large: UInt8[np.ndarray, "N R R C"], rows: Int[np.ndarray, "B"]) -> UInt8[np.ndarray, "B H W C"]:
        """Cut on the host, touching no pixel outside the squares."""
        size, places = self.size, zip(rows, self.top, self.left, self.mirror, strict=True)
        return np.stack([large[row, t : t + size, s : s + size][:, :: -1 if m else 1] for row, t, s, m in places])

    def cut_there(
        self, large: UInt8[np.ndarray, "N R R C"], rows: Int[np.ndarray, "B"], device: torch.device
    ) -> UInt8[Tensor, "B H W C"]:
        """Cut on the device: the host copies whole rows once, into memory that the device reads by itself."""
        whole = torch.empty((len(rows), *large.shape[1:]), dtype=torch.uint8, pin_memory=device.type == "cuda")
        # "clip" lets numpy write where it should instead of into a buffer of its own.
        np.take(large, rows, 0, out=whole.numpy(), mode="clip")
        sent = whole.to(device, non_blocking=True)
        places = np.stack([np.arange(len(rows)), self.top, self.left, self.mirror])
        image, top, left, mirror = send(torch.from_numpy(places), device)[:, :, None]
        step = torch.arange(self.size, device=device)
        across = left + torch.where(mirror > 0, self.size - 1 - step, step)
        return sent[image[:, :, None], (top + step)[:, :, None], across[:, None]]


def to_uint8(images: Float[Tensor, "B C H W"]) -> np.ndarray:
    """Turn float [-1, 1] NCHW into uint8 [B, H, W, C] by round((x + 1) · 127.5), clamped (docs/metrics.md 6)."""
    scaled = ((images.detach() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return scaled.permute(0, 2, 3, 1).cpu().numpy()


@dataclass(frozen=True, slots=True)
class Split:
    """One split as uint8 pixels; float images are made by batch."""

    name: str
    pixels: np.ndarray
    """uint8 [N, H, W, C]."""
    labels: np.ndarray
    """int64 [N]."""
    index: np.ndarray
    """int64 [N], rising."""
    large: np.ndarray
    """uint8 [N, R, R, C]: what training crops are cut from; `pixels` itself in val and test."""
    flip: bool = False
    """Mirror training images at random."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    group: Group = field(default_factory=Group)
    """The processes that share each training batch."""

    def __len__(self) -> int:
        """Return N."""
        return len(self.labels)

    def subset(self, rows: np.ndarray) -> Split:
        """Return the given rows as a split of their own."""
        return replace(
            self,
            pixels=self.pixels[rows],
            labels=self.labels[rows],
            index=self.index[rows],
            large=self.large[rows],
        )

    def batches(self, size: int, workers: int = 0, *, turns: bool = False) -> Iterator[Batch]:
        """Go through the split once, in order of index, without augmentation.

        Args:
            size: images in a batch; the last one may have fewer.
            workers: loader processes.
            turns: only the batches that are this process's when those of the group take turns.
        """
        every = [list(range(start, min(start + size, len(self)))) for start in range(0, len(self), size)]
        mine = self.group.turns(every) if turns else every
        loader = DataLoader(_Rows(self), batch_sampler=mine, num_workers=workers, collate_fn=_stack)
        for pixels, labels, index in loader:
            yield self._batch(to_float(pixels), labels, index)

    def take(self, rows: np.ndarray) -> Batch:
        """Return the unaugmented images at the given rows of this split."""
        return self._batch(to_float(self.pixels[rows]), self.labels[rows], self.index[rows])

    def draw(self, step: int, size: int, rng: Rng) -> Batch:
        """Return the augmented training batch of a step: a function of (rng, step) alone.

        Several processes get a share each: the rows that they have of the batch of one process.
        """
        rows = self.rows(step, size, rng)
        mine = rows[self.group.mine(size)]
        crops = self._crops(size, rng.child("augment", step))
        if self.device.type == "cuda":
            images = _floats(crops.cut_there(self.large, mine, self.device))
        else:
            images = on_device(crops.cut(self.large, mine), self.device)
        return self._batch(images, self.labels[mine], self.index[mine])

    def rows(self, step: int, size: int, rng: Rng) -> Int[np.ndarray, "size"]:
        """Return which images make the training batch of a step.

        Epochs are permutations keyed by their number, so resuming at a step needs no state.
        """
        position = np.arange(step * size, (step + 1) * size)
        rows = np.empty(size, dtype=np.int64)
        for epoch in np.unique(position // len(self)):
            order = rng.child("epoch", int(epoch)).numpy().permutation(len(self))
            here = position // len(self) == epoch
            rows[here] = order[position[here] % len(self)]
        return rows

    def _crops(self, n: int, rng: Rng) -> Crops:
        """Return the crops of the images that this process has of n."""
        size, margin = self.pixels.shape[1], self.large.shape[1] - self.pixels.shape[1]
        dice, mine = rng.numpy(), self.group.mine(n)
        top, left = dice.integers(0, margin + 1, (2, n))
        mirror = dice.random(n) < (0.5 if self.flip else 0.0)
        return Crops(size, top[mine], left[mine], mirror[mine])

    def _batch(self, images: Tensor, labels: np.ndarray, index: np.ndarray) -> Batch:
        on = self.device
        return Batch(
            images.to(on),
            send(torch.from_numpy(labels.copy()), on),
            send(torch.from_numpy(index.copy()), on),
        )


class _Rows(Dataset):
    def __init__(self, split: Split) -> None:
        self.split = split

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, row: int) -> tuple[np.ndarray, np.int64, np.int64]:
        return self.split.pixels[row], self.split.labels[row], self.split.index[row]


def _stack(rows: list) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    pixels, labels, index = zip(*rows, strict=True)
    return np.stack(pixels), np.array(labels), np.array(index)


@dataclass(frozen=True, slots=True)
class Problem:
    """What a method is fitted to and measured on; f, G and p are frozen."""

    name: str
    class_names: tuple[str, ...]
    train: Split
    val: Split
    test: Split
    classifier: Classifier
    """f."""
    generator: ImageGenerator
    """G."""
    perceptual: Perceptual
    """p."""
    fingerprints: dict[str, str]
    """Digests of data, f, G and p: what the numbers depend on besides the method."""
    parts: Parts | None = None
    """What is known of f_part, the judge of part consistency; None where there is no data set behind the splits."""
    truth: GroundTruth | None = None
    """Draws the images anew with other parts, where the data set can."""

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """All frozen networks, which a method's own weights do not include."""
        return self.classifier, self.generator, self.perceptual

    @property
    def n_classes(self) -> int:
        """Y."""
        return len(self.class_names)

    @property
    def size(self) -> int:
        """H = W in pixels."""
        return self.test.pixels.shape[1]

    @property
    def channels(self) -> int:
        """C."""
        return self.test.pixels.shape[3]

    @property
    def group(self) -> Group:
        """The processes that share each training batch."""
        return self.train.group

    @property
    def device(self) -> torch.device:
        """Where batches come and networks live."""
        return self.test.device
