"""LPIPS as the package `lpips` computes it, on a trunk of torchvision read from a local file.

Zhang, Isola, Efros, Shechtman, Wang, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR
2018, eq. 1, version 0.1. The package brings the linear heads alone and fetches the trunk when it is constructed, and it
takes images of any range without a word: here nothing is fetched, and what does not fit is refused. The package takes
seconds to import; whoever needs this module imports it late.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import lpips
import torch
from jaxtyping import Float
from torch import Tensor

from coinbench.errors import DataError
from coinbench.generators.initial import misfits
from coinbench.models import check_images
from coinbench.networks.perceptual import Perceptual
from coinbench.published_weights import Found, read_state_dict

LEAST = {"lpips_vgg": 16, "lpips_alex": 31, "lpips_squeeze": 17}
"""Pixels a side below which the last map of a trunk has no cell."""
_EPSILON = 1e-10
"""Added to the norm of features, as in the package."""


class LPIPS(Perceptual):
    """Unit-length features of a trunk after each stage, their squared difference weighted by the linear heads; frozen.

    Args:
        net: lpips_vgg, lpips_alex or lpips_squeeze.
        found: the file with the trunk's weights, under torchvision's names.

    Raises:
        DataError: the file is damaged, or holds another network.
    """

    channels = 3

    def __init__(self, net: str, found: Found) -> None:
        """Build the package's network around the weights."""
        super().__init__()
        self.name, self.least = net, LEAST[net]
        self.origin = f"p: LPIPS {net.removeprefix('lpips_')}" + (f" with {found.foreign}" if found.foreign else "")
        # On no device, as all weights come from files: drawing torchvision's VGG16 alone takes seconds and 550 MB.
        with torch.device("meta"), warnings.catch_warnings():
            # The package calls torchvision by an old name of an argument.
            warnings.simplefilter("ignore", UserWarning)
            self.network = lpips.LPIPS(net=net.removeprefix("lpips_"), pnet_rand=True, pretrained=False, verbose=False)
        state = self.network.state_dict()
        given = {key: value for key, value in state.items() if key.startswith("scaling_layer.")}
        given |= _trunk({key: value for key, value in state.items() if key.startswith("net.")}, found.path)
        given |= _heads(net.removeprefix("lpips_"))
        self.network.load_state_dict(given, assign=True)
        self.requires_grad_(False).eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the features after each stage, of length 1 along the channels.

        Args:
            images: float [B, 3, H, W] in [-1, 1].

        Raises:
            ValueError: the images are not RGB in [-1, 1], or too small for the trunk.
        """
        check_images(images, self.channels, self.name)
        if min(images.shape[2:]) < self.least:
            raise ValueError(f"{self.name} expects {self.least} pixels a side or more, got {list(images.shape)}")
        maps = self.network.net(self.network.scaling_layer(images.float()))
        # The package takes the root of the sum of squares, whose gradient is NaN where all channels are 0.
        return tuple(x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + _EPSILON) for x in maps)

    def distance(self, a: tuple[Tensor, ...], b: tuple[Tensor, ...]) -> Float[Tensor, "B"]:
        """Return LPIPS of each pair.

        Raises:
            ValueError: the maps are of images of two sizes.
        """
        if [x.shape[1:] for x in a] != [x.shape[1:] for x in b]:
            raise ValueError(f"{self.name} expects images of one size")
        return weighted(self.network.lins, a, b)


def weighted(
    heads: Iterable[Callable[[Tensor], Tensor]], a: Sequence[Tensor], b: Sequence[Tensor]
) -> Float[Tensor, "B"]:
    """Return Σ_l mean_hw of head l on the squared difference of two images' maps of stage l.

    >>> double = lambda squares: 2 * squares.sum(1, keepdim=True)
    >>> here, there = torch.tensor([[[[0.6]], [[0.8]]]]), torch.tensor([[[[1.0]], [[0.0]]]])
    >>> round(weighted([double], [here], [there]).item(), 6)  # 2 · (0.4² + 0.8²)
    1.6
    """
    pairs = zip(heads, a, b, strict=True)
    return torch.stack([head((x - y).square()).mean((1, 2, 3)) for head, x, y in pairs]).sum(0)


def _trunk(own: dict[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return the tensors of torchvision's features under the names that the package gives them."""
    given = read_state_dict(path)
    # net.slice2.5.weight of the package is features.5.weight of torchvision; its classifier is not used.
    names = {key: f"features.{key.split('.', 2)[2]}" for key in own}
    theirs = {name: own[key] for key, name in names.items()}
    features = {key: value.float() for key, value in given.items() if not key.startswith("classifier.")}
    if wrong := misfits(theirs, features):
        raise DataError(f"{path}: {wrong}; give torchvision's weights of this network")
    return {key: features[name] for key, name in names.items()}


def _heads(net: str) -> dict[str, Tensor]:
    """Return the linear heads of version 0.1, which the network holds under two names each."""
    assert lpips.__file__ is not None
    given = read_state_dict(Path(lpips.__file__).parent / "weights" / "v0.1" / f"{net}.pth")
    return given | {f"lins.{key.removeprefix('lin')}": value for key, value in given.items()}
