"""Records of a metric as Parquet: columns of equal length, a column may be a vector per row. Never imports torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from coinbench.errors import DataError
from coinbench.files import write_atomically

if TYPE_CHECKING:
    import pyarrow as pa

Records = dict[str, np.ndarray]
"""Columns of equal length (a column may be [n, d]), one row per measured thing."""


def write(records: Records, path: Path) -> None:
    """Write records atomically."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {}
    for name, column in records.items():
        if column.ndim == 2:
            flat = pa.array(np.ascontiguousarray(column).reshape(-1))
            columns[name] = pa.FixedSizeListArray.from_arrays(flat, column.shape[1])
        else:
            columns[name] = pa.array(column)
    with write_atomically(path) as temporary:
        pq.write_table(pa.table(columns), temporary, compression="zstd")


def read(path: Path) -> Records:
    """Read records as they were written.

    Raises:
        DataError: the file is missing or no Parquet.
    """
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
        return {name: _column(table.column(name).combine_chunks()) for name in table.column_names}
    # A damaged Parquet raises almost anything: ArrowInvalid, ArrowNotImplementedError, MemoryError, ...
    except Exception as error:
        raise DataError(
            f"{path}: not readable as records ({error}); delete {path.parents[1]} and run the same command again"
        ) from error


def _column(column: pa.Array) -> np.ndarray:
    import pyarrow as pa

    if not pa.types.is_fixed_size_list(column.type):
        return column.to_numpy(zero_copy_only=False)
    return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, column.type.list_size)
