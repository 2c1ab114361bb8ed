"""The shared cache: each stage (data, f, G, fit, evaluate) once per content digest, whole or not there."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from coinbench.errors import CoinbenchError
from coinbench.log import Log


def default_root() -> Path:
    """Return the cache folder: $COINBENCH_CACHE, or coinbench below the user's cache folder."""
    if given := os.environ.get("COINBENCH_CACHE"):
        return Path(given)
    import pooch

    return Path(pooch.os_cache("coinbench"))


CHECKPOINT = "checkpoint.safetensors"
"""What a training leaves in a begun folder; dropped when the stage is finished and its weights are stored."""


class Busy(CoinbenchError):
    """Another process makes a stage at this moment."""


@dataclass(frozen=True, slots=True)
class Cache:
    """A folder of finished stages `kind/digest/` and of begun ones `kind/digest.partial/`."""

    root: Path

    def check_writable(self) -> None:
        """Refuse a folder that cannot be written, before anything begins.

        Raises:
            CoinbenchError: the cache cannot be written.
        """
        with self._writing():
            self.root.mkdir(parents=True, exist_ok=True)
            if not os.access(self.root, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    def path(self, kind: str, digest: str) -> Path:
        """Return where a finished stage lies."""
        return self.root / kind / digest

    def has(self, kind: str, digest: str) -> bool:
        """Tell whether a stage is finished."""
        return self.path(kind, digest).is_dir()

    def stage(self, kind: str, digest: str, make: Callable[[Log], None], log: Log, *, wait: bool = True) -> Path:
        """Return the folder of a stage, made by `make` in a log of its own if it is not there yet.

        A begun folder stays when `make` is cut short, so that its checkpoint is continued; it becomes the finished
        one by a rename. A second process waits for the first. The processes of a group make it together, each in its
        own call; the first one of them does what concerns the folder.

        Raises:
            Busy: another process makes it, and `wait` is False.
            CoinbenchError: the cache cannot be written.
        """
        final, group = self.path(kind, digest), log.group
        if group.lead(final.is_dir):
            return final
        partial = final.with_name(f"{digest}.partial")
        with group.leading(lambda: self.lock(kind, digest, log.at(kind, partial), wait=wait)):
            if not group.lead(final.is_dir):
                group.lead(lambda: self._begin(partial))
                make(log.at(kind, partial))
                group.lead(lambda: self._finish(partial, final))
        return final

    def _begin(self, partial: Path) -> None:
        with self._writing():
            partial.mkdir(exist_ok=True)

    def _finish(self, partial: Path, final: Path) -> None:
        with self._writing():
            (partial / CHECKPOINT).unlink(missing_ok=True)
            for leftover in partial.glob(".*"):
                # A writer that was killed left its temporary file.
                leftover.unlink()
            os.replace(partial, final)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Timeout:
            # No error of the disk: somebody else has the lock.
            raise
        except OSError as error:
            raise CoinbenchError(
                f"{self.root}: the cache cannot be written ({error.strerror}); free space or set --cache DIR"
            ) from error

    @contextmanager
    def lock(self, kind: str, digest: str, log: Log, *, wait: bool = True) -> Iterator[None]:
        """Keep other processes off a digest; while one of them has it, say so once and stay interruptible.

        Raises:
            Busy: one of them has it, and `wait` is False.
            CoinbenchError: the cache cannot be written.
            Interrupted: asked to stop while waiting.
        """
        path = self.path(kind, digest).with_name(f"{digest}.lock")
        lock, said = FileLock(path), False
        while not lock.is_locked:
            log.check()
            try:
                with self._writing():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    lock.acquire(timeout=0.5 if wait else 0)
            except Timeout as error:
                if not wait:
                    raise Busy(f"{kind} {digest}: another process makes it") from error
                if not said:
                    log.say(f"waiting for another process that makes {kind} {digest}")
                    said = True
        try:
            yield
        finally:
            lock.release()

    def drop(self, kind: str, digest: str) -> None:
        """Remove a stage, finished or begun."""
        final = self.path(kind, digest)
        shutil.rmtree(final, ignore_errors=True)
        shutil.rmtree(final.with_name(f"{digest}.partial"), ignore_errors=True)
