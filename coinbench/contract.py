"""What a CoIN and a metric must return, checked where results enter: in evaluations and in `coinbench check`.

Methods and metrics may be foreign code. What they do wrong is said in one line that names them, not found out from a
strange number or a traceback.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from coinbench import plugins
from coinbench.coin import CoIN
from coinbench.concepts import Concepts
from coinbench.digests import source_file
from coinbench.errors import CoinbenchError, ContractError, MetricError, is_out_of_memory
from coinbench.models import Classifier
from coinbench.results import Score

if TYPE_CHECKING:
    from coinbench.metric import MetricSpec

_TOLERANCE = 1e-3
"""By how much an image may leave [-1, 1]: rounding, as f and p allow it."""


def encode(coin: CoIN, images: Tensor) -> Concepts:
    """Return the concepts of images.

    Raises:
        ContractError: `encode` raised, or returned what no metric can use.
    """
    with raising("encode", type(coin)):
        concepts = coin.encode(images)
    check_concepts(concepts, len(images), coin.n_concepts)
    return concepts


def predict(coin: CoIN, concepts: Concepts, n_classes: int) -> Tensor:
    """Return the logits of concepts.

    Raises:
        ContractError: `predict` raised, or returned what no metric can use.
    """
    with raising("predict", type(coin)):
        logits = coin.predict(concepts)
    check_tensor(logits, (len(concepts), n_classes), "predict", "logits [B, Y]")
    return logits


def decode(coin: CoIN, concepts: Concepts, like: Tensor) -> Tensor:
    """Return the image that concepts decode to, of the shape of the images `like`.

    Raises:
        ContractError: `decode` raised, or returned no image.
    """
    with raising("decode", type(coin)):
        images = coin.decode(concepts)
    check_tensor(images, (len(concepts), *like.shape[1:]), "decode", "images [B, C, H, W]", (-1.0, 1.0))
    return images


def check_concepts(concepts: Any, n_images: int, n_concepts: int) -> None:
    """Refuse what is no Concepts of so many images and concepts.

    Raises:
        ContractError: says what came and what was expected.
    """
    if not isinstance(concepts, Concepts):
        raise ContractError(f"encode returned {_kind(concepts)}, expected Concepts(phi, pooled, support)")
    phi, pooled, support = concepts.phi, concepts.pooled, concepts.support
    width = phi.shape[2] if isinstance(phi, Tensor) and phi.ndim == 3 else 1
    positive = (0.0, torch.inf)
    check_tensor(phi, (n_images, n_concepts, width), "encode", "phi [B, K, b]", positive)
    check_tensor(pooled, (n_images, n_concepts), "encode", "pooled [B, K]", positive)
    if support is not None:
        wide = support.shape[1] if isinstance(support, Tensor) and support.ndim == 2 else 1
        check_tensor(support, (n_images, wide), "encode", "support [B, s]")


def check_tensor(
    value: Any, shape: tuple[int, ...], who: str, what: str, bounds: tuple[float, float] = (-torch.inf, torch.inf)
) -> None:
    """Refuse what is no floating, finite tensor of a shape within bounds.

    Raises:
        ContractError: names `who` returned `what`, what came and what was expected.

    >>> check_tensor(torch.tensor([[-1.0]]), (1, 1), "encode", "pooled [B, K]", (0.0, torch.inf))
    Traceback (most recent call last):
    ...
    coinbench.errors.ContractError: encode returned pooled [B, K] with values from -1 to -1, expected values >= 0
    """
    if not isinstance(value, Tensor):
        raise ContractError(f"{who} returned {_kind(value)} as {what}, expected a tensor")
    if tuple(value.shape) != shape:
        raise ContractError(f"{who} returned {what} of shape {list(value.shape)}, expected {list(shape)}")
    if not value.is_floating_point():
        raise ContractError(f"{who} returned {what} of type {value.dtype}, expected torch.float32")
    if not value.numel():
        return
    # The extremes of a tensor that holds a NaN are NaN.
    low, high = (float(extreme) for extreme in torch.aminmax(value.detach()))
    if not (abs(low) < torch.inf and abs(high) < torch.inf):
        wrong = int((~value.isfinite()).sum())
        raise ContractError(f"{who} returned {what} with {wrong} of {value.numel()} values NaN or infinite")
    slack = 0.0 if bounds[1] == torch.inf else _TOLERANCE
    if low < bounds[0] - slack or high > bounds[1] + slack:
        within = f"in [{bounds[0]:g}, {bounds[1]:g}]" if bounds[1] < torch.inf else f">= {bounds[0]:g}"
        raise ContractError(f"{who} returned {what} with values from {low:g} to {high:g}, expected values {within}")


def check_coin(value: Any, who: str) -> CoIN:
    """Refuse what is no CoIN with its two attributes.

    Raises:
        ContractError: says what came and what is missing.
    """
    if not isinstance(value, CoIN):
        raise ContractError(f"{who} returned {_kind(value)}, expected a CoIN")
    if not isinstance(getattr(value, "n_concepts", None), int) or value.n_concepts < 1:
        raise ContractError(f"{who} returned a {type(value).__name__} whose n_concepts is no number >= 1; set it to K")
    if not isinstance(getattr(value, "classifier", None), Classifier):
        raise ContractError(
            f"{who} returned a {type(value).__name__} without a classifier; set `self.classifier = problem.classifier`"
        )
    return value


def check_scores(scores: Any, specs: Sequence[MetricSpec]) -> list[Score]:
    """Refuse what is no list of rows that the specs of a metric announce.

    Raises:
        MetricError: says what came.
    """
    if not isinstance(scores, list) or not all(isinstance(score, Score) for score in scores):
        raise MetricError(f"score returned {_kind(scores)}, expected a list of Score (MetricSpec.score makes one)")
    foreign = sorted({score.metric for score in scores} - {spec.name for spec in specs})
    if foreign:
        raise MetricError(f"score returned rows named {foreign[0]!r}, which no MetricSpec of the metric announces")
    if not scores:
        raise MetricError("score returned no row")
    return scores


def check_records(records: Any) -> None:
    """Refuse records that Parquet cannot hold.

    Raises:
        MetricError: says which column is wrong.
    """
    import numpy as np

    if not isinstance(records, dict) or not records:
        raise MetricError(f"records returned {_kind(records)}, expected a dictionary of numpy arrays")
    for name, column in records.items():
        if not isinstance(name, str) or not isinstance(column, np.ndarray) or column.ndim not in (1, 2):
            raise MetricError(f"records returned {_kind(column)} as column {name!r}, expected an array [n] or [n, d]")
    lengths = {name: len(column) for name, column in records.items()}
    if len(set(lengths.values())) > 1:
        raise MetricError(f"records returned columns of different lengths: {lengths}")


@contextmanager
def raising(what: str, owner: Callable[..., Any]) -> Iterator[None]:
    """Turn an exception of foreign code into one line that names `what` raised it and where in the owner's file.

    What the machine lacks (memory, disk) and what coinbench itself says pass.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise ContractError(f"{what} raised {plugins.told(error, *_files(owner))}") from error
    except (CoinbenchError, OSError):
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise ContractError(f"{what} raised {plugins.told(error, *_files(owner))}") from error


@contextmanager
def blaming(method: str) -> Iterator[None]:
    """Name the method in whatever it does wrong, and the command that finds out more.

    Raises:
        ContractError: with the name.
    """
    try:
        yield
    except ContractError as error:
        raise ContractError(
            f"method {method!r}: {error}; `coinbench check {method}` tests all that is asked of a method"
        ) from error


def _files(owner: Callable[..., Any]) -> list[Path]:
    file = source_file(owner)
    return [file] if file else []


def _kind(value: Any) -> str:
    """Name what came.

    >>> _kind(None), _kind((1, 2)), _kind(3.0)
    ('None', 'a tuple', 'a float')
    """
    return "None" if value is None else f"a {type(value).__name__}"
