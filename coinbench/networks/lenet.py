"""LeNet-like classifier for small grey images (LeCun et al. 1998; the paper's f for FashionMNIST, table 5)."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from coinbench.models import Classifier, Features, check_images


class LeNet(Classifier):
    """Two 5x5 convolutions with pooling, a third one, two fully connected layers; taps after convolutions 2 and 3."""

    tap_names = ("convolution 2", "convolution 3")

    def __init__(self, n_classes: int, channels: int, width: int) -> None:
        """Make the network with width, 2 width, 4 width channels."""
        super().__init__()
        self.n_classes = n_classes
        self.channels = channels
        self.first = nn.Sequential(nn.Conv2d(channels, width, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2))
        self.second = nn.Sequential(nn.Conv2d(width, 2 * width, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2))
        self.third = nn.Sequential(nn.Conv2d(2 * width, 4 * width, 3, stride=2, padding=1), nn.ReLU())
        self.flat = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64 * width, 84), nn.ReLU())
        self.fc = nn.Linear(84, n_classes)

    def forward(self, images: Float[Tensor, "B C H W"]) -> Features:
        """Return logits, embedding and the tapped maps."""
        check_images(images, self.channels, "the classifier f")
        second = self.second(self.first(images))
        third = self.third(second)
        embedding = self.flat(third)
        return Features(self.head(embedding), embedding, (second, third))

    def head(self, embedding: Float[Tensor, "B D"]) -> Float[Tensor, "B Y"]:
        """Return the logits of an embedding."""
        return self.fc(embedding)
