"""FID and KID: two distances between the sets of x̃ and x in Inception's features; docs/metrics.md 6.

Heusel et al. 2017, eq. 6; Bińkowski, Sutherland, Arbel, Gretton 2018, section 4. Features, statistics and numbers are
separate: `score` works on the stored features.
"""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float

from coinbench import records as stored
from coinbench.config import EvaluationConfig, digest
from coinbench.errors import DataError, Unavailable
from coinbench.log import Log
from coinbench.metric import Evaluation, Metric, MetricSpec, Records, collect
from coinbench.metrics.frechet import FORMULA, INTERVAL, compact, expectation, frechet, of_pairs, statistics
from coinbench.metrics.mse import mean_image
from coinbench.models import channels_last
from coinbench.problem import Split
from coinbench.published_weights import Found, find, folder
from coinbench.results import Resamples, Score
from coinbench.rng import Rng
from coinbench.trace import Trace

if TYPE_CHECKING:
    from coinbench.networks.inception import Inception

FULL_RANK = 2048
"""Images below which the covariance of the 2048 features is singular, and FID biased upwards for that alone."""
SUBSETS, SUBSET = 100, 1000
"""Of KID, as its authors and torch-fidelity have them."""
_FEATURES = 1
"""Version of the stored features of images."""
_BLOCK = 256
"""Images whose pixels are hashed at once."""

_NULL = (
    "mean image: every x̃ is the mean training image; train images: the floor, as many training images "
    "(all, where there are fewer) in the place of x̃; same distribution: of FID, what two independent samples of n from "
    "one Gaussian with the covariance of the images show"
)
_TRUE = "the Inception v3 of 2015 of torch-fidelity"
_FILE = "an Inception v3 from a file that is not the published one; not {}"
_IMAGES = (
    "images as uint8 by round((x + 1) · 127.5), resized to 299 as TensorFlow 1 does, x̃ against x of the test split"
)
_FID = f"{_IMAGES}, unaugmented; covariances with n - 1; {INTERVAL}"
_KID = (
    f"{_IMAGES}, unaugmented; kernel (a·b / 2048 + 1)³, unbiased; mean over {SUBSETS} subsets of {SUBSET} images of "
    "each set, or of half of them where that is less; interval: 1.96 standard deviations of the subsets, scaled to "
    "all images"
)


def _spec(name: str, source: str, low: float, protocol: str, formula: str, oracle: str) -> MetricSpec:
    return MetricSpec(
        name=name,
        version=1,
        unit="distance",
        bounds=(low, np.inf),
        higher_is_better=False,
        source=source,
        protocol=protocol,
        null=_NULL,
        formula=formula,
        oracle=oracle,
    )


_HEUSEL, _BINKOWSKI = "paper section 4, table 2a; Heusel et al. 2017, eq. 6", "Bińkowski et al. 2018, section 4"
_ZERO = "0: x̃ = x; the row of the train images is the floor of another sample of the same images"
_MMD = "mean over subsets of the unbiased MMD² of the features of x and x̃ under (a·b / 2048 + 1)³"
_BELOW = "0 for two samples of the same images; below 0 where x̃ = x, since they are pairs"
FID = _spec("fid", _HEUSEL, 0.0, f"2048 features of {_TRUE}; {_FID}", FORMULA, _ZERO)
KID = _spec("kid", _BINKOWSKI, -np.inf, f"2048 features of {_TRUE}; {_KID}", _MMD, _BELOW)
FD_FILE = _spec("fd_inception_file", _HEUSEL, 0.0, f"2048 features of {_FILE.format('FID')}; {_FID}", FORMULA, _ZERO)
KD_FILE = _spec(
    "kd_inception_file", _BINKOWSKI, -np.inf, f"2048 features of {_FILE.format('KID')}; {_KID}", _MMD, _BELOW
)


