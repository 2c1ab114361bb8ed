"""A small residual network with the three taps of the paper's ResNet50, for images of 16 to 128 pixels.

He et al. 2016; four blocks of two units each. Taps as in the VisCoIN paper, appendix C: output of block 2, output of
block 3, output of the penultimate unit of block 4.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from coinbench.models import Classifier, Features, check_images


class Unit(nn.Module):
    """Two 3x3 convolutions with batch norm around a shortcut."""

    # The shortcut takes every `stride`-th pixel (a pooling over one pixel) before a 1x1 convolution of stride 1: the
    # same numbers as a strided one, whose weight gradient writes out of bounds in channels-last layout for fewer than
    # 16 input channels (oneDNN issue 6035) and ends the process.

    def __init__(self, c_in: int, c_out: int, stride: int) -> None:
        """Make a unit; the shortcut is a 1x1 convolution where shapes differ."""
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(c_out),
            nn.ReLU(),
            nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(c_out),
        )
        self.shortcut = nn.Identity()
        if stride != 1 or c_in != c_out:
            self.shortcut = nn.Sequential(
                nn.AvgPool2d(1, stride), nn.Conv2d(c_in, c_out, 1, bias=False), nn.BatchNorm2d(c_out)
            )

    def forward(self, x: Float[Tensor, "B _c _h _w"]) -> Float[Tensor, "B _o _p _q"]:
        """Apply the unit."""
        return (self.body(x) + self.shortcut(x)).relu()


class ResNet(Classifier):
    """Blocks of width, 2 width, 4 width, 8 width channels, each at half the resolution of the one before.

    A block that would be left with fewer than 4 x 4 positions keeps the resolution: concepts are maps of 3 x 3.
    """

    tap_names = ("block 2", "block 3", "block 4, penultimate unit")

    def __init__(self, n_classes: int, channels: int, size: int, width: int, resolution: int = 32) -> None:
        """Make the network; the stem strides so that block 1 works at `resolution` to twice as many pixels a side."""
        super().__init__()
        self.n_classes = n_classes
        self.channels = channels
        stride = max(1, size // resolution)
        kernel, padding = max(3, 2 * stride - 1), max(1, stride // 2)
        self.stem = nn.Sequential(
            nn.Conv2d(
                channels,
                width,
                kernel,
                stride,
                padding,
                bias=False,
            ),
            nn.BatchNorm2d(width),
            nn.ReLU(),
        )
        side = (size + 2 * padding - kernel) // stride + 1
        self.blocks = nn.ModuleList([nn.Sequential(Unit(width, width, 1), Unit(width, width, 1))])
        for c in (width, 2 * width, 4 * width):
            halve = 2 if side > 6 else 1
            side = -(-side // halve)
            self.blocks.append(nn.Sequential(Unit(c, 2 * c, halve), Unit(2 * c, 2 * c, 1)))
        self.fc = nn.Linear(8 * width, n_classes)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Features:
        """Return logits, embedding and the tapped maps."""
        maps = self.taps(images)
        last = maps[-1] if self.tap == "last" else self._last[1](maps[-1])
        embedding = last.mean((2, 3))
        return Features(self.head(embedding), embedding, maps)

    def taps(self, images: Float[Tensor, "B C H W"]) -> tuple[Tensor, ...]:
        """Return the tapped maps without the head and, where it is not tapped, the last unit, a third of the work."""
        check_images(images, self.channels, "the classifier f")
        second = self._second(images)
        third = self.blocks[2](second)
        deep = self._last[0](third)
        return second, third, self._last[1](deep) if self.tap == "last" else deep

    @property
    def _last(self) -> nn.Sequential:
        block = self.blocks[3]
        assert isinstance(block, nn.Sequential)
        return block

    def embed(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B _c"]:
        """Return the spatial mean of block 2 without the blocks that come after it."""
        check_images(images, self.channels, "the classifier f")
        return self._second(images).mean((2, 3))

    def _second(self, images: Tensor) -> Tensor:
        block1, block2, *_ = self.blocks
        return block2(block1(self.stem(images)))

    def head(self, embedding: Float[Tensor, "B D"]) -> Float[Tensor, "B Y"]:
        """Return the logits of an embedding."""
        return self.fc(embedding)
