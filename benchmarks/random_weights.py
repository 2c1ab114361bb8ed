"""Files in the layouts of published weights, with random values, for tests and benchmarks."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torchvision import models

from coinbench.networks.stylegan2 import StyleGAN2
from coinbench.rng import Rng, seeded

MAKERS = {"vgg16": models.vgg16, "alexnet": models.alexnet, "squeezenet1_1": models.squeezenet1_1}


def _drawn(own: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """Values that keep the size of activations, so that no layer is dead."""
    dice = torch.Generator().manual_seed(seed)
    found = {}
    for key, value in own.items():
        fan_in = math.prod(value.shape[1:])
        if key.endswith("running_var"):
            found[key] = torch.rand(value.shape, generator=dice) + 0.5
        elif key.endswith("num_batches_tracked"):
            found[key] = torch.zeros((), dtype=torch.int64)
        elif value.ndim > 1:
            found[key] = torch.randn(value.shape, generator=dice) * math.sqrt(2 / fan_in)
        else:
            found[key] = torch.randn(value.shape, generator=dice) * 0.1 + ("bn.weight" in key)
    return found


def trunk(name: str, path: Path, seed: int = 0) -> Path:
    """The features of a network of torchvision; its classifier, most of VGG16's 500 MB, is used by nobody."""
    with torch.device("meta"):
        features: nn.Module = MAKERS[name]().features
    own = {f"features.{key}": value for key, value in features.state_dict().items()}
    torch.save(_drawn(own, seed), path)
    return path


class _Empty(FeatureExtractorInceptionV3):
    """Takes nothing from the file that it reads when it is made: here there is none yet."""

    def load_state_dict(self, *given: Any, **more: Any) -> Any:
        return None


def inception(path: Path, seed: int = 0) -> Path:
    """An Inception v3 of torch-fidelity's layout."""
    with tempfile.NamedTemporaryFile(suffix=".pth") as empty:
        torch.save({}, empty.name)
        own = _Empty("empty", ["2048"], feature_extractor_weights_path=empty.name).state_dict()
    torch.save(_drawn(own, seed), path)
    return path


def generator(path: Path, size: int, depth: int, base: int) -> Path:
    """A StyleGAN2 at initialisation, as `weights convert` writes one."""
    with seeded(Rng(depth)):
        state = StyleGAN2(size=size, depth=depth, base=base).state_dict()
    save_file({f"G_ema.{name}": value.contiguous() for name, value in state.items()}, path)
    return path
