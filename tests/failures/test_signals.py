"""Signals to a run and to its workers, which are stand-ins that start at once (tests/test_run.py has real ones)."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import files
from small_cell import Place, last_line

from coinbench import results
from coinbench.progress import Display

OBEDIENT = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(130)); say(1); time.sleep(60)"
"""A worker that stops when it is asked to."""
DEAF = "signal.signal(signal.SIGTERM, signal.SIG_IGN); say(1); time.sleep(60)"
CHATTY = "[say(step) for step in range(2000)]; sys.exit(1)"
_BEGIN = """#!{python} -S
import json, os, signal, sys, time
def say(step): print(json.dumps(dict(stage="fit", step=step, steps=9, seconds_left=1, text="x" * 200)), flush=True)
"""

Stand = Callable[[str], None]


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stand:
    """Let every worker do what a text in Python says."""

    def stand_in(text: str) -> None:
        script = tmp_path / "stand-in"
        script.write_text(_BEGIN.format(python=os.path.realpath(sys.executable)) + text)
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(sys, "executable", str(script))

    return stand_in


def at_first_event(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Call `act` once, when a worker has begun."""
    began = threading.Event()

    def event(self: Display, label: str, event: dict) -> None:
        if not began.is_set():
            began.set()
            act()

    monkeypatch.setattr(Display, "event", event)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupt(
    place: Place, worker: Stand, number: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    worker(OBEDIENT)
    at_first_event(monkeypatch, lambda: os.kill(os.getpid(), number))
    before = files(place.stage("cell"))
    ran = place.run(capfd, "--seeds", "0:3")
    last_line(ran, 130, "interrupted; the same command resumes")
    assert "birds/flint seed 0: kept" in ran.err
    assert "birds/flint seed 1: interrupted" in ran.err
    assert files(place.stage("cell")) == before
    assert set(results.read(place.out)["seed"]) == {0}


def test_second_interrupt(
    place: Place, worker: Stand, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    worker(DEAF)

    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)

    at_first_event(monkeypatch, twice)
    before, began = files(place.stage("cell")), time.monotonic()
    ran = place.run(capfd, "--seeds", "0:3")
    assert time.monotonic() - began < 30, "waited for a worker that does not stop"
    last_line(ran, 130, "interrupted; the same command resumes")
    assert files(place.stage("cell")) == before
    assert sorted(path.name for path in (place.out / "cells").iterdir()) == [place.planned.digest]


def test_interrupt_while_planning(
    place: Place, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def plan(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)

    monkeypatch.setattr("coinbench.run.cells", plan)
    before = files(place.out)
    last_line(place.run(capfd), 130, "interrupted")
    assert files(place.out) == before


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [
        (signal.SIGKILL, 1, "killed by SIGKILL, perhaps out of memory: lower train.batch"),
        (signal.SIGSEGV, 1, "killed by SIGSEGV"),
        (signal.SIGTERM, 130, "interrupted; the same command resumes"),
    ],
)
def test_worker_killed(
    place: Place, worker: Stand, number: int, code: int, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    worker(f"signal.signal(signal.SIGTERM, lambda *_: sys.exit(130)); os.kill(os.getpid(), {int(number)})")
    before = files(place.stage("cell"))
    ran = place.run(capfd, "--seeds", "0:2")
    assert ran.code == code, ran.err
    line = next(line for line in ran.err.splitlines() if line.startswith("birds/flint seed 1: "))
    assert said in line
    assert line in ran.out
    assert "Traceback" not in ran.err
    assert files(place.stage("cell")) == before
    assert set(results.read(place.out)["seed"]) == {0}


def test_worker_that_cannot_start(
    place: Place, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "executable", str(place.folder / "none"))
    ran = place.run(capfd, "--seeds", "0:2")
    assert ran.code == 1
    assert "birds/flint seed 1: failed: the worker cannot be started ([Errno 2]" in ran.out
    assert set(results.read(place.out)["seed"]) == {0}


def test_reader_of_stderr_leaves(
    place: Place, worker: Stand, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    # More than a pipe holds: the run must go on reading what the worker says.
    worker(CHATTY)
    monkeypatch.setattr("coinbench.progress._PLAIN_SECONDS", 0.0)
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", buffering=1) as stderr:
        monkeypatch.setattr(sys, "stderr", stderr)
        began = time.monotonic()
        ran = place.run(capfd, "--seeds", "0:2")
        monkeypatch.undo()
        # Nothing is left in the buffer that closing would write.
        os.dup2(os.open(os.devnull, os.O_WRONLY), writer)
    assert time.monotonic() - began < 60
    assert ran.code == 1
    assert "birds/flint seed 1: failed" in ran.out


def test_what_foreign_code_prints_is_no_event(tmp_path: Path) -> None:
    code = "from coinbench.worker import teller\ntell = teller()\nprint('null')\ntell({'stage': 'fit', 'text': 'τ'})\n"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (ran.stdout, ran.stderr) == ('{"stage": "fit", "text": "\\u03c4"}\n', "null\n")


@pytest.mark.parametrize("ask", [lambda: torch.zeros(1 << 50), lambda: np.ones(1 << 55)], ids=["torch", "numpy"])
@pytest.mark.parametrize("where", ["coinbench.training._State.step", "coinbench.metrics.mse.MeanSquaredError.update"])
def test_out_of_memory(
    place: Place,
    where: str,
    ask: Callable[[], object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    for kind in ("fit", "evaluate", "cell"):
        place.cache.drop(kind, place.stage(kind).name)
    before = files(place.stage("classifier"))
    monkeypatch.setattr(where, lambda *_: ask())
    ran = place.worker(capfd, place.describe(tmp_path))
    last_line(ran, 1, "out of memory (asked for ", "lower train.batch, evaluation.batch or --jobs")
    assert files(place.stage("classifier")) == before
