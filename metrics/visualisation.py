"""Visualisation FID: do pictures of amplified concepts look like images (paper section 4, table 9; docs/metrics.md 17).

A method that decodes is shown by decoding the concept amplified; FLINT, as by its authors, by activation maximisation
(Parekh et al. 2021, section 4.2 and supplement).
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from coinbench.coin import CoIN
from coinbench.config import EvaluationConfig
from coinbench.errors import DataError, MetricError, Unavailable
from coinbench.log import Log
from coinbench.metric import Evaluation, Metric, MetricSpec, Records, collect
from coinbench.metrics.frechet import FORMULA, INTERVAL, compact, frechet, of_pairs, statistics
from coinbench.metrics.inception import level, opened
from coinbench.results import Score
from coinbench.rng import Rng
from coinbench.trace import Trace

RELEVANT, IMAGES = 0.5, 3
"""r_{k,c} above which a pair is shown, and training images that each is shown on (paper section 4)."""
_AT_ONCE = 32
"""Images maximised together, whatever the batch: many steps amplify the rounding of a batch."""
_RATE, _SMOOTH, _START = 0.05, 2.0, 0.5
"""Adam's first rate, weight of the total variation, and what is left of the image at the start: ours."""

_PROTOCOL = (
    "visualisations against the images they start from: class-concept pairs with r_{k,c} > 0.5 drawn by key (400 by "
    "default, all where there are fewer), of each the 3 unaugmented training images under g of the class with the "
    "largest pooled_k; φ_k times λ = 4 and decoded, all else kept; FLINT: activation maximisation from the image at "
    "half contrast, of pooled_k(x) / φ_k^max − 2 TV(x) by Adam, rate 0.05 falling to 0, clamped to [-1, 1] (1000 steps "
    f"by default, 100 in small presets); covariances with n - 1; {INTERVAL}"
)
_NULL = (
    "reconstruction: λ = 1, what the decoder costs without any emphasis; train images: the floor, as many other "
    "training images; same distribution: what two independent samples of n from one Gaussian with the covariance of "
    "those images show; decoded: where activation is maximised, λ = 4 decoded all the same"
)


def _spec(name: str, what: str) -> MetricSpec:
    return MetricSpec(
        name=name,
        version=1,
        unit="distance",
        bounds=(0.0, np.inf),
        higher_is_better=False,
        source="paper section 4, table 9; Heusel et al. 2017, eq. 6",
        protocol=f"{what}; {_PROTOCOL}",
        null=_NULL,
        formula=FORMULA.replace("of x and of x̃", "of sources and of visualisations"),
        oracle="about the floor: a visualisation is an image; it is no image of its own if φ_k = 0 in it",
    )


FD_F = _spec("visualisation_fd_f", "features: embedding of the classifier f shared by all methods; not FID")
FID = _spec("visualisation_fid", "2048 features of the Inception v3 of 2015 of torch-fidelity")
FD_FILE = _spec(
    "visualisation_fd_inception_file", "2048 features of an Inception v3 from a file that is not the published one"
)


def chosen_pairs(relevance: Float[np.ndarray, "Y K"], count: int, rng: Rng) -> list[tuple[int, int]]:
    """Return up to `count` pairs (class, concept) with r_{k,c} > 0.5, drawn by key.

    >>> chosen_pairs(np.array([[0.9, 0.1], [0.6, 0.5]]), 5, Rng(0))
    [(0, 0), (1, 0)]
    """
    pairs = np.flatnonzero(relevance > RELEVANT)
    return [divmod(int(pair), relevance.shape[1]) for pair in pairs[rng.choose(pairs, count)]]


