"""FD-p and FD-f: Fréchet distance between reconstructions and originals (paper table 2a; Heusel et al. 2017, eq. 6).

Features, statistics and number are three functions; `score` runs the last two on the stored features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from threadpoolctl import threadpool_limits
from torch import Tensor

from coinbench.config import EvaluationConfig
from coinbench.metric import Metric, MetricSpec, Records, collect
from coinbench.metrics.mse import mean_image
from coinbench.models import Features
from coinbench.results import Resamples, Score
from coinbench.rng import Rng
from coinbench.statistics import bootstrap, mean, percentiles, reach
from coinbench.trace import Trace

INTERVAL = (
    "n images are further apart than infinitely many: the distance is the one at this n, compare at equal n; so is its "
    "interval: where the mean of new samples of n lies (95 %, delta method over the pairs)"
)
_PROTOCOL = (
    f"images in [-1, 1], x̃ against x of the test split, unaugmented; covariances with n - 1; {INTERVAL}; not FID"
)
_NULL = (
    "mean image: every x̃ is the mean training image; train images: the floor, as many training images "
    "(all, where there are fewer) in the place of x̃; same distribution: what two independent samples of n from one "
    "Gaussian with the covariance of the images show (x̃ and x are pairs: they can lie below)"
)
_SINGULAR = 1e-10
"""Share of the largest eigenvalue of a covariance below which one is rounding: fewer rows than features."""
FORMULA = "‖μ − μ̃‖² + tr(C + C̃ − 2 (C C̃)^½), mean and covariance of the features of x and of x̃"
_ORACLE = "0: x̃ = x; the row of the train images is the floor of another sample of the same images"

FD_P = MetricSpec(
    name="fd_p",
    version=1,
    unit="distance",
    bounds=(0.0, np.inf),
    higher_is_better=False,
    source="docs/metrics.md 4; form of paper section 4, table 2a (FID)",
    protocol=f"features: spatial mean of the last map of the perceptual net p; {_PROTOCOL}",
    null=_NULL,
    formula=FORMULA,
    oracle=_ORACLE,
)
FD_F = MetricSpec(
    name="fd_f",
    version=1,
    unit="distance",
    bounds=(0.0, np.inf),
    higher_is_better=False,
    source="docs/metrics.md 4; form of paper section 4, table 2a (FID)",
    protocol=f"features: embedding of the classifier f shared by all methods; {_PROTOCOL}",
    null=_NULL,
    formula=FORMULA,
    oracle=_ORACLE,
)


def features(maps: tuple[Tensor, ...], f: Features) -> dict[str, np.ndarray]:
    """Return the features of each image: p's last map averaged over space, and f's embedding."""
    columns = {"p": maps[-1].mean((2, 3)), "f": f.embedding}
    return {name: value.cpu().numpy() for name, value in columns.items()}


def compact(*parts: Float[np.ndarray, "_n d"]) -> list[Float[np.ndarray, "_n r"]]:
    """Return features in an orthonormal basis of their span, in float64.

    No distance between them changes, and of few images neither does it take the time of 2048 dimensions.

    >>> (a,) = compact(np.array([[3.0, 0.0, 4.0]]))
    >>> a.shape, float(abs(a[0, 0]))
    ((1, 1), 5.0)
    """
    whole = [part.astype(np.float64) for part in parts]
    if sum(map(len, whole)) >= whole[0].shape[1]:
        return whole
    basis = np.linalg.qr(np.concatenate(whole).T)[0]
    return [part @ basis for part in whole]


@dataclass(frozen=True, slots=True)
class Gaussian:
    """Mean and covariance of features."""

    mean: Float[np.ndarray, "d"]
    covariance: Float[np.ndarray, "d d"]


def statistics(values: Float[np.ndarray, "n d"]) -> Gaussian:
    """Return mean and unbiased covariance in float64; the covariance of a single row is 0.

    >>> statistics(np.array([[0.0, 1.0], [2.0, 1.0]])).covariance.tolist()
    [[2.0, 0.0], [0.0, 0.0]]
    """
    values = values.astype(np.float64)
    mean = values.mean(0)
    centred = values - mean
    return Gaussian(mean, centred.T @ centred / max(len(values) - 1, 1))


def frechet(a: Gaussian, b: Gaussian) -> float:
    """Return ‖μ_a − μ_b‖² + tr(C_a + C_b − 2 (C_a C_b)^½).

    The trace of the root is that of (C_a^½ C_b C_a^½)^½, which is symmetric: `eigh` serves, also where fewer
    images than features leave the covariances singular.

    >>> one = Gaussian(np.array([0.0, 3.0]), np.diag([4.0, 1.0]))
    >>> frechet(one, Gaussian(np.array([0.0, 0.0]), np.diag([1.0, 1.0])))  # 9 + (2 - 1)² + 0
    10.0
    """
    values, vectors = np.linalg.eigh(a.covariance)
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    product = np.linalg.eigvalsh(root @ b.covariance @ root)
    traces = np.trace(a.covariance) + np.trace(b.covariance) - 2 * np.sqrt(product.clip(0)).sum()
    return max(float(np.square(a.mean - b.mean).sum() + traces), 0.0)


def influence(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n"]:
    """Return how the distance moves with the weight of each pair of rows, less the mean of that.

    Where a pair weighs 1 + h, the distance moves by h/n of its number, to first order: the deviation of the numbers
    over √n is the standard error of the distance (delta method). Resampling would not tell it: a resample has fewer
    different rows, and where features are many for n its distances are larger and vary more than those of new samples.

    With z = x − μ, T the linear map that takes N(0, C) to N(0, C̃) with the least cost, and T̃ the one back:
    2 (μ − μ̃)·(z − z̃) + zᵀ(1 − T) z + z̃ᵀ(1 − T̃) z̃.

    >>> x = np.array([[-1.0], [0.0], [1.0]])
    >>> influence(x, 2 * x).round(3).tolist()  # T = 2: -x² + (2x)² / 2 = x², less its mean
    [0.333, -0.667, 0.333]
    """
    of_a, of_b = statistics(a), statistics(b)
    ours, theirs = a - of_a.mean, b - of_b.mean
    found = 2 * (ours - theirs) @ (of_a.mean - of_b.mean)
    found += _stretched(ours, of_a.covariance, of_b.covariance) + _stretched(theirs, of_b.covariance, of_a.covariance)
    return found - found.mean()


def _stretched(rows: np.ndarray, own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return zᵀ(1 − T) z of each row, T = C^-½ (C^½ C̃ C^½)^½ C^-½ on the span of the rows."""
    scale, axes = np.linalg.eigh(own)
    kept = scale > max(scale[-1], 0.0) * _SINGULAR
    axes, root = axes[:, kept], np.sqrt(scale[kept])
    values, vectors = np.linalg.eigh(root[:, None] * (axes.T @ other @ axes) * root)
    whitened = rows @ (axes / root) @ vectors
    return np.square(rows).sum(1) - np.square(whitened) @ np.sqrt(values.clip(0))


