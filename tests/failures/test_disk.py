"""A full disk, at every kind of file that is written: one line, code 1, nothing lost, and on with free space."""

from __future__ import annotations

import ctypes
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from commands import files
from small_cell import Place, last_line


class Limit:
    """No file may grow beyond `n` bytes: a full disk for whoever may not mount one (EFBIG)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def room(self, n: int) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        # What pytest captures is a file too, and a line of progress must still fit into it.
        resource.setrlimit(resource.RLIMIT_FSIZE, (max(n, 1400), before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


class Tmpfs:
    """A disk of 16 MB with `n` bytes left (ENOSPC)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def room(self, n: int) -> Iterator[None]:
        filler = self.folder / "filler"
        free = os.statvfs(self.folder)
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, free.f_bavail * free.f_bsize - n)
        try:
            yield
        finally:
            filler.unlink()


Disk = Limit | Tmpfs


@pytest.fixture(params=["limit", "tmpfs"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if request.param == "limit":
        yield Limit(folder)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if not sys.platform.startswith("linux") or libc.mount(b"tmpfs", bytes(folder), b"tmpfs", 0, b"size=16m"):
        pytest.skip("may not mount a tmpfs here: mount(2) is refused")
    yield Tmpfs(folder)
    # Maps of the pixels may still be open.
    libc.umount2(bytes(folder), 2)


AFTER = {
    "data": ("classifier", "generator", "fit", "evaluate", "cell"),
    "classifier": ("generator", "fit", "evaluate", "cell"),
    "generator": ("fit", "evaluate", "cell"),
    "fit": ("evaluate", "cell"),
    "evaluate": ("cell",),
    "cell": (),
}
"""Stage -> those that are made after it."""
WRITES = {
    "pixels": ("data", "train-16.npy", 20_000),
    "weights of f": ("classifier", "safetensors", 100_000),
    "weights of G": ("generator", "safetensors", 20_000),
    "log of training": ("fit", "train.csv", 0),
    "checkpoint": ("fit", "checkpoint.safetensors", 200_000),
    "records": ("evaluate", "mse.parquet", 0),
    "images": ("evaluate", ".png", 8192),
    "rows": ("evaluate", "results.", None),
    "cell": ("cell", "cells", 0),
}
"""What is written -> stage that is not there yet, its file that does not fit, bytes that are free.

None: what the rest of the stage takes.
"""
_PAGE = 4096
"""Bytes that the smallest file takes on a tmpfs."""
SMALL = {"log of training": None, "images": 4000, "rows": 5000}
"""Other limits where the file is small, None where it is smaller than what pytest must write."""


@pytest.mark.parametrize("what", WRITES)
def test_a_full_disk_in_a_cell(
    finished: Place, disk: Disk, what: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    kind, name, free = WRITES[what]
    if isinstance(disk, Limit):
        free = SMALL.get(what, free)
        if what in SMALL and free is None:
            pytest.skip("the file is smaller than the least limit: covered on the tmpfs")
    place = finished.copy(disk.folder)
    if free is None:
        rest = [
            path for path in place.stage(kind).rglob("*") if path.is_file() and not path.name.startswith("results.")
        ]
        free = sum(-(-path.stat().st_size // _PAGE) * _PAGE for path in rest)
    for missing in (kind, *AFTER[kind]):
        shutil.rmtree(place.stage(missing))
    before, cell = files(disk.folder), place.describe(tmp_path)

    with disk.room(free):
        ran = place.worker(capfd, cell)
    last_line(ran, 1, disk.folder, name, "cannot be written", "free space")
    after = files(disk.folder)
    assert {path: after.get(path) for path in before} == before
    assert not [path for path in after if Path(path).name.startswith(".")], "a temporary file was left"

    ran = place.worker(capfd, cell)
    assert ran.code == 0, ran.err
    assert place.numbers() == finished.numbers()


def test_a_full_disk_at_the_end_of_a_run(
    finished: Place, disk: Disk, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    place = finished.copy(disk.folder)
    cell = files(place.stage("cell"))
    named = []
    for free in (0, 5_000, 9_000, 12_000, 18_000, 90_000):
        with disk.room(free):
            ran = place.run(capfd, "--quiet")
        line = last_line(ran, 1, place.out, "cannot be written", "free space")
        named.append(Path(line.split(": ")[1]).suffix)
        assert files(place.stage("cell")) == cell
        assert not [path for path in place.out.rglob(".*") if path.name != ".lock"], "a temporary file was left"
    assert len(set(named)) >= 3, named
    ran = place.run(capfd, "--quiet")
    assert (ran.code, ran.err) == (0, "")
    assert (place.out / "report.html").is_file()


def shell(line: str) -> subprocess.CompletedProcess[str]:
    command = f"set -o pipefail; '{sys.executable}' -m coinbench {line}"
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)


@pytest.mark.skipif(not Path("/dev/full").exists() or shutil.which("bash") is None, reason="needs /dev/full and bash")
def test_stdout_on_a_full_disk() -> None:
    ran = shell("--help > /dev/full")
    line = "coinbench: standard output: No space left on device; check free space and permissions\n"
    assert (ran.returncode, ran.stderr) == (1, line)


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_a_broken_pipe() -> None:
    ran = shell("run --help | true")
    assert (ran.returncode, ran.stderr) == (141, "")


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_closed_streams() -> None:
    assert shell("--help <&- >&- 2>&-").returncode == 0
    assert shell("run --bogus <&- 2>&-").stdout == "", "a complaint went to stdout"
