"""Folders that are taken, of other settings, not to be written, or with names beyond ASCII; and a clock set back."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import environment, files, one_line
from filelock import FileLock
from small_cell import Place

READ_ONLY, DETACH = 1, 2


@pytest.fixture
def sealed(tmp_path: Path) -> Iterator[Path]:
    """A folder that nobody can write into: by its mode, or for root by a read-only mount."""
    folder = tmp_path / "sealed"
    folder.mkdir()
    if os.geteuid():
        folder.chmod(0o500)
        yield folder
        folder.chmod(0o700)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if not sys.platform.startswith("linux") or libc.mount(b"tmpfs", bytes(folder), b"tmpfs", READ_ONLY, b"size=1m"):
        pytest.skip("root writes everywhere, and may not mount here")
    yield folder
    libc.umount2(bytes(folder), DETACH)


def test_unwritable_output(place: Place, sealed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ran = place.run(capfd, "--out", sealed / "out")
    one_line(ran, 1, str(sealed / "out"), "cannot be written", "choose another --out")


def test_read_only_cache(place: Place, sealed: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = files(place.out)
    ran = place.run(capfd, "--cache", sealed)
    one_line(ran, 1, str(sealed), "the cache cannot be written", "set --cache DIR")
    assert files(place.out) == before


def test_output_of_another_configuration(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    before = files(place.out)
    ran = place.run(capfd, "--set", "method.K=5")
    one_line(ran, 2, str(place.out), "other settings", "choose another --out")
    assert files(place.out) == before


def test_two_runs_on_one_folder(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    before = files(place.out)
    with FileLock(place.out / ".lock"):
        one_line(place.run(capfd), 2, str(place.out), "another run is using this folder", "choose another --out")
    assert files(place.out) == before


NAME = "Größe/テスト/ñ 空白"


def test_names_beyond_ascii(finished: Place, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    place = Place(tmp_path / NAME)
    ran = place.worker(capfd, place.describe(tmp_path / NAME))
    assert ran.code == 0, ran.err
    assert place.numbers() == finished.numbers()
    ran = place.run(capfd, "--quiet")
    assert (ran.code, ran.err) == (0, "")
    assert NAME in ran.out
    assert (place.out / "report.html").is_file()


def test_names_beyond_ascii_in_a_plain_locale(finished: Place, tmp_path: Path) -> None:
    place = finished.copy(tmp_path / NAME)
    words = [str(word) for word in place.command]
    env = environment(tmp_path) | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "coinbench", "plan", *words[1:]]
    ran = subprocess.run(command, env=env, capture_output=True, timeout=120)
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert b"1 cells, 0 to run" in ran.stdout


def test_a_name_that_is_no_text(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    ran = place.run(capfd, "--out", os.fsdecode(b"gr\xf6\xdfe"))
    one_line(ran, 2, "not UTF-8", "rename")


def test_clock_set_back(
    finished: Place, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for kind in ("fit", "evaluate", "cell"):
        shutil.rmtree(place.stage(kind))
    for path in place.folder.rglob("*"):
        os.utime(path, (4e9, 4e9))
    now = iter(range(10**9, 0, -1))
    monkeypatch.setattr(time, "time", lambda: float(next(now)))
    ran = place.worker(capfd, place.describe(tmp_path))
    assert "classifier" not in ran.err, "what lies in the future was made again"
    assert ran.code == 0, ran.err
    assert place.numbers() == finished.numbers()