def of_pairs(
    value: float, a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "n d"], config: EvaluationConfig
) -> tuple[tuple[float, float], Resamples]:
    """Return the 95 % interval of the distance `value` of paired rows at this n, and draws for tests between methods.

    The draws are those of the mean of `influence` on the resamples that all metrics have, about `value`.
    """
    moved = influence(a, b)
    half = reach(len(moved)) * float(moved.std()) / len(moved) ** 0.5
    draws = value + bootstrap(moved, mean, Rng(config.seed).child("bootstrap"), config.bootstrap)
    return (max(value - half, 0.0), value + half), Resamples(draws, "images", config.seed)


def expectation(values: Float[np.ndarray, "n d"], rng: Rng, count: int) -> tuple[float, tuple[float, float]]:
    """Return the distance that two independent samples of n from one distribution show, and its central 95 %.

    The samples are Gaussian with the covariance of `values`: resamples of the rows themselves would share images. With
    few rows for many features it is a lower bound, since directions that no row shows are missing.

    Args:
        values: features of n images.
        rng: source of the draws.
        count: pairs of samples drawn.

    >>> one, (low, high) = expectation(np.random.default_rng(0).normal(size=(300, 1)), Rng(0), 400)
    >>> abs(one - 3 / 300) < 0.002, low < one < high  # of one feature: 2 σ²/n of the means + σ²/n of the deviations
    (True, True)
    """
    n, dice = len(values), rng.numpy()
    # The last bit of a product depends on how many threads share it.
    with threadpool_limits(1):
        scale, axes = np.linalg.eigh(statistics(values).covariance)
        root = (axes * np.sqrt(scale.clip(0))).T
        samples = (statistics(dice.standard_normal((n, len(root))) @ root) for _ in range(2 * count))
        draws = np.array([frechet(one, next(samples)) for one in samples])
    return float(draws.mean()), percentiles(draws)


