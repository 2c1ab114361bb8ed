"""resamples.parquet: the numbers of a cell or run on resamples of its images, for tests between methods.

Never imports torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from coinbench.errors import DataError
from coinbench.files import write_atomically
from coinbench.results import Resamples, Score

NAME = "resamples.parquet"


class Place(NamedTuple):
    """The number that resamples belong to; its arm is the method, its subject all."""

    cell: str
    metric: str
    params: str


def of_scores(scores: Iterable[Score], cell: str) -> dict[Place, Resamples]:
    """Return the resamples that scores of a cell carry."""
    return {
        Place(cell, score.metric, score.params): score.resamples
        for score in scores
        if score.resamples is not None and score.arm == "method" and score.subject == "all"
    }


def write(found: Mapping[Place, Resamples], folder: Path) -> None:
    """Write resamples.parquet into `folder`, atomically, in order of the places."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    order = sorted(found)
    columns = {name: pa.array([getattr(place, name) for place in order], pa.string()) for name in Place._fields}
    columns |= {
        "over": pa.array([found[place].over for place in order], pa.string()),
        "source": pa.array([found[place].source for place in order], pa.int64()),
        # A deviation needs seven digits, not sixteen.
        "draws": pa.array([found[place].draws.astype(np.float32) for place in order], pa.list_(pa.float32())),
    }
    with write_atomically(folder / NAME) as path:
        pq.write_table(pa.table(columns), path, compression="zstd")


def read(folder: Path) -> dict[Place, Resamples]:
    """Return the resamples of a run or cell folder; none where it is of an older version or a cell stored none.

    Raises:
        DataError: the file is damaged.
    """
    import pyarrow.parquet as pq

    path = folder / NAME
    if not path.is_file():
        return {}
    try:
        table = pq.read_table(path)
        places = zip(*(table.column(name).to_pylist() for name in Place._fields), strict=True)
        rest = zip(table.column("over").to_pylist(), table.column("source").to_pylist(), strict=True)
        draws = [chunk.values.to_numpy(zero_copy_only=False) for chunk in table.column("draws")]
        return {
            Place(*place): Resamples(np.asarray(one, dtype=np.float64), str(over), int(source))
            for place, (over, source), one in zip(places, rest, draws, strict=True)
        }
    # A damaged Parquet raises almost anything: ArrowInvalid, ArrowNotImplementedError, MemoryError, ...
    except Exception as error:
        raise DataError(
            f"{path}: not readable as resamples ({error}); delete it and run `coinbench score` on the run"
        ) from error
