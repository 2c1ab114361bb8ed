"""Locks between processes, whose waiting can be interrupted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from coinbench.files import cannot_write
from coinbench.log import Log


@contextmanager
def locked(path: Path, log: Log) -> Iterator[None]:
    """Hold a lock between processes; a signal ends the waiting for it.

    Raises:
        Interrupted: asked to stop while another process had it.
        CoinbenchError: the lock's file cannot be written.
    """
    lock, told = FileLock(path), False
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0.5)
            break
        except OSError as error:
            if not isinstance(error, Timeout):
                raise cannot_write(path, error) from error
            log.check()
            if not told:
                log.say(f"waiting for another process that uses {path.parent}")
            told = True
    try:
        yield
    finally:
        lock.release()
