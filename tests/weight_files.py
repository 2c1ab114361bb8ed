"""Files in the layouts of published weights, with random values: a trunk of LPIPS without its head, an Inception."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torchvision import models

from coinbench import published_weights

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


def inception(path: Path, seed: int = 0) -> Path:
    """An Inception v3 of torch-fidelity's layout."""
    with pytest.MonkeyPatch.context() as patch:
        # It loads a file when it is made; here there is none yet.
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        torch.save({}, path)
        network = FeatureExtractorInceptionV3("it", ["2048"], feature_extractor_weights_path=str(path))
    torch.save(_drawn(network.state_dict(), seed), path)
    return path


def publish(monkeypatch: pytest.MonkeyPatch, name: str, path: Path) -> None:
    """Let a file be the published one of that name."""
    entry = published_weights.FILES[name]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    remote = replace(entry.remote, digests=(("sha256", digest),))
    monkeypatch.setattr(published_weights, "FILES", {**published_weights.FILES, name: replace(entry, remote=remote)})
