"""Archives into folders: nothing outside the folder, and the folder is there only when all of it is. No torch."""

from __future__ import annotations

import errno
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

from coinbench.errors import CoinbenchError, DataError
from coinbench.files import cannot_write
from coinbench.log import Log
from coinbench.pace import Pace

_OF_THE_DISK = frozenset({errno.ENOSPC, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.EDQUOT, errno.EMFILE})


def unpack(archive: Path, root: Path, log: Log) -> None:
    """Unpack a .zip, .tgz or .tar beside what lies in `root`.

    A cut unpacking leaves `.unpacking` behind, which the next one begins with removing; what is there already under
    the same name stays.

    Raises:
        DataError: the archive is damaged, or would write outside `root`.
        Interrupted: asked to stop.
        CoinbenchError: `root` cannot be written.
    """
    scratch = root / ".unpacking"
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        try:
            (_zip if zipfile.is_zipfile(archive) else _tar)(archive, scratch, log)
        except CoinbenchError:
            raise
        # Damaged archives end in their own errors, those of the decompressors below, and OSErrors without a number.
        except Exception as error:
            if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
                raise
            raise DataError(
                f"{archive}: cannot be unpacked ({error or type(error).__name__}); delete it and fetch it again"
            ) from error
        _settle(scratch, root)
    except OSError as error:
        raise cannot_write(root, error) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _tar(archive: Path, scratch: Path, log: Log) -> None:
    pace = Pace(log, archive.stat().st_size, f"unpacking {archive.name}")
    with archive.open("rb") as file, tarfile.open(fileobj=file) as tar:
        for member in tar:
            log.check()
            # "data": no absolute names, no "..", no links out of the folder, no devices.
            tar.extract(member, scratch, filter="data")
            pace.at(file.tell())


def _zip(archive: Path, scratch: Path, log: Log) -> None:
    pace = Pace(log, archive.stat().st_size, f"unpacking {archive.name}")
    with zipfile.ZipFile(archive) as packed:
        for member in packed.infolist():
            log.check()
            name = member.filename
            if name.startswith(("/", "\\")) or ".." in Path(name.replace("\\", "/")).parts:
                raise DataError(f"{archive}: {name!r} lies outside the archive's folder; get the file elsewhere")
            packed.extract(member, scratch)
            pace.add(member.compress_size)


def _settle(scratch: Path, root: Path) -> None:
    """Move what was unpacked to its place; into folders that are there, file by file."""
    for path in sorted(scratch.iterdir()):
        target = root / path.name
        if path.is_dir() and target.is_dir():
            _settle(path, target)
        elif not target.exists():
            os.replace(path, target)
