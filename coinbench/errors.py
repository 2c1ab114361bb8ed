"""Errors a user can cause, each with the exit code it ends in (the table in docs/exit-codes.md)."""

from __future__ import annotations


class CoinbenchError(Exception):
    """A failure with one clear line: what is wrong, where, and what to do."""

    exit_code = 1


class ContractError(CoinbenchError):
    """A method that raises, or returns what no metric can use."""


class MetricError(CoinbenchError):
    """A metric that returns what is no record or no score; it loses its numbers, the others keep theirs."""


class UsageError(CoinbenchError):
    """A wrong flag, name, key, value or configuration file."""

    exit_code = 2


class DataError(CoinbenchError):
    """Data, or weights that training needs, missing, corrupt or offline."""

    exit_code = 4


class Interrupted(CoinbenchError):
    """Stopped by the user or the system; the same command resumes."""

    exit_code = 130


def unknown(kind: str, name: str, known: list[str]) -> UsageError:
    """Build the error for a name that is not known, with the near ones first.

    >>> print(unknown("method", "viscion", ["flint", "viscoin"]))
    unknown method 'viscion': did you mean 'viscoin'? (known: flint, viscoin)
    """
    import difflib

    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
    return UsageError(f"unknown {kind} {name!r}: {hint}(known: {', '.join(sorted(known))})")
