"""What the frozen classifier f and the frozen generator G must offer to a method and to a metric."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from coinbench.rng import Rng


@dataclass(frozen=True, slots=True)
class Features:
    """One pass of a network over a batch of images."""

    logits: Float[Tensor, "B Y"]
    """Class logits."""
    embedding: Float[Tensor, "B D"]
    """Pooled features before the head."""
    maps: tuple[Float[Tensor, "B _c _h _w"], ...]
    """Hidden feature maps at `Classifier.tap_names`, from shallow to deep."""


class Answering(nn.Module):
    """A network for whose methods others may stand in for a while (`answering`); a copy of it has its own ones."""

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy takes over: not the stand-ins, which would still ask the original."""
        return {name: value for name, value in vars(self).items() if not callable(getattr(type(self), name, None))}


@contextmanager
def answering(network: Answering, **functions: Callable[..., Any]) -> Iterator[None]:
    """Let functions answer in place of the methods of their names within the block."""
    before = {name: value for name, value in vars(network).items() if name in functions}
    for name, function in functions.items():
        setattr(network, name, function)
    try:
        yield
    finally:
        for name in functions:
            delattr(network, name)
        for name, value in before.items():
            setattr(network, name, value)


class Classifier(Answering, ABC):
    """f: images in [-1, 1] to logits, embedding and tapped maps. Normalisation is its own affair."""

    n_classes: int
    channels: int
    """Image channels C."""
    tap_names: tuple[str, ...]
    """Names of `Features.maps`. At the first, block 2 of a ResNet, consistency embeds (paper section 4)."""
    tap: Literal["penultimate", "last"] = "penultimate"
    """Unit of a ResNet's block 4 that is its deepest tap: penultimate (paper) or last (public VisCoIN code)."""

    @abstractmethod
    def forward(self, images: Float[Tensor, "B C H W"]) -> Features:
        """Return logits, embedding and the tapped maps."""

    @abstractmethod
    def head(self, embedding: Float[Tensor, "B D"]) -> Float[Tensor, "B Y"]:
        """Return the logits that belong to an embedding."""

    def taps(self, images: Float[Tensor, "B C H W"]) -> tuple[Tensor, ...]:
        """Return the tapped maps alone; a classifier whose taps end before its head leaves the rest out."""
        return self(images).maps

    def embed(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B _c"]:
        """Return the spatial mean of the first tap, the embedding of the consistency metric."""
        return self(images).maps[0].mean((2, 3))

    def folded(self) -> Classifier:
        """Return what answers as this network in eval mode, with less work; the default is the network itself."""
        return self


@contextmanager
def knowing(f: Classifier, known: Float[Tensor, "B C H W"], features: Features) -> Iterator[None]:
    """Within the block, f answers for the very tensor `known` with `features` instead of computing them again.

    A CoIN on f runs f on images that f has seen: the deep part of `encode` is what f alone has just computed.
    """
    forward, taps = f.forward, f.taps

    def answer(images: Tensor) -> Features:
        return features if images is known else forward(images)

    def tapped(images: Tensor) -> tuple[Tensor, ...]:
        return features.maps if images is known else taps(images)

    with answering(f, forward=answer, taps=tapped):
        yield


class ImageGenerator(Answering, ABC):
    """G: latent vectors w, one per style, to images in [-1, 1]; deterministic."""

    n_styles: int
    """L, the number of latent vectors an image is drawn from (14 for StyleGAN2 at 256 px, 1 for a VAE)."""
    w_dim: int
    """V, the width of one latent vector."""

    @abstractmethod
    def forward(self, w: Float[Tensor, "B L V"]) -> Float[Tensor, "B C H W"]:
        """Draw images."""

    @abstractmethod
    def sample(self, n: int, rng: Rng) -> Float[Tensor, "n L V"]:
        """Draw n latents from G's own distribution."""

    def draw_noise(self, n: int, rng: Rng) -> tuple[Tensor, ...]:
        """Draw what images depend on besides w, with a row for each of n; a G without noise inputs has nothing."""
        return ()

    def with_noise(self, w: Float[Tensor, "B L V"], noise: tuple[Tensor, ...]) -> Float[Tensor, "B C H W"]:
        """Draw images with the noise of `draw_noise` in place of G's constant one."""
        return self(w)

    def freeze(self) -> None:
        """Compute once what no longer changes; called when the weights are final."""
        return

    @abstractmethod
    def mean_latent(self) -> Float[Tensor, "V"]:
        """Return w̄, the mean latent vector."""


def send(values: Tensor, device: torch.device) -> Tensor:
    """Return values that lie in the memory of the CPU on a device, without waiting for what the device does now."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def channels_last(network: nn.Module) -> None:
    """Lay the convolution weights out channels-last: a quarter faster on the CPU, the values stay."""
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)


_TRUSTING: ContextVar[bool] = ContextVar("trusting", default=False)


@contextmanager
def trusting() -> Iterator[None]:
    """Within the block `check_images` looks at shapes only: to see a value the host waits until the device is idle."""
    before = _TRUSTING.set(True)
    try:
        yield
    finally:
        _TRUSTING.reset(before)


def check_images(images: Tensor, channels: int, who: str) -> None:
    """Refuse what is no float image batch in [-1, 1] with `channels` channels.

    Compiled code and the block of `trusting` take the values on trust.

    Raises:
        ValueError: naming `who`, what was expected and what came.

    >>> check_images(torch.zeros(1, 3, 8, 8), 3, "f")
    >>> check_images(torch.full((1, 3, 8, 8), 255.0), 3, "f")
    Traceback (most recent call last):
    ...
    ValueError: f expects images in [-1, 1], got values from 255 to 255
    """
    if images.ndim != 4 or images.shape[1] != channels or not images.is_floating_point():
        raise ValueError(f"{who} expects float images [B, {channels}, H, W], got {images.dtype} {list(images.shape)}")
    if torch.compiler.is_compiling() or _TRUSTING.get():
        return
    low, high = torch.aminmax(images.detach())
    # NaN passes: it comes from a network that diverged, which the guard of the training loop reports with its step.
    if low < -1.001 or high > 1.001:
        raise ValueError(f"{who} expects images in [-1, 1], got values from {float(low):g} to {float(high):g}")
