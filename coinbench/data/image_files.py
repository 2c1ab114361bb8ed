"""Images in files: checked once by content, remembered by size and time; decoded as decode.py says. No torch."""

from __future__ import annotations

import hashlib
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np

from coinbench.config import digest
from coinbench.data.decode import (
    RULES,
    VERSION,
    BadImageError,
    Facts,
    decode,
    inspect,
    pillow_warnings,
    resized,
)
from coinbench.data.listing import shown
from coinbench.data.source import Source
from coinbench.errors import CoinbenchError, DataError
from coinbench.files import read_json, write_atomically
from coinbench.log import Log

_NAMES_SHOWN = 10
_AT_ONCE = 256
"""Files between two reports of progress."""


class ImageFiles(Source):
    """Files below a root, in an order; who derives from it says what each shows."""

    def __init__(self, root: Path, names: list[str], facts: list[Facts], channels: int) -> None:
        """Take over files that `check_files` found usable.

        Args:
            root: folder.
            names: paths below it, with forward slashes.
            facts: of each file.
            channels: 1 (grey) or 3 (RGB).
        """
        self._root, self._names, self._facts, self.channels = root, names, facts, channels

    def images(self, index: np.ndarray, size: int) -> np.ndarray:
        """Return uint8 [n, size, size, C], bilinear with anti-aliasing, not cropped.

        Raises:
            DataError: a file is gone or has changed since it was checked; names it.
        """

        def draw(position: int) -> np.ndarray:
            data = self._read(position)
            try:
                return resized(decode(data)[0], size, self.channels)
            except BadImageError as error:
                raise DataError(f"{self._path(position)}: {error}; repair or remove it") from error

        with pillow_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
            drawn = list(pool.map(draw, index.tolist()))
        return np.stack(drawn) if drawn else np.empty((0, size, size, self.channels), np.uint8)

    def notes(self) -> list[str]:
        """Return a line for each rule with the files it was applied to."""
        lines = []
        for rule, text in RULES.items():
            by_rule = [n for n, f in zip(self._names, self._facts, strict=True) if rule in f.rules]
            if by_rule and not (rule == "greyscale" and self.channels == 1):
                lines.append(f"{rule}: {some(by_rule, _NAMES_SHOWN)}: {text}")
        return lines

    def contents(self) -> list[tuple[str, str]]:
        """Return (name, sha256) of each file, read anew.

        Raises:
            DataError: a file is gone, or its bytes have changed under the same size and time.
        """
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in pool.map(self._read, range(len(self._names))):
                pass
        return [(shown(n), f.sha256) for n, f in zip(self._names, self._facts, strict=True)]

    def _path(self, position: int) -> str:
        return shown(str(self._root / self._names[position]))

    def _read(self, position: int) -> bytes:
        try:
            data = (self._root / self._names[position]).read_bytes()
        except OSError as error:
            raise DataError(
                f"{self._path(position)}: cannot be read ({error.strerror}); bring it back and run again"
            ) from error
        if hashlib.sha256(data).hexdigest() != self._facts[position].sha256:
            raise DataError(
                f"{self._path(position)}: its bytes are not those that were checked; "
                "restore the file, or `touch` it to have it checked anew"
            )
        return data


def check_files(root: Path, names: list[str], cache: Path, log: Log | None = None) -> dict[str, Facts]:
    """Return the facts of each file; those of unchanged size and time come from the record in the cache.

    Raises:
        Interrupted: asked to stop; what was checked is recorded.
    """
    record = cache / "imagefolder" / f"{digest(str(root.resolve()), VERSION)}.json"
    try:
        known = {name: Facts(**facts | {"rules": tuple(facts["rules"])}) for name, facts in read_json(record).items()}
    except (CoinbenchError, TypeError, KeyError, AttributeError):  # no record, or a broken one: check anew
        known = {}

    def unchanged(name: str) -> bool:
        if name not in known:
            return False
        try:
            stat = (root / name).stat()
        except OSError:
            return False
        return (stat.st_size, stat.st_mtime_ns) == (known[name].size, known[name].mtime_ns)

    stale = [name for name in names if not unchanged(name)]
    began = time.monotonic()
    with pillow_warnings(), ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(stale), _AT_ONCE):
            part = stale[start : start + _AT_ONCE]
            known |= zip(part, pool.map(lambda name: inspect(root / name), part), strict=True)
            done = start + len(part)
            left = (time.monotonic() - began) / done * (len(stale) - done)
            if log is not None:
                log.progress(done, len(stale), left, "images checked")
            if done == len(stale) or start % (16 * _AT_ONCE) == 0 or (log is not None and log.stop.is_set()):
                _record(record, known)
            if log is not None:
                log.check()
    return {name: known[name] for name in names}


def _record(path: Path, known: dict[str, Facts]) -> None:
    with write_atomically(path) as temporary:
        # ASCII: a file name may hold bytes that are no text.
        text = json.dumps({name: asdict(facts) for name, facts in known.items()})
        temporary.write_text(text, encoding="ascii")


def some(names: list[str], limit: int) -> str:
    """Return how many files there are, and the first of them.

    >>> some(["a.jpg", "b.jpg", "c.jpg"], 2)
    '3 images (a.jpg, b.jpg and 1 more)'
    """
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    plural = "image" if len(names) == 1 else "images"
    return f"{len(names)} {plural} ({', '.join(map(shown, names[:limit]))}{more})"
