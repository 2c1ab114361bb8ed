"""Result rows: typed, tidy, one a number, with all that makes it comparable. Never imports torch."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from coinbench.errors import DataError
from coinbench.files import write_atomically

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Resamples:
    """A number on resamples of what it was measured on: two methods of equal n and source were resampled alike."""

    draws: np.ndarray
    """[R]."""
    over: str
    """What was resampled: images, classes or values, which methods share, or concepts, which are each method's own."""
    source: int
    """Evaluation seed that the resamples were drawn with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One number of one cell, as a metric reports it."""

    metric: str
    params: str
    """Settings of the number, as "tau=0.1"; empty where there are none."""
    arm: str
    """"method", or the control that the number belongs to ("random", "permuted", "untrained", ...)."""
    subject: str
    """all, class:c, concept:k or part:p."""
    value: float
    low: float
    high: float
    """95 % interval; NaN where none is given."""
    n: int
    unit: str
    higher_is_better: bool | None
    version: int
    protocol: str
    read_with: str = ""
    """Numbers that it must be read with, between commas (`MetricSpec.read_with`)."""
    resamples: Resamples | None = field(default=None, compare=False, repr=False)
    """Kept beside the table, for tests between methods."""

    def __post_init__(self) -> None:
        """Refuse a number that nothing was measured for."""
        if self.n < 0:
            raise ValueError(f"{self.metric}: n must not be negative, got {self.n}")


COLUMNS = (
    *("run", "dataset", "method", "seed", "variant", "metric", "params", "arm", "subject"),
    *("value", "low", "high", "n", "unit", "higher_is_better", "version", "protocol", "read_with"),
    *("classifier_digest", "cell"),
)
"""Columns of results.csv and results.parquet, in this order."""

_SORT = ["dataset", "variant", "method", "seed", "metric", "params", "arm", "subject"]


_COLUMNS_OF_A_SCORE = tuple(item.name for item in fields(Score) if item.name in COLUMNS)


def frame(scores: list[Score], **provenance: object) -> pd.DataFrame:
    """Return rows with the columns `COLUMNS`; `provenance` fills those that a score does not have."""
    import pandas as pd

    rows = [{**provenance, **{name: getattr(score, name) for name in _COLUMNS_OF_A_SCORE}} for score in scores]
    names = [column for column in COLUMNS if column in provenance]
    assert set(names) | set(_COLUMNS_OF_A_SCORE) == set(COLUMNS), "provenance must fill every column"
    return pd.DataFrame(rows, columns=list(COLUMNS))


def write(table: pd.DataFrame, folder: Path) -> None:
    """Write results.csv and results.parquet into `folder`, sorted, each atomically."""
    table = table.sort_values(_SORT, kind="stable").reset_index(drop=True)
    with write_atomically(folder / "results.csv") as path:
        table.to_csv(path, index=False, lineterminator="\n")
    with write_atomically(folder / "results.parquet") as path:
        table.to_parquet(path, index=False)


def find(folder: Path) -> Path:
    """Return the table of results of a run folder.

    Raises:
        DataError: there is none.
    """
    path = folder / "results.parquet"
    if not path.is_file():
        raise DataError(f"{folder}: no results.parquet there; give the --out folder of a run")
    return path


def read(folder: Path, remedy: str = "run the same command again") -> pd.DataFrame:
    """Read the results of a run folder, or of a cell; `remedy` ends the message where they are damaged.

    Raises:
        DataError: the folder holds no results, or a file that is no table of results.
    """
    import pandas as pd

    path = find(folder)
    try:
        table = pd.read_parquet(path)
    # A damaged Parquet raises almost anything: ArrowInvalid, KeyError, NotImplementedError, MemoryError, ...
    except Exception as error:
        raise DataError(f"{path}: not readable ({error}); {remedy}") from error
    if "read_with" not in table.columns:
        # A run of an older version.
        table["read_with"] = ""
    missing = [column for column in COLUMNS if column not in table.columns]
    if missing:
        raise DataError(f"{path}: column {missing[0]!r} is missing; {remedy}")
    for column in COLUMNS:
        if not _holds(table[column], column):
            raise DataError(f"{path}: column {column!r} holds what it should not; {remedy}")
    return table


_WHOLE, _REAL = ("seed", "n", "version"), ("value", "low", "high")


def _holds(values: Any, column: str) -> bool:
    """Tell whether a column holds what its name says."""
    import pandas as pd

    if column in _WHOLE:
        return pd.api.types.is_integer_dtype(values)
    if column in _REAL:
        return pd.api.types.is_float_dtype(values)
    if column == "higher_is_better":
        # None where neither direction is better, which Parquet and pandas keep as None or NaN.
        return pd.api.types.infer_dtype(values.dropna().astype(object)) in ("boolean", "empty")
    return pd.api.types.infer_dtype(values, skipna=False) in ("string", "empty")
