"""Files from the net: resumed where a download was cut, checked by size and digest, never half in place. No torch."""

from __future__ import annotations

import hashlib
import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coinbench.errors import CoinbenchError, DataError
from coinbench.files import cannot_write, read_json, write_json
from coinbench.locks import locked
from coinbench.log import Log
from coinbench.pace import Pace

_CHUNK = 2**20
_TRIES, _TIMEOUT = 4, 30.0
"""Attempts at a connection that breaks before anything new came, and seconds of silence that count as broken."""
_PASSING = (408, 425, 429, 500, 502, 503, 504)
"""Answers of a server that may change within seconds."""
OFFLINE = "COINBENCH_OFFLINE"
"""Environment variable: 1 keeps this process and its workers off the net, as --offline does."""


def offline() -> bool:
    """Tell whether nothing may be fetched."""
    return os.environ.get(OFFLINE, "").lower() not in ("", "0", "false", "no")


@dataclass(frozen=True, slots=True, kw_only=True)
class Remote:
    """A file that somebody publishes."""

    name: str
    """File name here."""
    url: str | None = None
    """None: no program may fetch it; `hint` says how a person does."""
    size: int | None = None
    """Bytes."""
    digests: tuple[tuple[str, str], ...] = ()
    """(algorithm of hashlib, hex digest or its beginning) as published; none: what comes first is trusted."""
    hint: str = ""
    """What to do where it cannot be fetched."""


def download(remote: Remote, folder: Path, log: Log) -> Path:
    """Return the file in `folder`, fetched where it is not there yet.

    What came before a cut lies in `.NAME.part` and is gone on with, if the server still has the same file.

    Raises:
        DataError: the server refuses, the file is not the published one, or nothing may be fetched.
        Interrupted: asked to stop; the same call goes on.
        CoinbenchError: the folder cannot be written.
    """
    target = folder / remote.name
    if target.is_file():
        check(remote, target, log)
        return target
    if remote.url is None:
        raise DataError(f"{target}: not there, and cannot be fetched by a program; {remote.hint}")
    if offline():
        raise DataError(
            f"{target}: not there, and not fetched, since --offline or {OFFLINE} is given; "
            f"put the file of {remote.url} there, or give the command without"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / f".{remote.name}.lock", log):
            # Another process may have fetched it meanwhile.
            if not target.is_file():
                part = folder / f".{remote.name}.part"
                _fetch(remote, remote.url, part, log)
                _accept(remote, part, log)
                os.replace(part, target)
                _state(part).unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(target, error) from error
    return target


def check(remote: Remote, path: Path, log: Log) -> dict[str, str]:
    """Return the digests of a file, sha256 always, that is the published one.

    Raises:
        DataError: its size or a digest differs.
    """
    size = path.stat().st_size
    if remote.size is not None and size != remote.size:
        raise DataError(f"{path}: {size:,} bytes, the published file has {remote.size:,}; delete it and fetch it again")
    found = digests(path, ("sha256", *(name for name, _ in remote.digests)), log)
    for name, expected in remote.digests:
        if not found[name].startswith(expected):
            raise DataError(
                f"{path}: {name} is {found[name]}, the published file has {expected}; delete it and fetch it again"
            )
    return found


def digests(path: Path, names: tuple[str, ...], log: Log) -> dict[str, str]:
    """Return the hex digests of a file, read once.

    Raises:
        DataError: it cannot be read.
        Interrupted: asked to stop.
    """
    made = {name: hashlib.new(name, usedforsecurity=False) for name in names}
    try:
        pace = Pace(log, path.stat().st_size, f"checking {path.name}")
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                log.check()
                for digest in made.values():
                    digest.update(chunk)
                pace.add(len(chunk))
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read ({error.strerror}); change its permissions or fetch it again"
        ) from error
    return {name: digest.hexdigest() for name, digest in made.items()}


def _state(part: Path) -> Path:
    return part.with_name(f"{part.name}.json")


def _fetch(remote: Remote, url: str, part: Path, log: Log) -> None:
    """Bring `part` to its full length; each failure after progress is forgiven, `_TRIES` without are not."""
    failures, most = 0, -1
    while True:
        log.check()
        done = part.stat().st_size if part.is_file() else 0
        # Beyond the most so far: a server without ranges begins anew each time.
        failures = 0 if done > most else failures + 1
        most = max(most, done)
        try:
            _continue(remote, url, part, log)
            return
        except urllib.error.HTTPError as error:
            if error.code not in _PASSING or failures >= _TRIES:
                raise DataError(
                    f"{url}: the server answers {error.code} {error.reason}; "
                    f"{remote.hint or f'fetch it in a browser and put it at {part.with_name(remote.name)}'}"
                ) from error
        except _BrokenError as error:
            if failures >= _TRIES:
                raise DataError(
                    f"{url}: cannot be reached ({error}); check the connection and give the same command, which goes "
                    f"on at {done / 1e6:,.0f} MB, or put the file at {part.with_name(remote.name)}"
                ) from error
        log.say(f"{remote.name}: connection broken, trying again")
        log.stop.wait(min(8.0, 0.5 * 2**failures))


