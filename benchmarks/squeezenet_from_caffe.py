"""Caffe's SqueezeNet 1.1 (an npz under torchvision's names) as a file that `problem.classifier.init` reads.

    python benchmarks/squeezenet_from_caffe.py squeezenet1_1_caffe_fp16.npz squeezenet.safetensors

Caffe's network takes BGR, 0..255, less a mean; torchvision's takes RGB, 0..1, less a mean, through a deviation. The
first convolution has no padding, so both are one linear map of a pixel and are folded into its weights exactly.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from coinbench.networks.torchvision_nets import MEAN, STD

CAFFE_MEAN_BGR = (104.0, 117.0, 123.0)


def folded(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Return a first convolution on torchvision's input that gives what `weight`, `bias` give on Caffe's."""
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    rgb, less = weight.flip(1), torch.tensor(CAFFE_MEAN_BGR).flip(0)
    return rgb * (255 * std)[:, None, None], bias + torch.einsum("oihw,i->o", rgb, 255 * mean - less)


def main(source: Path, target: Path) -> None:
    """Write the weights."""
    with np.load(source) as file:
        tensors = {name: torch.from_numpy(file[name].astype(np.float32)) for name in file.files}
    weight, bias = folded(tensors["features.0.weight"], tensors["features.0.bias"])
    save_file({**tensors, "features.0.weight": weight.contiguous(), "features.0.bias": bias}, target)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
