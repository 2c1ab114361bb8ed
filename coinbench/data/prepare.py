"""`coinbench data prepare`: archives fetched or found, verified, unpacked; then every image checked. No torch."""

from __future__ import annotations

import json
import shlex
import time
import urllib.parse
from dataclasses import replace
from pathlib import Path
from typing import Any

from coinbench import registry
from coinbench.config import DataConfig
from coinbench.data.image_files import check_files
from coinbench.data.official import Archive, OfficialConfig, places, refuse_file, refuse_missing, root_of
from coinbench.data.source import SPLITS, split_pixels
from coinbench.data.source import check as check_source
from coinbench.data.unpack import unpack
from coinbench.errors import CoinbenchError, DataError, UsageError
from coinbench.fetch import check, download
from coinbench.files import cannot_write, read_json, write_json
from coinbench.locks import locked
from coinbench.log import Log, stopping
from coinbench.plan import dataset_config
from coinbench.progress import Display

RECORD = "coinbench.json"
"""Beside the data: of each archive size, digests, where it came from, whether a published digest was there."""


def run(
    name: str, given: tuple[str, ...], root: Path | None, cache: Path, fetch: bool, mirror: str | None, quiet: bool
) -> list[str]:
    """Prepare a data set with progress on stderr; Ctrl-C and SIGTERM stop it where it can go on."""
    if root is not None:
        given = (*given, f"data.root={json.dumps(str(root.absolute()))}")
    config = dataset_config(name, given)
    with Display(quiet) as display:
        log = Log(cache, lambda event: display.event(name, event), stage="prepare")
        with stopping(log):
            return prepare(config, given, cache, fetch, mirror, log)


def prepare(
    config: DataConfig, given: tuple[str, ...], cache: Path, fetch: bool, mirror: str | None, log: Log
) -> list[str]:
    """Bring a data set to where `run` finds it; what is done already is not done again.

    Args:
        config: the data set.
        given: the settings it was made with, for the command to go on with.
        cache: cache folder.
        fetch: download what is missing.
        mirror: address of a folder with the archives under their published names, instead of their own addresses.
        log: of progress.

    Returns:
        Lines for the user.

    Raises:
        UsageError: the data set has no archives.
        DataError: something is missing, refused or not as published; says how to get it.
        Interrupted: asked to stop; the same command goes on.
    """
    spec = registry.PROBLEMS.load(config.name)
    if spec.official is None or not isinstance(config, OfficialConfig):
        raise UsageError(f"{config.name}: needs no preparation; `coinbench data verify {config.name}` checks it")
    official, root = spec.official, root_of(config, cache)
    refuse_file(root)
    if mirror is not None:
        mirror = _address(mirror)
    told: list[str] = []
    missing: dict[str, list[str]] = {}
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(root, error) from error
    with locked(root / ".coinbench.lock", log):
        for archive in official.archives:
            try:
                told += _bring(archive, root, places(root, official.inner), fetch, mirror, log)
            except _MissingError as error:
                if archive.needed(config):
                    missing.setdefault(str(error), []).append(archive.remote.name)
    if missing:
        lacking = "; ".join(f"{', '.join(names)}: {remedy}" for remedy, names in missing.items())
        raise DataError(f"{config.name}: {root} lacks {lacking}")
    listed = official.listed(config, cache)
    refuse_missing(f"{config.name}: {listed.folder}", listed.folder, listed.items)
    check_files(listed.folder, [item.name for item in listed.items], cache, log)
    source = check_source(spec.open(config, cache), config.name)
    n_test = int(source.is_test.sum())
    told.append(f"{len(source.labels):,} images, {len(source.card.class_names)} classes: all there and readable")
    told.append(f"{len(source.labels) - n_test:,} to train with (val included), {n_test:,} to test")
    if not config.complete:
        # The card says of how much.
        told.append(source.card.notes)
    told.append(f"fingerprint {source.fingerprint}")
    told.append(f"licence: {source.card.licence}")
    for split in SPLITS:
        split_pixels(split, config, source, cache, log)
    chosen = [word for text in given for word in ("--set", text)]
    words = ["coinbench", "run", "--methods", "viscoin,flint", "--dataset", config.name, *chosen]
    return [*told, f"next: {shlex.join(words)}"]


def _address(mirror: str) -> str:
    """Return the address of a mirror, quoted.

    Raises:
        UsageError: it is none.
    """
    try:
        parts = urllib.parse.urlsplit(mirror)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("no http or https address")
        return urllib.parse.urlunsplit(parts._replace(path=urllib.parse.quote(parts.path, safe="/%"))).rstrip("/")
    except ValueError as error:
        raise UsageError(f"--mirror {mirror}: {error}; give the address of a folder, as https://HOST/FOLDER") from error


class _MissingError(CoinbenchError):
    """An archive that is not here and was not to be, or cannot be, fetched."""


def _bring(
    archive: Archive, root: Path, around: tuple[Path, ...], fetch: bool, mirror: str | None, log: Log
) -> list[str]:
    """Verify an archive, fetched where that is asked for, and unpack it; what was unpacked already is left alone."""
    there = archive.found(around)
    if there is not None and (archive.packed or there.name != archive.remote.name):
        return []
    remote, path, origin = archive.remote, there or root / archive.remote.name, "found"
    if mirror:
        remote = replace(remote, url=f"{mirror}/{remote.name}")
    if not path.is_file():
        if remote.url is None:
            raise _MissingError(f"put there by hand, {remote.hint}")
        if not fetch:
            raise _MissingError(f"with --download, or from {remote.url}")
        path, origin = download(remote, root, log.at("download", root)), remote.url
    found = check(remote, path, log.at("verify", root))
    known = _known(root, path, found)
    if archive.packed:
        unpack(path, root, log.at("unpack", root))
        if not archive.found(around):
            raise DataError(f"{path}: holds no {archive.leaves[0]}; it is not the published archive: get it elsewhere")
    # Only now: an archive that cannot be unpacked is none to trust.
    known[path.name] = {
        "bytes": path.stat().st_size,
        **found,
        "published": bool(remote.digests),
        "from": known.get(path.name, {}).get("from", origin),
        "date": known.get(path.name, {}).get("date", time.strftime("%Y-%m-%d")),
    }
    write_json(root / RECORD, known)
    trust = "as published" if remote.digests else "no checksum is published: recorded as the one to trust"
    return [f"{remote.name}: sha256 {found['sha256']}, {trust}"]


def _known(root: Path, path: Path, found: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Return the record of earlier archives; where no digest is published, the first one is the one to keep to.

    Raises:
        DataError: the record is damaged, or of another file of this name.
    """
    file = root / RECORD
    known = read_json(file) if file.is_file() else {}
    if not isinstance(known, dict) or not all(isinstance(entry, dict) for entry in known.values()):
        raise DataError(f"{file}: not the record that was written there; delete it and give the same command again")
    before = known.get(path.name, {}).get("sha256")
    if before not in (None, found["sha256"]):
        raise DataError(
            f"{path}: sha256 is {found['sha256']}, {RECORD} beside it recorded {before}; restore that file, "
            f"or delete {RECORD} if the new one is right"
        )
    return known