def most_active(
    pooled: Float[np.ndarray, "n K"], predicted: Int[np.ndarray, "n"], pairs: list[tuple[int, int]]
) -> tuple[Int[np.ndarray, "m"], Int[np.ndarray, "m"]]:
    """Return for each pair the rows of its most activating images, up to 3, and the concept of each row.

    >>> rows, concepts = most_active(np.array([[0.1], [0.9], [0.5]]), np.array([0, 1, 0]), [(0, 0)])
    >>> rows.tolist(), concepts.tolist()
    ([2, 0], [0, 0])
    """
    rows, concepts = [], []
    for y, k in pairs:
        mine = np.flatnonzero(predicted == y)
        mine = mine[np.argsort(-pooled[mine, k], kind="stable")[:IMAGES]]
        rows.append(mine)
        concepts.append(np.full(len(mine), k))
    return np.concatenate(rows), np.concatenate(concepts)


def total_variation(images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B"]:
    """Return mean |difference of neighbours| of each image, down and across.

    >>> total_variation(torch.tensor([[[[0.0, 1.0], [0.0, 1.0]]]])).item()
    1.0
    """
    down, across = images.diff(dim=2).abs().mean((1, 2, 3)), images.diff(dim=3).abs().mean((1, 2, 3))
    return down + across


def maximised(
    coin: CoIN,
    images: Float[Tensor, "B C H W"],
    concepts: Int[Tensor, "B"],
    peaks: Float[Tensor, "B"],
    steps: int,
    log: Log | None = None,
) -> Float[Tensor, "B C H W"]:
    """Return images that activate a concept each more than those they start from.

    Args:
        coin: its `encode` is differentiated.
        images: where to start, in [-1, 1].
        concepts: k of each.
        peaks: φ_k^max, in which activation is counted.
        steps: of Adam.
        log: asked now and then whether to stop.
    """
    with torch.enable_grad():
        x = (images * _START).clone().requires_grad_()
        adam = torch.optim.Adam([x], lr=_RATE)
        for step in range(steps):
            if log is not None:
                log.check()
            adam.param_groups[0]["lr"] = _RATE * (1 - step / steps)
            active = coin.encode(x).pooled.gather(1, concepts[:, None])[:, 0] / peaks
            # A sum over images: none of them feels the others.
            (gradient,) = torch.autograd.grad((_SMOOTH * total_variation(x) - active).sum(), x)
            x.grad = gradient
            adam.step()
            with torch.no_grad():
                x.clamp_(-1, 1)
    return x.detach()


class _Visualisation(Metric):
    """Features of visualisations, of the images they start from, and of controls."""

    takes_turns = True
    judge: str
    """What features come from: f, "" for the published Inception, or the file that is not the published one."""
    on_request = True
    cost = (
        "3 decodes for each of visualisation_pairs; FLINT: activation_steps passes of encode, forward and backward, "
        "for each, far dearer than all else; the test split is not used"
    )

    @abstractmethod
    def features(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B d"]:
        """Return what is compared."""

    def update(self, trace: Trace) -> None:
        """Use nothing of the test split."""

    @torch.no_grad()
    def records(self) -> Records:
        """Return the features of each picture, by arm and number.

        Raises:
            MetricError: no pair is relevant.
        """
        evaluation = self.evaluation
        bank, config, train = evaluation.bank, evaluation.config, evaluation.problem.train
        rng = evaluation.rng.child("visualisation")
        relevance = bank.global_relevance(evaluation.problem.n_classes).numpy()
        pairs = chosen_pairs(relevance, config.visualisation_pairs, rng.child("pairs"))
        if not pairs:
            raise MetricError(
                f"no class-concept pair has r_{{k,c}} > {RELEVANT} (largest {relevance.max():.2f}): nothing to show"
            )
        pooled = bank.concepts.pooled.numpy()
        rows, concepts = most_active(pooled, bank.predicted.numpy(), pairs)
        others = np.setdiff1d(np.arange(len(train)), rows)
        others = others[rng.child("floor").choose(train.index[others], len(rows))]
        shown = {
            "method": lambda at: self._decoded(rows[at], concepts[at], config.visualisation_lambda),
            "reconstruction": lambda at: self._decoded(rows[at], concepts[at], 1.0),
            "real": lambda at: train.take(rows[at]).images,
            "train images": lambda at: train.take(others[at]).images,
        }
        if evaluation.coin.shown_by == "activation":
            shown["decoded"] = shown["method"]
            peaks = pooled.max(0)
            shown["method"] = lambda at: self._maximised(rows[at], concepts[at], peaks[concepts[at]])
        parts = []
        for arm, show in shown.items():
            n = len(others) if arm == "train images" else len(rows)
            found = torch.cat([self.features(show(at)).cpu() for at in self._slices(n, arm)]).numpy()
            judge = np.full(n, self.judge)
            parts.append({"arm": np.full(n, arm), "number": np.arange(n), "features": found, "judge": judge})
        return collect(parts, by=("arm", "number"))

    def _slices(self, n: int, arm: str) -> Iterator[slice]:
        began, log = time.monotonic(), self.evaluation.log
        for start in range(0, n, _AT_ONCE):
            log.check()
            yield slice(start, min(start + _AT_ONCE, n))
            done = min(start + _AT_ONCE, n)
            log.progress(done, n, (time.monotonic() - began) / done * (n - done), f"visualisations, {arm}")

    def _decoded(self, rows: np.ndarray, concepts: np.ndarray, factor: float) -> Tensor:
        device, bank = self.evaluation.problem.device, self.evaluation.bank
        mine = bank.concepts.rows(torch.from_numpy(rows)).to(device)
        factors = torch.ones_like(mine.pooled)
        factors[torch.arange(len(rows)), torch.from_numpy(concepts).to(device)] = factor
        return self.evaluation.coin.decode(mine.scale(factors))

    def _maximised(self, rows: np.ndarray, concepts: np.ndarray, peaks: np.ndarray) -> Tensor:
        problem, config = self.evaluation.problem, self.evaluation.config
        images = problem.train.take(rows).images
        k, peak = (torch.from_numpy(values).to(problem.device) for values in (concepts, peaks))
        return maximised(self.evaluation.coin, images, k, peak, config.activation_steps, self.evaluation.log)

    @staticmethod
    def score(records: Records, config: EvaluationConfig) -> list[Score]:
        """Return the distance of each arm to the images that visualisations start from."""
        judge = str(records["judge"][0])
        spec = {"f": FD_F, "": FID}.get(judge, FD_FILE)
        arms = {arm: records["features"][records["arm"] == arm] for arm in np.unique(records["arm"])}
        real, rows = arms.pop("real"), []
        detail = "" if spec in (FD_F, FID) else judge
        for arm, values in sorted(arms.items(), key=lambda item: item[0] != "method"):
            a, b = compact(real, values)
            value, ends, drawn = frechet(statistics(a), statistics(b)), (np.nan, np.nan), None
            if arm == "method":
                ends, drawn = of_pairs(value, a, b, config)
            rows.append(spec.score(value, ends, n=len(real), arm=str(arm), detail=detail, resamples=drawn))
            if arm == "method" and len(real) > 1:
                rows.append(spec.score(level(a, config), n=len(real), arm="same distribution", detail=detail))
        return rows


class Visualisation(_Visualisation):
    """Judged by f."""

    specs = (FD_F,)
    judge = "f"

    def features(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B d"]:
        """Return f's embedding."""
        return self.evaluation.problem.classifier(images).embedding


class VisualisationFid(_Visualisation):
    """Judged by Inception."""

    specs = (FID, FD_FILE)
    needs = ("inception",)

    def __init__(self, evaluation: Evaluation) -> None:
        """Read the weights.

        Raises:
            Unavailable: they are not here or damaged, or the network cannot read such images.
        """
        super().__init__(evaluation)
        try:
            found, self._network = opened(evaluation)
            with torch.no_grad():
                self._network(evaluation.problem.train.take(np.arange(1)).images)
        except (DataError, ValueError) as error:
            raise Unavailable(str(error)) from error
        self.judge = found.foreign

    def features(self, images: Float[Tensor, "B C H W"]) -> Float[Tensor, "B d"]:
        """Return Inception's 2048 features."""
        return self._network(images)