class _BrokenError(Exception):
    """A connection that failed, however the system calls it."""


def _open(url: str, headers: dict[str, str]) -> Any:
    given = {"User-Agent": "coinbench", "Accept-Encoding": "identity", **headers}
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=given), timeout=_TIMEOUT)
    except urllib.error.HTTPError:
        raise
    except (OSError, http.client.HTTPException) as error:
        raise _BrokenError(getattr(error, "reason", None) or error) from error


def _continue(remote: Remote, url: str, part: Path, log: Log) -> None:
    """Ask for what is missing and append it; begin anew where the server has another file than before."""
    known = _known(part, url)
    start = part.stat().st_size if known and part.is_file() else 0
    asked = {"Range": f"bytes={start}-", "If-Range": known["validator"]} if start else {}
    try:
        response = _open(url, asked)
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE or not start:
            raise
        if known.get("total") == start:
            return  # all of it came before
        part.unlink()
        start, response = 0, _open(url, {})
    if response.status == http.client.PARTIAL_CONTENT and not _begins_at(response, start):
        # Another part than the one asked for: the whole, then.
        response.close()
        start, response = 0, _open(url, {})
    with response:
        resumed = response.status == http.client.PARTIAL_CONTENT
        start = start if resumed else 0
        total = _length(response, start)
        kind = response.headers.get_content_type()
        if (remote.size is not None and total not in (None, remote.size)) or kind == "text/html":
            size = f"{total:,} bytes" if total is not None else "a page"
            expected = f"the published file has {remote.size:,}" if remote.size else "the published file is no web page"
            raise DataError(f"{url}: offers {size} ({kind}), {expected}; {remote.hint or 'look at it in a browser'}")
        if not resumed:
            # The old part first: with a new note beside it, it would be gone on with.
            part.unlink(missing_ok=True)
            write_json(_state(part), {"url": url, "validator": _validator(response), "total": total})
        pace = Pace(log, total or remote.size, remote.name, start)
        with part.open("ab" if resumed else "wb") as file:
            for chunk in _chunks(response):
                file.write(chunk)
                pace.add(len(chunk))
                log.check()
        expected = total or remote.size
        if expected is not None and pace.done < expected:
            raise _BrokenError(f"cut after {pace.done:,} of {expected:,} bytes")


def _begins_at(response: Any, start: int) -> bool:
    return str(response.headers.get("Content-Range", "")).startswith(f"bytes {start}-")


def _length(response: Any, start: int) -> int | None:
    length = response.headers.get("Content-Length")
    return start + int(length) if length and length.isdigit() else None


def _validator(response: Any) -> str:
    """Return what a range may be asked for with: weak tags may not."""
    tag = response.headers.get("ETag") or ""
    return (response.headers.get("Last-Modified") or "") if not tag or tag.startswith("W/") else tag


def _chunks(response: Any) -> Iterator[bytes]:
    while True:
        try:
            chunk = response.read1(_CHUNK)
        except http.client.IncompleteRead as error:
            yield error.partial
            raise _BrokenError("cut") from error
        except (OSError, http.client.HTTPException) as error:
            raise _BrokenError(error) from error
        if not chunk:
            return
        yield chunk


def _known(part: Path, url: str) -> dict[str, Any]:
    """Return what was recorded of a cut download that can be gone on with; else nothing."""
    with suppress(CoinbenchError, KeyError, TypeError, AttributeError):
        known = read_json(_state(part))
        if known["url"] == url and known["validator"]:
            return known
    return {}


def _accept(remote: Remote, part: Path, log: Log) -> None:
    """Keep a download only if it is the published file."""
    try:
        check(remote, part, log)
    except DataError as error:
        part.unlink(missing_ok=True)
        _state(part).unlink(missing_ok=True)
        what = str(error).removeprefix(f"{part}: ").rsplit(";", 1)[0]
        raise DataError(
            f"{remote.url}: not the published {remote.name} ({what}); nothing was kept: "
            f"{remote.hint or 'try again later, or get the file elsewhere'}"
        ) from error
