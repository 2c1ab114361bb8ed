"""Does the relevance of a part's concepts agree with f's own use of the part (docs/metrics.md 19).

What f makes of a part is measured without any method: the part is redrawn, and f looks again.
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from coinbench.bank import class_means
from coinbench.config import EvaluationConfig
from coinbench.metric import Metric, MetricSpec, Records
from coinbench.metrics.part_alignment import encoded, redrawn
from coinbench.problem import Problem, to_float
from coinbench.results import Score
from coinbench.rng import Rng
from coinbench.statistics import summarise
from coinbench.trace import Trace
from coinbench.truth import changed

_PROTOCOL = (
    "use of part p in image x: log-odds of f(x)_ĉ less their mean over x redrawn with each value of p, all else as it "
    "is, ĉ = argmax g(x), divided by the largest absolute use of a part in x; relevance of p: sum of r_k(x) over the "
    "concepts that follow p (as part_alignment); both averaged over the test images, chosen by index, with one ĉ"
)
USE = MetricSpec(
    name="part_use",
    version=2,
    unit="correlation",
    bounds=(-1.0, 1.0),
    higher_is_better=True,
    source="docs/metrics.md 19",
    protocol=(
        f"{_PROTOCOL}; correlation of both over the parts of a class, 0 where the relevance of all parts is equal; "
        "mean over the classes that g predicts; 95 % interval over classes"
    ),
    null="permuted: the parts of the relevance permuted, alike in all classes, mean over draws: about 0",
    formula="mean over c of corr over p of (mean of Σ_k follows p r_k(x), mean of use_p(x)) over x with ĉ = c",
    oracle="1",
)

_BATCH = 64
"""Images in a pass of f. Fixed: where f hardly uses a part, the rounding of another size would show."""


def log_odds(logits: Float[Tensor, "B Y"]) -> Float[Tensor, "B Y"]:
    """Return log p / (1 − p) of each class, p = softmax(logits).

    >>> log_odds(torch.tensor([[0.0, 0.0], [3.0, 1.0]], dtype=torch.float64)).tolist()
    [[0.0, 0.0], [2.0, -2.0]]
    """
    own = torch.eye(logits.shape[1], dtype=torch.bool, device=logits.device)
    return logits - logits[:, None].masked_fill(own, -torch.inf).logsumexp(2)


@torch.no_grad()
def part_effects(
    problem: Problem, index: Int[np.ndarray, "n"], factors: Int[np.ndarray, "n parts"], batch: int
) -> list[Float[np.ndarray, "n values Y"]]:
    """Return, for each part, what each of its values does to f's log-odds of every class, its mean over values being 0.

    Args:
        problem: of a data set with a ground truth.
        index: scenes.
        factors: the parts of the birds in them; one part at a time is redrawn.
        batch: images in a pass of f.
    """
    truth, device = problem.truth, problem.device
    assert truth is not None

    def seen(rows: np.ndarray, redrawn: np.ndarray) -> np.ndarray:
        found = []
        for start in range(0, len(rows), batch):
            some = rows[start : start + batch]
            images = to_float(truth.images(index[some], problem.size, redrawn[some])).to(device)
            found.append(log_odds(problem.classifier(images).logits.double()).cpu().numpy())
        return np.concatenate(found)

    now, found = seen(np.arange(len(index)), factors), []
    for part, values in enumerate(truth.part_values):
        table = np.repeat(now[:, None], len(values), axis=1)
        for value in range(len(values)):
            # With its own value an image is what it was.
            rows = np.flatnonzero(factors[:, part] != value)
            if len(rows):
                table[rows, value] = seen(rows, changed(factors, part, value))
        found.append(table - table.mean(1, keepdims=True))
    return found


def correlation(a: Float[np.ndarray, "*rows n"], b: Float[np.ndarray, "*rows n"]) -> Float[np.ndarray, "*rows"]:
    """Return Pearson's correlation of each row of `a` with that of `b`, 0 where one of them is constant.

    >>> correlation(np.array([[1.0, 2.0, 3.0], [1.0, 1.0, 1.0]]), np.array([[3.0, 5.0, 7.0], [3.0, 5.0, 7.0]])).tolist()
    [1.0, 0.0]
    """
    a, b = (x - x.mean(-1, keepdims=True) for x in (a, b))
    size = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    return np.where(size > 1e-12, (a * b).sum(-1) / np.maximum(size, 1e-12), 0.0).clip(-1, 1)


class PartUse(Metric):
    """Relevance of the parts by class, and f's use of them."""

    takes_turns = True
    specs = (USE,)
    truth = True
    limit = "use_images"
    cost = "a drawing and a pass of f for every value of every part, of use_images images"

    def update(self, trace: Trace) -> None:
        """Use nothing of the pass: few images suffice, and are drawn anew."""

    @torch.no_grad()
    def records(self) -> Records:
        """Return one row per class and part: mean relevance, mean use, and the number of images."""
        evaluation = self.evaluation
        problem, config, found = evaluation.problem, evaluation.config, evaluation.once("redrawn parts", redrawn)
        truth, test = problem.truth, problem.test
        assert truth is not None
        rows = evaluation.rng.child("use").choose(test.index, config.use_images)
        seen = [
            encoded(evaluation, test.index[some], test.pixels[some])
            for some in np.array_split(rows, -(-len(rows) // config.batch))
        ]
        relevance = torch.cat([trace.relevance.cpu() for trace in seen]).double().numpy()
        predicted = torch.cat([trace.predicted.cpu() for trace in seen])
        evaluation.log.check()
        index, each = test.index[rows], np.arange(len(rows))
        own = truth.factors[index]
        effects = part_effects(problem, index, own, _BATCH)
        use = np.stack([e[each, own[:, p], predicted.numpy()] for p, e in enumerate(effects)], 1)
        use /= np.maximum(np.abs(use).max(1, keepdims=True), 1e-12)
        of_parts = relevance @ (found.followed[:, None] == np.arange(use.shape[1])).astype(np.float64)
        counts = np.bincount(predicted, minlength=problem.n_classes)
        parts, classes = use.shape[1], np.flatnonzero(counts)
        means = [class_means(torch.from_numpy(v), predicted, problem.n_classes).numpy() for v in (of_parts, use)]
        return {
            "class": np.repeat(classes, parts),
            "part": np.tile(np.array(truth.part_names), len(classes)),
            "relevance": means[0][classes].reshape(-1),
            "use": means[1][classes].reshape(-1),
            "images": np.repeat(counts[classes], parts),
        }

    @staticmethod
    def score(records: Records, config: EvaluationConfig) -> list[Score]:
        """Return the mean correlation over classes, that of each class, and chance."""
        classes = np.unique(records["class"])
        relevance, use = (records[name].reshape(len(classes), -1) for name in ("relevance", "use"))
        found, images = correlation(relevance, use), records["images"].reshape(len(classes), -1)[:, 0]
        detail = f"{images.sum()} images"
        rows = [summarise(USE, found, config, n=int(images.sum()), detail=detail, over="classes")]
        dice = Rng(config.seed).child("evaluation", "part use").numpy()
        orders = [dice.permutation(use.shape[1]) for _ in range(config.permutations)]
        # [class, draw]: the draws of a class are resampled with it.
        chance = np.stack([correlation(relevance[:, order], use) for order in orders], 1)
        rows.append(summarise(USE, chance, config, n=int(images.sum()), arm="permuted", detail=detail, over="classes"))
        for c, value, n in zip(classes, found, images, strict=True):
            rows.append(USE.score(value, n=int(n), subject=f"class:{c}", detail=detail))
        return rows
