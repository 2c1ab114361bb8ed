"""`coinbench data prepare`: archives fetched or found, verified, unpacked; then every image checked. No torch."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from coinbench import registry
from coinbench.config import DataConfig
from coinbench.data.image_files import check_files
from coinbench.data.official import Archive, OfficialConfig, refuse_missing, root_of
from coinbench.data.source import check as check_source
from coinbench.data.unpack import unpack
from coinbench.errors import CoinbenchError, DataError, UsageError
from coinbench.fetch import check, download
from coinbench.files import read_json, write_json
from coinbench.log import Log, stopping
from coinbench.progress import Display

RECORD = "coinbench.json"
"""Beside the data: of each archive size, digests, where it came from, whether a published digest was there."""
_PACKED = (".zip", ".tgz", ".tar", ".tar.gz")


def run(config: DataConfig, cache: Path, fetch: bool, mirror: str | None, quiet: bool) -> list[str]:
    """Prepare a data set with progress on stderr; Ctrl-C and SIGTERM stop it where it can go on."""
    with Display(quiet) as display:
        log = Log(cache, lambda event: display.event(config.name, event), stage="prepare")
        with stopping(log):
            return prepare(config, cache, fetch, mirror, log)


def prepare(config: DataConfig, cache: Path, fetch: bool, mirror: str | None, log: Log) -> list[str]:
    """Bring a data set to where `run` finds it; what is done already is not done again.

    Args:
        config: the data set.
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
    root = root_of(config, cache)
    told: list[str] = []
    missing: dict[str, list[str]] = {}
    for archive in spec.official.archives:
        if archive.is_unpacked(root):
            continue
        try:
            told.append(_bring(archive, root, fetch, mirror, log))
        except _Missing as error:
            if archive.needed:
                missing.setdefault(str(error), []).append(archive.remote.name)
            else:
                told.append(f"{archive.remote.name}: not there, and not needed for the numbers ({error})")
    if missing:
        lacking = "; ".join(f"{', '.join(names)}: {remedy}" for remedy, names in missing.items())
        raise DataError(f"{config.name}: {root} lacks {lacking}")
    listed = spec.official.listed(config, cache)
    refuse_missing(f"{config.name}: {listed.folder}", listed.folder, listed.items)
    check_files(listed.folder, [item.name for item in listed.items], cache, log)
    source = check_source(spec.open(config, cache), config.name)
    n_test = int(source.is_test.sum())
    told.append(f"{len(source.labels):,} images, {len(source.card.class_names)} classes: all there and readable")
    told.append(f"{len(source.labels) - n_test:,} to train with (val included), {n_test:,} to test")
    told.append(f"fingerprint {source.fingerprint}")
    told.append(f"licence: {source.card.licence}")
    where = f" --set data.root={root}" if config.root else ""
    where += "" if config.complete else " --set data.complete=false"
    return [*told, f"next: coinbench run --methods viscoin,flint --dataset {config.name}{where}"]


class _Missing(CoinbenchError):
    """An archive that is not here and was not to be, or cannot be, fetched."""


def _bring(archive: Archive, root: Path, fetch: bool, mirror: str | None, log: Log) -> str:
    """Verify an archive, fetched where that is asked for, and unpack it."""
    remote, path = archive.remote, root / archive.remote.name
    if mirror:
        remote = replace(remote, url=f"{mirror.rstrip('/')}/{remote.name}")
    origin = "found"
    if not path.is_file():
        if remote.url is None:
            raise _Missing(f"put there by hand, {remote.hint}")
        if not fetch:
            raise _Missing(f"with --download, or from {remote.url}")
        path, origin = download(remote, root, log.at("download", root)), remote.url
    found = check(remote, path, log.at("verify", root))
    _record(root, archive, path, found, origin)
    if path.name.endswith(_PACKED):
        unpack(path, root, log.at("unpack", root))
        if not archive.is_unpacked(root):
            raise DataError(f"{path}: holds no {archive.leaves[0]}; it is not the published archive: get it elsewhere")
    known = "as published" if remote.digests else "no checksum is published: recorded as the one to trust"
    return f"{remote.name}: sha256 {found['sha256']}, {known}"


def _record(root: Path, archive: Archive, path: Path, found: dict[str, str], origin: str) -> None:
    """Write down what was unpacked; where no digest is published, the first one is the one to keep to."""
    file = root / RECORD
    known: dict[str, Any] = read_json(file) if file.is_file() else {}
    before = known.get(path.name, {}).get("sha256")
    if before not in (None, found["sha256"]):
        raise DataError(
            f"{path}: sha256 is {found['sha256']}, {RECORD} beside it recorded {before}; restore that file, "
            f"or delete {RECORD} if the new one is right"
        )
    known[path.name] = {
        "bytes": path.stat().st_size,
        **found,
        "published": bool(archive.remote.digests),
        "from": origin,
        "date": time.strftime("%Y-%m-%d"),
    }
    write_json(file, known)
