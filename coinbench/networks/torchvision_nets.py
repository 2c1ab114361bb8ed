"""Networks of torchvision as classifiers f, with the paper's taps and normalisation inside.

Taps of a ResNet at 256 px (VisCoIN paper, appendix C): block 2 [512, 32, 32], block 3 [1024, 16, 16], the penultimate
bottleneck of block 4 [2048, 8, 8]; of a ViT (table 7) the patch embeddings of the last layer [768, 16, 16].
"""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision import models
from torchvision.models.vision_transformer import interpolate_embeddings

from coinbench.errors import DataError, UsageError
from coinbench.models import Classifier, Features, check_images
from coinbench.published_weights import read_state_dict
from coinbench.weights import unfit

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's channels in [0, 1], which torchvision's weights expect to be taken out."""
_INSTEAD = "choose another one: problem.classifier.net of f, methods.flaem.base of FLAEM's own"


class TorchvisionNet(Classifier):
    """What they share: images in [-1, 1] are normalised by buffers, so that a file may bring its own."""

    scale: Tensor
    shift: Tensor
    head_name: str
    """Prefix of the head's tensors, which another task cannot use."""

    def __init__(self, n_classes: int, channels: int, size: int, least: int) -> None:
        """Register the buffers.

        Raises:
            UsageError: the images are not RGB, or smaller than `least` pixels a side.
        """
        super().__init__()
        self.everything = True
        if channels != 3:
            raise UsageError(f"torchvision's networks read RGB images, not {channels} channel; {_INSTEAD}")
        if size < least:
            raise UsageError(f"this network needs {least} pixels a side or more, not {size}; {_INSTEAD}")
        self.n_classes, self.channels = n_classes, channels
        mean, std = torch.tensor(MEAN), torch.tensor(STD)
        # ((x + 1) / 2 - mean) / std as one product and one sum.
        self.register_buffer("scale", (0.5 / std)[:, None, None])
        self.register_buffer("shift", ((0.5 - mean) / std)[:, None, None])

    def normalise(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
        """Return the network's own input."""
        check_images(images, self.channels, "the classifier f")
        return images * self.scale + self.shift

    def learning(self, everything: bool) -> None:
        """Let all parameters learn, or those of the head alone: then batch norm keeps its statistics too."""
        self.everything = everything
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(everything or name.startswith(self.head_name))

    def train(self, mode: bool = True) -> TorchvisionNet:
        """Switch to training, where what does not learn stays as in evaluation."""
        super().train(mode)
        if mode and not self.everything:
            for name, part in self.named_children():
                part.train(f"{name}." == self.head_name)
        return self


class ImageNetResNet(TorchvisionNet):
    """ResNet50 or ResNet101; parameters under torchvision's names."""

    tap_names = ("block 2", "block 3", "block 4, penultimate unit")
    head_name = "fc."

    def __init__(self, n_classes: int, channels: int, size: int, make: Callable[..., models.ResNet]) -> None:
        """Make the network at initialisation."""
        super().__init__(n_classes, channels, size, 64)
        made = make(num_classes=n_classes)
        self.conv1, self.bn1 = made.conv1, made.bn1
        self.layer1, self.layer2, self.layer3, self.layer4 = made.layer1, made.layer2, made.layer3, made.layer4
        self.fc = made.fc

    def forward(self, images: Float[Tensor, "B C H W"]) -> Features:
        """Return logits, embedding and the tapped maps."""
        maps = self.taps(images)
        last = maps[-1] if self.tap == "last" else self.layer4[-1](maps[-1])
        embedding = last.mean((2, 3))
        return Features(self.head(embedding), embedding, maps)

    def taps(self, images: Float[Tensor, "B C H W"]) -> tuple[Tensor, ...]:
        """Return the tapped maps without the head and, where it is not tapped, the last unit."""
        second = self._second(images)
        third = self.layer3(second)
        deep = self.layer4[:-1](third)
        return second, third, self.layer4[-1](deep) if self.tap == "last" else deep

    def embed(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B _c"]:
        """Return the spatial mean of block 2 without the blocks that come after it."""
        return self._second(images).mean((2, 3))

    def folded(self) -> ImageNetResNet:
        """Return a copy whose convolutions scale and shift as batch norm did behind them."""
        found = copy.deepcopy(self).eval()
        for part in found.modules():
            names = [name for name, child in part.named_children() if isinstance(child, nn.BatchNorm2d)]
            for name in names:
                # bn1 behind conv1, in a shortcut 1 behind 0: torchvision's order.
                before = str(int(name) - 1) if name.isdigit() else name.replace("bn", "conv")
                convolution, norm = part.get_submodule(before), part.get_submodule(name)
                assert isinstance(convolution, nn.Conv2d)
                assert isinstance(norm, nn.BatchNorm2d)
                setattr(part, before, fuse_conv_bn_eval(convolution, norm))
                setattr(part, name, nn.Identity())
        return found.requires_grad_(False)

    def _second(self, images: Tensor) -> Tensor:
        x = self.bn1(self.conv1(self.normalise(images))).relu()
        x = nn.functional.max_pool2d(x, 3, 2, 1)
        return self.layer2(self.layer1(x))

    def head(self, embedding: Float[Tensor, "B D"]) -> Float[Tensor, "B Y"]:
        """Return the logits of an embedding."""
        return self.fc(embedding)


class ImageNetSqueezeNet(TorchvisionNet):
    """SqueezeNet 1.1; its taps are the last fire module at an eighth of the size, and two at a sixteenth.

    Its head is a 1x1 convolution and a mean over space, which here change places: the same logits, of an embedding.
    torchvision's rectifies between them; that is left out, so that logits may be negative.
    """

    tap_names = ("fire 5", "fire 7", "fire 8")
    head_name = "classifier."

    def __init__(self, n_classes: int, channels: int, size: int) -> None:
        """Make the network at initialisation."""
        super().__init__(n_classes, channels, size, 32)
        made = models.squeezenet1_1(num_classes=n_classes)
        # Indices of torchvision's sequence: 0 convolution, 2 pool, 3 and 4 fire, 5 pool, 6 and 7 fire, 8 pool, 9 to 12.
        self.features, self.classifier = made.features, made.classifier

    def forward(self, images: Float[Tensor, "B C H W"]) -> Features:
        """Return logits, embedding and the tapped maps."""
        maps = self.taps(images)
        embedding = self.features[12](maps[-1]).mean((2, 3))
        return Features(self.head(embedding), embedding, maps)

    def taps(self, images: Float[Tensor, "B C H W"]) -> tuple[Tensor, ...]:
        """Return the tapped maps without the head and the last fire module."""
        second = self.features[:8](self.normalise(images))
        third = self.features[8:11](second)
        return second, third, self.features[11](third)

    def embed(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B _c"]:
        """Return the spatial mean of the first tap."""
        return self.features[:8](self.normalise(images)).mean((2, 3))

    def head(self, embedding: Float[Tensor, "B D"]) -> Float[Tensor, "B Y"]:
        """Return the logits of an embedding."""
        last = self.classifier[1]
        assert isinstance(last, nn.Conv2d)
        return nn.functional.linear(self.classifier[0](embedding), last.weight.flatten(1), last.bias)


class ImageNetViT(TorchvisionNet):
    """ViT-B/16; one tap: the patch embeddings of the last layer as a map, after the final norm."""

    tap_names = ("patches of the last layer",)
    head_name = "heads."

    def __init__(self, n_classes: int, channels: int, size: int) -> None:
        """Make the network at initialisation.

        Raises:
            UsageError: the size is no multiple of a patch's 16 pixels.
        """
        super().__init__(n_classes, channels, size, 32)
        if size % 16:
            raise UsageError(f"problem.classifier.net=vit_b_16: data.size={size} is no multiple of its patches, 16")
        made = models.vit_b_16(image_size=size, num_classes=n_classes)
        self.class_token, self.conv_proj = made.class_token, made.conv_proj
        self.encoder, self.heads = made.encoder, made.heads

    def forward(self, images: Float[Tensor, "B C H W"]) -> Features:
        """Return logits, embedding (the class token) and the tapped map."""
        patches = self.conv_proj(self.normalise(images))
        tokens = torch.cat([self.class_token.expand(len(images), -1, -1), patches.flatten(2).mT], 1)
        tokens = self.encoder(tokens)
        embedding = tokens[:, 0]
        seen = tokens[:, 1:].mT.unflatten(2, patches.shape[2:])
        return Features(self.head(embedding), embedding, (seen,))

    def head(self, embedding: Float[Tensor, "B D"]) -> Float[Tensor, "B Y"]:
        """Return the logits of an embedding."""
        return self.heads(embedding)


BUILDERS: dict[str, Callable[[int, int, int], TorchvisionNet]] = {
    "resnet50": lambda n, channels, size: ImageNetResNet(n, channels, size, models.resnet50),
    "resnet101": lambda n, channels, size: ImageNetResNet(n, channels, size, models.resnet101),
    "squeezenet1_1": ImageNetSqueezeNet,
    "vit_b_16": ImageNetViT,
}


def _as_today(given: dict[str, Tensor], path: Path, own: Tensor) -> dict[str, Tensor]:
    """Return a ViT's tensors under torchvision's present names, its positions interpolated to another size of image.

    The published file is older than the names: its two layers of a block were numbered before they were a list.
    """
    renamed = {
        key.replace(".mlp.linear_1.", ".mlp.0.").replace(".mlp.linear_2.", ".mlp.3."): v for key, v in given.items()
    }
    positions = renamed.get("encoder.pos_embedding")
    if positions is None or positions.ndim != 3 or positions.shape[::2] != own.shape[::2]:
        raise DataError(f"{path}: lacks 'encoder.pos_embedding' as ViT-B/16 has it; give weights of this network")
    side, theirs = (round(math.sqrt(n.shape[1] - 1)) for n in (own, positions))
    if theirs**2 + 1 != positions.shape[1]:
        raise DataError(f"{path}: 'encoder.pos_embedding' is of no square image; give weights of this network")
    return dict(interpolate_embeddings(side * 16, 16, OrderedDict(renamed)))


@torch.no_grad()
def take(network: TorchvisionNet, path: Path) -> None:
    """Fill a network from a state dict of torchvision's layout; the head stays where its shape is another task's.

    Raises:
        DataError: a tensor is missing, foreign or of another shape; names it.
    """
    given, own = read_state_dict(path), network.state_dict()
    if isinstance(network, ImageNetViT):
        given = _as_today(given, path, own["encoder.pos_embedding"])
    heads = [name for name in own if name.startswith(network.head_name)]
    other_task = any(name in given and given[name].shape != own[name].shape for name in heads)
    if foreign := sorted(given.keys() - own.keys()):
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise DataError(f"{path}: has foreign tensors ({foreign[0]}{more}); give weights of this network")
    taken: dict[str, Tensor] = {}
    for name, value in own.items():
        if name in heads and other_task:
            continue
        if name not in given:
            if name in ("scale", "shift") or name.endswith("num_batches_tracked"):
                continue
            raise DataError(f"{path}: lacks {name!r}; give weights of this network")
        taken[name] = given[name].to(value.dtype)
        if wrong := unfit(taken[name], value):
            raise DataError(f"{path}: {name!r} has {wrong}; give weights of this network")
    for name, value in taken.items():
        own[name].copy_(value)