class FrechetDistance(Metric):
    """Features of x and x̃, of the mean training image, and of training images."""

    takes_turns = True
    specs = (FD_P, FD_F)
    cost = "one pass of f and of p over x, x̃ and as many training images; d³ for d features"

    @torch.no_grad()
    def update(self, trace: Trace) -> None:
        """Keep the features of a batch."""
        original, reconstruction = trace.perceptual
        index = trace.index.cpu().numpy()
        self._keep("real", index, features(original, trace.features))
        self._keep("method", index, features(reconstruction, trace.features_of_reconstruction))

    @torch.no_grad()
    def records(self) -> Records:
        """Return the features of each image, by arm and index; the mean image has one row."""
        problem, config = self.evaluation.problem, self.evaluation.config
        n = sum(len(part["index"]) for part in self.parts if part["arm"][0] == "real")
        # As many as there are test images: the distance falls as n grows.
        dice = self.evaluation.rng.child("frechet", "train").uniform(problem.train.index, 1)[:, 0]
        rows = np.sort(dice.argsort()[:n])
        for start in range(0, len(rows), config.batch):
            batch = problem.train.take(rows[start : start + config.batch])
            self._keep("train images", batch.index.cpu().numpy(), self._features(batch.images))
        image = mean_image(problem.train)
        self._keep("mean image", np.zeros(1, dtype=np.int64), self._features(image))
        return collect(self.parts, by=("arm", "index"))

    def _features(self, images: Tensor) -> dict[str, np.ndarray]:
        problem = self.evaluation.problem
        return features(problem.perceptual(images), problem.classifier(images))

    def _keep(self, arm: str, index: np.ndarray, columns: dict[str, np.ndarray]) -> None:
        origin = np.full(len(index), self.evaluation.problem.perceptual.origin)
        self.parts.append({"arm": np.full(len(index), arm), "index": index, **columns, "net": origin})

    @staticmethod
    def score(records: Records, config: EvaluationConfig) -> list[Score]:
        """Return the distance of each arm to the originals, for p and for f."""
        rng = Rng(config.seed).child("bootstrap")
        rows = []
        for spec, column, detail in ((FD_P, "p", str(records["net"][0])), (FD_F, "f", "")):
            arms = {
                arm: records[column][records["arm"] == arm] for arm in ("real", "method", "mean image", "train images")
            }
            arms = dict(zip(arms, compact(*arms.values()), strict=True))
            real = arms.pop("real")
            for arm, values in arms.items():
                value = frechet(statistics(real), statistics(values))
                # The controls are for orientation: their rows are no pairs, they get no interval.
                ends, drawn = (np.nan, np.nan), None
                if arm == "method":
                    ends, drawn = of_pairs(value, real, values, config)
                rows.append(spec.score(value, ends, n=len(real), arm=arm, detail=detail, resamples=drawn))
            if len(real) > 1:
                floor = expectation(real, rng.child("expectation"), max(5, config.bootstrap // 100))
                rows.append(spec.score(*floor, n=len(real), arm="same distribution", detail=detail))
        return rows
