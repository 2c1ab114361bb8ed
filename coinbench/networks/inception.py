"""Inception v3 of 2015 as torch-fidelity has it, whose pooled features FID and KID compare.

Heusel et al. 2017; Bińkowski et al. 2018; weights and resize of torch-fidelity (Obukhov et al. 2020), a port of
TensorFlow's graph of 2015-12-05. The package reads a file of weights with an unpickler that runs what the file asks
for, and would fetch one: here the file is read by coinbench's own reader.
"""

from __future__ import annotations

import io

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from coinbench.errors import DataError
from coinbench.models import check_images
from coinbench.problem import to_uint8
from coinbench.published_weights import Found, read_state_dict

WIDTH = 2048
"""Features of an image."""
LEAST = 32
"""Pixels a side: a smaller image would be interpolation for nine tenths and more of what the network sees."""


class Inception(nn.Module):
    """Images in [-1, 1] to the 2048 features before the head; frozen.

    Args:
        found: the file with the weights, under torch-fidelity's names.

    Raises:
        DataError: the file is damaged, or holds another network.
    """

    def __init__(self, found: Found) -> None:
        """Build torch-fidelity's network around the weights."""
        super().__init__()
        # The package knows files only. This one is in memory and ours: no foreign byte reaches its unpickler.
        written = io.BytesIO()
        torch.save(read_state_dict(found.path), written)
        written.seek(0)
        try:
            self.network = FeatureExtractorInceptionV3(
                "inception-v3-compat", ["2048"], feature_extractor_weights_path=written
            )
        except RuntimeError as error:
            first = " ".join(" ".join(str(error).splitlines()[1:2]).split())[:200]
            raise DataError(f"{found.path}: {first}; give torch-fidelity's weights of Inception v3") from error

    def forward(self, images: Tensor) -> Float[Tensor, "B 2048"]:
        """Return the features of images, which become uint8 by round((x + 1) · 127.5) and 299 pixels a side.

        Args:
            images: float [B, 3, H, W] in [-1, 1].

        Raises:
            ValueError: the images are not RGB in [-1, 1], or smaller than `LEAST` pixels a side.
        """
        check_images(images, 3, "Inception")
        if min(images.shape[2:]) < LEAST:
            raise ValueError(f"Inception expects {LEAST} pixels a side or more, got {list(images.shape)}")
        pixels = torch.from_numpy(to_uint8(images)).permute(0, 3, 1, 2)
        return self.network(pixels.to(images.device))[0]
