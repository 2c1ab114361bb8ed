"""PD-p: distance of x̃ to x under the perceptual net p; it takes LPIPS's place at small scale (docs/metrics.md 4)."""

from __future__ import annotations

import numpy as np
import torch

from coinbench.config import EvaluationConfig
from coinbench.metric import Evaluation, Metric, MetricSpec, Records, collect
from coinbench.metrics.mse import mean_image
from coinbench.results import Score
from coinbench.statistics import summarise
from coinbench.trace import Trace

PD_P = MetricSpec(
    name="pd_p",
    version=1,
    unit="distance",
    bounds=(0.0, np.inf),
    higher_is_better=False,
    source="docs/metrics.md 4, in the form of Zhang et al. 2018, eq. 1",
    protocol=(
        "x̃ against x in [-1, 1] under p: squared difference of channel-normalised features, mean over space, sum over "
        "maps; mean over the images of the test split, unaugmented; 95 % interval over images"
    ),
    null="mean image: x̃ replaced by the mean training image, what a decoder that ignores x can reach",
    formula="mean over x of Σ_l mean_hw ‖y_l(x) − y_l(x̃)‖², y_l the features after stage l of p at length 1",
    oracle="0: x̃ = x",
)


class PerceptualDistance(Metric):
    """Perceptual distance per image, of x̃ and of the mean training image.

    The pure function is p's `distance`; features that point the same way are 0 apart.

    >>> from coinbench.networks.perceptual import perceptual_distance
    >>> maps = (torch.tensor([[[[3.0]], [[0.0]]]]),)
    >>> same, orthogonal = torch.tensor([[[[5.0]], [[0.0]]]]), torch.tensor([[[[0.0]], [[1.0]]]])
    >>> perceptual_distance(maps, (same,)).item(), perceptual_distance(maps, (orthogonal,)).item()
    (0.0, 2.0)
    """

    takes_turns = True
    specs = (PD_P,)
    cost = "one pass of p over x and over x̃ for each image"

    def __init__(self, evaluation: Evaluation) -> None:
        """Start a pass; averages the training images."""
        super().__init__(evaluation)
        problem = evaluation.problem
        with torch.no_grad():
            self._mean = problem.perceptual(mean_image(problem.train))

    @torch.no_grad()
    def update(self, trace: Trace) -> None:
        """Measure a batch."""
        p = self.evaluation.problem.perceptual
        original, reconstruction = trace.perceptual
        for arm, maps in (("method", reconstruction), ("mean image", self._mean)):
            value = p.distance(original, maps).double().cpu().numpy()
            index = trace.index.cpu().numpy()
            origin = np.full(len(index), p.origin)
            self.parts.append({"arm": np.full(len(index), arm), "index": index, "value": value, "p": origin})

    def records(self) -> Records:
        """Return the distance of each image in each arm."""
        return collect(self.parts, by=("arm", "index"))

    @staticmethod
    def score(records: Records, config: EvaluationConfig) -> list[Score]:
        """Return the mean of each arm."""
        detail = str(records["p"][0])
        return [
            summarise(PD_P, records["value"][records["arm"] == arm], config, arm=arm, detail=detail, over="images")
            for arm in ("method", "mean image")
        ]
