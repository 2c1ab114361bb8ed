"""Mean squared error of the reconstruction (paper section 4, table 2a; docs/metrics.md 6)."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from coinbench.config import EvaluationConfig
from coinbench.metric import Evaluation, Metric, MetricSpec, Records, collect
from coinbench.problem import Split
from coinbench.results import Score
from coinbench.statistics import summarise
from coinbench.trace import Trace

MSE = MetricSpec(
    name="mse",
    version=1,
    unit="squared error",
    bounds=(0.0, 4.0),
    higher_is_better=False,
    source="paper section 4, table 2a",
    protocol=(
        "x̃ against x in [-1, 1], squared error averaged over pixels and channels of an image, then over "
        "the images of the test split, unaugmented; 95 % interval over images"
    ),
    null="mean image: x̃ replaced by the mean training image, what a decoder that ignores x can reach",
    formula="mean over x of ‖x̃ − x‖² / (C·H·W)",
    oracle="0: x̃ = x",
)


def squared_error(a: Float[Tensor, "#B C H W"], b: Float[Tensor, "#B C H W"]) -> Float[Tensor, "B"]:
    """Return the mean squared difference of each pair of images, in float64.

    >>> a = torch.tensor([[[[0.0, 1.0]]]])
    >>> b = torch.tensor([[[[0.5, -1.0]]]])
    >>> squared_error(a, b)
    tensor([2.1250], dtype=torch.float64)
    """
    return (a.double() - b.double()).square().mean((1, 2, 3))


def mean_image(split: Split) -> Float[Tensor, "1 C H W"]:
    """Return the mean of the unaugmented images of a split, in [-1, 1], on its device."""
    total = np.zeros(split.pixels.shape[1:], dtype=np.int64)
    for start in range(0, len(split), 256):
        total += split.pixels[start : start + 256].sum(axis=0, dtype=np.int64)
    image = total.transpose(2, 0, 1)[None] / (len(split) * 127.5) - 1
    return torch.from_numpy(image).float().to(split.device)


class MeanSquaredError(Metric):
    """Squared error per image, of x̃ and of the mean training image."""

    takes_turns = True
    specs = (MSE,)
    cost = "one x̃ for each image, which other metrics share"

    def __init__(self, evaluation: Evaluation) -> None:
        """Start a pass; averages the training images."""
        super().__init__(evaluation)
        self._mean = mean_image(evaluation.problem.train)

    @torch.no_grad()
    def update(self, trace: Trace) -> None:
        """Measure a batch."""
        for arm, image in (("method", trace.reconstruction), ("mean image", self._mean)):
            value = squared_error(image, trace.images).cpu().numpy()
            index = trace.index.cpu().numpy()
            self.parts.append({"arm": np.full(len(index), arm), "index": index, "value": value})

    def records(self) -> Records:
        """Return the error of each image in each arm."""
        return collect(self.parts, by=("arm", "index"))

    @staticmethod
    def score(records: Records, config: EvaluationConfig) -> list[Score]:
        """Return the mean of each arm."""
        return [
            summarise(MSE, records["value"][records["arm"] == arm], config, arm=arm, over="images")
            for arm in ("method", "mean image")
        ]
