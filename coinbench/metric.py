"""What a metric is: records measured in one pass over a split, and numbers that are a pure function of them.

Measuring needs the model; scoring needs the records alone, so `coinbench score` can redo it from disk.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from coinbench.cache import Cache, default_root
from coinbench.companions import READ_WITH, parse
from coinbench.errors import Unavailable
from coinbench.log import Log
from coinbench.records import Records as Records
from coinbench.results import Resamples, Score

if TYPE_CHECKING:
    from coinbench.bank import ConceptBank
    from coinbench.coin import CoIN
    from coinbench.config import EvaluationConfig
    from coinbench.problem import Problem
    from coinbench.rng import Rng
    from coinbench.trace import Trace

Shared = TypeVar("Shared")


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
    formula: str = ""
    """The number in the paper's symbols; "" where the protocol says it all."""
    oracle: str = ""
    """What a method without fault scores."""
    read_with: tuple[str, ...] | None = None
    """Numbers that it must be read with, since a method that shows nothing can have it: NAME, or NAME (CONTROL) where a
    method must be better than that control. (): it says nothing of a method. None: as `coinbench.companions` has it."""

    @property
    def companions(self) -> tuple[str, ...] | None:
        """Return the numbers that it must be read with; None where nobody said."""
        return READ_WITH.get(self.name) if self.read_with is None else self.read_with

    def __post_init__(self) -> None:
        """Refuse a companion that cannot be read.

        Raises:
            ValueError: it is neither NAME nor NAME (CONTROL).
        """
        for text in self.companions or ():
            parse(text)

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
        resamples: Resamples | None = None,
    ) -> Score:
        """Make a row of results; `detail` is added to the protocol, `resamples` serve tests between methods."""
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
            read_with=", ".join(self.companions or ()),
            resamples=resamples,
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
    shared: dict[str, Any] = field(default_factory=dict)
    """What several metrics need of this method."""

    def chosen(self, purpose: str, count: int) -> np.ndarray:
        """Return the indices of `count` test images, chosen at random by index: the first ones may all be of one class.

        Args:
            purpose: key of the draw; what is chosen for the same purpose in another number holds or is held by this.
            count: how many; all where there are no more.
        """
        index = self.problem.test.index
        return index[self.rng.child(purpose, "images").choose(index, count)]

    def once(self, what: str, make: Callable[[Evaluation], Shared]) -> Shared:
        """Return what several metrics need, made by the first that asks; `what` names it."""
        if what not in self.shared:
            self.shared[what] = make(self)
        return self.shared[what]


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
    truth: ClassVar[bool] = False
    """Whether it needs a data set that draws its images anew with other parts (`GroundTruth`). Elsewhere it does not
    apply, and is not measured."""
    limit: ClassVar[str] = ""
    """Setting of the evaluation beyond which more test images cost this metric no more; "" where each one costs."""
    cost: ClassVar[str] = ""
    """Passes through the networks beyond those that all metrics share, and what grows them."""
    on_request: ClassVar[bool] = False
    """Measured only where it is named, or a preset has it: for what takes as long as all other metrics together."""

    def __init__(self, evaluation: Evaluation) -> None:
        """Start a pass.

        Raises:
            Unavailable: it needs the parts of images, which this data set does not tell.
        """
        if self.truth and evaluation.problem.truth is None:
            raise Unavailable(
                f"does not apply to {evaluation.problem.name}, which cannot draw its images with other parts; birds can"
            )
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

    @staticmethod
    def across(cells: Sequence[Records], config: EvaluationConfig) -> list[list[Score]]:
        """Return the rows of numbers that need the records of several seeds of one method; here there are none.

        Args:
            cells: records of each seed, two or more, rising.
            config: of the evaluation.

        Returns:
            rows of each of `cells`.
        """
        return [[] for _ in cells]


def collect(parts: Sequence[Mapping[str, np.ndarray]], by: tuple[str, ...] = ("index",)) -> Records:
    """Join the records of batches and sort the rows by the columns `by`.

    >>> collect([{"index": np.array([3, 1]), "v": np.array([30, 10])}])["v"]
    array([10, 30])
    """
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    order = np.lexsort([joined[key] for key in reversed(by)])
    return {key: value[order] for key, value in joined.items()}
