"""LPIPS of x̃ against x on three trunks (paper section 4, table 2a; Zhang et al. 2018); docs/metrics.md 6."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from coinbench.config import EvaluationConfig
from coinbench.errors import DataError, Unavailable
from coinbench.metric import Evaluation, Metric, MetricSpec, Records, collect
from coinbench.metrics.mse import mean_image
from coinbench.models import channels_last
from coinbench.published_weights import TRUNKS, find, folder
from coinbench.results import Score
from coinbench.statistics import summarise
from coinbench.trace import Trace

_PIXELS = 2**19
"""Of the images compared at once: VGG16's maps take 32 MB for 256 x 256 of them."""


def _specs(net: str) -> tuple[MetricSpec, MetricSpec]:
    """Return the spec for the published trunk, and the one for any other file's."""

    def spec(name: str, trunk: str) -> MetricSpec:
        return MetricSpec(
            name=name,
            version=1,
            unit="distance",
            bounds=(0.0, np.inf),
            higher_is_better=False,
            source="paper section 4, table 2a; Zhang et al. 2018, eq. 1",
            protocol=(
                f"x̃ against x in [-1, 1] at the size of the data set, linear heads 0.1 of the package lpips on "
                f"{trunk}; mean over the images of the test split, unaugmented; 95 % interval over images"
            ),
            null="mean image: x̃ replaced by the mean training image, what a decoder that ignores x can reach",
            formula="mean over x of Σ_l mean_hw w_l · (y_l(x) − y_l(x̃))², y_l the features after stage l at length 1",
            oracle="0: x̃ = x",
        )

    name, published = net.removeprefix("lpips_"), TRUNKS[net]
    return spec(net, f"torchvision's {published}, trained on ImageNet"), spec(
        f"pd_{name}_file", f"a {published} from a file that is not the published one; not LPIPS"
    )


class _Lpips(Metric):
    """Distance per image, of x̃ and of the mean training image."""

    takes_turns = True
    cost = "one pass of the trunk over x and over x̃ for each image: dear on VGG16 without a GPU"
    net: ClassVar[str]
    """A perceptual net of LPIPS."""

    def __init__(self, evaluation: Evaluation) -> None:
        """Start a pass; reads the weights and averages the training images.

        Raises:
            Unavailable: the weights are not here or damaged, or the network cannot read such images.
        """
        super().__init__(evaluation)
        # The package lpips takes seconds to import.
        from coinbench.networks.lpips import LPIPS

        name, problem = TRUNKS[self.net], evaluation.problem
        given = getattr(evaluation.config.weights, name)
        try:
            found = find(name, given, folder(evaluation.cache.root), f"evaluation.weights.{name}")
            self._network = LPIPS(self.net, found).to(problem.device)
            channels_last(self._network)
            with torch.no_grad():
                self._mean = self._network(mean_image(problem.train))
        except (DataError, ValueError) as error:
            raise Unavailable(str(error)) from error
        self._foreign = found.foreign

    @torch.no_grad()
    def update(self, trace: Trace) -> None:
        """Measure a batch, a few images at a time."""
        at_once = max(1, _PIXELS // trace.images[0, 0].numel())
        pairs = zip(trace.images.split(at_once), trace.reconstruction.split(at_once), strict=True)
        found = [self._distances(images, reconstruction) for images, reconstruction in pairs]
        index = trace.index.cpu().numpy()
        for row, arm in enumerate(("method", "mean image")):
            value = torch.cat([part[row] for part in found]).double().cpu().numpy()
            labels = {"arm": arm, "net": self.net, "weights": self._foreign}
            columns = {name: np.full(len(index), label) for name, label in labels.items()}
            self.parts.append({"index": index, "value": value, **columns})

    def _distances(self, images: Tensor, reconstruction: Tensor) -> tuple[Tensor, Tensor]:
        # The maps of x serve both arms.
        maps, network = self._network(images), self._network
        return network.distance(maps, network(reconstruction)), network.distance(maps, self._mean)

    def records(self) -> Records:
        """Return the distance of each image in each arm."""
        return collect(self.parts, by=("arm", "index"))

    @staticmethod
    def score(records: Records, config: EvaluationConfig) -> list[Score]:
        """Return the mean of each arm."""
        foreign = str(records["weights"][0])
        spec = _specs(str(records["net"][0]))[bool(foreign)]
        return [
            summarise(spec, records["value"][records["arm"] == arm], config, arm=arm, detail=foreign, over="images")
            for arm in ("method", "mean image")
        ]


class LpipsVgg(_Lpips):
    """LPIPS on VGG16, on which VisCoIN is trained."""

    net, needs, specs = "lpips_vgg", ("vgg16",), _specs("lpips_vgg")


class LpipsAlex(_Lpips):
    """LPIPS on AlexNet, which no method here is trained on."""

    net, needs, specs = "lpips_alex", ("alexnet",), _specs("lpips_alex")


class LpipsSqueeze(_Lpips):
    """LPIPS on SqueezeNet 1.1."""

    net, needs, specs = "lpips_squeeze", ("squeezenet1_1",), _specs("lpips_squeeze")
