"""Errors a user can cause, each with the exit code it ends in (the table in docs/exit-codes.md)."""

from __future__ import annotations

import errno
import re


class CoinbenchError(Exception):
    """A failure with one clear line: what is wrong, where, and what to do."""

    exit_code = 1


class ContractError(CoinbenchError):
    """A method that raises, or returns what no metric can use."""


class MetricError(CoinbenchError):
    """A metric that returns what is no record or no score; it loses its numbers, the others keep theirs."""


class Unavailable(MetricError):
    """A metric that cannot be measured here, as where its weights are missing; the others go on."""


class UsageError(CoinbenchError):
    """A wrong flag, name, key, value or configuration file."""

    exit_code = 2


class DataError(CoinbenchError):
    """Data, or weights that training needs, missing, corrupt or offline."""

    exit_code = 4


class Interrupted(CoinbenchError):
    """Stopped by the user or the system; the same command resumes."""

    exit_code = 130


class Lost(CoinbenchError):
    """Another process of a cell is gone, and this one cannot go on without it."""


_NO_MEMORY = ("DefaultCPUAllocator", "out of memory", "_STATUS_ALLOC_FAILED", "bad_alloc")
"""What a RuntimeError of torch says when memory is short; only CUDA's allocator has an exception of its own."""


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether memory was short, on the CPU or on a GPU.

    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory")), is_out_of_memory(ValueError("x"))
    (True, False)
    """
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    told = isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)
    return told or isinstance(error, MemoryError)


def refused(error: Exception, unnamed: str = "a file") -> CoinbenchError | None:
    """Return the line for what the machine refused, memory or a file; None for any other error.

    A write that fails has no file name, other than an open that does: it is called `unnamed`.
    """
    if is_out_of_memory(error):
        # Of the long texts of allocators only how much was asked for helps.
        asked = re.search(r"to allocate ([\d.]+ \w+)", str(error))
        size = f" (asked for {asked[1]})" if asked else ""
        return CoinbenchError(
            f"out of memory{size}; give --auto-batch, or lower train.batch, evaluation.batch or --jobs"
        )
    if isinstance(error, OSError):
        where = error.filename or unnamed
        return CoinbenchError(f"{where}: {error.strerror or error}; check free space and permissions")
    return None


def unknown(kind: str, name: str, known: list[str]) -> UsageError:
    """Build the error for a name that is not known, with the near ones first.

    >>> print(unknown("method", "viscion", ["flint", "viscoin"]))
    unknown method 'viscion': did you mean 'viscoin'? (known: flint, viscoin)
    >>> print(unknown("method", "xyz", ["flint", "viscoin"]))
    unknown method 'xyz' (known: flint, viscoin)
    """
    import difflib

    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f": did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    return UsageError(f"unknown {kind} {name!r}{hint} (known: {', '.join(sorted(known))})")