def opened(evaluation: Evaluation) -> tuple[Found, Inception]:
    """Return the file with the weights and the network with them, on the device of the images.

    Raises:
        DataError: the weights are not here, or damaged.
    """
    # Its package takes a second to import.
    from coinbench.networks.inception import Inception

    setting = "evaluation.weights.inception"
    found = find("inception", evaluation.config.weights.inception, folder(evaluation.cache.root), setting)
    network = Inception(found).to(evaluation.problem.device)
    channels_last(network)
    return found, network


def level(values: Float[np.ndarray, "n d"], config: EvaluationConfig) -> float:
    """Return the distance of two samples of n from one distribution (`frechet.expectation`) in 2048 features.

    Of few draws, since each takes seconds: too few for an interval, enough for a level, which hardly varies.
    """
    return expectation(values, Rng(config.seed).child("bootstrap", "expectation"), max(3, config.bootstrap // 200))[0]


def kernel_distance(a: Float[np.ndarray, "m d"], b: Float[np.ndarray, "m d"], width: int) -> float:
    """Return the unbiased squared MMD of two sets of equal size under (a·b / width + 1)³.

    >>> one = np.zeros((2, 1))
    >>> kernel_distance(one, one + 1, 1)  # k(0, 0) + k(1, 1) - 2 k(0, 1) = 1 + 8 - 2
    7.0
    """

    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / width + 1) ** 3

    m = len(a)
    within = sum(k.sum() - np.trace(k) for k in (kernel(a, a), kernel(b, b)))
    return float(within / (m * (m - 1)) - 2 * kernel(a, b).mean())


class InceptionDistances(Metric):
    """Features of x and x̃, of the mean training image, and of training images."""

    takes_turns = True
    needs = ("inception",)
    specs = (FID, KID, FD_FILE, KD_FILE)
    cost = "one pass of Inception over x̃, and once for all methods over x and training images: dear without a GPU"

    def __init__(self, evaluation: Evaluation) -> None:
        """Start a pass; reads the weights, and the features of x from the cache or measures them.

        Raises:
            Unavailable: the weights are not here or damaged, or the network cannot read such images.
        """
        super().__init__(evaluation)
        problem = evaluation.problem
        try:
            self._found, self._network = opened(evaluation)
            with torch.no_grad():
                mean = self._network(mean_image(problem.train)).cpu().numpy()
        except (DataError, ValueError) as error:
            raise Unavailable(str(error)) from error
        self._mean = self._part("mean image", np.zeros(1, dtype=np.int64), mean)

    @torch.no_grad()
    def update(self, trace: Trace) -> None:
        """Keep the features of the reconstructions of a batch."""
        found = self._network(trace.reconstruction).cpu().numpy()
        self.parts.append(self._part("method", trace.index.cpu().numpy(), found))

    def records(self) -> Records:
        """Return the features of each image, by arm and index; the mean image has one row."""
        problem = self.evaluation.problem
        self.parts.append(self._mean)
        test = np.arange(len(problem.test))
        # As many training images as there are test images, the same as in the floor of the other Fréchet distances.
        dice = self.evaluation.rng.child("frechet", "train").uniform(problem.train.index, 1)[:, 0]
        train = np.sort(dice.argsort()[: len(test)])
        for arm, split, rows in (("real", problem.test, test), ("train images", problem.train, train)):
            self.parts.append(self._part(arm, split.index[rows], self._of_images(split, rows)))
        return collect(self.parts, by=("arm", "index"))

    def _of_images(self, split: Split, rows: np.ndarray) -> Float[np.ndarray, "n 2048"]:
        """Return the features of images of the data set, measured once for all methods and seeds.

        Their key is the content of the pixels and of the weights: neither a name nor a setting can be out of date.
        """
        evaluation = self.evaluation
        sha = hashlib.sha256(repr(split.pixels.shape[1:]).encode())
        for block in np.array_split(rows, max(1, len(rows) // _BLOCK)):
            sha.update(np.ascontiguousarray(split.pixels[block]).data)
        key = digest("inception", _FEATURES, sha.hexdigest(), self._found.sha256)

        def make(log: Log) -> None:
            parts, began = [], time.monotonic()
            for start in range(0, len(rows), evaluation.config.batch):
                log.check()
                parts.append(self._network(split.take(rows[start : start + evaluation.config.batch]).images).cpu())
                done = sum(map(len, parts))
                left = (time.monotonic() - began) / done * (len(rows) - done)
                log.progress(done, len(rows), left, f"{split.name} images seen by Inception")
            features = {"features": torch.cat(parts).numpy()}
            log.group.lead(lambda: stored.write(features, log.folder / "features.parquet"))

        folder_of = evaluation.cache.stage("features", key, make, evaluation.log)
        return stored.read(folder_of / "features.parquet")["features"]

    def _part(self, arm: str, index: np.ndarray, features: np.ndarray) -> Records:
        n = len(index)
        return {
            "arm": np.full(n, arm),
            "index": index,
            "features": features,
            "weights": np.full(n, self._found.foreign),
        }

    @staticmethod
    def score(records: Records, config: EvaluationConfig) -> list[Score]:
        """Return both distances of each arm to the originals; KID needs four images or more."""
        arms = {
            arm: records["features"][records["arm"] == arm] for arm in ("real", "method", "mean image", "train images")
        }
        index = records["index"][records["arm"] == "real"]
        foreign, n = str(records["weights"][0]), len(index)
        few = f"n < {FULL_RANK}: biased upwards, compare at equal n" if n < FULL_RANK else ""
        real, rows = arms.pop("real"), []
        for arm, values in arms.items():
            a, b = compact(real, values)
            value, ends, drawn = frechet(statistics(a), statistics(b)), (np.nan, np.nan), None
            if arm == "method":
                ends, drawn = of_pairs(value, a, b, config)
            detail = "; ".join(filter(None, (foreign, few)))
            spec = FD_FILE if foreign else FID
            rows.append(spec.score(value, ends, n=n, arm=arm, detail=detail, resamples=drawn))
            if arm == "method" and n > 1:
                rows.append(spec.score(level(a, config), n=n, arm="same distribution", detail=detail))
            if n >= 4 and len(values) in (1, n):
                value, draws, size = _kid(real, values, index, config, arm)
                detail = "; ".join(filter(None, (foreign, f"subsets of {size}")))
                ends, drawn = (np.nan, np.nan), None
                if arm == "method":
                    spread = 1.96 * float(np.std(draws, ddof=1))
                    ends, drawn = (value - spread, value + spread), Resamples(draws, "images", config.seed)
                spec = KD_FILE if foreign else KID
                rows.append(spec.score(value, ends, n=n, arm=arm, detail=detail, resamples=drawn))
        return rows


def _kid(
    real: np.ndarray, values: np.ndarray, index: np.ndarray, config: EvaluationConfig, arm: str
) -> tuple[float, np.ndarray, int]:
    """Return mean over subsets, draws of it, and images in a subset; controls get a tenth of the subsets.

    An image's chance to be in a subset depends on its index alone. Subsets of m of n images vary as a delete-(n - m)
    jackknife does (Shao and Wu 1989): √(m / (n - m)) of their deviation is that of the whole.
    """
    rng, n, width = Rng(config.seed).child("evaluation", "kid"), len(real), real.shape[1]
    size = min(SUBSET, n // 2)
    found = []
    for number in range(SUBSETS if arm == "method" else SUBSETS // 10):
        a, b = (rng.child(number, side).choose(index, size) for side in ("x", arm))
        of_arm = values[b] if len(values) == n else np.repeat(values, size, axis=0)
        found.append(kernel_distance(real[a].astype(np.float64), of_arm.astype(np.float64), width))
    value = float(np.mean(found))
    return value, value + (np.array(found) - value) * (size / (n - size)) ** 0.5, size
