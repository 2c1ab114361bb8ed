"""Files that are either whole or not there: write beside, then rename."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from coinbench.errors import CoinbenchError


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, on failure it is removed.

    Raises:
        CoinbenchError: the folder cannot be written or the disk is full.
    """
    # Process and thread keep two writers apart; the suffix stays last, since writers go by it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}-{threading.get_ident()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        # Some writers make files only their owner can read; a shared cache needs the mode of its folder.
        temporary.chmod(path.parent.stat().st_mode & 0o666)
        os.replace(temporary, path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def cannot_write(path: Path, error: OSError) -> CoinbenchError:
    """Return the line for a write that the system refused."""
    reason = error.strerror or str(error)
    return CoinbenchError(f"{path}: cannot be written ({reason}); free space or choose another folder")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically, keys in the order given."""
    with write_atomically(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        CoinbenchError: it is missing or no JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise CoinbenchError(f"{path}: no such file") from error
    except (OSError, ValueError, RecursionError) as error:
        raise CoinbenchError(f"{path}: not readable as JSON ({error}); delete it and run again") from error
