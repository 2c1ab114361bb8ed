"""What the tests of the command line share: calls in this process and in another, and the smallest real run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from coinbench.cli import main
from coinbench.fetch import OFFLINE
from coinbench.plugins import VARIABLE

TINY = {
    "data.n_train": "240",
    "data.n_test": "40",
    "problem.classifier.width": "8",
    "problem.classifier.train.steps": "20",
    "problem.classifier.train.batch": "16",
    "problem.generator.net": "beta_vae",
    "problem.perceptual.net": "random",
    "problem.generator.width": "8",
    "problem.generator.latent": "8",
    "problem.generator.train.steps": "20",
    "problem.generator.train.batch": "16",
    "method.K": "6",
    "method.channels": "8",
    "method.train.steps": "12",
    "method.train.log_every": "5",
    "evaluation.consistency_images": "10",
    "evaluation.bootstrap": "100",
    "evaluation.permutations": "2",
    "evaluation.random_draws": "2",
    "evaluation.part_images": "24",
    "evaluation.locality_images": "1",
    "evaluation.use_images": "6",
}


def sets(**changes: str) -> list[str]:
    """The flags of the tiny run; `method__train__steps="5"` changes method.train.steps."""
    changed = TINY | {key.replace("__", "."): value for key, value in changes.items()}
    return [word for key, value in changed.items() for word in ("--set", f"{key}={value}")]


@dataclass(frozen=True)
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str


Cli = Callable[..., Ran]


def in_process(capfd: pytest.CaptureFixture[str], *words: object) -> Ran:
    """Call the command line in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["coinbench", *(str(word) for word in words)])
        # `--plugin` sets it for the worker processes; it must not outlive the command.
        patch.setenv(VARIABLE, os.environ.get(VARIABLE, ""))
        # So does `--offline`.
        patch.setenv(OFFLINE, os.environ.get(OFFLINE, ""))
        with pytest.raises(SystemExit) as ended:
            main()
    out, err = capfd.readouterr()
    assert isinstance(ended.value.code, int)
    return Ran(ended.value.code, out, err)


def environment(cache: Path) -> dict[str, str]:
    """The environment of a command in another process: the CPU, no colours, no cache of the user's."""
    return {**os.environ, "COINBENCH_CACHE": str(cache), "CUDA_VISIBLE_DEVICES": "", "NO_COLOR": "1"}


def start(folder: Path, *words: object) -> subprocess.Popen[str]:
    """Begin a command in a process group of its own, which `folder` is the working folder and cache of."""
    return subprocess.Popen(
        [sys.executable, "-m", "coinbench", *(str(word) for word in words)],
        cwd=folder,
        env=environment(folder / "cache"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def subprocess_run(folder: Path, *words: object, timeout: float = 120) -> Ran:
    """Run a command in another process."""
    with start(folder, *words) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return Ran(process.returncode, out, err)


def files(folder: Path) -> dict[str, bytes]:
    """Content of every file below a folder, locks aside."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith(".lock")
    }


def one_line(ran: Ran, code: int, *pieces: str) -> None:
    """Check that a command failed as it should: one line on stderr, nothing on stdout."""
    assert ran.err.startswith("coinbench: "), ran.err
    assert ran.err.endswith("\n")
    assert ran.err.count("\n") == 1, ran.err
    assert "internal error" not in ran.err
    assert "Traceback" not in ran.err
    assert len(ran.err) < 600, f"too long to read: {ran.err}"
    for piece in pieces:
        assert piece in ran.err, f"{piece!r} is not in {ran.err!r}"
    assert ran.out == ""
    assert ran.code == code, ran
