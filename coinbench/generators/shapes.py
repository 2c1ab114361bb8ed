"""Arguments of StyleGAN2's networks from the shapes of their tensors, and the shapes that arguments ask for."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from coinbench.generators.unpickle import Refused
from coinbench.networks.stylegan2 import StyleGAN2
from coinbench.networks.stylegan2_discriminator import Discriminator

CLAMP = 256.0
"""Of all published half-precision networks; no tensor tells it, and full precision does not reach it."""
GROUP = 4
"""Of the published recipes but two; no tensor tells it."""
_LARGEST = 1024
_DEEPEST = 16


def expected(arguments: dict[str, Any], kind: str) -> dict[str, Tensor]:
    """Return names, shapes and types of a network's tensors, without their values.

    Raises:
        Refused: there is no such network.
    """
    if arguments["base"] < arguments["size"]:
        raise Refused("has no channels left at its largest resolution")
    with torch.device("meta"):
        try:
            if kind == "Generator":
                return StyleGAN2(**arguments).state_dict()
            return Discriminator(**arguments | {"group": arguments["group"] or GROUP}).state_dict()
        except ValueError as error:
            raise Refused(f"is of another size: {error}") from error


def arguments_of(tensors: dict[str, Tensor], kind: str) -> dict[str, Any]:
    """Return the arguments of the network that tensors with these shapes belong to.

    Raises:
        Refused: they belong to no StyleGAN2.
    """
    pattern = r"synthesis\.b(\d{1,4})\.conv1\.weight" if kind == "Generator" else r"b(\d{1,4})\.conv0\.weight"
    found = {int(m[1]): _shape(tensors, key, 4)[0] for key in tensors if (m := re.fullmatch(pattern, key))}
    if kind == "Discriminator":
        found[4] = _shape(tensors, "b4.conv.weight", 4)[0]
    if not found or max(found) > _LARGEST:
        raise Refused(f"holds no {kind} of StyleGAN2 under the official names")
    size, most = max(found), max(found.values())
    arguments: dict[str, Any] = {"size": size, "base": found[size] * size, "most": most, "clamp": CLAMP}
    labels = "mapping.embed.weight"
    arguments["c_dim"] = _shape(tensors, labels, 2)[1] if labels in tensors else 0
    if kind == "Discriminator":
        return arguments | {"channels": _shape(tensors, f"b{size}.fromrgb.weight", 4)[1], "group": GROUP}
    w_dim = _shape(tensors, "mapping.w_avg", 1)[0]
    z_dim = _shape(tensors, "mapping.fc0.weight", 2)[1] - (w_dim if labels in tensors else 0)
    depth = sum(bool(re.fullmatch(r"mapping\.fc\d+\.weight", key)) for key in tensors)
    if z_dim < 1 or depth > _DEEPEST:
        raise Refused(f"holds a mapping of {depth} layers from z of width {z_dim}, which no StyleGAN2 has")
    channels = _shape(tensors, "synthesis.b4.torgb.weight", 4)[0]
    return arguments | {"channels": channels, "w_dim": w_dim, "z_dim": z_dim, "depth": depth}


def _shape(tensors: dict[str, Tensor], key: str, dimensions: int) -> list[int]:
    """Return the shape of a tensor whose sizes an argument follows from."""
    if key not in tensors:
        raise Refused(f"lacks {key!r}; StyleGAN2's tensors have the names of the official PyTorch code")
    shape = list(tensors[key].shape)
    if len(shape) != dimensions or 0 in shape or max(shape) > 100_000:
        raise Refused(f"holds {key!r} with shape {shape}, expected {dimensions} dimensions")
    return shape
