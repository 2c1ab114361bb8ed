"""What a metric is: records measured in one pass over a split, and numbers that are a pure function of them.

Measuring needs the model; scoring needs the records alone, so `coinbench score` can redo it from disk.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from coinbench.cache import Cache, default_root
from coinbench.log import Log
from coinbench.records import Records as Records
from coinbench.results import Score

if TYPE_CHECKING:
    from coinbench.bank import ConceptBank
    from coinbench.coin import CoIN
    from coinbench.config import EvaluationConfig
    from coinbench.problem import Problem
    from coinbench.rng import Rng
    from coinbench.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricSpec:
    """What a reader must know of a number before trusting it."""

    name: str
    version: int
    """Raised whenever the number can change."""
    unit: str
    bounds: tuple[float, float]
    higher_is_better: bool | None
    """None where neither direction is better."""
    source: str
    """Paper and equation or section."""
    protocol: str
    """Value range, split, backbone, what is averaged: all that makes two numbers comparable."""
    null: str = ""
    """What the null arm is, and which value chance gives."""

    def score(
        self,
        value: float,
        interval: tuple[float, float] = (np.nan, np.nan),
        *,
        n: int,
        arm: str = "method",
        subject: str = "all",
        params: str = "",
        detail: str = "",
    ) -> Score:
        """Make a row of results; `detail` is added to the protocol."""
        return Score(
            metric=self.name,
            params=params,
            arm=arm,
            subject=subject,
            value=float(value),
            low=float(interval[0]),
            high=float(interval[1]),
            n=int(n),
            unit=self.unit,
            higher_is_better=self.higher_is_better,
            version=self.version,
            protocol=f"{self.protocol}; {detail}" if detail else self.protocol,
        )


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a metric may use besides the traces of the test split."""

    coin: CoIN
    problem: Problem
    config: EvaluationConfig
    rng: Rng
    """Source of the evaluation's draws; depends on the evaluation seed alone, so it is the same for all methods."""
    bank: ConceptBank
    """Concepts, relevances and predictions on the unaugmented training images."""
    untrained: Callable[[], CoIN]
    """Builds the same method at initialisation, the control of metrics that an untrained decoder can pass."""
    log: Log = field(default_factory=lambda: Log(Path()))
    """For metrics that work long after the pass: progress, and whether to stop."""
    cache: Cache = field(default_factory=lambda: Cache(default_root()))
    """Holds published weights, and what metrics measured on the images alone, which all methods share."""


class Metric(ABC):
    """One file in metrics/: `update` sees every batch once, `records` closes the pass, `score` makes rows."""

    specs: ClassVar[tuple[MetricSpec, ...]]
    """One for each number that `score` returns."""
    needs: ClassVar[tuple[str, ...]] = ()
    """Published weights (`coinbench weights list`). A metric that needs some is measured where it is named or a preset
    has it; without them its constructor raises `Unavailable`."""
    takes_turns: ClassVar[bool] = False
    """All that `update` leaves behind are entries of `parts`, in whatever order: several processes then take turns with
    the batches, and before `records` each has the entries of all. Otherwise every process sees every batch."""
    limit: ClassVar[str] = ""
    """Setting of the evaluation beyond which more test images cost this metric no more; "" where each one costs."""

    def __init__(self, evaluation: Evaluation) -> None:
        """Start a pass."""
        self.evaluation = evaluation
        self.parts: list[Any] = []

    @abstractmethod
    def update(self, trace: Trace) -> None:
        """Measure a batch of the test split."""

    @abstractmethod
    def records(self) -> Records:
        """Return the measurements, sorted so that the order of batches does not show."""

    @staticmethod
    @abstractmethod
    def score(records: Records, config: EvaluationConfig) -> list[Score]:
        """Return the rows of results: a pure function of the records."""


def collect(parts: Sequence[Mapping[str, np.ndarray]], by: tuple[str, ...] = ("index",)) -> Records:
    """Join the records of batches and sort the rows by the columns `by`.

    >>> collect([{"index": np.array([3, 1]), "v": np.array([30, 10])}])["v"]
    array([10, 30])
    """
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    order = np.lexsort([joined[key] for key in reversed(by)])
    return {key: value[order] for key, value in joined.items()}
